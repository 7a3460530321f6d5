"""The report as HTML (for mail, browser and print), CSV (for spreadsheets and programs) and Markdown (for artifacts).

Names come from people and are hostile: HTML is autoescaped, CSV cells cannot be formulas, Markdown is escaped, and all
of them lose control and bidi characters.
"""

from __future__ import annotations

import base64
import csv
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final, Literal

import css_inline
import jinja2
from markupsafe import Markup

from aae.display import (
    DASH,
    clean,
    csv_text,
    markdown_text,
    money,
    number,
    percent,
    ratio,
)
from aae.model import Platform
from aae.reporting.advice import Kind
from aae.reporting.charts import charts as draw
from aae.reporting.charts import describe
from aae.reporting.insights import Split, describe_mix, describe_split
from aae.reporting.numbers import METRICS, Compared, Metric, Sums
from aae.reporting.report import CampaignLine, LateAccount, Report, Section

ROWS: Final = 12
"""Rows of a list in HTML and Markdown; a mail over 100 kB is clipped by its reader. The CSV has all."""
_PLATFORMS: Final = {Platform.META: "Meta", Platform.TIKTOK: "TikTok", Platform.GOOGLE: "Google Ads"}
_KINDS: Final[dict[Kind, str]] = {
    "pause_adset": "Pause ad set",
    "increase_budget": "Increase budget",
    "decrease_budget": "Decrease budget",
    "refresh_creative": "Refresh creative",
}
_NAMES: Final = {"cpa": "CPA", "roas": "ROAS", "ctr": "CTR", "cvr": "CVR", "cpc": "CPC", "cpm": "CPM"}


def render_html(report: Report, *, charts: bool = True, public_url: str) -> str:
    """One self-contained HTML file: styles inline, charts as data URIs, nothing loaded from anywhere.

    ``public_url`` is the web platform's address, for the link at the end.
    """
    drawn = draw(report) if charts else {}
    images: dict[str, list[_Image]] = defaultdict(list)
    for name, png in drawn.items():
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        images[name.partition("-")[2]].append(_Image(name, source, describe(name, report)))
    templates = _templates()
    page = templates.get_template("report.html").render(
        report=report,
        images=images,
        metrics=METRICS,
        rows=ROWS,
        dash=DASH,
        public_url=public_url,
        preheader=_preheader(report),
        style=Markup(_source("report.css")),  # noqa: S704 - our own file
    )
    return _inliner().inline(page)


