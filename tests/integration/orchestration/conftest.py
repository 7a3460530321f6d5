"""One temporary Prefect server for all tests here: the slow start is paid once."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session", autouse=True)
def _prefect() -> Iterator[None]:
    # Without a heartbeat each flow ends a second sooner.
    with (
        prefect_test_harness(server_startup_timeout=600),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture(scope="module", autouse=True)
def _nothing_for_others_to_collect() -> Iterator[None]:
    """What is left to the garbage collector (see below) is collected here, not in somebody else's test."""
    yield
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Prefect's events client leaves its websocket to be closed by the garbage collector; that is not ours to mend."""
    for item in items:
        if "orchestration" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*unclosed.*socket:ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
                )
            )
