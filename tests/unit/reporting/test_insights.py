"""The splits add up, chance is not called a cause, and sentences name the step and the campaign."""

from __future__ import annotations

from math import isclose, log

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aae.reporting.insights import Ratio, biggest, describe_day, describe_split, explain, is_firm, split, split_total
from aae.reporting.numbers import Compared, Sums, total


def sums(spend: float, impressions: int, clicks: int, conversions: float, revenue: float) -> Sums:
    return Sums(
        rows=1,
        impressions=impressions,
        clicks=clicks,
        spend_micros=round(spend * 1e6),
        conversions_micros=round(conversions * 1e6),
        conversions_spend_micros=round(spend * 1e6),
        conversions_clicks=clicks,
        revenue_micros=round(revenue * 1e6),
        revenue_spend_micros=round(spend * 1e6),
    )


SIDES = st.builds(
    sums,
    st.floats(1, 1e5),
    st.integers(1000, 10**7),
    st.integers(10, 10**5),
    st.floats(1, 1e4),
    st.floats(1, 1e6),
)
PARTS = st.builds(lambda week, day: Compared(day=day, before=None, week=week, week_days=7), SIDES, SIDES)
METRICS = st.sampled_from(["cpa", "roas"])


@given(METRICS, SIDES, SIDES)
def test_the_funnel_steps_add_up_to_the_whole_change(metric: Ratio, base: Sums, day: Sums) -> None:
    found = split(metric, base, day)
    assert found is not None
    old, new = base.value(metric), day.value(metric)
    assert old
    assert new
    assert isclose(sum(found.steps.values()), log(new / old), abs_tol=1e-9)
    assert isclose(found.change, float(new / old - 1), rel_tol=1e-9, abs_tol=1e-12)


@given(METRICS, st.lists(PARTS, min_size=1, max_size=6))
def test_mix_and_rate_add_up_to_the_whole_change(metric: Ratio, parts: list[Compared]) -> None:
    found = split_total(metric, parts)
    assert found is not None
    assert found.mix is not None
    assert found.rate is not None
    base, day = total(p.week or Sums() for p in parts), total(p.day for p in parts)
    old, new = base.value(metric), day.value(metric)
    assert old
    assert new
    assert isclose(found.mix + found.rate, log(new / old), abs_tol=1e-7)


@given(SIDES, SIDES, st.integers(1, 5))
def test_money_moved_between_unchanged_campaigns_is_mix_alone(a: Sums, b: Sums, times: int) -> None:
    grown = total([a] * (times + 1))
    found = split_total("cpa", [Compared(day=grown, week=a, week_days=7), Compared(day=b, week=b, week_days=7)])
    assert found is not None
    assert found.rate is not None
    assert abs(found.rate) < 1e-9


@given(SIDES, st.floats(1.1, 5))
def test_campaigns_that_all_got_worse_alike_are_rate_alone(a: Sums, factor: float) -> None:
    worse = sums(a.spend_micros / 1e6 * factor, a.impressions, a.clicks, a.conversions_micros / 1e6, 1)
    found = split_total("cpa", [Compared(day=worse, week=a, week_days=7)] * 3)
    assert found is not None
    assert found.mix is not None
    assert abs(found.mix) < 1e-5


def test_what_is_not_told_is_not_split() -> None:
    told = sums(100, 10_000, 200, 10, 300)
    untold = Sums(rows=1, impressions=10, clicks=5, spend_micros=10**6, conversions_missing=1, revenue_missing=1)
    assert split("cpa", told, told + untold) is None
    no_revenue = Sums(**{f: getattr(told, f) for f in told.__slots__} | {"revenue_missing": 1, "revenue_micros": 0})
    assert split("cpa", told, no_revenue) is not None
    assert split("roas", told, no_revenue) is None


@pytest.mark.parametrize(
    ("week_conversions", "day_conversions", "firm"),
    [(700, 50, True), (700, 95, False), (14, 1, False), (0, 0, False), (700, 0, False)],
)
def test_a_change_counts_only_when_chance_would_rarely_make_it(
    week_conversions: int, day_conversions: int, firm: bool
) -> None:
    week, day = sums(7000, 70_000, 7000, week_conversions, 1), sums(1000, 10_000, 1000, day_conversions, 1)
    assert is_firm("cpa", week, day) is firm


def test_the_sentence_names_the_step_that_did_it_with_its_own_change() -> None:
    week, day = sums(7000, 700_000, 7000, 700, 21_000), sums(1000, 100_000, 1000, 50, 1500)
    why = explain(Compared(day=day, week=week, week_days=7))
    assert why is not None
    assert why.worse
    assert describe_split(why) == "CPA +100\u00a0%, mostly from CVR \u221250\u00a0%"


def test_the_headline_names_spend_the_change_its_step_and_the_campaign() -> None:
    week, day = sums(7000, 700_000, 7000, 700, 21_000), sums(1120, 112_000, 1120, 56, 1500)
    compared = Compared(day=day, week=week, week_days=7)
    said = describe_day(compared, "EUR", split_total("cpa", [compared]), "Winter\u202e Sale", young=True)
    assert said == ("Spend up 12\u00a0% to €1,120.00; CPA 100\u00a0% worse so far at €20.00, mostly CVR on Winter Sale")


def test_a_small_change_is_called_steady_and_a_doubtful_one_usual() -> None:
    week = sums(7000, 700_000, 7000, 70, 21_000)
    steady = Compared(day=sums(1010, 100_000, 1000, 10, 3000), week=week, week_days=7)
    assert describe_day(steady, "EUR", None, None) == "Spend steady at €1,010.00; CPA steady at €101.00"
    doubtful = Compared(day=sums(1010, 100_000, 1000, 8, 3000), week=week, week_days=7)
    assert describe_day(doubtful, "EUR", None, None).endswith("(+26\u00a0%, within its usual variation)")


@given(METRICS, st.dictionaries(st.sampled_from("abcde"), PARTS, min_size=2))
def test_the_biggest_mover_moved_with_the_total(metric: Ratio, parts: dict[str, Compared]) -> None:
    found = split_total(metric, list(parts.values()))
    assert found is not None
    assume(abs(found.change) > 1e-6)
    assert biggest(metric, parts) in parts
