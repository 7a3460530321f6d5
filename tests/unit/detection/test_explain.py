"""Why: splits that add up exactly, and sentences a person can read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.detection import explain
from aae.detection.explain import Funnel

AMOUNT = st.floats(0.01, 1e7)
FUNNEL = st.builds(Funnel, AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT)


@given(FUNNEL, FUNNEL)
def test_the_parts_of_cpa_add_up(now: Funnel, usual: Funnel) -> None:
    change = np.log(now.spend / now.conversions) - np.log(usual.spend / usual.conversions)
    assert sum(part.effect for part in explain.split_cpa(now, usual)) == pytest.approx(change, abs=1e-6)


@given(FUNNEL, FUNNEL)
def test_the_parts_of_roas_add_up(now: Funnel, usual: Funnel) -> None:
    change = np.log(now.revenue / now.spend) - np.log(usual.revenue / usual.spend)
    assert sum(part.effect for part in explain.split_roas(now, usual)) == pytest.approx(change, abs=1e-6)


def test_the_step_that_moved_comes_first() -> None:
    usual, now = Funnel(1000, 20, 10, 2), Funnel(1000, 20, 10, 1)
    first = explain.split_cpa(now, usual)[0]
    assert (first.step, first.change, first.share) == ("cvr", pytest.approx(-0.5), pytest.approx(1.0))


@given(st.lists(st.tuples(*[st.floats(0.01, 100.0)] * 4), min_size=2, max_size=6))
def test_mix_and_rate_add_up(children: list[tuple[float, float, float, float]]) -> None:
    weights, rates, usual_weights, usual_rates = np.array(children).T
    weights, usual_weights = weights / weights.sum(), usual_weights / usual_weights.sum()
    mix, rate = explain.mix_and_rate(weights, rates, usual_weights, usual_rates)
    assert mix + rate == pytest.approx((weights * rates).sum() - (usual_weights * usual_rates).sum(), abs=1e-6)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(1234.5, "EUR", "€1,234.50"), (1234.5, "JPY", "¥1,234"), (-3, "USD", "-$3.00"), (9.5, "INR", "9.50 INR")],
)
def test_money_is_written_as_people_write_it(amount: float, currency: str, text: str) -> None:
    assert explain.money(amount, currency) == text


def test_zero_conversions_are_said_so() -> None:
    parts = explain.split_cpa(Funnel(1000, 20, 10, 0.5), Funnel(1000, 20, 10, 5))
    sentence = explain.cause_of_parts("cpa", "Spring", parts, conversions=0, spend="€10.00")
    assert sentence == (
        "Spring spent €10.00 without a single conversion: the conversion rate (CVR) is down 90 %, "
        "which explains all of it."
    )


def test_names_are_data_not_templates() -> None:
    assert "{0}{evil}" in explain.recommendation("cvr", "{0}{evil}")
