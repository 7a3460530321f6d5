"""The jobs on a real Prefect server while Redis, which keeps the results of their steps, or that server is away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from sqlalchemy import Engine, func, select

import tasks.detection
import tasks.fetch
import tasks.reporting
import tasks.resources
from aae.jobs.fetch import fetch_account
from aae.sandbox import World
from aae.settings import load
from aae.storage.engine import reading
from aae.storage.schema import incidents, metric_revisions, notifications, reports
from deployments.apply import save_block
from deployments.declared import RESULT_BLOCK, result_storage
from flows.anomaly_detection import detect_anomalies
from flows.data_fetch import fetch_ad_data
from flows.reports import generate_daily_report
from tasks import showing
from tasks.limits import settled, step
from tests.integration.bench import Bench, bench
from tests.integration.cache_server import CacheServer
from tests.proxy import Proxy

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=35, ahead=3, users=1, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def cache() -> Iterator[CacheServer]:
    with CacheServer() as server:
        yield server


@pytest.fixture
def product(world: World, engine: Engine, cache: CacheServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The product, whose steps keep their results in the same Redis as its cache."""
    few = {"AAE_FETCH__FIRST_DAYS": "8", "AAE_FETCH__FIRST_HOURLY_DAYS": "2", "AAE_FETCH__HOURLY_DAYS": "1"}
    save_block(result_storage(cache.url))
    kept = {
        PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: f"redis-database/{RESULT_BLOCK}",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
    }
    with bench(world, engine, cache.url, monkeypatch, **few) as it, temporary_settings(kept):
        load.cache_clear()
        it.connect()
        for module in (tasks.resources, tasks.fetch, tasks.detection, tasks.reporting):
            monkeypatch.setattr(module, "clock", it.now)
        yield it


@pytest.fixture
def prefect_server() -> Iterator[Proxy]:
    """The way to the Prefect server."""
    url = PREFECT_API_URL.value()
    assert url is not None
    with Proxy(urlsplit(url).port or 4200) as proxy:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{proxy.port}/api"}):
            yield proxy
        # What is still to be said goes through the proxy, too.
        EventsWorker.drain_all()
        APILogWorker.drain_all()


