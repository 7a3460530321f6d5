"""Sums are exact, unknown stays unknown, and a day is compared with the right days."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from aae.reporting.numbers import Compared, Sums, ages, facts, sums_by, total
from tests.unit.reporting.worlds import DAY, Ad, AdSet, Campaign, frames

AMOUNTS = st.integers(0, 10**12)
ROWS = st.builds(
    lambda spend, conversions, revenue, clicks: Sums(
        rows=1,
        impressions=clicks * 7,
        clicks=clicks,
        spend_micros=spend,
        conversions_micros=conversions or 0,
        conversions_missing=conversions is None,
        conversions_spend_micros=0 if conversions is None else spend,
        conversions_clicks=0 if conversions is None else clicks,
        revenue_micros=revenue or 0,
        revenue_missing=revenue is None,
        revenue_spend_micros=0 if revenue is None else spend,
    ),
    AMOUNTS,
    st.none() | AMOUNTS,
    st.none() | AMOUNTS,
    st.integers(0, 10**6),
)


@given(st.lists(ROWS))
def test_ratios_are_those_of_the_exact_sums_over_the_rows_that_tell(rows: list[Sums]) -> None:
    whole = total(rows)
    telling = [row for row in rows if not row.conversions_missing]
    spend = sum(row.spend_micros for row in telling)
    conversions = sum(row.conversions_micros for row in telling)
    if conversions:
        assert whole.cpa is not None
        exact = Fraction(spend, conversions)
        assert abs(Fraction(whole.cpa) - exact) <= exact / 10**20
    else:
        assert whole.cpa is None
    assert whole.spend * 10**6 == sum(row.spend_micros for row in rows)


def test_a_total_of_which_nothing_is_told_is_unknown_and_one_without_rows_is_zero() -> None:
    unknown = Sums(rows=2, spend_micros=5, conversions_missing=2, revenue_missing=2)
    assert (unknown.conversions, unknown.revenue, unknown.cpa, unknown.roas) == (None, None, None, None)
    assert (Sums().conversions, Sums().revenue) == (0, 0)
    assert not Sums().partial("conversions")


def test_a_total_of_which_some_is_told_says_so_and_its_cpa_leaves_out_the_unjudged_spend() -> None:
    told = Ad(spend=100, conversions=10)
    untold = Ad(spend=900, conversions=None, revenue=None)
    rows = facts(frames(campaigns=[Campaign(ad_sets=[AdSet(ads=[told, untold])])]), DAY)
    (day,) = sums_by(ages(rows, 0, 0), "age").values()
    assert (day.spend, day.conversions, day.cpa) == (1000, 10, 10)
    assert day.partial("cpa")
    assert day.partial("roas")
    assert not day.partial("spend")


def test_no_conversions_on_real_spend_is_zero_conversions_and_no_cpa() -> None:
    rows = facts(frames(campaigns=[Campaign(ad_sets=[AdSet(ads=[Ad(conversions=0, revenue=0)])])]), DAY)
    (day,) = sums_by(ages(rows, 0, 0), "age").values()
    assert (day.conversions, day.cpa, day.roas) == (0, None, 0)


def test_facts_reach_28_days_back_and_no_further() -> None:
    rows = facts(frames(campaigns=[Campaign(ad_sets=[AdSet(ads=[Ad(days=60)])])]), DAY)
    assert set(rows["age"]) == set(range(28))


def test_rows_of_an_entity_that_is_not_listed_still_count() -> None:
    window = frames(campaigns=[Campaign()])
    orphaned = type(window)(
        window.account, window.version, window.data_through, window.entities.iloc[:0], window.daily, window.hourly
    )
    assert total(sums_by(facts(orphaned, DAY), "campaign_id").values()).spend == 2800


def test_an_average_of_amounts_is_per_day_and_one_of_ratios_is_pooled() -> None:
    week = Sums(rows=7, spend_micros=70_000_000, conversions_micros=7_000_000, conversions_spend_micros=70_000_000)
    day = Sums(rows=1, spend_micros=15_000_000, conversions_micros=1_000_000, conversions_spend_micros=15_000_000)
    compared = Compared(day=day, week=week, week_days=7)
    assert compared.average("spend") == 10
    assert compared.average("cpa") == 10
    assert compared.change("spend") == Decimal("0.5")
    assert compared.change("cpa") == Decimal("0.5")
    assert compared.change("spend", "before") is None
