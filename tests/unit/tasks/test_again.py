"""Which of the planned runs is the next regular one for the accounts of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aae.operate.prefect_api import PrefectApi
from tasks.again import _next_regular

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def planned(told: str) -> dict[str, Any]:
    share, hours = told.split()
    due = (NOON + timedelta(hours=int(hours))).isoformat()
    state = {"type": "SCHEDULED", "name": "Scheduled"}
    about = {"id": told, "name": told, "state": state, "expected_start_time": due, "auto_scheduled": True}
    return about | {"parameters": {} if share == "all" else {"share": share}}


@pytest.mark.parametrize(
    ("share", "there", "hours"),
    [
        (None, ["all 6", "all 12"], 6),
        ("1/2", ["2/2 0", "1/2 6", "2/2 6"], 6),
        ("2/2", ["2/2 0", "1/2 6", "2/2 6"], 0),
        # Whichever share its accounts are in, it has come by then.
        (None, ["2/2 0", "1/2 6", "2/2 6"], 6),
        ("1/2", ["2/2 6"], None),
        (None, [], None),
    ],
    ids=["no shares", "another share is late", "its own is late", "all of it", "none of its own", "none"],
)
def test_the_next_regular_run_is_that_of_the_same_share(share: str | None, there: list[str], hours: int | None) -> None:
    runs = [planned(one) for one in there]
    with PrefectApi("http://x/api", transport=httpx.MockTransport(lambda _: httpx.Response(200, json=runs))) as api:
        found = _next_regular(api, "d1", share)
    assert found == (None if hours is None else NOON + timedelta(hours=hours))
