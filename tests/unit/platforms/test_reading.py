"""Whatever a platform sends is read exactly or refused in one sentence."""

from __future__ import annotations

import inspect
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import Bug
from aae.model import Platform, from_micros
from aae.platforms.reading import Reader

read = Reader(Platform.META)
MICROS = st.integers(-(10**18) + 1, 10**18 - 1)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals()
    | st.text()
    | st.from_regex(r"-?\d{1,30}(\.\d{1,30})?([eE]-?\d{1,9})?"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ONE_VALUE = [
    name
    for name, method in inspect.getmembers(Reader, inspect.isfunction)
    if list(inspect.signature(method).parameters) == ["self", "value", "what"]
]


def test_every_reader_is_covered_below() -> None:
    assert {"count", "exact", "rounded", "micros", "id", "text", "hour"} <= set(ONE_VALUE)


@pytest.mark.parametrize("name", ONE_VALUE)
@given(value=ANYTHING)
def test_anything_is_read_or_a_bug_that_does_not_quote_it(name: str, value: Any) -> None:
    refused = ""
    try:
        getattr(read, name)(value, "the field")
    except Bug as bug:
        refused = str(bug)
    assert not refused or (refused.startswith("Meta sent ") and refused.endswith("the field."))


@given(MICROS)
def test_money_is_exact_to_the_last_millionth(micros: int) -> None:
    assert read.exact(str(from_micros(micros)), "spend") == micros
    assert read.exact(from_micros(micros), "spend") == micros
    assert read.rounded(str(from_micros(micros)), "value") == micros
    assert read.micros(str(micros), "costMicros") == micros


def test_money_with_a_seventh_decimal_is_refused_and_a_computed_value_rounded_half_to_even() -> None:
    with pytest.raises(Bug, match="more than six decimals as spend"):
        read.exact("1.0000005", "spend")
    assert read.exact("1.5000000000", "spend") == 1_500_000
    assert read.rounded("1.0000005", "value") == 1_000_000
    assert read.rounded("1.0000015", "value") == 1_000_002
    assert read.rounded(Decimal("0.33333333333333333"), "value") == 333_333


@pytest.mark.parametrize(
    "value", ["1e999999999", "-1e999999999", "NaN", "Infinity", "1" * 64, "", "1,5", True, 1.5, None]
)
def test_an_amount_that_is_none_is_refused_at_once(value: Any) -> None:
    for reader in (read.exact, read.rounded, read.micros):
        with pytest.raises(Bug):
            reader(value, "spend")


@pytest.mark.parametrize("value", ["-1", "1.5", "٣", "²", "9" * 20, True, -1, 2**63, None, [], "1_000", " 1"])
def test_a_count_is_a_plain_whole_number(value: Any) -> None:
    with pytest.raises(Bug):
        read.count(value, "clicks")


def test_text_fits_any_table_and_terminal() -> None:
    assert read.text("a\ud800b\x00c", "name") == "a?bc"
    assert len(read.text("x" * 10_000, "name")) == 400


def test_a_day_is_one_that_was_asked_for() -> None:
    days = [date(2026, 11, 20), date(2026, 11, 21)]
    assert read.day("2026-11-21", "date_start", days) == "2026-11-21"
    for wrong in ["2026-11-22", "20261121", "2026-W47-6", "2026-02-30", None, 5]:
        with pytest.raises(Bug):
            read.day(wrong, "date_start", days)


def test_an_id_is_text_even_where_digits_were_sent() -> None:
    assert read.id(1801000000000001234, "ad_id") == "1801000000000001234"
    for wrong in ["", "a b", "x" * 65, "é", "1/2", 0, -1, True, None, Decimal("1.5")]:
        with pytest.raises(Bug):
            read.id(wrong, "ad_id")
