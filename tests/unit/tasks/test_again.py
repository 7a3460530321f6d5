"""Which of the planned runs is the next regular one for the accounts of a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aae.operate.prefect_api import PrefectApi
from aae.settings import load
from tasks import again
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


class Server:
    """Prefect's answers about one run of one deployment, and what was asked for."""

    def __init__(self, *, active: bool = True, paused: bool = False, asked_before: list[int] | None = None) -> None:
        self.active, self.paused, self.asked_before = active, paused, asked_before
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        run = {"id": "r1", "name": "run", "deployment_id": "d1", "state": {"type": "SCHEDULED", "name": "Scheduled"}}
        path = request.url.path
        if path.endswith("/create_flow_run"):
            self.asked.append(json.loads(request.content))
            accounts = self.asked_before or self.asked[-1]["parameters"]["accounts"]
            due = self.asked[-1]["state"]["state_details"]["scheduled_time"]
            return httpx.Response(200, json=run | {"parameters": {"accounts": accounts}, "expected_start_time": due})
        if path.endswith("/flow_runs/filter"):
            return httpx.Response(200, json=[])
        if path.endswith("/deployments/d1"):
            return httpx.Response(200, json={"paused": self.paused, "schedules": [{"active": self.active}]})
        return httpx.Response(200, json=run)


def arrange(server: Server, monkeypatch: pytest.MonkeyPatch, days: dict[str, str] | None = None) -> dict[int, str]:
    monkeypatch.setattr(again, "open_api", lambda _: PrefectApi("http://x/api", transport=httpx.MockTransport(server)))
    load.cache_clear()
    return again._arrange("r1", {1: NOON, 2: NOON + timedelta(hours=1)}, days or {})


@pytest.mark.parametrize("how", [{"active": False}, {"paused": True}], ids=["its schedules", "the deployment"])
def test_where_a_person_has_paused_fetching_no_run_is_asked_for(
    how: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(**how)
    assert arrange(server, monkeypatch) == {}
    assert server.asked == []


def test_the_days_of_a_backfill_are_kept_also_where_fetching_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(active=False)
    assert set(arrange(server, monkeypatch, {"since": "2026-11-01"})) == {1, 2}
    assert [one["parameters"] for one in server.asked] == [{"accounts": [1, 2], "since": "2026-11-01"}]


def test_of_a_run_that_was_asked_for_before_only_its_own_accounts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    words = arrange(Server(asked_before=[2, 7]), monkeypatch)
    assert words == {1: "again with the next regular run", 2: "again at 2026-11-22 13:00 UTC"}
