from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.clients.support import Sandbox, sandbox


@pytest.fixture(scope="package")
def _served() -> Iterator[Sandbox]:
    with sandbox() as served:
        yield served


@pytest.fixture
def served(_served: Sandbox) -> Iterator[Sandbox]:
    """A sandbox without faults."""
    yield _served
    _served.mend()
