"""Whatever a platform sends is read exactly or refused in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import Bug
from aae.model import Platform, from_micros
from aae.platforms.reading import Reader, distinct

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


DAYS = [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)]
COLUMNS: dict[str, tuple[Any, Any]] = {
    "ids": (read.ids, read.id),
    "counts": (read.counts, read.count),
    "hours": (read.hours, read.hour),
    "micros_of": (read.micros_of, read.micros),
    "exacts": (read.exacts, read.exact),
    "roundeds": (read.roundeds, read.rounded),
    "days": (lambda values, what: read.days(values, what, DAYS), lambda value, what: read.day(value, what, DAYS)),
}
USUAL = {
    "ids": st.from_regex(r"[\w.~-]{1,66}", fullmatch=True) | st.integers(1, 10**20),
    "counts": st.integers(0, 10**12).map(str) | st.from_regex(r"[0-9]{1,20}", fullmatch=True),
    "hours": st.integers(-1, 24) | st.integers(0, 24).map("{:02}".format),
    "micros_of": st.integers(-(10**18), 10**18).map(str) | st.sampled_from(["-", "1-2", "--1", "-0"]),
    "exacts": st.from_regex(r"-?[0-9]{0,13}\.?[0-9]{0,8}", fullmatch=True) | st.decimals(places=6),
    "roundeds": st.from_regex(r"-?[0-9]{0,13}\.?[0-9]{0,8}", fullmatch=True) | st.decimals() | st.integers(),
    "days": st.sampled_from([*map(str, DAYS), "2026-11-23", "2026-1-20", "-026-11-20"]),
}
assert set(COLUMNS) == set(USUAL)


def said(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Bug as bug:
        return str(bug)


def plain(column: Any) -> list[Any]:
    values = column.to_pylist() if isinstance(column, pa.Array) else list(column)
    return [str(value) if isinstance(value, np.datetime64) else value for value in values]


@pytest.mark.parametrize("name", COLUMNS)
@given(data=st.data())
def test_a_column_is_read_as_its_values_one_by_one_or_refused_in_the_same_words(name: str, data: st.DataObject) -> None:
    usual = USUAL[name]
    kind = data.draw(st.sampled_from([usual, usual.map(str), usual | ANYTHING]))
    values = data.draw(st.lists(kind, max_size=6))
    column, one = COLUMNS[name]
    assert said(lambda: plain(column(values, "it"))) == said(lambda: [one(value, "it") for value in values])


@pytest.mark.parametrize("name", sorted(COLUMNS))
@pytest.mark.parametrize(
    "values",
    [
        *(["0x1F"], ["+5"], [" 5"], ["5 "], ["1_0"], ["٣"], ["²"], [""], ["."], ["-"], ["-."], ["-0"], ["5."], [".5"]),
        *(["1e3"], ["1E-2"], ["1e999999999"], ["NaN"], ["Infinity"], ["00000000000000000001"], ["1" * 64], ["1" * 65]),
        *(["1.5000000000"], ["1.0000005"], ["999999999999.999999"], ["1000000000000"], ["-1000000000000"], ["\ud800"]),
        *([True], [1.5], [None], ["1", None], ["1", 1], [True, 1], [[]], [2**63], [2**64], [-1], [10**30], []),
        *([Decimal("NaN")], [Decimal("sNaN")], [Decimal("Infinity")], [Decimal("0E+50")], [Decimal("0E-301")]),
        *([Decimal("0E-30")], [Decimal("1E+11"), 1], [Decimal("1E-7")], [Decimal("1." + "0" * 40)]),
        *([f"0.{'0' * 290}1"], [Decimal("1E-299")], ["0" * 63 + "1"], [f"1.{'0' * 62}"], [f"1.{'0' * 61}"]),
    ],
)
def test_what_arrow_would_read_otherwise_is_read_as_one_by_one(name: str, values: list[Any]) -> None:
    column, one = COLUMNS[name]
    assert said(lambda: plain(column(values, "it"))) == said(lambda: [one(value, "it") for value in values])


@given(st.lists(ANYTHING | st.sampled_from(["a", "b"]), max_size=6))
def test_what_is_read_once_for_many_rows_stands_for_each(values: list[Any]) -> None:
    codes, found = distinct(values, repr)
    assert [found[code] for code in codes] == [repr(value) for value in values]


def test_a_text_that_rows_share_is_looked_at_once() -> None:
    seen: list[str] = []
    distinct(["a", "b", "a", "a"], seen.append)
    assert seen == ["a", "b"]


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
