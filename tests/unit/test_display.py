"""How numbers read, and that no name can do anything but be read."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.display import DASH, clean, csv_text, markdown_text, money, number, percent, ratio


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (1_234_560_000, "EUR", "€1,234.56"),
        (Decimal("1234.5"), "USD", "$1,234.50"),
        (17_841_600_000, "JPY", "¥17,842"),
        (1_234_500_000, "KWD", "KWD\u00a01,234.500"),
        (5_005_000, "CHF", "CHF\u00a05.01"),
        (-5_000_000, "EUR", "\u2212€5.00"),
        (-1, "EUR", "€0.00"),
        (None, "EUR", DASH),
    ],
)
def test_money_has_the_decimals_of_its_currency(amount: int | Decimal | None, currency: str, shown: str) -> None:
    assert money(amount, currency) == shown


def test_percentages_are_short_and_signed_on_request() -> None:
    assert percent(Decimal("0.1234")) == "12\u00a0%"
    assert percent(Decimal("0.0123"), signed=True) == "+1.2\u00a0%"
    assert percent(Decimal("-0.5"), signed=True) == "\u221250\u00a0%"
    assert percent(0, signed=True) == "0\u00a0%"
    assert percent(None) == DASH


def test_unknown_is_a_dash_and_zero_is_a_zero() -> None:
    assert [number(None), ratio(None), number(0), ratio(Decimal(0))] == [DASH, DASH, "0", "0.00\u00d7"]


def test_counts_show_fractions_only_where_there_are_any() -> None:
    assert number(Decimal("12.500000"), decimals=2) == "12.50"
    assert number(Decimal("1200.000000"), decimals=2) == "1,200"


@given(st.text())
def test_a_cleaned_name_is_one_line_without_control_or_bidi_characters(name: str) -> None:
    shown = clean(name)
    assert 0 < len(shown) <= 120
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in shown} & {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI"}


def test_a_name_cannot_reorder_what_stands_beside_it() -> None:
    assert clean("invoice\u202efdp.exe\u2066\u200b") == "invoicefdp.exe"


@given(st.sampled_from(["=", "+", "-", "@", "\t=", "\r\n@", " =", "\u200b=", "\uff1d"]), st.text())
def test_no_cell_is_a_formula(start: str, rest: str) -> None:
    assert not csv_text(start + rest).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b"))


def test_ordinary_cells_stay_as_they_are() -> None:
    assert [csv_text("Winter Sale, 50 %"), csv_text("120001"), csv_text("")] == ["Winter Sale, 50 %", "120001", ""]


@pytest.mark.parametrize(
    "name",
    ["a | b", "[x](javascript:alert(1))", "![x](http://e.vil/p.png)", "<img src=x>", "`code`", "**b**", "www.evil.com",
     "https://evil.com", "# head", "~~x~~", "me@evil.com"],
)  # fmt: skip
def test_markdown_is_shown_not_obeyed(name: str) -> None:
    shown = markdown_text(name)
    assert "<" not in shown
    for i, character in enumerate(shown):
        if character in "|[]()!`*#~@:.":
            assert shown[i - 1] == "\\", (character, shown)
