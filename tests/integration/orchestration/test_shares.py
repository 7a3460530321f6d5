"""A fetch in shares: processes as two workers start them, at the same time, on one database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from sqlalchemy import Engine, select

from aae import shares
from aae.operate import recovery
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.operate.processes import this_process
from aae.operate.recovery import Watch
from aae.sandbox import World
from aae.settings import Settings
from aae.storage.attempts import holder, take
from aae.storage.engine import reading
from aae.storage.schema import attempts, fetches
from deployments import jobs
from deployments.apply import Deploy
from deployments.declared import WORK_POOL
from tests.integration.bench import Bench, bench
from tests.servers import DIE_WITH_PARENT

ROOT = Path(__file__).parents[3]
ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)


@pytest.fixture
def product(engine: Engine, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    world = World.generate(11, ANCHOR, days=6, users=4, big_campaigns=1, ads_per_ad_set=1)
    few = {
        "AAE_FETCH__FIRST_DAYS": "3",
        "AAE_FETCH__FIRST_HOURLY_DAYS": "1",
        "AAE_FETCH__HOURLY_DAYS": "1",
        # As if each were on a machine of its own.
        "AAE_FETCH__SHARES_AT_ONCE": "3",
        "AAE_STATE_DIR": str(tmp_path),
        "AAE_PROJECT_DIR": str(ROOT),
        "AAE_RECOVERY__TURN_SECONDS": "600",
        # The sandbox's clock stands still, the processes' is as far from the machine's as it is.
        "AAE_CLOCK_OFFSET_SECONDS": str((ANCHOR - datetime.now(UTC)).total_seconds()),
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
    }
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        it.connect()
        yield it


@pytest.fixture
def api() -> Iterator[PrefectApi]:
    with PrefectApi(str(PREFECT_API_URL.value()), timeout=150) as it:
        yield it


@pytest.fixture
def deployment_id(api: PrefectApi) -> Iterator[str]:
    """The fetch in two shares, as declared but for the pool, whose workers are we."""
    (fetch,) = (one for one in jobs.read(ROOT, "aae", 2) if one.flow == shares.FLOW)
    flow = api.call("POST", "flows/", {"name": fetch.flow})
    body = {key: value for key, value in fetch.body.items() if key not in {"work_pool_name", "work_queue_name"}}
    made = {"name": fetch.name, "flow_id": flow["id"], "schedules": list(fetch.schedules.values())}
    found = api.call("POST", "deployments/", body | made)
    yield str(found["id"])
    api.call("DELETE", f"deployments/{found['id']}")


def work(runs: Sequence[FlowRun], folder: Path) -> None:
    """Begin all of them at once, each as a worker does, and wait for the end of their processes."""
    started = []
    for run in runs:
        with (folder / f"{run.id}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", DIE_WITH_PARENT, sys.executable, "-m", "tasks.launch"],
                cwd=ROOT,
                env=os.environ | {"PREFECT__FLOW_RUN_ID": run.id, "PREFECT__FLOW_NAME": shares.FLOW},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            started.append((run, process))
    try:
        for run, process in started:
            assert process.wait(300) == 0, (folder / f"{run.id}.log").read_text()
    finally:
        for _, process in started:
            process.kill()
            process.wait()


def due_now(api: PrefectApi, run: FlowRun) -> None:
    api.set_state(run.id, "SCHEDULED", "Scheduled", "", scheduled_for=datetime.now(UTC))


@pytest.mark.timeout(600)
def test_two_shares_at_the_same_time_bring_what_one_run_brings_and_no_share_is_done_twice_at_once(
    product: Bench, engine: Engine, api: PrefectApi, deployment_id: str, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    span = {"start_time": now.isoformat(), "end_time": (now + timedelta(hours=6)).isoformat()}
    api.call("POST", f"deployments/{deployment_id}/schedule", span)
    planned = {run.share: run for run in api.planned(deployment_id)}
    assert set(planned) == {"1/2", "2/2"}, "each share's schedule plans its own run"
    assert len({run.scheduled_for for run in planned.values()}) == 1
    again = api.create_run(deployment_id, {"share": "2/2"})
    for run in planned.values():
        due_now(api, run)
    work([*planned.values(), again], tmp_path)

    first, second, rival = (api.run(run.id) for run in (planned["1/2"], planned["2/2"], again))
    assert first.state_type == "COMPLETED", first.message
    assert first.name.endswith(" 1/2")
    by_state = {run.state_name: run for run in (second, rival)}
    assert set(by_state) == {"Completed", "AwaitingTurn"}
    assert by_state["AwaitingTurn"].message == "Another run of fetch-ad-data 2/2 is at work; this one waits."
    with reading(engine) as connection:
        ours = [row._mapping for row in connection.execute(select(attempts))]
        done: dict[str, set[int]] = {}
        stored = select(fetches.c.run_id, fetches.c.account_id).where(fetches.c.outcome == "stored")
        for run_id, account_id in connection.execute(stored):
            done.setdefault(run_id, set()).add(account_id)
    assert {row["run_id"] for row in ours} == {first.id, by_state["Completed"].id}
    assert max(row["started_at"] for row in ours) < min(row["ended_at"] for row in ours), "beside each other"

    accounts = product.accounts()
    assert done == {
        first.id: {one.id for one in shares.take(accounts, "1/2")},
        by_state["Completed"].id: {one.id for one in shares.take(accounts, "2/2")},
    }
    assert all(done.values())
    for account in accounts:
        today = account.local_day(product.now())
        days = product.stored(account, "daily", today - timedelta(days=2), today)
        assert days
        assert days == product.truth(account, "daily", today - timedelta(days=2), today)
    whole = [(one.outcome, one.inserted, one.updated, one.deleted) for one in product.fetch("one run of all")]
    assert whole == [("stored", 0, 0, 0)] * len(accounts), "one run finds nothing to add or to correct"


def test_a_machine_that_has_a_share_leaves_the_other_to_another_machine(
    product: Bench,
    engine: Engine,
    api: PrefectApi,
    deployment_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert product.accounts()
    monkeypatch.setenv("AAE_FETCH__SHARES_AT_ONCE", "1")
    with engine.begin() as connection:
        take(connection, shares.FLOW, share="1/2", run_id="at work here", process=this_process())
    run = api.create_run(deployment_id, {"share": "2/2"})
    work([run], tmp_path)
    put_back = api.run(run.id)
    assert put_back.state_name == "AwaitingTurn"
    assert (put_back.message or "").startswith("This machine is at work on as many shares as it may")
    with reading(engine) as connection:
        assert holder(connection, shares.FLOW, "2/2") is None


def deploy(api: PrefectApi, number: int) -> str:
    """The fetch and its pool, as ``aae deploy`` puts them there with so many shares; the deployment's id."""
    settings = Settings(redis_url="redis://127.0.0.1/0")
    settings = settings.model_copy(update={"fetch": settings.fetch.model_copy(update={"shares": number})})
    fetch = [one for one in jobs.read(ROOT, WORK_POOL, number) if one.flow == shares.FLOW]
    for change in Deploy(api, settings, fetch, unpause=False).changes():
        if change.action != "keep" and change.kind in {"work pool", "deployment", "schedule"}:
            change.do()
    return str(api.call("GET", f"deployments/name/{fetch[0].full_name}")["id"])


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_number_that_is_changed_while_shares_wait_leaves_no_user_of_the_round_out(
    engine: Engine, api: PrefectApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment_id = deploy(api, 4)
    try:
        now = datetime.now(UTC)
        span = {"start_time": now.isoformat(), "end_time": (now + timedelta(hours=6)).isoformat()}
        api.call("POST", f"deployments/{deployment_id}/schedule", span)
        round_ = {run.share: run for run in api.planned(deployment_id)}
        due = {run.scheduled_for for run in round_.values()}
        assert len(due) == 1
        states = {"1/4": ("COMPLETED", "Completed"), "2/4": ("RUNNING", "Running"), "3/4": ("SCHEDULED", "Late")}
        for share, state in {**states, "4/4": ("SCHEDULED", "AwaitingTurn")}.items():
            moment = now + timedelta(seconds=30) if state[1] == "AwaitingTurn" else round_[share].scheduled_for
            api.set_state(round_[share].id, *state, "", scheduled_for=moment if state[0] == "SCHEDULED" else None)

        deploy(api, 2)
        kept = {run.share for run in api.due_between(deployment_id, now, now + timedelta(hours=6))}
        assert kept == {"1/4", "2/4"}, "Prefect deletes what waits with its schedule"

        monkeypatch.setattr(recovery, "database_clock", lambda _: max(filter(None, due)) + timedelta(minutes=5))
        for number in (2, 1):
            deploy(api, number)
            Watch(engine, api, Settings().recovery, WORK_POOL).look()
            assert sorted(str(run.share) for run in api.planned(deployment_id)) == ["3/4", "4/4"]
    finally:
        api.call("DELETE", f"deployments/{deployment_id}")
        api.call("DELETE", f"work_pools/{WORK_POOL}")
