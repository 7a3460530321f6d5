"""Numbers as large as the tables hold them, and larger: a sum is right or refused, never one that began again below."""

from __future__ import annotations

import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aae.detection import detect
from aae.display import money, number, percent, ratio
from aae.errors import Bug
from aae.frames import DAILY, AccountFrames
from aae.jobs.fetch import check_sums, totals_of
from aae.model import Level, Platform
from aae.platforms.columns import metrics_frame, metrics_page
from aae.platforms.reading import Reader
from aae.reporting import build_report, render_csv, render_html, render_markdown
from aae.reporting.advice import at_least, at_most
from aae.reporting.numbers import facts, sums_by
from tests.unit.detection import factory
from tests.unit.reporting.worlds import DAY, NOW, AdSet, Campaign, account, frames

read = Reader(Platform.META)
MOST = 10**18 - 1
AMOUNTS = st.sampled_from([0, 1, 10**6, 10**17, 9 * 10**17, MOST, -MOST, -1]) | st.integers(0, MOST)
COUNTS = st.sampled_from([0, 1, 1000, 10**12 - 1]) | st.integers(0, 10**12 - 1)
ROW = st.tuples(COUNTS, COUNTS, AMOUNTS, AMOUNTS | st.none(), AMOUNTS | st.none())


@pytest.mark.parametrize("value", [10**12, str(10**12), 2**63, 2**64, 10**40, "9" * 19, "9" * 5000])
def test_a_count_that_no_sum_could_hold_is_refused(value: object) -> None:
    with pytest.raises(Bug, match="count as clicks"):
        read.count(value, "clicks")


def page(rows: list[Any]) -> pd.DataFrame:
    impressions, clicks, spend, conversions, revenue = map(list, zip(*rows, strict=True))
    return metrics_frame(
        [
            metrics_page(
                Level.AD,
                len(rows),
                external_id=[str(position) for position in range(len(rows))],
                ad_set_external_id=["2"] * len(rows),
                campaign_external_id=["1"] * len(rows),
                local_date=[date(2026, 3, 10)] * len(rows),
                impressions=impressions,
                clicks=clicks,
                spend_micros=spend,
                conversions_micros=conversions,
                revenue_micros=revenue,
            )
        ]
    )


@examples(max_examples=100)
@given(rows=st.lists(ROW, min_size=1, max_size=20))
def test_the_sums_of_a_slice_are_exact_or_refused(rows: list[Any]) -> None:
    frame = page(rows)
    for measure, name in enumerate(("spend_micros", "conversions_micros", "revenue_micros"), 2):
        assert [None if pd.isna(value) else value for value in frame[name].tolist()] == [row[measure] for row in rows]
    try:
        check_sums(frame, account())
    except Bug as error:
        assert "add up to too much" in str(error)  # noqa: PT017 - either end is right
        assert any(sum(abs(row[measure] or 0) for row in rows) > MOST for measure in (2, 3, 4))
    else:
        sums = totals_of(frame)
        assert [sums.impressions, sums.clicks, sums.spend_micros] == [
            sum(row[each] for row in rows) for each in range(3)
        ]
        assert all(abs(sum(row[measure] or 0 for row in rows)) <= MOST for measure in (2, 3, 4))


def window(rows: list[Any]) -> AccountFrames:
    """An account with one ad, whose days have these numbers, the reported one first."""
    whole = frames(account(), [Campaign(ad_sets=[AdSet(budget=10**11)], budget=10**11)])
    leaf = int(whole.daily["entity_id"].iloc[0])
    days = [(DAY - timedelta(days=age), leaf, *row) for age, row in enumerate(rows)]
    daily = pd.DataFrame(days[::-1], columns=list(DAILY), dtype=object).astype(DAILY)
    return AccountFrames(whole.account, 1, NOW, whole.entities, daily, whole.hourly)


@examples(max_examples=25)
@given(rows=st.lists(ROW, min_size=9, max_size=28))
def test_a_report_adds_up_whatever_the_numbers_are(rows: list[Any]) -> None:
    one = window(rows)
    (sums,) = sums_by(facts(one, DAY), "campaign_id").values()
    assert sums.spend_micros == sum(row[2] for row in rows)
    assert sums.impressions == sum(row[0] for row in rows)
    assert sums.conversions_micros == sum(row[3] or 0 for row in rows)
    report = build_report(user_name="Ada", frames=[one, window(rows)], incidents=[], now=NOW)
    for text in (
        render_html(report, charts=False, public_url="https://app.example.com"),
        render_csv(report),
        render_markdown(report),
    ):
        assert "nan" not in text.lower().replace("finance", "")
        assert "Infinity" not in text


def test_a_day_on_which_more_was_paid_back_than_spent_is_reported() -> None:
    usual = (10**6, 10**4, 10**9, 50 * 10**6, 3 * 10**9)
    paid_back = (10**6, 10**4, -(10**9), 50 * 10**6, -(3 * 10**9))
    report = build_report(user_name="Ada", frames=[window([paid_back] + [usual] * 20)], incidents=[], now=NOW)
    assert "\N{MINUS SIGN}€1,000.00" in render_markdown(report)


@pytest.mark.parametrize(("count", "mean"), [(10**12, 10.0), (10**12, 999.0), (10**12, 10.0**12), (1e9, 0.001)])
def test_the_chance_of_a_giant_number_is_known_at_once(count: float, mean: float) -> None:
    assert 0 <= at_least(count, mean, 2.0) <= at_most(count, mean, 2.0) <= 1 + 1e-9


@given(value=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40))
def test_any_amount_can_be_shown(value: Decimal) -> None:
    for shown in (money(value, "EUR"), number(value, decimals=2), ratio(value), percent(value, signed=True)):
        assert re.fullmatch(r"[+\u2212-]?€?[\d,.]+(\u00d7|\u00a0%)?", shown)


@examples(max_examples=8)
@given(
    factor=st.sampled_from([10**3, 10**6, 10**9]),
    column=st.sampled_from(["spend_micros", "revenue_micros", "impressions"]),
    days=st.integers(1, 30),
)
def test_detection_takes_the_largest_numbers(factor: int, column: str, days: int) -> None:
    (one,) = factory.World(campaigns=1, ad_sets=1, ads=2)()
    tables = {}
    for name, table in (("daily", one.daily), ("hourly", one.hourly)):
        recent = table["local_date"] >= table["local_date"].max() - pd.Timedelta(days=days)
        most = MOST if column.endswith("_micros") else 10**12 - 1
        larger = [None if value is pd.NA else min(int(value) * factor, most) for value in table[column].astype(object)]
        changed = table.copy()
        changed[column] = pd.Series(larger, dtype=table[column].dtype).where(recent, table[column])
        tables[name] = changed
    huge = AccountFrames(one.account, 1, one.data_through, one.entities, tables["daily"], tables["hourly"])
    for finding in detect([huge], now=factory.NOW, sensitivity="high"):
        assert finding.stake_micros >= 0
        assert finding.expected == finding.expected  # no NaN
