"""One world, served to all tests of a module; every test has its own clock, and leaves no fault behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aae.sandbox import Clock, Faults, World, create_app, running
from tests.integration.connectors.readings import NOW, Bench


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, World, Faults]]:
    world = World.generate(7, NOW, days=40, ahead=2, big_campaigns=2, ads_per_ad_set=2)
    faults = Faults(7)
    with running(create_app(world, clock=Clock(NOW, frozen=True), faults=faults)) as url:
        yield url, world, faults


@pytest.fixture
def bench(served: tuple[str, World, Faults]) -> Iterator[Bench]:
    url, world, faults = served
    yield Bench(url, world, faults)
    faults.clear()
