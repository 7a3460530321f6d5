"""When a job is overdue and when it has failed, and what the numbers say of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.operate.metrics import catalogue, runs
from aae.operate.metrics.runs import JobHealth, look
from aae.operate.prefect_api import FINAL_STATES, PrefectApi

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
JOB = "fetch-ad-data/six-hourly"


def at(hour: float, minutes: float = 0) -> datetime:
    """That hour of the day, or of another one where it is negative."""
    return NOW.replace(hour=0, minute=0) + timedelta(hours=hour, minutes=minutes)


@dataclass
class Run:
    state: str
    due: datetime
    started: datetime | None = None
    ended: datetime | None = None
    name: str | None = None
    deployment: str | None = "d0"
    share: str | None = None
    accounts: tuple[int, ...] = ()

    def json(self) -> dict[str, Any]:
        told = lambda moment: moment and moment.isoformat()  # noqa: E731
        return {
            "id": "r",
            "name": "run",
            "deployment_id": self.deployment,
            "state": {"type": self.state, "name": self.name or self.state.title(), "message": None},
            "expected_start_time": told(self.due),
            "start_time": told(self.started),
            "end_time": told(self.ended),
            "parameters": {"share": self.share} if self.share else {"accounts": self.accounts},
        }


def ended(state: str, due: datetime, minutes: float = 5) -> Run:
    return Run(state, due, due + timedelta(seconds=10), due + timedelta(minutes=minutes))


@dataclass
class Server:
    """A Prefect server that answers the filters it is asked with, as the real one does."""

    runs: Sequence[Run] = ()
    names: Sequence[str] = (JOB,)
    cron: str | None = "0 */6 * * *"
    active: bool = True
    paused: bool = False
    created: datetime = NOW - timedelta(days=90)
    pool: dict[str, Any] | None = field(default_factory=lambda: {"name": "aae", "type": "process", "is_paused": False})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        found = self.answer(request.url.path.removeprefix("/api/"), json.loads(request.content or b"null"))
        return httpx.Response(404 if found is None else 200, json=found)

    def answer(self, path: str, body: Any) -> Any:
        if path == "work_pools/aae":
            return self.pool
        if path == "work_pools/aae/workers/filter":
            return [{"name": name, "status": name.upper()} for name in ("online", "offline", "online")]
        if path == "deployments/filter":
            return [self.deployment(number) for number, _ in enumerate(self.names)]
        if path == "flows/filter":
            return [{"id": f"f{number}", "name": name.split("/")[0]} for number, name in enumerate(self.names)]
        wanted = body["flow_runs"]
        chosen = [one for one in self.runs if one.state in wanted["state"]["type"]["any_"]]
        if "deployments" in body:
            chosen = [one for one in chosen if one.deployment in body["deployments"]["id"]["any_"]]
        if after := wanted.get("end_time", {}).get("after_"):
            chosen = [one for one in chosen if one.ended and one.ended >= datetime.fromisoformat(after)]
        if before := wanted.get("expected_start_time", {}).get("before_"):
            chosen = [one for one in chosen if one.due <= datetime.fromisoformat(before)]
        if body["sort"] == "END_TIME_DESC":
            chosen.sort(key=lambda one: one.ended or NOW, reverse=True)
        offset = body.get("offset", 0)
        return [one.json() for one in chosen[offset : offset + body["limit"]]]

    def deployment(self, number: int) -> dict[str, Any]:
        schedules = [{"schedule": {"cron": self.cron, "timezone": "UTC"}, "active": self.active}]
        common = {"id": f"d{number}", "flow_id": f"f{number}", "name": self.names[number].partition("/")[2]}
        return {**common, "paused": self.paused, "created": self.created.isoformat(), "schedules": schedules}

    def look(self) -> runs.Sight:
        with PrefectApi("http://prefect.test/api", transport=httpx.MockTransport(self)) as api:
            return look(api, "aae", now=NOW)

    def health(self) -> JobHealth:
        return self.look().jobs[0]

    def values(self) -> dict[tuple[str, ...], float]:
        found = runs.samples(self.look())
        return {(one.metric.name.removeprefix("aae_"), *one.labels): one.value for one in found}


@pytest.mark.parametrize(
    ("server", "overdue"),
    [
        pytest.param(Server([ended("COMPLETED", at(12))]), False, id="it ran when it was due"),
        pytest.param(Server([ended("COMPLETED", at(6))]), True, id="it ran before, not when it was due"),
        pytest.param(Server([]), True, id="it never ran"),
        pytest.param(Server([ended("FAILED", at(12))]), False, id="it ran and failed, which is another finding"),
        pytest.param(Server([ended("CANCELLED", at(12))]), True, id="it was cancelled"),
        pytest.param(Server([Run("RUNNING", at(12), at(12))]), False, id="it runs"),
        pytest.param(Server([Run("RUNNING", at(6), at(6))]), False, id="the one before still runs"),
        pytest.param(Server([Run("PENDING", at(12))]), True, id="a worker has it for half an hour and did not begin"),
        pytest.param(Server([Run("SCHEDULED", at(12), name="Late")]), True, id="no worker takes it"),
        pytest.param(
            Server([Run("SCHEDULED", at(12), at(12), name="AwaitingRetry")]), True, id="lost, and nobody runs it again"
        ),
        pytest.param(Server([ended("COMPLETED", at(12, 5))]), False, id="somebody ran it by hand"),
        pytest.param(Server([], created=at(12, 5)), False, id="deployed since"),
        pytest.param(Server([], paused=True), False, id="switched off"),
        pytest.param(Server([], active=False), False, id="its schedule is switched off"),
        pytest.param(Server([], cron=None), False, id="no cron"),
        pytest.param(Server([], cron="25 12 * * *"), True, id="due five minutes ago and the day before"),
        pytest.param(Server([ended("COMPLETED", at(-12, 25))], cron="25 12 * * *"), False, id="the grace is not over"),
        pytest.param(Server([ended("COMPLETED", at(-120))], cron="0 0 * * 2"), False, id="weekly, ran five days ago"),
        pytest.param(Server([ended("COMPLETED", at(-24 * 12))], cron="0 0 * * 2"), True, id="weekly, ran long ago"),
    ],
)
def test_a_job_is_overdue_when_it_has_not_begun_since_it_was_due(server: Server, overdue: bool) -> None:
    assert server.health().overdue is overdue
    assert server.health().well is not (overdue or server.health().failed)


@pytest.mark.parametrize(
    ("server", "failed"),
    [
        pytest.param([ended("COMPLETED", at(12))], False, id="well"),
        pytest.param([ended("FAILED", at(12))], True, id="failed"),
        pytest.param([ended("FAILED", at(6)), ended("COMPLETED", at(12))], False, id="well again"),
        pytest.param([ended("COMPLETED", at(6)), ended("FAILED", at(12))], True, id="failed since"),
        pytest.param([ended("FAILED", at(-200))], True, id="failed long ago and never ran again"),
        pytest.param([ended("CRASHED", at(12), 25)], False, id="crashed, and the watch mends it"),
        pytest.param([ended("CRASHED", at(12))], True, id="crashed, and nobody mended it"),
        pytest.param([ended("FAILED", at(6)), Run("RUNNING", at(12), at(12))], True, id="running again"),
        pytest.param([ended("FAILED", at(6)), ended("CANCELLED", at(12))], True, id="cancelled is no success"),
        pytest.param([], False, id="never ran"),
    ],
)
def test_a_job_has_failed_until_it_ends_well(server: list[Run], failed: bool) -> None:
    assert Server(server).health().failed is failed


@pytest.mark.parametrize(
    ("shares", "failed", "overdue"),
    [
        (["COMPLETED 1/2 12", "COMPLETED 2/2 12"], False, False),
        (["FAILED 1/2 12", "COMPLETED 2/2 12"], True, False),
        (["FAILED 1/2 6", "COMPLETED 2/2 6", "COMPLETED 1/2 12", "COMPLETED 2/2 12"], False, False),
        (["COMPLETED 1/2 6", "COMPLETED 2/2 6", "COMPLETED 2/2 12"], False, True),
        (["FAILED 1/2 6", "COMPLETED 2/2 6", "COMPLETED all 12"], False, False),
        (["FAILED 3/4 6", "COMPLETED 1/2 12", "COMPLETED 2/2 12"], False, False),
    ],
    ids=["well", "one failed", "well again", "one did not begin", "all of it since", "fewer shares since"],
)
def test_a_job_in_shares_is_as_well_as_its_worst_share(shares: list[str], failed: bool, overdue: bool) -> None:
    ran = []
    for number, told in enumerate(shares):
        state, share, hour = told.split()
        ran.append(replace(ended(state, at(int(hour)), 5 + number), share=None if share == "all" else share))
    health = Server(ran).health()
    assert (health.failed, health.overdue) == (failed, overdue)


@pytest.mark.parametrize("well", [True, False], ids=["ends well", "fails"])
def test_what_became_of_some_accounts_says_nothing_of_the_job(well: bool) -> None:
    some = replace(ended("COMPLETED" if well else "FAILED", at(12), 30), accounts=(3,))
    health = Server([ended("FAILED" if well else "COMPLETED", at(12)), some]).health()
    assert (health.failed, health.overdue) == (well, False)


def test_the_last_success_and_failure_are_known_however_long_ago() -> None:
    health = Server(
        [ended("COMPLETED", at(-500)), ended("FAILED", at(-300)), Run("RUNNING", at(12), at(12, 1))]
    ).health()
    assert (health.last_success, health.last_failure) == (at(-500, 5), at(-300, 5))
    assert (health.running_since, health.due) == (at(12, 1), at(12))


def test_runs_are_counted_by_how_they_ended_and_where_they_are() -> None:
    found = Server(
        [
            *(ended("COMPLETED", at(hour), minutes=hour + 1) for hour in range(10)),
            ended("FAILED", at(11)),
            ended("COMPLETED", at(-30)),
            Run("RUNNING", at(12), at(12)),
            Run("RUNNING", NOW + timedelta(seconds=8), NOW),
            Run("CANCELLING", at(12), at(12)),
            Run("PENDING", at(12)),
            Run("SCHEDULED", at(12), name="Late"),
            Run("SCHEDULED", at(12), name="AwaitingTurn"),
            Run("SCHEDULED", at(18)),
            Run("SCHEDULED", NOW + timedelta(seconds=5)),
            Run("RUNNING", at(12), at(12), deployment=None),
        ]
    ).values()
    assert (found["runs_24h", JOB, "completed"], found["runs_24h", JOB, "failed"]) == (10, 1)
    assert {state: found["runs", JOB, state] for state in ("running", "pending", "late", "waiting")} == {
        "running": 3,
        "pending": 1,
        "late": 1,
        "waiting": 1,
    }
    assert found["runs", "other", "running"] == 1
    assert found["run_duration_seconds", JOB, "completed", "50"] == 5 * 60 - 10
    assert found["run_duration_seconds", JOB, "completed", "100"] == 10 * 60 - 10
    assert found["run_queue_seconds", JOB, "95"] == 10
    assert found["running_seconds", JOB] == 1800
    assert found["last_success_timestamp_seconds", JOB] == at(9, 10).timestamp()
    assert (found["workers_online",], found["pool_paused",]) == (2, 0)


def test_without_a_pool_nothing_is_on_its_way_and_nobody_works() -> None:
    sight = replace(Server(pool=None, names=()).look(), workers=[])
    assert not sight.exists
    found = {(one.metric, one.labels): one.value for one in runs.samples(sight)}
    assert found == {(catalogue.WORKERS, ()): 0, (catalogue.POOL_PAUSED, ()): 0}


def test_many_deployments_share_one_series_and_hostile_names_are_made_harmless() -> None:
    names = [f"flow-{number:03}/x" for number in range(90)] + ['\u202e"\n{evil}/x']
    every = [Run("RUNNING", at(12), at(12), deployment=f"d{number}") for number in range(91)]
    found = Server(every, names=names).values()
    running = {key[1]: value for key, value in found.items() if key[0] == "runs" and key[2] == "running"}
    assert len(running) == 51
    assert running["other"] == 41
    assert not any("\u202e" in name or "\n" in name for name in running)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_a_value_that_this_share_does_not_exceed(values: list[float], share: float) -> None:
    found = runs._quantile(values, share)
    assert sum(one <= found for one in values) >= share * len(values)
    assert sum(one < found for one in values) < share * len(values)


def test_the_ends_are_all_that_prefect_has() -> None:
    assert {one.upper() for one in runs._ENDS} == FINAL_STATES
