"""The token check, on a real Prefect server: it ends by keeping the tables small, and never fails over it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from prefect import flow
from prefect.artifacts import Artifact
from prefect.settings import (
    PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from sqlalchemy import Engine, func, select, update

import tasks.resources
import tasks.retention
import tasks.tokens
from aae.errors import Bug
from aae.sandbox import World
from aae.settings import load
from aae.storage.engine import reading
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, daily_summary
from deployments import declared
from deployments.apply import save_block
from flows.token_refresh import check_token_expiry
from tasks.limits import step
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=10, ahead=1, users=1, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The product with a few days of numbers that are two hundred days old."""
    few = {"AAE_FETCH__FIRST_DAYS": "3", "AAE_FETCH__FIRST_HOURLY_DAYS": "2"}
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        load.cache_clear()
        it.connect()
        for module in (tasks.resources, tasks.retention, tasks.tokens):
            monkeypatch.setattr(module, "clock", it.now)
        it.fetch("first", it.accounts()[:1])
        with engine.begin() as connection:
            for table in (ad_metrics_daily, ad_metrics_hourly):
                for day in connection.scalars(select(table.c.local_date.distinct())).all():
                    of_day = update(table).where(table.c.local_date == day)
                    connection.execute(of_day.values(local_date=day - timedelta(days=200)))
        yield it


def spend(product: Bench, table: Any) -> int:
    with reading(product.engine) as connection:
        return connection.scalar(select(func.sum(table.c.spend))) or 0


async def test_a_check_of_all_accounts_ends_by_folding_old_numbers_and_shows_it(product: Bench) -> None:
    before, days = spend(product, ad_metrics_daily), select(func.count(ad_metrics_daily.c.local_date.distinct()))
    with reading(product.engine) as connection:
        number = connection.scalar(days)
    state = await check_token_expiry(return_state=True)
    assert state.is_completed(), state.message
    assert (spend(product, daily_summary), spend(product, ad_metrics_daily)) == (before, 0)
    assert spend(product, ad_metrics_hourly) == 0
    artifact = await Artifact.aget("retention")
    assert artifact is not None
    assert f'"days folded", "rows": {number}' in str(artifact.data)


@pytest.mark.parametrize("parameters", [{"users": [1]}, {"dry_run": True}], ids=["of one user", "dry run"])
async def test_any_other_check_leaves_the_tables_alone(product: Bench, parameters: dict[str, Any]) -> None:
    before = spend(product, ad_metrics_daily)
    state = await check_token_expiry(**parameters, return_state=True)
    assert state.is_completed(), state.message
    assert spend(product, ad_metrics_daily) == before > 0


async def test_whatever_goes_wrong_with_it_the_check_is_done(product: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise Bug("the broom is broken")

    monkeypatch.setattr(tasks.retention, "keep_small", broken)
    state = await check_token_expiry(return_state=True)
    assert state.is_completed(), state.message
    assert spend(product, ad_metrics_daily) > 0


@pytest.fixture
def results(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Where results are kept, here for half a minute."""
    monkeypatch.setattr(declared, "RESULT_TTL_SECONDS", 30)
    # A block of its own: Prefect remembers for a whole process where a block leads.
    monkeypatch.setattr(declared, "RESULT_BLOCK", "aae-results-for-half-a-minute")
    save_block(declared.result_storage(redis_url))
    kept = {
        PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: f"redis-database/{declared.RESULT_BLOCK}",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
    }
    with temporary_settings(kept), redis.Redis.from_url(redis_url) as client:
        yield client


async def test_the_results_of_steps_and_runs_leave_redis_by_themselves(engine: Engine, results: redis.Redis) -> None:
    @step(name="working", description="Works.")
    async def working() -> dict[str, int]:
        return {"rows": 5}

    @flow(name="a-flow", persist_result=True, result_serializer="json")
    async def around() -> dict[str, int]:
        return await working()

    await around()
    lives = {key: results.ttl(key) for key in results.scan_iter()}
    assert len(lives) >= 2
    assert all(0 < left <= 30 for left in lives.values()), lives
