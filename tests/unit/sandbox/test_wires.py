"""What each wire format says is what the ledger holds: to the micro, on every slice, over all pages."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aae.model import Level, Platform
from aae.sandbox import World
from tests.unit.sandbox.wires import NOW, Rows, Wire, read, truth

LEVELS = [None, Level.CAMPAIGN, Level.AD_SET, Level.AD]


def without_hourly_purchases(rows: Rows) -> Rows:
    """Meta tells no purchases by the hour; hours in which nothing else happened are absent."""
    return {key: (*numbers[:3], 0, 0) for key, numbers in rows.items() if any(numbers[:3])}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), hourly=st.booleans(), level=st.sampled_from(LEVELS), later=st.integers(0, 200))
def test_every_slice_on_the_wire_equals_the_ledger(
    world: World, data: st.DataObject, hourly: bool, level: Level | None, later: int
) -> None:
    account = data.draw(st.sampled_from([one for one in world.connected if (one.user, one.platform) != (3, "google")]))
    since = date(2026, 10, 1) + timedelta(days=data.draw(st.integers(0, 40)))
    until = since + timedelta(days=data.draw(st.integers(0, 2 if hourly else 35)))
    # Access tokens of Google live an hour; the others' moments may be any.
    now = NOW if account.platform is Platform.GOOGLE else NOW + timedelta(minutes=later)
    said = read(Wire(world, account.platform, now), account, level, since, until, hourly=hourly)
    known = truth(account, level, since, until, now, hourly=hourly)
    meta_hourly = hourly and account.platform is Platform.META
    assert said == (without_hourly_purchases(known) if meta_hourly else known)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("platform", list(Platform))
def test_levels_and_granularities_of_any_world_add_up_to_its_account(platform: Platform, seed: int) -> None:
    world = World.generate(seed, NOW, days=5, ahead=2, users=3)
    account = next(one for one in world.connected if one.platform is platform)
    since, until = date(2026, 10, 31), date(2026, 11, 4)

    def total(level: Level | None, *, hourly: bool) -> list[int]:
        rows = read(Wire(world, platform), account, level, since, until, hourly=hourly).values()
        return [sum(number or 0 for number in column) for column in zip(*rows, strict=True)]

    whole = total(None, hourly=False)
    assert min(whole) > 0
    assert total(Level.CAMPAIGN, hourly=False) == whole
    delivery = slice(0, 3) if platform is Platform.META else slice(0, 5)
    assert total(Level.CAMPAIGN, hourly=True)[delivery] == whole[delivery]
    # Performance Max has no ads: there the ad level misses part, and only there.
    assert (total(Level.AD, hourly=False) == whole) == (platform is not Platform.GOOGLE)
