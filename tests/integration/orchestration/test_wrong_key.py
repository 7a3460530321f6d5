"""The real jobs with a key that opens no token: one clear sentence, and nobody is told that they must do something."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, func, select

import tasks.fetch
import tasks.resources
import tasks.tokens
from aae.jobs.context import open_stores
from aae.sandbox import World
from aae.settings import load
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, notifications, token_refreshes
from flows.data_fetch import fetch_ad_data
from flows.token_refresh import check_token_expiry
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
SENTENCE = "does not open with the key 'test': either this key differs from the one of that id it was written with"

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def product(engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    world = World.generate(11, ANCHOR, days=3, users=1, big_campaigns=1, ads_per_ad_set=1)
    with bench(world, engine, redis_url, monkeypatch) as it:
        it.connect()
        for module in (tasks.resources, tasks.fetch, tasks.tokens):
            monkeypatch.setattr(module, "clock", it.now)
        yield it


async def test_a_wrong_key_is_one_sentence_and_never_an_expired_account(
    product: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.order("faults", name="google_invalid_grant")  # had anybody asked, somebody would seem expired
    calls = product.control("calls")
    monkeypatch.setenv("AAE_ENCRYPTION_KEYS", "test:" + base64.b64encode(b"w" * 32).decode())
    load.cache_clear()
    open_stores.cache_clear()
    for job in (check_token_expiry, fetch_ad_data):
        state = await job(return_state=True)  # type: ignore[operator]
        assert state.is_failed()
        assert SENTENCE in str(state.message)
        assert "expired" not in str(state.message)
    assert product.control("calls") == calls
    with reading(product.engine) as connection:
        assert set(connection.scalars(select(ad_accounts.c.status))) == {"active"}
        for table in (notifications, token_refreshes):
            assert connection.scalar(select(func.count()).select_from(table)) == 0
