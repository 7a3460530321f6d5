"""A platform that wants to be left alone for hours gets just one run more, when it may be asked again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from prefect import State, get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL
from sqlalchemy import Engine

import tasks.again
import tasks.fetch
import tasks.resources
from aae.model import AccountStatus, Platform
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.sandbox import World
from aae.settings import load
from aae.storage.accounts import set_status
from flows.data_fetch import fetch_ad_data
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
HOUR = 3600

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=10, ahead=1, users=2, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    few = {"AAE_FETCH__FIRST_DAYS": "3", "AAE_FETCH__FIRST_HOURLY_DAYS": "1", "AAE_FETCH__HOURLY_DAYS": "1"}
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        load.cache_clear()
        it.connect()
        for module in (tasks.resources, tasks.fetch, tasks.again):
            monkeypatch.setattr(module, "clock", it.now)
        yield it


class Job:
    """The deployed job on the server of these tests, whose runs begin when we say."""

    def __init__(self, deployment_id: str, api: PrefectApi) -> None:
        self.id, self.api = deployment_id, api

    async def begin(self, run_id: str) -> State[Any]:
        """Begin the run, as a worker would."""
        async with get_client() as client:
            run = await client.read_flow_run(run_id)  # type: ignore[arg-type]
        running: Any = run_flow(fetch_ad_data, flow_run=run, parameters=run.parameters, return_type="state")
        state: State[Any] = await running
        return state

    def now(self, run: FlowRun) -> None:
        """The run is due."""
        self.api.set_state(run.id, "SCHEDULED", "Scheduled", "", scheduled_for=datetime.now(UTC))

    def follow_ups(self) -> list[FlowRun]:
        return [one for one in self.api.planned(self.id) if not one.auto_scheduled]

    def parameters(self, run: FlowRun) -> dict[str, Any]:
        return dict(self.api.call("GET", f"flow_runs/{run.id}")["parameters"])


@pytest.fixture
async def job(product: Bench) -> AsyncIterator[Job]:
    """The next regular run is due in five hours."""
    interval = timedelta(hours=6)
    soon = IntervalSchedule(interval=interval, anchor_date=datetime.now(UTC) - timedelta(hours=1), timezone="UTC")
    deployment = await fetch_ad_data.to_deployment("six-hourly", schedule=soon)
    deployed = str(await deployment.aapply())
    with PrefectApi(str(PREFECT_API_URL.value()), timeout=150) as api:
        api.call("POST", f"deployments/{deployed}/schedule", {})
        assert any(one.auto_scheduled for one in api.planned(deployed))
        yield Job(deployed, api)
        api.call("DELETE", f"deployments/{deployed}")


def google(product: Bench) -> list[int]:
    return [one.id for one in product.accounts() if one.platform is Platform.GOOGLE]


def minutes_from_now(moment: datetime | None) -> float:
    assert moment is not None
    return (moment - datetime.now(UTC)).total_seconds() / 60


async def test_a_delay_of_hours_makes_one_run_for_just_those_accounts_and_the_others_go_on(
    product: Bench, job: Job
) -> None:
    product.order("faults", name="google_throttled", platform="google", value=2 * HOUR)
    first = job.api.create_run(job.id, {})
    state = await job.begin(first.id)
    (more,) = job.follow_ups()
    assert job.parameters(more) == {"accounts": sorted(google(product))}
    assert 119 < minutes_from_now(more.scheduled_for) < 123
    assert more.scheduled_for is not None
    told = f"again at {more.scheduled_for:%Y-%m-%d %H:%M} UTC"
    assert state.message is not None
    assert f"{len(google(product))} {told}." in state.message
    table = await Artifact.aget("ad-data-fetch")
    assert table is not None
    remarks = {row["account"].split(":")[0]: row["remark"] for row in json.loads(str(table.data)) if row["owed"]}
    assert set(remarks) == {"google"}
    assert told in remarks["google"]
    assert {row["outcome"] for row in json.loads(str(table.data)) if "google" not in row["account"]} == {"stored"}

    # The run is begun again, as after a crash.
    job.now(first)
    again = await job.begin(first.id)
    assert [one.id for one in job.follow_ups()] == [more.id]
    assert again.message is not None
    assert told in again.message

    product.forgive()
    product.clock.advance(timedelta(hours=2, minutes=1))
    job.now(more)
    assert (await job.begin(more.id)).is_completed()
    today = product.now().date()
    for account in product.accounts():
        if account.platform is Platform.GOOGLE:
            rows = product.stored(account, "daily", today - timedelta(days=2), today)
            assert rows == product.truth(account, "daily", today - timedelta(days=2), today)
    assert job.follow_ups() == []


async def test_where_the_regular_run_comes_first_it_takes_them(product: Bench, job: Job) -> None:
    product.order("faults", name="google_throttled", platform="google", value=12 * HOUR)
    state = await job.begin(job.api.create_run(job.id, {}).id)
    assert job.follow_ups() == []
    regular = min(one.scheduled_for for one in job.api.planned(job.id) if one.scheduled_for)
    assert state.message is not None
    assert f"again with the regular run of {regular:%Y-%m-%d %H:%M} UTC." in state.message


async def test_the_days_of_a_backfill_are_kept_whenever_the_regular_run_comes(product: Bench, job: Job) -> None:
    product.order("faults", name="google_throttled", platform="google", value=12 * HOUR)
    days = {"since": str(date(2026, 11, 20)), "until": str(date(2026, 11, 21))}
    chosen = google(product)[:1]
    await job.begin(job.api.create_run(job.id, {"accounts": chosen, **days}).id)
    (more,) = job.follow_ups()
    assert job.parameters(more) == {"accounts": chosen, **days}
    assert 719 < minutes_from_now(more.scheduled_for) < 723


async def test_an_account_that_was_paused_meanwhile_does_not_keep_the_others_from_theirs(
    product: Bench, job: Job
) -> None:
    product.order("faults", name="google_throttled", platform="google", value=2 * HOUR)
    await job.begin(job.api.create_run(job.id, {}).id)
    (more,) = job.follow_ups()
    gone, *others = google(product)
    assert others
    with product.engine.begin() as connection:
        set_status(connection, gone, AccountStatus.PAUSED, "by its owner", now=product.now())
    product.forgive()
    product.clock.advance(timedelta(hours=2, minutes=1))
    job.now(more)
    state = await job.begin(more.id)
    assert state.is_completed(), state.message
    outcomes = (await state.aresult())["outcomes"]
    assert [one["account_id"] for one in outcomes] == others

    alone = await job.begin(job.api.create_run(job.id, {"accounts": [gone]}).id)
    assert alone.is_completed(), alone.message
    assert (await alone.aresult())["outcomes"] == []


async def test_a_prefect_that_cannot_be_asked_leaves_them_to_the_regular_run(
    product: Bench, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    load.cache_clear()
    product.order("faults", name="google_throttled", platform="google", value=2 * HOUR)
    state = await job.begin(job.api.create_run(job.id, {}).id)
    assert state.is_failed()
    assert state.message is not None
    assert "again with the next regular run." in state.message
    assert job.follow_ups() == []


async def test_a_run_that_nobody_throttles_asks_for_nothing(product: Bench, job: Job) -> None:
    state = await job.begin(job.api.create_run(job.id, {}).id)
    assert state.is_completed(), state.message
    assert job.follow_ups() == []
