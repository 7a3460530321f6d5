"""One temporary Prefect server for all tests here: the slow start is paid once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tests.sockets import LEAVES_SOCKETS, collected

__all__ = ["collected"]


@pytest.fixture(scope="session", autouse=True)
def _prefect() -> Iterator[None]:
    # Without a heartbeat each flow ends a second sooner.
    with (
        prefect_test_harness(server_startup_timeout=600),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Prefect's events client leaves its websocket to the garbage collector."""
    for item in items:
        if "orchestration" in item.path.parts:
            for mark in LEAVES_SOCKETS:
                item.add_marker(mark)
