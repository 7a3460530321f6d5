"""The real flows and an account that its platform refuses to a good token: given up once, left alone, found again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

import tasks.fetch
import tasks.resources
import tasks.tokens
from aae.model import Account, Platform
from aae.sandbox import World
from flows.data_fetch import fetch_ad_data
from flows.token_refresh import check_token_expiry
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def product(engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    world = World.generate(11, ANCHOR, days=3, ahead=3, users=2, big_campaigns=1, ads_per_ad_set=1)
    with bench(world, engine, redis_url, monkeypatch, AAE_FETCH__FIRST_HOURLY_DAYS="2") as it:
        it.connect()
        for module in (tasks.resources, tasks.fetch, tasks.tokens):
            monkeypatch.setattr(module, "clock", it.now)
        yield it


async def run(job: Any) -> str:
    state = await job(return_state=True)
    assert state.is_completed(), state.message
    return str(state.message)


def asked(product: Bench, account: Account) -> int:
    return sum(one["count"] for one in product.control("calls") if account.external_id in one["path"])


async def test_it_fails_no_run_is_left_alone_until_a_check_finds_it_open_and_is_caught_up(product: Bench) -> None:
    account = product.lasting(Platform.META)
    product.order("faults", name="meta_no_permission", account=account.external_id)
    for expected in ("active", "revoked"):
        await run(fetch_ad_data)
        assert product.status(account) == expected
        product.clock.advance(timedelta(hours=6))
    calls = asked(product, account)
    await run(fetch_ad_data)
    assert asked(product, account) == calls
    assert "1 valid, but without access to the account" in await run(check_token_expiry)
    assert asked(product, account) > calls
    product.forgive()
    product.clock.advance(timedelta(hours=6))
    assert "1 recovered" in await run(check_token_expiry)
    await run(fetch_ad_data)
    assert product.status(account) == "active"
    today = account.local_day(product.now())
    rows = product.stored(account, "daily", today - timedelta(days=2), today)
    assert rows == product.truth(account, "daily", today - timedelta(days=2), today) != []