def render_csv(report: Report) -> str:
    """RFC 4180 (comma, CRLF, UTF-8 without a mark): one row per account and campaign, one for each account not counted.

    Numbers have a decimal point and no thousands separator; an empty cell is unknown or not defined. ``data`` is
    ``complete``, ``late`` (no numbers yet, not zero) or ``no_delivery`` (an account on which nothing ran).
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(CSV_HEADER)
    for section in report.sections:
        ran = {line.account.id for line in section.campaigns}
        for campaign in section.campaigns:
            writer.writerow(_csv_row(campaign))
        for account in section.accounts:
            if account.account.id not in ran:
                writer.writerow(_csv_account(account.account, account.day, "no_delivery"))
    for late in report.late:
        writer.writerow(_csv_account(late.account, late.day, "late"))
    return out.getvalue()


def render_markdown(report: Report) -> str:
    """The report for a Prefect artifact: headline, incidents, numbers, recommendations, completeness."""
    parts = [f"# Daily report, {_day(report.report_date)}", f"**{markdown_text(report.headline, limit=400)}**"]
    parts.extend(_markdown_late(report.late))
    for section in report.sections:
        parts.extend(_markdown_section(section))
    if report.incidents:
        parts.append("## Incidents")
        parts.append(
            _markdown_table(
                ("Severity", "Measure", "What", "Cause"),
                [
                    (
                        "over" if note.over else markdown_text(note.severity),
                        _metric_name(note.metric),
                        markdown_text(note.entity_name or "all campaigns"),
                        markdown_text(note.cause or DASH, limit=300),
                    )
                    for note in report.incidents[:ROWS]
                ],
            )
        )
    counted = f"{len(report.accounts)} of {report.accounts_total} accounts counted ({percent(report.completeness)})."
    young = " Conversions of the last days are still arriving." if report.young and report.sections else ""
    parts.append(f"{counted}{young}")
    parts.extend(
        f"Sums of {markdown_text(note.account.name)} differ from the platform's by {percent(note.share)}."
        for note in report.drift
    )
    return "\n\n".join(parts) + "\n"


_CsvCell = tuple[str, Callable[[CampaignLine], str]]


def _exact(sums: Callable[[Compared], Sums | None], metric: Metric) -> Callable[[CampaignLine], str]:
    def cell(line: CampaignLine) -> str:
        found = sums(line.compared)
        return "" if found is None else plain(found.value(metric))

    return cell


def plain(value: Decimal | None) -> str:
    """A decimal for machines: at most six places, no exponent, no trailing zeros; unknown is empty."""
    if value is None:
        return ""
    shown = f"{value:.6f}"
    return shown.rstrip("0").rstrip(".")


_CSV: Final[tuple[_CsvCell, ...]] = (
    ("date", lambda line: line.day.isoformat()),
    ("platform", lambda line: str(line.account.platform)),
    ("account_id", lambda line: csv_text(line.account.external_id)),
    ("account_name", lambda line: csv_text(line.account.name)),
    ("time_zone", lambda line: csv_text(line.account.timezone)),
    ("currency", lambda line: csv_text(line.account.currency)),
    ("data", lambda _: "complete"),
    ("campaign_id", lambda line: csv_text(line.campaign_id)),
    ("campaign_name", lambda line: csv_text(line.name)),
    ("campaign_status", lambda line: csv_text(line.status)),
    ("impressions", lambda line: str(line.compared.day.impressions)),
    ("clicks", lambda line: str(line.compared.day.clicks)),
    *((metric, _exact(lambda compared: compared.day, metric)) for metric in METRICS),
    ("ctr", lambda line: plain(line.compared.day.ctr)),
    ("cpc", lambda line: plain(line.compared.day.cpc)),
    ("cpm", lambda line: plain(line.compared.day.cpm)),
    ("cvr", lambda line: plain(line.compared.day.cvr)),
    *((f"{metric}_day_before", _exact(lambda compared: compared.before, metric)) for metric in METRICS),
    *((f"{metric}_average", lambda line, metric=metric: plain(line.compared.average(metric))) for metric in METRICS),
    ("average_days", lambda line: str(line.compared.week_days)),
    ("spend_7_days", lambda line: plain(line.week.spend)),
    ("conversions_7_days", lambda line: plain(line.week.conversions)),
    ("revenue_7_days", lambda line: plain(line.week.revenue)),
)
CSV_HEADER: Final = tuple(name for name, _ in _CSV)
"""Columns only ever get added, at the end."""


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    src: str
    alt: str


def _csv_row(line: CampaignLine) -> list[str]:
    return [cell(line) for _, cell in _CSV]


def _csv_account(account: Any, day: date, data: Literal["late", "no_delivery"]) -> list[str]:
    known = {
        "date": day.isoformat(),
        "platform": str(account.platform),
        "account_id": csv_text(account.external_id),
        "account_name": csv_text(account.name),
        "time_zone": csv_text(account.timezone),
        "currency": csv_text(account.currency),
        "data": data,
    }
    return [known.get(column, "") for column in CSV_HEADER]


def _markdown_late(late: tuple[LateAccount, ...]) -> list[str]:
    if not late:
        return []
    lines = [
        f"- {markdown_text(line.account.name)} ({_platform(line.account.platform)}): {line.reason}" for line in late
    ]
    more = [f"- and {len(late) - ROWS} more"] if len(late) > ROWS else []
    return ["**Not counted yet:**", "\n".join(lines[:ROWS] + more)]


def _markdown_section(section: Section) -> list[str]:
    currency, compared = section.currency, section.compared

    def shown(sums: Sums | None, metric: Metric) -> str:
        return DASH if sums is None else _amount(sums.value(metric), metric, currency)

    rows = [
        (
            _metric_name(metric),
            shown(compared.day, metric) + ("\\*" if compared.day.partial(metric) else ""),
            shown(compared.before, metric),
            _amount(compared.average(metric), metric, currency),
            percent(compared.change(metric), signed=True),
        )
        for metric in METRICS
    ]
    parts = [f"## {markdown_text(currency)}"]
    parts.append(_markdown_table(("Measure", "Day", "Day before", "Average", "Change"), rows))
    if section.partial:
        parts.append("\\* of the campaigns that tell it; the rest is unknown, not zero.")
    if section.why:
        parts.append(_why(section.why))
    if section.recommendations:
        lines = [
            f"- **{_KINDS[advice.kind]}** {markdown_text(advice.target_name)} ({markdown_text(advice.target_id)}): "
            f"{markdown_text(advice.reason, limit=400)}"
            for advice in section.recommendations
        ]
        parts += ["### Recommended", "\n".join(lines)]
    if section.campaigns:
        lines_of = [
            (markdown_text(line.name, limit=60), *(shown(line.compared.day, metric) for metric in METRICS))
            for line in section.campaigns[:ROWS]
        ]
        parts += [
            "### Campaigns",
            _markdown_table(("Campaign", *(_metric_name(metric) for metric in METRICS)), lines_of),
        ]
    return parts


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aae.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        name=lambda value, limit=120: clean(str(value), limit=limit),
        amount=_amount,
        percent=percent,
        verdict=_verdict,
        platform=_platform,
        metric_name=_metric_name,
        kind_name=lambda kind: _KINDS[kind],
        level=lambda severity: severity if severity in {"critical", "high", "medium"} else "low",
        level_name=lambda level: clean(level).replace("_", " "),
        day=_day,
        moment=lambda at: f"{at.astimezone(UTC):%d %b %Y, %H:%M} UTC",
        why=_why,
        shaded=lambda trend: sum(point.young for point in trend) >= 2,
    )
    return environment


@cache
def _inliner() -> css_inline.CSSInliner:
    # The style element stays for its media queries; nothing is ever loaded from outside.
    return css_inline.CSSInliner(keep_style_tags=True, load_remote_stylesheets=False)


def _source(name: str) -> str:
    environment = _templates()
    assert environment.loader is not None  # noqa: S101 - set two functions above
    return environment.loader.get_source(environment, name)[0]


def _amount(value: Decimal | int | None, metric: str, currency: str) -> str:
    if metric == "roas":
        return ratio(None if value is None else Decimal(value))
    if metric == "conversions":
        return number(value, decimals=2)
    return money(value, currency)


def _verdict(change: Decimal, metric: str) -> str:
    """Whether a change is good news; more spend is neither."""
    if abs(change) < Decimal("0.005") or metric == "spend":
        return "plain"
    return "good" if (change < 0) == (metric == "cpa") else "bad"


def _why(split: Split) -> str:
    mix = describe_mix(split)
    return f"{describe_split(split)}{f': {mix}' if mix else ''}."


def _platform(value: str) -> str:
    return _PLATFORMS[Platform(value)] if value in set(Platform) else clean(value, limit=20)


def _metric_name(metric: str) -> str:
    return _NAMES.get(metric, clean(metric, limit=20).capitalize())


def _day(day: date | datetime) -> str:
    return f"{day:%a} {day.day} {day:%B %Y}"


def _preheader(report: Report) -> str:
    """The line that a mail list shows beside the subject: what is open and what to do."""
    incidents = sum(not note.over for note in report.incidents)
    told = [
        f"{incidents} open {'incident' if incidents == 1 else 'incidents'}" if incidents else "No open incidents",
        f"{len(report.recommendations)} recommended" if report.recommendations else "",
        f"{len(report.late)} not counted yet" if report.late else "",
    ]
    return " · ".join(part for part in told if part)
