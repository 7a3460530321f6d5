"""One account whose platform answers anything at all: the others' tables are as without it, its own as before."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

import tests.integration.bench as benches
from aae.jobs.context import open_context
from aae.jobs.fetch import AccountOutcome, fetch_account
from aae.model import Account, Platform
from aae.sandbox import World, create_app
from aae.storage.engine import reading
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, api_calls, entities, fetches, metric_revisions
from tests.integration.bench import Bench
from tests.integration.hostile_platform import KINDS, Hostile

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
TABLES = (ad_metrics_daily, ad_metrics_hourly, entities, fetches, metric_revisions)
# What differs from run to run without saying anything about the account.
INCIDENTAL = {"id", "entity_id", "parent_id", "started_at", "finished_at", "first_seen_at", "last_seen_at", "run_id"}
ROOM_MIB = 900
"""What the worst single answer may take, several times over: it is held as bytes, as values and as a frame."""


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=4, users=2, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def hostile(world: World) -> Hostile:
    return Hostile(create_app(world))


@pytest.fixture
def product(
    world: World, hostile: Hostile, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    def app(world: World, **more: Any) -> Hostile:
        hostile.app = create_app(world, **more)
        return hostile

    monkeypatch.setattr(benches, "create_app", app)
    few = {"AAE_FETCH__FIRST_DAYS": "3", "AAE_FETCH__FIRST_HOURLY_DAYS": "2", "AAE_FETCH__RECENT_DAYS": "2"}
    with benches.bench(world, engine, redis_url, monkeypatch, AAE_FETCH__REQUEST_TIMEOUT_SECONDS="20", **few) as it:
        it.connect()
        yield it


def rows_of(product: Bench, account: Account) -> dict[str, list[str]]:
    found = {}
    with reading(product.engine) as connection:
        for table in TABLES:
            rows = connection.execute(select(table).where(table.c.account_id == account.id))
            found[table.name] = sorted(
                repr({k: v for k, v in row._mapping.items() if k not in INCIDENTAL}) for row in rows
            )
    return found


def fetch_together(product: Bench, run_id: str) -> dict[int, AccountOutcome]:
    """All at once, as a run does it."""

    async def go() -> list[AccountOutcome]:
        async with open_context(product.settings, product.now) as context:
            return await asyncio.gather(
                *(fetch_account(context, one, clock=product.now, run_id=run_id) for one in product.accounts())
            )

    return {outcome.account_id: outcome for outcome in asyncio.run(go())}


def victims_of(product: Bench) -> list[Account]:
    """One account of each platform."""
    return [product.accounts(platforms=[platform])[0] for platform in Platform]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_whatever_one_account_is_answered_the_others_are_as_without_it(product: Bench, hostile: Hostile) -> None:
    """All kinds in one test, one run each: the first run without any is what they are held against."""
    assert {outcome.outcome for outcome in fetch_together(product, "before").values()} == {"stored"}
    before = {one.id: rows_of(product, one) for one in product.accounts()}
    victims = victims_of(product)
    hostile.victims = {one.external_id for one in victims}
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, hostile.kind in KINDS.items():
        with product.engine.begin() as connection:
            for table in (metric_revisions, api_calls, fetches, ad_metrics_daily, ad_metrics_hourly):
                connection.execute(table.delete())
        outcomes = fetch_together(product, name)
        for one in product.accounts():
            if one not in victims:
                assert outcomes[one.id].outcome == "stored", (name, outcomes[one.id])
                assert rows_of(product, one) == before[one.id], name
                continue
            outcome, rows = outcomes[one.id], rows_of(product, one)
            assert outcome.outcome in {"failed", "partial"}, (name, outcome)
            assert outcome.detail, name
            assert 10 < len(outcome.detail) < 300, (name, outcome.detail)
            assert "Traceback" not in outcome.detail
            assert "\n" not in outcome.detail
            assert not rows["ad_metrics_daily"] or outcome.outcome == "partial", name
            assert [row for row in rows["fetches"] if "'outcome': 'stored'" not in row and "'detail': None" not in row]
            assert rows["metric_revisions"] == [], name
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) // 1024
    assert grown < ROOM_MIB, f"{grown} MiB more than before"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_day_of_more_rows_than_memory_is_refused_in_a_sentence(
    product: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aae.jobs.fetch.MOST_ROWS", 1)
    (outcome,) = product.fetch("run", product.accounts()[:1])
    assert outcome.outcome == "partial"
    assert "sent more than 1 rows for daily" in str(outcome.detail)
    assert rows_of(product, product.accounts()[0])["ad_metrics_daily"] == []
