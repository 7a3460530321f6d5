"""Many accounts at once: bounded, users in turns, and each account's own calls one after the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

import tasks.fetch
import tasks.resources
from aae.jobs.fetch import fetch_account
from aae.jobs.planning import in_turns
from aae.model import Account
from aae.platforms.transport import Call, Transport
from aae.sandbox import World
from aae.settings import load
from flows.data_fetch import fetch_ad_data
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
PLACES = 3

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def product(engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    world = World.generate(11, ANCHOR, days=5, ahead=1, users=3, big_campaigns=1, ads_per_ad_set=1)
    few = {"AAE_FETCH__FIRST_DAYS": "3", "AAE_FETCH__FIRST_HOURLY_DAYS": "1", "AAE_FETCH__HOURLY_DAYS": "1"}
    with bench(world, engine, redis_url, monkeypatch, AAE_FETCH__ACCOUNTS_AT_ONCE=str(PLACES), **few) as it:
        load.cache_clear()
        it.connect()
        for module in (tasks.resources, tasks.fetch):
            monkeypatch.setattr(module, "clock", it.now)
        yield it


async def test_no_more_accounts_at_once_than_set_users_in_turns_and_one_call_of_an_account_at_a_time(
    product: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Account] = []
    now: Counter[str] = Counter()
    most: defaultdict[str, int] = defaultdict(int)
    exchange = Transport._exchange

    async def counted(name: str, work: Any) -> Any:
        now[name] += 1
        most[name] = max(most[name], now[name])
        try:
            return await work
        finally:
            now[name] -= 1

    async def fetch(context: Any, account: Account, **more: Any) -> Any:
        begun.append(account)
        return await counted("accounts", fetch_account(context, account, **more))

    async def send(self: Transport, client: Any, call: Call) -> Any:
        return await counted(f"{call.platform}:{call.account}", exchange(self, client, call))

    monkeypatch.setattr(tasks.fetch, "fetch", fetch)
    monkeypatch.setattr(Transport, "_exchange", send)
    state = await fetch_ad_data(return_state=True)
    assert state.is_completed(), state.message
    accounts = product.accounts()
    assert len(accounts) > 2 * PLACES
    assert most.pop("accounts") == PLACES
    assert len(most) == len(accounts)
    assert set(most.values()) == {1}
    assert [one.id for one in begun] == [one.id for one in in_turns(accounts)]
    users = {one.user_id for one in accounts}
    assert {one.user_id for one in begun[: len(users)]} == users, "nobody's second before everybody's first"