def before(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Let something happen before the account with this number, counted from 1, is fetched."""
    seen = []

    async def fetch(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        if len(seen) == number:
            act()
        return await fetch_account(*args, **kwargs)

    monkeypatch.setattr(tasks.fetch, "fetch", fetch)


def assert_all_stored(product: Bench) -> None:
    today = product.now().date()
    for account in product.accounts():
        since = today - timedelta(days=6)
        assert product.stored(account, "daily", since, today) == product.truth(account, "daily", since, today)
    with reading(product.engine) as connection:
        assert connection.scalar(select(func.count()).select_from(metric_revisions)) == 0


# --- Redis --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["full", "hung", "gone"])
async def test_a_redis_that_takes_no_results_costs_no_number_and_little_time(
    product: Bench, cache: CacheServer, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("aae.cache._TIMEOUT_SECONDS", 0.2)
    before(monkeypatch, 2, lambda: cache.begin(trouble))
    began = time.monotonic()
    state = await fetch_ad_data(return_state=True)
    assert state.is_completed(), state.message
    assert time.monotonic() - began < 40
    cache.end(trouble)
    assert_all_stored(product)


async def test_a_step_whose_result_cannot_be_kept_is_done_all_the_same_and_not_done_again(
    product: Bench, cache: CacheServer
) -> None:
    calls, seen = [], []

    @step(name="working", description="Works.")
    async def working() -> dict[str, int]:
        calls.append(1)
        return {"rows": 5}

    @flow(name="a-flow", persist_result=True)
    async def around() -> None:
        cache.begin("full")
        state = await settled(working(return_state=True))
        seen.append((state.is_completed(), await state.aresult()))

    state = await around(return_state=True)
    assert state.is_completed()
    assert (len(calls), seen) == (1, [(True, {"rows": 5})])


# --- Prefect's server -----------------------------------------------------------------------------------------------


@contextmanager
def away_for(server: Proxy, seconds: float) -> Iterator[Callable[[], None]]:
    """Something that takes the server away for a while."""
    timers = []

    def go() -> None:
        server.refuse()
        server.cut()
        timers.append(threading.Timer(seconds, server.accept))
        timers[-1].start()

    yield go
    assert timers, "it has never been away"
    timers[-1].join()


async def test_a_prefect_server_that_is_away_for_a_while_costs_no_number_and_not_the_runs_end(
    product: Bench, prefect_server: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.fetch, "PROGRESS_PATIENCE_SECONDS", 0.5)
    with away_for(prefect_server, 3) as go:
        before(monkeypatch, 2, go)
        state = await fetch_ad_data(return_state=True)
    assert state.is_completed(), state.message
    assert_all_stored(product)
    table = await Artifact.aget("ad-data-fetch")
    assert table is not None
    assert len(json.loads(str(table.data))) == len(product.accounts())


async def test_an_artifact_that_cannot_be_shown_costs_neither_the_step_nor_a_retry(
    product: Bench, prefect_server: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing.shown, "__kwdefaults__", {"patience": 0.3})
    tries, ended = [], []

    @step(name="showing", description="Shows something.")
    async def show() -> str:
        tries.append(1)
        await showing.show_table("nothing", "A table that nobody sees.", [{"a": 1}])
        return "done"

    @flow(name="a-flow")
    async def around() -> None:
        with away_for(prefect_server, 2) as go:
            go()
            state = await settled(show(return_state=True))
        ended.append(await state.aresult())

    state = await around(return_state=True)
    assert state.is_completed()
    assert (len(tries), ended) == (1, ["done"])
    assert await Artifact.aget("nothing") is None


# --- what a run shows -------------------------------------------------------------------------------------------------


async def test_anomalies_that_an_earlier_run_found_are_shown_while_they_are_open(product: Bench) -> None:
    await fetch_ad_data(return_state=True)
    with reading(product.engine) as connection:
        assert connection.scalar(select(func.count()).select_from(incidents)) == 0
    first = await detect_anomalies(return_state=True)
    assert first.is_completed(), first.message
    with reading(product.engine) as connection:
        still_open = connection.scalar(select(func.count()).where(incidents.c.open_fingerprint.is_not(None)))
    assert still_open, "there is something to show"
    shown = [await shown_anomalies()]
    again = await detect_anomalies(return_state=True)
    assert again.message is not None
    assert "0 new" in again.message
    shown.append(await shown_anomalies())
    assert shown[0] == shown[1]
    assert len(shown[1]) == still_open


async def shown_anomalies() -> Any:
    artifact = await Artifact.aget("anomalies")
    assert artifact is not None
    return json.loads(str(artifact.data))


async def test_one_run_after_an_outage_brings_the_missed_mornings_numbers_and_reports_once(product: Bench) -> None:
    product.clock.set(ANCHOR - timedelta(days=3))
    assert (await fetch_ad_data(return_state=True)).is_completed()
    assert (await generate_daily_report(return_state=True)).message == "1 reports: 1 written"
    product.clock.set(ANCHOR)
    state = await generate_daily_report(return_state=True)
    assert state.message == "3 reports: 3 written (2 of mornings that were missed)"
    assert (await generate_daily_report(return_state=True)).message == "1 reports: 1 exists"
    days = [ANCHOR.date() - timedelta(days=age) for age in (4, 3, 2, 1)]
    with reading(product.engine) as connection:
        rows = connection.execute(select(reports.c.report_date, reports.c.completeness).order_by(reports.c.id)).all()
        told = list(connection.scalars(select(notifications.c.title).order_by(notifications.c.id)))
    assert [(row.report_date, row.completeness) for row in rows] == [(day, 1) for day in days]
    assert [title.split(":")[0] for title in told if ":" in title] == [f"{day:%a} {day.day} {day:%b}" for day in days]
