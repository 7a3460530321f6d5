"""The cache against a real server: what it gives back, what it refuses to give back, and life without it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aae.cache import Cache, SharedState
from aae.errors import UserError
from aae.frames import DAILY, ENTITIES, HOURLY, AccountFrames, Reach
from aae.model import Account, Platform
from aae.patience import Pause

NOWHERE = "redis://:secret@127.0.0.1:1/0"
ACCOUNT = Account(17, 1, Platform.META, "1001", "Shop", "EUR", "Europe/Berlin")
AMOUNTS = st.none() | st.integers(-(2**62), 2**62)


@pytest.fixture
def cache(redis_url: str) -> Iterator[Cache]:
    cache = Cache(redis_url)
    yield cache
    cache.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def frame(columns: dict[str, str], rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame({name: [row[name] for row in rows] for name in columns}).astype(columns)


def frames(names: list[str], amounts: list[int | None], version: int = 3) -> AccountFrames:
    numbers = {"impressions": 10, "clicks": 1, "spend_micros": 2**60, "revenue_micros": None}
    start = pd.Timestamp(2026, 11, 1)
    return AccountFrames(
        account=ACCOUNT,
        version=version,
        reach=Reach(date(2026, 9, 13), date(2026, 10, 17), 41),
        data_through=datetime(2026, 11, 22, 11, 59, 59, 123456, tzinfo=UTC),
        entities=frame(
            ENTITIES,
            [
                {"entity_id": n, "level": "ad", "external_id": str(n), "name": name, "status": "active"}
                | {"campaign_id": 1, "ad_set_id": None, "daily_budget_micros": 5, "channel": None}
                for n, name in enumerate(names)
            ],
        ),
        daily=frame(
            DAILY,
            [
                {"local_date": start, "entity_id": n, "conversions_micros": amount, **numbers}
                for n, amount in enumerate(amounts)
            ],
        ),
        hourly=frame(
            HOURLY,
            [
                {"utc_start": start, "local_date": start, "local_hour": 23, "entity_id": n}
                | {"conversions_micros": amount, **numbers}
                for n, amount in enumerate(amounts)
            ],
        ),
    )


def assert_same(one: AccountFrames, other: AccountFrames) -> None:
    for name in ("account", "version", "data_through", "reach"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("entities", "daily", "hourly"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]))), amounts=st.lists(AMOUNTS))
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_come_back_exactly_as_they_were(cache: Cache, names: list[str], amounts: list[int | None]) -> None:
    given_frames = frames(names, amounts)
    cache.put_frames(given_frames, ttl=60)
    found = cache.get_frames(ACCOUNT, 3)
    assert found is not None
    assert_same(found, given_frames)


def test_frames_from_the_cache_can_be_worked_on(cache: Cache) -> None:
    cache.put_frames(frames(["a"], [1, 2]), ttl=60)
    found = cache.get_frames(ACCOUNT, 3)
    assert found is not None
    found.daily.loc[0, "clicks"] = 7
    found.hourly["spend_micros"] += 1
    assert found.daily["clicks"].tolist() == [7, 1]


def test_frames_of_another_version_or_account_are_not_given(cache: Cache) -> None:
    cache.put_frames(frames(["a"], [1]), ttl=60)
    assert cache.get_frames(ACCOUNT, 4) is None
    assert cache.get_frames(replace(ACCOUNT, id=18), 3) is None


def test_frames_expire(cache: Cache, raw: redis.Redis) -> None:
    cache.put_frames(frames(["a"], [1]), ttl=60)
    assert 59_000 < raw.pttl("aae:frames:17") <= 60_000


@pytest.mark.parametrize("position", [0, 6, 22, 60, -900, -1])
def test_a_flipped_bit_is_a_miss(cache: Cache, raw: redis.Redis, position: int) -> None:
    cache.put_frames(frames(["a"], [1]), ttl=60)
    damaged = bytearray(raw.get("aae:frames:17") or b"")
    damaged[position] ^= 1
    raw.set("aae:frames:17", bytes(damaged))
    assert cache.get_frames(ACCOUNT, 3) is None


@pytest.mark.parametrize("payload", [b"", b"AAEF1", b"junk", b"AAEF1" + bytes(16)])
def test_junk_is_a_miss(cache: Cache, raw: redis.Redis, payload: bytes) -> None:
    raw.set("aae:frames:17", payload)
    assert cache.get_frames(ACCOUNT, 3) is None


def test_without_redis_everything_is_a_miss_and_one_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(NOWHERE)
    with caplog.at_level(logging.WARNING, "aae.cache"):
        for _ in range(3):
            cache.put_frames(frames(["a"], [1]), ttl=60)
            assert cache.get_frames(ACCOUNT, 3) is None
            with cache.lock("x", 1) as ours:
                assert ours
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_a_cache_that_came_back_is_used_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = cache._client
    monkeypatch.setattr(cache, "_client", redis.Redis.from_url(NOWHERE))
    cache.put_frames(frames(["a"], [1]), ttl=60)
    monkeypatch.setattr(cache, "_client", client)
    start = time.monotonic()
    monkeypatch.setattr("aae.cache.time.monotonic", lambda: start + 6)
    with caplog.at_level(logging.INFO, "aae.cache"):
        cache.put_frames(frames(["a"], [1]), ttl=60)
    assert cache.get_frames(ACCOUNT, 3) is not None
    assert "is back" in caplog.text


def test_ping_says_in_one_sentence_what_is_wrong(cache: Cache) -> None:
    cache.ping()
    with pytest.raises(UserError, match=r"No Redis answers at 127.0.0.1:1 .*AAE_REDIS_URL") as caught:
        Cache(NOWHERE).ping()
    assert "secret" not in str(caught.value)


def test_a_lease_is_held_once_and_freed(cache: Cache) -> None:
    with cache.lock("job", 60) as first:
        with cache.lock("job", 60) as second, cache.lock("other", 60) as other:
            assert (first, second, other) == (True, False, True)
        with cache.lock("job", 60) as third:
            assert not third, "leaving without the lease must not free it"
    with cache.lock("job", 60) as again:
        assert again


def test_a_lease_that_ran_out_does_not_free_the_next_holders(cache: Cache, raw: redis.Redis) -> None:
    with cache.lock("job", 60):
        raw.set("aae:lock:job", "somebody else")
    assert raw.get("aae:lock:job") == b"somebody else"


async def test_a_block_is_seen_by_others_and_only_ever_extended(redis_url: str, now: datetime) -> None:
    one, other = SharedState(redis_url), SharedState(redis_url)
    await one.block("meta:account:1", now + timedelta(minutes=5), now=now)
    await other.block("meta:account:1", now + timedelta(minutes=1), now=now)
    seen = await other.pauses(["meta:account:1", "google:developer"])
    assert seen == {"meta:account:1": Pause(now + timedelta(minutes=5), 1)}
    await other.block("meta:account:1", now + timedelta(minutes=9, microseconds=1), now=now)
    later = Pause(now + timedelta(minutes=9, milliseconds=1), 1)
    assert await one.pauses(["meta:account:1"]) == {"meta:account:1": later}
    assert await one.pauses([]) == {}
    await one.aclose()
    await other.aclose()


async def test_its_own_blocks_a_process_remembers_when_redis_is_away_or_wiped(
    redis_url: str, raw: redis.Redis, now: datetime
) -> None:
    away, wiped = SharedState(NOWHERE), SharedState(redis_url)
    for state in (away, wiped):
        await state.block("meta:app", now + timedelta(minutes=5), now=now)
        await state.block("meta:app", now + timedelta(minutes=1), now=now)
        raw.flushall()
        kept = (await state.pauses(["meta:app", "a"]))["meta:app"]
        assert kept.until == now + timedelta(minutes=5)
        await state.aclose()


async def test_a_block_set_by_a_clock_that_was_wrong_is_forgotten_when_it_was_to_end(
    redis_url: str, raw: redis.Redis, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SharedState(redis_url)
    ahead = now + timedelta(days=30)
    await state.block("meta:app", ahead + timedelta(minutes=5), now=ahead)
    assert 300 < raw.ttl("aae:blocked:meta:app") <= 361
    raw.flushall()
    start = time.monotonic()
    monkeypatch.setattr("aae.cache.time.monotonic", lambda: start + 362)
    assert (await state.pauses(["meta:app"]))["meta:app"].until is None
    await state.aclose()


def test_a_redis_that_stays_away_is_dialled_ever_more_rarely_but_at_least_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, dialled = Cache(NOWHERE), []
    monkeypatch.setattr(cache._client, "set", lambda *_, **__: dialled.append(clock[0]) or cache._client.ping())
    clock = [0.0]
    monkeypatch.setattr("aae.cache.time.monotonic", lambda: clock[0])
    while clock[0] < 300:
        cache.put_frames(frames(["a"], [1]), ttl=60)
        clock[0] += 1
    assert dialled == [0, 5, 15, 35, 75, 135, 195, 255]


async def test_a_block_of_a_replayed_past_is_kept(redis_url: str, raw: redis.Redis) -> None:
    state = SharedState(redis_url)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await state.block("meta:app", past, now=past)
    assert await state.pauses(["meta:app"]) == {"meta:app": Pause(past, 1)}
    assert 0 < raw.ttl("aae:blocked:meta:app") <= 61
    await state.aclose()


async def test_answers_are_kept_for_their_time(redis_url: str, raw: redis.Redis) -> None:
    state = SharedState(redis_url, answer_ttl_seconds=300)
    assert await state.get_answer("k") is None
    await state.put_answer("k", b"\x00body")
    assert await state.get_answer("k") == b"\x00body"
    assert 299_000 < raw.pttl("aae:answer:k") <= 300_000
    await state.aclose()


async def test_answers_can_be_turned_off(redis_url: str, raw: redis.Redis) -> None:
    state = SharedState(redis_url, answer_ttl_seconds=0)
    await state.put_answer("k", b"body")
    assert raw.keys("*") == []
    assert await state.get_answer("k") is None


async def test_shared_state_without_redis_is_empty_and_one_warning_says_so(
    now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    state = SharedState(NOWHERE)
    with caplog.at_level(logging.WARNING, "aae.cache"):
        await state.put_answer("k", b"x")
        assert await state.pauses(["a"]) == {}
        assert await state.get_answer("k") is None
    assert len(caplog.records) == 1
    await state.aclose()


def test_shared_state_survives_the_end_of_an_event_loop(redis_url: str, now: datetime) -> None:
    state = SharedState(redis_url)

    async def block_and_read() -> dict[str, Pause]:
        await state.block("a", now, now=now, refused=False)
        found = await state.pauses(["a"])
        await state.aclose()
        return found

    assert asyncio.run(block_and_read()) == asyncio.run(block_and_read()) == {"a": Pause(now)}


def test_every_key_has_the_prefix(cache: Cache, raw: redis.Redis, redis_url: str, now: datetime) -> None:
    async def write() -> None:
        state = SharedState(redis_url)
        await state.block("a", now, now=now)
        await state.set_pace("a", 1)
        await state.take_turn({"a": 0}, longest=60)
        await state.put_answer("k", b"x")
        await state.aclose()

    asyncio.run(write())
    cache.put_frames(frames(["a"], [1]), ttl=60)
    with cache.lock("job", 60):
        keys = raw.keys("*")
    assert len(keys) == 7
    assert all(key.startswith(b"aae:") for key in keys)
