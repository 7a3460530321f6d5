"""What leaves the house: HTML that loads nothing and obeys no name, CSV for machines and spreadsheets, Markdown."""

from __future__ import annotations

import csv
import io
import re
import struct
import zlib
from html.parser import HTMLParser
from time import process_time

import pytest

from aae.frames import AccountFrames
from aae.reporting import Report, build_report, charts, render_csv, render_html, render_markdown
from aae.reporting.charts import describe, squeeze
from aae.reporting.render import CSV_HEADER
from tests.unit.reporting.worlds import NOW, Ad, AdSet, Campaign, account, frames, incident, noisy

URL = "https://app.example.com"
HOSTILE = '=HYPERLINK("http://evil")</title><script>alert(1)</script>" onload="x\u202e|[a](javascript:b)\r\n{{7*7}}'
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Every element with its attributes; complains about what is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def report(*windows: AccountFrames, user_name: str = "Ada", **more: object) -> Report:
    incidents = more.pop("incidents", [incident()])
    return build_report(user_name=user_name, frames=windows, incidents=incidents, now=NOW, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ordinary() -> Report:
    return report(
        frames(account(1, name="Shop"), [Campaign("Winter Sale"), Campaign("Brand")]),
        frames(account(2, currency="JPY"), [Campaign("東京", [AdSet(ads=[Ad(conversions=None, revenue=None)])])]),
        frames(account(3, name="Slow"), [], through=None),
    )


@pytest.fixture(scope="module")
def hostile() -> Report:
    of = account(1, name=HOSTILE, external_id="=1+1")
    return report(
        frames(of, [Campaign(HOSTILE, [AdSet(HOSTILE, [Ad(HOSTILE, spend=noisy(1, 100))])])]),
        frames(account(2, name=HOSTILE), [], through=None),
        user_name=HOSTILE,
        incidents=[incident(entity_name=HOSTILE, cause=HOSTILE, recommendation=HOSTILE, metric=HOSTILE)],
    )


def test_html_is_well_formed_says_what_matters_and_loads_nothing(ordinary: Report) -> None:
    html = render_html(ordinary, public_url=URL)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert [a["lang"] for a in page.all("html")] == ["en"]
    assert len(page.all("h1")) == 1
    assert not page.all("script") + page.all("link") + page.all("iframe")
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in page.all("img"))
    assert [a["href"] for a in page.all("a")] == [URL]
    assert "url(" not in html
    text = " ".join(" ".join(page.text).split())
    for said in (
        "Winter Sale",
        "€200.00",
        "¥100",
        "Not counted yet",
        "Slow",
        "67 % of the accounts",
        "still arriving",
    ):
        assert said in text


def test_every_table_with_numbers_has_a_caption_and_headed_rows(ordinary: Report) -> None:
    page = Page(render_html(ordinary, charts=False, public_url=URL))
    data = [table for table in page.all("table") if table.get("role") != "presentation"]
    assert len(data) == len(page.all("caption")) > 0
    assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))


def test_styles_are_inline_and_media_queries_stay_for_phones_and_print(ordinary: Report) -> None:
    html = render_html(ordinary, charts=False, public_url=URL)
    assert all(cell.get("style") for cell in Page(html).all("td"))
    assert "@media (max-width: 520px)" in html
    assert "@media print" in html


def test_names_are_shown_in_html_never_obeyed(hostile: Report) -> None:
    html = render_html(hostile, public_url=URL)
    page = Page(html)
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert "\u202e" not in html
    assert "49" not in " ".join(page.text).partition("{{7*7}}")[0][-3:]
    assert "<script>alert(1)</script>" in "".join(page.text)


def test_csv_is_rfc_4180_with_a_stable_header_and_machine_readable_numbers(ordinary: Report) -> None:
    text = render_csv(ordinary)
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == CSV_HEADER
    assert CSV_HEADER[:9] == (
        "date", "platform", "account_id", "account_name", "time_zone", "currency", "data", "campaign_id",
        "campaign_name",
    )  # fmt: skip
    assert [(row["campaign_name"], row["data"]) for row in rows] == [
        ("Winter Sale", "complete"),
        ("Brand", "complete"),
        ("東京", "complete"),
        ("", "late"),
    ]
    assert (rows[0]["spend"], rows[0]["cpa"], rows[0]["roas"], rows[0]["spend_7_days"]) == ("100", "10", "3", "700")
    assert (rows[2]["spend"], rows[2]["conversions"], rows[2]["revenue"]) == ("100", "", "")
    assert rows[3]["spend"] == ""


def test_an_account_on_which_nothing_ran_has_its_row() -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(report(frames(account(), [])))))
    assert (row["account_id"], row["data"], row["spend"]) == ("1001", "no_delivery", "")


def test_no_csv_cell_of_a_name_is_a_formula(hostile: Report) -> None:
    for row in csv.DictReader(io.StringIO(render_csv(hostile), newline="")):
        for column in ("account_id", "account_name", "campaign_id", "campaign_name"):
            assert not row[column].startswith(("=", "+", "-", "@", "\t"))


def test_markdown_tables_hold_and_names_stay_text(hostile: Report) -> None:
    text = render_markdown(hostile)
    assert "<script" not in text
    assert "\u202e" not in text
    assert "](javascript" not in text
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_markdown_tells_the_day(ordinary: Report) -> None:
    text = render_markdown(ordinary)
    for said in ("# Daily report, Tue 10 March 2026", "## EUR", "| Spend | €200.00 |", "2 of 3 accounts counted"):
        assert said in text


@pytest.mark.parametrize("windows", [(), (frames(account(), []),), (frames(account(), [], through=None),)])
def test_empty_days_render(windows: tuple[AccountFrames, ...]) -> None:
    made = report(*windows, incidents=[])
    assert charts(made) == {}
    Page(render_html(made, public_url=URL))
    assert render_markdown(made)
    assert render_csv(made).count("\r\n") == 1 + len(windows)


def test_charts_are_sharp_png_of_modest_size_with_words_for_them(ordinary: Report) -> None:
    drawn = charts(ordinary)
    assert set(drawn) == {"trend-EUR", "spend-EUR", "spend-JPY"}  # no conversions told in JPY: no trend to draw
    for name, png in drawn.items():
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", png[16:24])
        assert 1100 < width < 1400
        assert height > 100
        assert len(png) < 120_000
        assert "chart" in describe(name, ordinary)


def test_squeezing_keeps_every_pixel() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\x00" + bytes([y, 1, 2, 255] * 64) for y in range(64))
    body = zlib.compress(pixels, 0)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 6, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body[:99]) + chunk(b"IDAT", body[99:]) + chunk(b"IEND", b"")
    small = squeeze(png)
    assert len(small) < len(png) / 10
    start = small.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", small[start - 8 : start - 4])
    assert zlib.decompress(small[start : start + size]) == pixels
    assert small.endswith(chunk(b"IEND", b""))


def test_a_report_of_many_campaigns_stays_small_enough_for_mail_and_is_quick() -> None:
    made = report(frames(account(), [Campaign(f"Campaign {n}") for n in range(300)]))
    begun = process_time()
    html = render_html(made, public_url=URL)
    assert process_time() - begun < 10
    assert len(re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html).encode()) < 100_000
    assert "288 more campaigns" in html
