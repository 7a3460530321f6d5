"""Any list of accounts at all: rows that are right, or a message that names every problem and repeats no token."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aae.errors import UserError
from aae.operate.account_files import OPTIONAL, REQUIRED, read_accounts

TOKEN = "EAABtoken7hunter2"
GOOD = {
    "user_email": "a@example.com",
    "user_name": "A",
    "platform": "meta",
    "external_id": "1001",
    "access_token": TOKEN,
}
TEXT = st.text(max_size=20)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "٣", "\ud800", "\x00", "=1+1", "\u202e"),
        *([], {}, [[]], "x" * 10_000, "act_٣", "a@b\r\nBcc: c@d", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        *("2026-01-01", "Europe/../../etc/passwd", "/etc/passwd", "EUR\n", "meta\n", TOKEN),
    ]
)
ROW = st.fixed_dictionaries(
    {}, optional={name: st.just(GOOD.get(name, "x")) | ODD | TEXT for name in (*REQUIRED, *OPTIONAL)}
) | st.dictionaries(TEXT, ODD, max_size=3).map(lambda more: GOOD | more)


def check(text: str) -> None:
    said, rows = "", []
    try:
        rows = read_accounts(text, "the list")
    except UserError as error:
        said = str(error)
    assert TOKEN not in said + repr(rows)
    assert len(said) < 20_000
    assert all(row.external_id.isascii() and row.user_name.isprintable() for row in rows)


@examples(max_examples=120)
@given(st.lists(ROW, max_size=4), st.booleans())
def test_any_json(rows: list[Any], by_line: bool) -> None:
    check("\n".join(map(json.dumps, rows)) if by_line else json.dumps(rows))


@examples(max_examples=120)
@given(st.lists(ROW, max_size=4))
def test_any_csv(rows: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, (*REQUIRED, *OPTIONAL), extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: str(value) for name, value in row.items()})
    check(out.getvalue())


@examples(max_examples=150)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "replace")))
def test_any_text(text: str) -> None:
    check(text)
    check("[" + text)
    check("{" + text)
    check(",".join((*REQUIRED, *OPTIONAL)) + "\n" + text)
