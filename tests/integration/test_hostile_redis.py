"""Whatever somebody writes into Redis: nothing of it is executed, and what cannot be read is a miss."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aae.cache import _MAGIC, Cache, SharedState, _digest
from aae.model import Account, Platform
from aae.platforms.base import Connector
from tests.integration.test_cache import frames
from tests.unit.platforms.support import Network, ok, piece, token
from tests.unit.platforms.support import use as play

ACCOUNT = Account(17, 1, Platform.META, "1001", "Shop", "EUR", "Europe/Berlin")
SCOPE = "meta:account:1001"
FRAMES, BLOCK, LOCK = "aae:frames:17", f"aae:blocked:{SCOPE}", "aae:lock:x"


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def cache(redis_url: str) -> Iterator[Cache]:
    cache = Cache(redis_url)
    yield cache
    cache.close()


def sealed(head: bytes, *streams: bytes) -> bytes:
    """Frames as anybody may forge them: the digest holds no secret."""
    body = b"".join((len(head).to_bytes(4, "big"), head, *streams))
    return _MAGIC + _digest(body) + body


def test_a_pickle_under_every_key_is_not_executed(
    raw: redis.Redis, redis_url: str, cache: Cache, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    poison = pickle.dumps(Touch(trace))

    def ask() -> tuple[Any, Network]:
        store = SharedState(redis_url)

        async def totals(connector: Connector) -> Any:
            try:
                return await connector.fetch_totals(ACCOUNT, token(), piece())
            finally:
                await store.aclose()

        found, network, _ = play(Platform.META, lambda _: ok(good), totals, store=store)
        return found, network

    cache.put_frames(frames(["a"], [1]), ttl=60)
    good = {"data": [{"account_id": "1001", "impressions": "1", "spend": "2.5"}]}
    ask()
    answers = [key.decode() for key in raw.scan_iter("aae:answer:*")]
    assert len(answers) == 1
    raw.set(BLOCK, "1")
    raw.set(LOCK, "1")
    for key in raw.keys("*"):
        raw.set(key, poison)
    for key in (FRAMES, BLOCK, LOCK):
        assert raw.get(key) == poison

    assert cache.get_frames(ACCOUNT, 3) is None
    with cache.lock("x", 1) as ours:
        assert not ours
    found, network = ask()
    assert len(network.requests) == 1, "the poisoned answer counts as none, so the platform is asked"
    assert found.impressions == 1
    assert not trace.exists()


def test_arrow_that_asks_for_a_class_of_its_own_makes_none(raw: redis.Redis, cache: Cache, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    field = pa.field("name", pa.binary()).with_metadata(
        {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Touch(trace)),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([field])) as writer:
        writer.write_table(pa.table([pa.array([b"x"])], schema=pa.schema([field])))
    stream = sink.getvalue().to_pybytes()
    head = {"account": 17, "version": 3, "data_through": None, "lengths": [len(stream)] * 3}
    raw.set(FRAMES, sealed(json.dumps(head).encode(), stream * 3))
    assert cache.get_frames(ACCOUNT, 3) is None
    assert not trace.exists()


ANY = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, -1, 17, 3, [0, 0, 0]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HEADS = ANY | st.fixed_dictionaries(
    {"account": st.just(17), "version": st.just(3)}, optional={"data_through": ANY, "lengths": ANY}
)


@given(head=HEADS.map(lambda head: json.dumps(head).encode()) | st.binary(max_size=50), rest=st.binary(max_size=80))
@hypothesis_settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames_are_a_miss(raw: redis.Redis, cache: Cache, head: bytes, rest: bytes) -> None:
    raw.set(FRAMES, sealed(head, rest))
    assert cache.get_frames(ACCOUNT, 3) is None


@pytest.mark.parametrize("head", [b"[" * 100_000, b'{"account":17,"version":3,"data_through":5,"lengths":[0,0,0]}'])
def test_a_head_that_nests_without_end_is_a_miss(raw: redis.Redis, cache: Cache, head: bytes) -> None:
    raw.set(FRAMES, sealed(head))
    assert cache.get_frames(ACCOUNT, 3) is None


def test_a_stream_that_claims_to_be_huge_takes_no_memory(raw: redis.Redis, cache: Cache) -> None:
    cache.put_frames(frames(["a"] * 50, [1] * 50), ttl=60)
    packed = raw.get(FRAMES)
    assert isinstance(packed, bytes)
    body = bytearray(packed[len(_MAGIC) + 16 :])
    begin = 4 + int.from_bytes(body[:4], "big")
    tracemalloc.start()
    for place in range(begin, len(body), 4):
        damaged = bytes(body[:place]) + b"\xff\xff\xff\x7f" + bytes(body[place + 4 :])
        raw.set(FRAMES, _MAGIC + _digest(damaged) + damaged)
        cache.get_frames(ACCOUNT, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert pa.total_allocated_bytes() < 64 << 20


@pytest.mark.parametrize("value", [b"", b"x", b"-5", b"9" * 5000, b"9" * 20, b"1e9", "٣".encode(), b"\x80\x04K\x01."])
async def test_a_block_that_is_no_moment_is_none(raw: redis.Redis, redis_url: str, value: bytes) -> None:
    raw.set(BLOCK, value)
    state = SharedState(redis_url)
    try:
        assert await state.pauses([SCOPE]) == {}
    finally:
        await state.aclose()
