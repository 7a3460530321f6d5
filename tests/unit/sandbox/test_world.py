"""The world is a function of its seed and anchor; time only adds to it."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aae.model import Level, Platform
from aae.sandbox import Clock, World
from aae.sandbox.entities import AdAccount
from aae.sandbox.incidents import Incident, IncidentKind
from aae.sandbox.ledger import Facts
from aae.sandbox.nature import hours
from tests.unit.sandbox.wires import NOW, first


def same(left: Facts, right: Facts) -> bool:
    return all(np.array_equal(getattr(left, one.name), getattr(right, one.name)) for one in fields(Facts))


def test_the_same_seed_makes_the_same_world_and_another_seed_another() -> None:
    one, two, other = (World.generate(seed, NOW, days=4, ahead=1) for seed in (5, 5, 6))
    span = (date(2026, 11, 1), date(2026, 11, 4))
    for left, right in zip(one.accounts, two.accounts, strict=True):
        assert left.campaigns == right.campaigns
        assert left.ads == right.ads
        assert same(left.leaf_facts(*span, NOW, hourly=True), right.leaf_facts(*span, NOW, hourly=True))
    assert (one.incidents, one.traps) == (two.incidents, two.traps)
    assert not same(
        one.accounts[0].leaf_facts(*span, NOW, hourly=True), other.accounts[0].leaf_facts(*span, NOW, hourly=True)
    )


def test_the_past_does_not_depend_on_how_far_ahead_the_world_is_made(world: World) -> None:
    longer = World.generate(7, NOW, days=40, ahead=45)
    span = (date(2026, 9, 28), date(2026, 11, 10))
    later = NOW + timedelta(days=7)
    for left, right in zip(world.accounts, longer.accounts, strict=True):
        assert same(left.leaf_facts(*span, later, hourly=True), right.leaf_facts(*span, later, hourly=True))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    account=st.integers(0, 8),
    earlier=st.integers(0, 15 * 86_400),
    step=st.integers(1, 6 * 86_400),
    hourly=st.booleans(),
)
def test_what_is_known_only_grows_as_the_clock_moves_on(
    world: World, account: int, earlier: int, step: int, hourly: bool
) -> None:
    before = NOW - timedelta(seconds=earlier)
    span = (date(2026, 10, 18), date(2026, 11, 4))

    def known(at: datetime) -> dict[tuple[int, ...], tuple[int, ...]]:
        rows = world.connected[account].leaf_facts(*span, at, hourly=hourly).rows()
        return {row[:3]: row[3:] for row in rows}

    then, later = known(before), known(before + timedelta(seconds=step))
    assert then.keys() <= later.keys()
    assert all(old <= new for key in then for old, new in zip(then[key], later[key], strict=True))


def test_about_sixty_per_cent_of_conversions_are_known_the_same_day_and_the_rest_trickles_in_for_a_week(
    world: World,
) -> None:
    account = first(world, Platform.META, timezone="Asia/Tokyo")
    day = date(2026, 10, 12)

    def known(days: float) -> int:
        midnight = datetime(2026, 10, 12, 15, tzinfo=UTC)  # the end of the day in Tokyo
        at = midnight + timedelta(days=days)
        return int(account.facts(None, day, day, at, hourly=False).conversions_micros.sum())

    final = known(25)
    assert 0.4 < known(0) / final < 0.8
    assert known(0) < known(2) < final
    assert known(7) / final > 0.97


def test_hours_follow_the_clocks_of_the_zone_on_the_days_they_change() -> None:
    autumn = hours("America/New_York", date(2026, 11, 1), date(2026, 11, 1))
    spring = hours("Europe/Paris", date(2026, 3, 29), date(2026, 3, 29))
    kolkata = hours("Asia/Kolkata", date(2026, 11, 1), date(2026, 11, 1))
    assert len(autumn.hour) == 25
    assert autumn.hour.tolist().count(1) == 2
    assert len(spring.hour) == 23
    assert 2 not in spring.hour
    assert kolkata.starts[0] % 3600 == 1800


def test_the_repeated_hour_of_autumn_is_one_row(world: World) -> None:
    account = first(world, Platform.META, timezone="America/New_York")
    day = date(2026, 11, 1)
    facts = account.facts(None, day, day, NOW, hourly=True)
    assert facts.hour.tolist() == list(range(24))
    whole = account.facts(None, day, day, NOW, hourly=False)
    assert facts.impressions.sum() == whole.impressions.sum()


def test_the_default_world_has_the_variety_that_was_promised() -> None:
    world = World.generate(7, NOW)
    accounts = world.connected
    assert len(world.users) == 4
    assert len(accounts) >= 9
    assert {one.currency for one in accounts} >= {"USD", "JPY", "EUR"}
    assert {one.timezone for one in accounts} >= {"Asia/Kolkata", "America/New_York"}
    assert all(int(one.ads[0].external_id) > 2**53 for one in accounts if one.platform is not Platform.GOOGLE)
    assert all(len(one.ads[0].external_id) == 19 for one in accounts if one.platform is Platform.TIKTOK)
    statuses = {entity.status for one in accounts for entity in one.by_id.values()}
    assert statuses == {"active", "paused", "archived", "deleted"}
    assert any(leaf.ad is None for one in accounts for leaf in one.leaves)
    assert any(one.manager for one in accounts)
    assert any(not one.enabled for one in world.accounts)


@pytest.mark.parametrize("currency", ["JPY", "USD", "INR"])
def test_spend_and_budgets_are_whole_in_the_smallest_unit_of_their_currency(world: World, currency: str) -> None:
    unit = 1_000_000 if currency == "JPY" else 10_000
    for account in (one for one in world.connected if one.currency == currency):
        facts = account.leaf_facts(date(2026, 10, 1), date(2026, 11, 4), NOW, hourly=True)
        assert not (facts.spend_micros % unit).any()
        budgets = [one.daily_budget_micros for one in account.by_id.values() if one.daily_budget_micros]
        assert budgets
        assert not any(budget % unit for budget in budgets)


def current(world: World) -> list[Incident]:
    return [one for one in world.incidents if one.since <= NOW < one.until]


def window(world: World, incident: Incident, since: datetime, until: datetime) -> dict[str, float]:
    """Sums over the incident's entity for the hours of a window."""
    account = world.account(incident.platform, incident.account)
    assert account is not None
    names = [one.external_id for one in account.campaigns]
    leaves = [
        number
        for number, leaf in enumerate(account.leaves)
        if incident.level == "account" or leaf.campaign == names.index(incident.entity)
    ]
    ledger = account.ledger
    rows = (ledger.starts >= since.timestamp()) & (ledger.starts < until.timestamp())
    cell_row, cell_leaf = np.divmod(ledger.conversions.cell, len(account.leaves))
    mine = rows[cell_row] & np.isin(cell_leaf, leaves) & (ledger.conversions.arrives <= NOW.timestamp())
    return {
        "impressions": ledger.impressions[rows][:, leaves].sum(),
        "clicks": ledger.clicks[rows][:, leaves].sum(),
        "spend": ledger.spend_micros[rows][:, leaves].sum(),
        "conversions": ledger.conversions.count_micros[mine].sum() / 1e6,
        "revenue": ledger.conversions.value_micros[mine].sum(),
    }


