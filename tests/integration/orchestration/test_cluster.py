"""The fetch on a cluster of two real processes leaves behind what it leaves behind in its own, in every table."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact
from sqlalchemy import Engine, select

from aae.sandbox import World
from aae.settings import load
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, attempt_beats, attempts, entities, fetches, metadata
from flows.data_fetch import fetch_ad_data
from tasks.limits import settled
from tests import servers
from tests.clusters import needs_dask
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=35, ahead=3, users=2, big_campaigns=1, ads_per_ad_set=1)


Database = Callable[[str], Engine]


@pytest.fixture
def database(_sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """Migrated, empty tables by name."""
    with ExitStack() as stack:

        def named(name: str) -> Engine:
            path = tmp_path / f"{name}.db"
            shutil.copy(_sqlite_template, path)
            return stack.enter_context(servers.connected(f"sqlite:///{path}"))

        yield named


@pytest.fixture
def product(world: World, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """The product with its accounts connected, around an engine; its clock is the sandbox's in every process."""
    # What is started here reads no .env of the developer's.
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def around(engine: Engine, **settings: str) -> Iterator[Bench]:
        offset = (ANCHOR - datetime.now(UTC)).total_seconds()
        few = {"AAE_FETCH__FIRST_DAYS": "8", "AAE_FETCH__FIRST_HOURLY_DAYS": "2", "AAE_FETCH__HOURLY_DAYS": "1"}
        offsets = {"AAE_CLOCK_OFFSET_SECONDS": str(offset)}
        with bench(world, engine, redis_url, monkeypatch, **few, **offsets, **settings) as it:
            load.cache_clear()
            it.connect()
            yield it

    return around


def everything(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, without moments and runs, its ids put by the names that they stand for."""
    with reading(engine) as connection:
        accounts = {row.id: f"{row.platform}:{row.external_id}" for row in connection.execute(select(ad_accounts))}
        names = {
            row.id: (accounts[row.account_id], row.level, row.external_id)
            for row in connection.execute(select(entities))
        }
        tries = {
            row.id: (accounts[row.account_id], row.granularity, row.since, row.until, row.outcome)
            for row in connection.execute(select(fetches))
        }
        by_name = {"account_id": accounts, "entity_id": names, "parent_id": names | {None: None}, "fetch_id": tries}

        def plain(table: Any, row: Any) -> tuple[Any, ...]:
            left_out = {"id", "run_id", "batch", "access_token", "refresh_token", *_moments(table)}
            return tuple(
                (name, repr(by_name[name][value] if name in by_name else value))
                for name, value in row._mapping.items()
                if name not in left_out
            )

        return {
            table.name: sorted(plain(table, row) for row in connection.execute(select(table)))
            for table in metadata.sorted_tables
            if table not in (attempts, attempt_beats)
        }


def _moments(table: Any) -> set[str]:
    return {
        column.name for column in table.columns if column.name.endswith("_at") or column.name in {"at", "data_through"}
    }


@needs_dask
def test_every_table_is_as_after_a_run_in_one_process(product: Callable[..., Any], database: Database) -> None:
    with product(database("local")) as local:
        message = run_to_its_end()
    with product(database("dask"), AAE_FETCH__RUNNER="dask") as spread:
        assert run_to_its_end() == message
        accounts = len(spread.accounts())
    expected, found = everything(local.engine), everything(spread.engine)
    assert len(expected["ad_metrics_hourly"]) > 100, "there is something to compare"
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in expected.items()}
    assert found == expected
    assert len(shown()) == accounts


def run_to_its_end() -> str | None:
    """One fetch of everything; what it says."""
    state = asyncio.run(settled(fetch_ad_data(return_state=True)))
    assert state.is_completed(), state.message
    return state.message


def shown() -> list[Any]:
    """The table of the last fetch."""
    table = asyncio.run(Artifact.aget("ad-data-fetch"))
    assert table is not None
    return list(json.loads(str(table.data)))
