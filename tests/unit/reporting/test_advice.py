"""Each recommendation appears where it should, stays away where evidence is thin, and carries what a person needs."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.model import Platform
from aae.reporting.advice import Recommendation, at_least, at_most, recommend
from aae.reporting.numbers import facts
from tests.unit.reporting.worlds import DAY, Ad, AdSet, Campaign, account, frames

GOOD = Ad(name="Good", spend=100, conversions=10, revenue=300)


def advise(*campaigns: Campaign) -> list[Recommendation]:
    window = frames(campaigns=campaigns)
    return recommend(window, facts(window, DAY))


def with_ad_set(ad: Ad, **ad_set: object) -> list[Recommendation]:
    """The ad in an ad set of its own, beside a sound campaign."""
    tried = AdSet(name="Tried", ads=[ad], **ad_set)  # type: ignore[arg-type]
    return advise(Campaign("Sound", [AdSet(ads=[GOOD, GOOD])]), Campaign("Other", [tried]))


def test_an_ad_set_that_burns_money_is_to_be_paused() -> None:
    (found,) = with_ad_set(Ad(spend=80, conversions=1, revenue=20))
    assert (found.kind, found.target_name, found.campaign_name) == ("pause_adset", "Tried", "Other")
    assert found.target_id == "s10006"
    assert "€560.00 brought 7 conversions at €80.00 each" in found.reason
    assert "€80.00 a day" in found.expected_impact
    assert found.confidence >= 0.95
    assert found.impact_micros == 560_000_000


@pytest.mark.parametrize(
    "ad",
    [
        pytest.param(Ad(spend=5, conversions=0, revenue=0), id="too little spent to expect anything"),
        pytest.param(Ad(spend=80, conversions=1, revenue=20, days=2), id="ran two days only"),
        pytest.param(Ad(spend=80, conversions=6, revenue=180), id="worse, but less than twice"),
        pytest.param(Ad(spend=80, conversions=1, revenue=240), id="few conversions that are worth as much"),
        pytest.param(Ad(spend=80, conversions=None, revenue=None), id="conversions not told"),
        pytest.param(Ad(spend=80, conversions=1, revenue=20, status="active"), id="not active"),
    ],
)
def test_no_pause_without_evidence(ad: Ad, request: pytest.FixtureRequest) -> None:
    status = "paused" if "not active" in request.node.name else "active"
    assert with_ad_set(ad, status=status) == []


def test_nothing_is_recommended_in_an_account_that_is_too_small_to_compare_with() -> None:
    assert (
        advise(Campaign(ad_sets=[AdSet(ads=[Ad(spend=80, conversions=0, revenue=0)]), AdSet(ads=[Ad(days=1)])])) == []
    )
    assert advise() == []


def test_a_good_campaign_that_uses_up_its_budget_gets_more() -> None:
    star = Campaign("Star", [AdSet(ads=[Ad(spend=98, conversions=20, revenue=600)])], budget=100)
    (found,) = advise(star, Campaign("Sound", [AdSet(ads=[GOOD, GOOD])]))
    assert (found.kind, found.level, found.target_name, found.change) == (
        "increase_budget",
        "campaign",
        "Star",
        Decimal("0.2"),
    )
    assert "7 of 7 days" in found.reason
    assert "€20.00 a day more" in found.expected_impact
    assert found.impact_micros == 140_000_000


@pytest.mark.parametrize(
    "star",
    [
        pytest.param(
            Campaign("S", [AdSet(ads=[Ad(spend=98, conversions=20, revenue=600)])]), id="no budget of its own"
        ),
        pytest.param(
            Campaign("S", [AdSet(ads=[Ad(spend=50, conversions=10, revenue=300)])], budget=100), id="budget not used"
        ),
        pytest.param(
            Campaign("S", [AdSet(ads=[Ad(spend=98, conversions=20, revenue=100)])], budget=100), id="worth less"
        ),
        pytest.param(
            Campaign("S", [AdSet(ads=[Ad(spend=4, conversions=1, revenue=30)])], budget=4), id="few conversions"
        ),
    ],
)
def test_no_more_budget_without_reason(star: Campaign) -> None:
    assert [a.kind for a in advise(star, Campaign("Sound", [AdSet(ads=[GOOD, GOOD])]))].count("increase_budget") == 0


def test_a_weak_campaign_with_a_budget_gets_less_and_its_paused_ad_set_is_enough_where_that_is_the_cause() -> None:
    weak = Campaign("Weak", [AdSet(ads=[Ad(spend=100, conversions=6, revenue=120)])], budget=100)
    sound = Campaign("Sound", [AdSet(ads=[GOOD, GOOD])])
    (found,) = advise(weak, sound)
    assert (found.kind, found.target_name, found.change) == ("decrease_budget", "Weak", Decimal("-0.2"))
    bad = Campaign("Bad", [AdSet("Culprit", ads=[Ad(spend=100, conversions=1, revenue=10)])], budget=100)
    assert [(a.kind, a.target_name) for a in advise(bad, sound)] == [("pause_adset", "Culprit")]


def test_a_worn_creative_is_to_be_renewed() -> None:
    worn = Ad(name="Worn", clicks=lambda age: 100 if age < 7 else 200)
    (found,) = advise(Campaign(ad_sets=[AdSet(ads=[worn, GOOD])]))
    assert (found.kind, found.level, found.target_name) == ("refresh_creative", "ad", "Worn")
    assert "2.00\u00a0%" in found.reason
    assert "1.00\u00a0%" in found.reason
    assert "700 more clicks a week" in found.expected_impact


def test_a_creative_that_fell_with_everything_else_is_not_worn() -> None:
    falling = lambda age: 100 if age < 7 else 200  # noqa: E731
    assert advise(Campaign(ad_sets=[AdSet(ads=[Ad(clicks=falling), Ad(clicks=falling)])])) == []


def test_a_creative_with_few_impressions_is_not_judged() -> None:
    worn = Ad(impressions=1000, clicks=lambda age: 10 if age < 7 else 20)
    assert advise(Campaign(ad_sets=[AdSet(ads=[worn, GOOD])])) == []


@pytest.mark.parametrize("spread", [2, 4, 8])
def test_accounts_in_which_all_campaigns_are_alike_are_left_alone_whatever_their_noise(spread: float) -> None:
    alarms = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        ads = []
        for _ in range(12):
            counts = generator.negative_binomial(10 / (spread - 1), 1 / spread, 28)  # mean 10, variance 10 x spread
            ads.append(Ad(conversions=lambda age, c=counts: float(c[age]), revenue=lambda age, c=counts: c[age] * 30.0))
        alarms += bool(advise(*(Campaign(ad_sets=[AdSet(ads=[ad])], budget=100) for ad in ads)))
    # Three rules at a false-discovery rate of 5 % each.
    assert alarms <= 3


def test_recommendations_bear_their_account() -> None:
    window = frames(
        account(7, platform=Platform.TIKTOK, currency="JPY", name="Tokyo"),
        [Campaign(ad_sets=[AdSet(ads=[GOOD, GOOD]), AdSet(ads=[Ad(spend=80, conversions=0, revenue=0)])])],
    )
    (found,) = recommend(window, facts(window, DAY))
    assert (found.account_id, found.platform, found.account_name, found.currency) == (7, "tiktok", "Tokyo", "JPY")
    assert "¥560 brought 0 conversions" in found.reason


@given(st.integers(0, 200), st.floats(0.5, 200))
def test_the_two_tails_of_the_counts_are_one(count: int, mean: float) -> None:
    assert at_most(count, mean, 2.0) + at_least(count + 1, mean, 2.0) == pytest.approx(1, abs=1e-6)


def test_the_tail_agrees_with_scipy() -> None:
    from scipy.stats import nbinom

    for count, mean in [(0, 6.0), (3, 12.0), (40, 60.0)]:
        assert at_most(count, mean, 2.0) == pytest.approx(nbinom.cdf(count, mean, 0.5), rel=1e-6)