def ratio(sums: dict[str, float], metric: str) -> float:
    top, bottom = {
        "cpa": ("spend", "conversions"),
        "roas": ("revenue", "spend"),
        "cvr": ("conversions", "clicks"),
        "ctr": ("clicks", "impressions"),
        "cpc": ("spend", "clicks"),
        "delivery": ("impressions", ""),
        "spend": ("spend", ""),
    }[metric]
    return sums[top] / (sums[bottom] if bottom else 1)


def test_all_kinds_of_incident_are_under_way_at_the_anchor(world: World) -> None:
    assert {one.kind for one in current(world)} == set(IncidentKind)
    outage = [one for one in current(world) if one.kind is IncidentKind.TRACKING_OUTAGE]
    assert {one.platform for one in outage} == set(Platform)
    assert len({(one.user, one.group) for one in outage}) == 1


@pytest.mark.parametrize("kind", [kind for kind in IncidentKind if kind not in {"cpa_spike", "roas_drop"}])
def test_a_planted_incident_shows_in_its_metric_with_about_its_size(world: World, kind: IncidentKind) -> None:
    incident = next(one for one in current(world) if one.kind is kind)
    ago = timedelta(days=7)
    now = window(world, incident, incident.since, NOW - timedelta(hours=1))
    before = window(world, incident, incident.since - ago, NOW - ago - timedelta(hours=1))
    assert ratio(now, incident.metric) / ratio(before, incident.metric) == pytest.approx(
        incident.size, rel=0.5, abs=0.05
    )
    assert before["clicks"] > 100


@pytest.mark.parametrize("kind", [IncidentKind.CPA_SPIKE, IncidentKind.ROAS_DROP])
def test_a_planted_value_incident_shows_against_days_of_the_same_age(world: World, kind: IncidentKind) -> None:
    incident = next(one for one in current(world) if one.kind is kind)
    account = world.account(incident.platform, incident.account)
    assert isinstance(account, AdAccount)
    index = [one.external_id for one in account.campaigns].index(incident.entity)

    def yesterday_seen_at(now: datetime) -> float:
        day = (now - timedelta(days=1)).date()
        facts = account.facts(Level.CAMPAIGN, day, day, now, hourly=False)
        row = facts.group.tolist().index(index)
        spend = facts.spend_micros[row]
        top = facts.conversions_micros[row] if kind is IncidentKind.CPA_SPIKE else facts.revenue_micros[row]
        return float(top / spend)

    usual = float(np.median([yesterday_seen_at(NOW - timedelta(days=days)) for days in range(3, 10)]))
    change = yesterday_seen_at(NOW) / usual
    assert change < 0.7


def test_incidents_have_a_past_and_a_future_on_every_account(world: World) -> None:
    for account in world.connected:
        mine = [one for one in world.incidents if one.account == account.external_id]
        assert any(one.until < NOW - timedelta(days=5) for one in mine)
    assert any(one.since > NOW for one in World.generate(7, NOW, days=4, ahead=30).incidents)


def test_the_clock_runs_stands_and_jumps() -> None:
    seconds = [100.0]
    clock = Clock(NOW, ticks=lambda: seconds[0])
    seconds[0] += 5
    assert clock.now() == NOW + timedelta(seconds=5)
    clock.freeze()
    seconds[0] += 5
    assert clock.now() == NOW + timedelta(seconds=5)
    clock.advance(timedelta(hours=1))
    assert clock.now() == NOW + timedelta(hours=1, seconds=5)
    clock.set(NOW, frozen=False)
    seconds[0] += 1
    assert clock.now() == NOW + timedelta(seconds=1)
    with pytest.raises(ValueError, match="aware"):
        clock.set(NOW.replace(tzinfo=None))
