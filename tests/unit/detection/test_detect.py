"""Detection over small synthetic accounts: what was planted is found once and named, what is ordinary stays silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aae.detection import detect
from tests.unit.detection.factory import NOW, Shock, World


@pytest.mark.parametrize("seed", range(3))
def test_a_tracking_outage_on_all_platforms_is_one_finding(seed: int) -> None:
    frames = World(seed=seed, accounts=3, shocks=[Shock(38, cvr=0.05)])()
    (finding,) = detect(frames, now=NOW)
    assert (finding.level, finding.metric, finding.severity) == ("user", "tracking", "critical")
    assert finding.data["accounts"] == [1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_stopped_delivery_names_the_campaign(seed: int) -> None:
    world = World(seed=seed, shocks=[Shock(8, ads=lambda ad: ad // 4 == 1, volume=0)])
    (finding,) = detect(world(), now=NOW)
    assert (finding.entity_name, finding.metric, finding.severity) == ("Campaign 1", "delivery", "high")


@pytest.mark.parametrize("seed", range(3))
def test_an_ordinary_day_is_silent(seed: int) -> None:
    assert detect(World(seed=seed)(), now=NOW) == []


def test_the_order_of_accounts_does_not_matter() -> None:
    frames = World(accounts=3, shocks=[Shock(38, cvr=0.3, accounts=(2,))])()
    assert detect(frames, now=NOW) == detect(frames[::-1], now=NOW)


def test_the_unit_of_the_currency_does_not_matter() -> None:
    world = World(accounts=2, shocks=[Shock(38, cvr=0.3, accounts=(2,))])
    plain, hundredfold = (detect(replace(world, unit=unit)(), now=NOW) for unit in (1.0, 100.0))
    assert [each.fingerprint for each in plain] == [each.fingerprint for each in hundredfold]
