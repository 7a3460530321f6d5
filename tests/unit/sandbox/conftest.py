from __future__ import annotations

import pytest

from aae.sandbox import World
from tests.unit.sandbox.wires import NOW


@pytest.fixture(scope="session")
def world() -> World:
    return World.generate(7, NOW, days=40, ahead=10)
