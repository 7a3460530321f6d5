"""Detection over small synthetic accounts: what was planted is found once and named, what is ordinary stays silent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pandas as pd
import pytest

from aae.detection import Finding, detect, late_accounts
from aae.model import AccountStatus
from tests.unit.detection.factory import NOW, Shock, World

SEEDS = range(4)


def middle_campaign(ad: int) -> bool:
    return ad // 4 == 1


def fifth_ad(ad: int) -> bool:
    return ad == 5


RESULT, PRICE = {"cpa", "roas", "cvr"}, {"cpm", "cpc", "ctr", "cpa", "roas"}
SHOCKS = {
    # what happens: (shock, metrics it may show as, who is to blame, found in at least so many of four worlds)
    "a campaign stops converting": (Shock(38, ads=middle_campaign, cvr=0.2), RESULT, "Campaign 1", 4),
    "conversions of an ad vanish": (Shock(38, ads=fifth_ad, cvr=0.0), RESULT, "Ad 5", 3),
    "orders lose half their worth": (Shock(62, aov=0.4), {"roas"}, "Account 1", 3),
    "impressions cost double": (Shock(24, cpm=2.2), PRICE, "Account 1", 4),
    "one campaign's auction": (Shock(8, ads=middle_campaign, cpm=2.5), PRICE, "Campaign 1", 3),
    "an ad is worn out": (Shock(12, ads=fifth_ad, ctr=0.3), PRICE, "Ad 5", 3),
    "delivery stops": (Shock(8, ads=middle_campaign, volume=0), {"delivery"}, "Campaign 1", 4),
    "a budget runs away": (Shock(8, ads=middle_campaign, volume=3.5), {"spend"}, "Campaign 1", 4),
    "a slow drift": (Shock(24 * 8, ads=middle_campaign, cvr=0.3, drift=True), RESULT, "Campaign 1", 3),
}


@pytest.mark.parametrize("what", SHOCKS)
def test_what_was_planted_is_found_once_and_where_it_is(what: str) -> None:
    shock, metrics, name, least = SHOCKS[what]
    found = [detect(World(seed=seed, shocks=[shock])(), now=NOW) for seed in SEEDS]
    right = [
        [finding for finding in each if finding.metric in metrics and finding.entity_name == name] for each in found
    ]
    assert sum(len(each) == 1 for each in right) >= least
    assert sum(map(len, found)) - sum(map(len, right)) <= 1


QUIET = {
    "an ordinary day": World(),
    "an early morning": World(now=datetime(2026, 3, 12, 5, 5, tzinfo=UTC)),
    "a quiet Sunday": World(weekend=0.6, weekend_volume=0.4, now=datetime(2026, 3, 15, 16, 5, tzinfo=UTC)),
    "the Monday after": World(weekend=0.6, weekend_volume=0.4, now=datetime(2026, 3, 16, 12, 5, tzinfo=UTC)),
    "a handful of clicks": World(impressions=40, cvr=0.03),
    "a new campaign": World(born={0: 72, 1: 72, 2: 72, 3: 72}),
    "a price promotion": World(shocks=[Shock(60, aov=0.75, cvr=1.35)]),
    "clocks go forward": World(now=datetime(2026, 3, 29, 14, 5, tzinfo=UTC)),
    "clocks went forward": World(now=datetime(2026, 3, 31, 8, 5, tzinfo=UTC)),
    "clocks go back": World(now=datetime(2026, 10, 25, 14, 5, tzinfo=UTC)),
    "an incident long over": World(shocks=[Shock(24 * 12, until_ago=24 * 9, cvr=0.1, cpm=2.5)]),
}


@pytest.mark.parametrize("trap", QUIET)
def test_what_only_looks_like_an_incident_is_silent(trap: str) -> None:
    world = QUIET[trap]
    assert [finding for seed in range(3) for finding in detect(replace(world, seed=seed)(), now=world.now)] == []


def test_hours_that_were_never_fetched_are_not_hours_without_delivery() -> None:
    (frame,) = World()()
    start, end = pd.Timestamp("2026-03-08 03:00"), pd.Timestamp("2026-03-09 20:00")
    gap = frame.hourly["utc_start"].between(start, end)
    lost_day = frame.daily["local_date"] == pd.Timestamp("2026-03-09")
    holed = replace(frame, hourly=frame.hourly[~gap], daily=frame.daily[~lost_day])
    assert detect([holed], now=NOW) == []


def test_late_numbers_give_no_verdict_but_are_named() -> None:
    world = World(shocks=[Shock(8, volume=0)], data_age=timedelta(hours=9))
    frames = world()
    (late,) = late_accounts(frames, now=NOW)
    assert (late.account.id, late.hours) == (1, 9.0)
    assert detect(frames, now=NOW) == []
    assert late_accounts(replace(world, data_age=timedelta(hours=7))(), now=NOW) == []


def test_an_account_never_fetched_is_late_and_one_that_is_paused_is_not() -> None:
    (frame,) = World()()
    never = replace(frame, data_through=None)
    assert [entry.hours for entry in late_accounts([never], now=NOW)] == [None]
    assert detect([never], now=NOW) == []
    paused = replace(never, account=replace(frame.account, status=AccountStatus.PAUSED))
    assert late_accounts([paused], now=NOW) == []


def test_an_account_without_rows_gives_no_verdict() -> None:
    (frame,) = World()()
    empty = replace(frame, daily=frame.daily.iloc[:0], hourly=frame.hourly.iloc[:0])
    assert detect([empty], now=NOW) == []
    assert detect([], now=NOW) == []


def test_numbers_by_the_day_alone_are_enough_for_cost_and_revenue() -> None:
    (frame,) = World(shocks=[Shock(62, cvr=0.2)])()
    (finding,) = detect([replace(frame, hourly=frame.hourly.iloc[:0])], now=NOW)
    assert finding.family == "conversion"


def test_unknown_conversions_are_not_zero() -> None:
    (frame,) = World()()
    silent = frame.daily.copy()
    recent = silent["local_date"] >= pd.Timestamp("2026-03-11")
    silent.loc[recent, ["conversions_micros", "revenue_micros"]] = pd.NA
    assert detect([replace(frame, daily=silent)], now=NOW) == []


def test_entities_that_somebody_paused_have_not_stopped() -> None:
    world = World(shocks=[Shock(8, ads=fifth_ad, volume=0)], status={5: "paused"})
    assert detect(world(), now=NOW) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tracking_outage_on_all_platforms_is_one_finding(seed: int) -> None:
    frames = World(seed=seed, accounts=3, shocks=[Shock(38, cvr=0.05)])()
    (finding,) = detect(frames, now=NOW)
    assert (finding.level, finding.metric, finding.severity) == ("user", "tracking", "critical")
    assert finding.data["accounts"] == [1, 2, 3]
    assert (finding.account_id, finding.entity_id, finding.platform) == (None, None, None)
    assert finding.stake_micros > 0


def test_an_outage_of_one_account_leaves_the_others_out() -> None:
    frames = World(accounts=3, shocks=[Shock(38, cvr=0.05, accounts=(2,))])()
    tracking = [finding for finding in detect(frames, now=NOW) if finding.metric == "tracking"]
    assert [finding.account_id for finding in tracking] == [2]


def test_money_in_different_currencies_is_never_added_up() -> None:
    frames = World(accounts=3, shocks=[Shock(38, cvr=0.05)])()
    mixed = [replace(frames[0], account=replace(frames[0].account, currency="JPY")), *frames[1:]]
    (finding,) = detect(mixed, now=NOW)
    assert (finding.currency, finding.stake_micros) == (None, 0)
    assert set(finding.data["stakes"]) == {"1", "2", "3"}


def a_collapse() -> Finding:
    (finding,) = detect(World(shocks=[Shock(62, ads=middle_campaign, cvr=0.0)])(), now=NOW)
    return finding


def test_zero_conversions_on_real_spend_are_told_in_full() -> None:
    finding = a_collapse()
    assert finding.entity_name == "Campaign 1"
    assert finding.severity in {"high", "critical"}
    assert finding.stake_micros > 0
    assert finding.data["path"] == [10_002]
    assert "conversion rate" in finding.cause
    assert "Campaign 1" in finding.recommendation
    assert finding.since < finding.until
    json.dumps(finding.data, allow_nan=False)


def test_a_fingerprint_says_user_family_and_entity() -> None:
    finding = a_collapse()
    assert finding.fingerprint == "user:7/conversion/entity:10002"
    assert len(finding.fingerprint) <= 120


def test_the_order_of_accounts_does_not_matter() -> None:
    frames = World(accounts=3, shocks=[Shock(38, cvr=0.3, accounts=(2,))])()
    found = detect(frames, now=NOW)
    assert found
    assert found == detect(frames[::-1], now=NOW)


def test_the_unit_of_the_currency_does_not_matter() -> None:
    world = World(accounts=2, shocks=[Shock(62, cvr=0.2, accounts=(2,)), Shock(8, cpm=2.5, accounts=(1,))])
    plain, hundredfold = (detect(replace(world, unit=unit)(), now=NOW) for unit in (1.0, 100.0))
    assert plain
    assert [(each.fingerprint, each.severity) for each in plain] == [
        (each.fingerprint, each.severity) for each in hundredfold
    ]


def test_judging_twice_finds_the_same() -> None:
    world = World(shocks=[Shock(8, volume=0, ads=middle_campaign)])
    assert detect(world(), now=NOW) == detect(world(), now=NOW)


def test_a_lower_sensitivity_never_finds_more() -> None:
    frames = World(accounts=2, shocks=[Shock(38, cvr=0.45, accounts=(2,)), Shock(8, cpm=1.5, accounts=(1,))])()
    count = partial(detect, frames, now=NOW)
    low, medium, high = (len(count(sensitivity=name)) for name in ("low", "medium", "high"))
    assert low <= medium <= high
    assert high > 0


def test_ten_accounts_are_judged_within_seconds() -> None:
    frames = World(accounts=10, campaigns=5)()
    from time import process_time  # processor time: other work on the machine must not matter

    begun = process_time()
    detect(frames, now=NOW)
    assert process_time() - begun < 3.0
