"""How gentle all processes together are with the platforms, over a real Redis: pace, pauses, slowing down, restarts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import Engine, func, select

from aae.cache import SharedState
from aae.deadline import Deadline
from aae.errors import Retry, Superseded, Throttled
from aae.jobs.context import open_stores
from aae.model import Account, Granularity, Platform, Slice
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import Connected, connect_all
from aae.patience import LocalState, Pause
from aae.platforms.transport import Answer, Call, Purpose, Transport
from aae.sandbox import World
from aae.storage.engine import reading
from aae.storage.schema import api_calls, entities, fetches
from tests.integration.bench import Bench, bench

NOWHERE = "redis://127.0.0.1:1/0"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@asynccontextmanager
async def process(redis_url: str, *, answer: Any = None) -> AsyncIterator[tuple[Transport, list[float]]]:
    """A door of its own on the Redis of all, as another process has it, and when its calls went out."""
    sent: list[float] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(time.monotonic())
        return answer(request) if answer else httpx.Response(200, json={})

    store = SharedState(redis_url)
    async with Transport(5, lambda: NOW, store=store, handler=httpx.MockTransport(reply)) as transport:
        yield transport, sent
    await store.aclose()


def a_call(number: int = 0, **more: Any) -> Call:
    usual: dict[str, Any] = {
        **{"platform": Platform.TIKTOK, "account": "7001", "purpose": Purpose.LISTING, "method": "GET"},
        **{"url": f"http://tiktok.test/{number}", "judge": lambda _: {}, "scopes": ("tiktok:app",)},
    }
    return Call(**{**usual, **more})


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(sorted(moments))]


async def test_two_doors_on_one_redis_keep_one_pace(redis_url: str) -> None:
    async with process(redis_url) as (one, first), process(redis_url) as (other, second):
        calls = (door.request(a_call(n, paces={"tiktok:app": 0.1})) for n in range(6) for door in (one, other))
        await asyncio.gather(*calls)
    assert len(first) == len(second) == 6
    assert max(first + second) - min(first + second) >= 11 * 0.1 - 0.05
    assert min(gaps(first + second)) > 0.02, "the lines of both are one"


def test_two_processes_together_send_no_more_than_ten_calls_a_second(redis_url: str) -> None:
    command = [sys.executable, "-m", "tests.integration.caller", redis_url, "15"]
    callers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for caller in callers:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
    told = []
    for caller in callers:
        assert caller.stdin is not None
        caller.stdin.write("go\n")
        caller.stdin.flush()
    for caller in callers:
        out, _ = caller.communicate(timeout=120)
        told.append(json.loads(out))
        assert caller.returncode == 0
    sent = sorted(moment for moments in told for moment in moments)
    assert len(sent) == 30
    assert sent[-1] - sent[0] >= 29 * 0.1 - 0.1
    assert min(gaps(sent)) > 0.02, "they stand in one line, though both began at once"


async def test_while_redis_is_away_each_process_keeps_its_own_pace() -> None:
    async with process(NOWHERE) as (door, sent):
        await asyncio.gather(*(door.request(a_call(n, paces={"tiktok:app": 0.1})) for n in range(4)))
    assert max(sent) - min(sent) >= 0.25


async def test_one_process_hears_that_the_limit_is_near_and_all_slow_down(
    redis_url: str, redis_server_raw: redis.Redis
) -> None:
    paced = {"scopes": ("meta:app",), "paces": {"meta:app": 0.0}, "platform": Platform.META}
    async with process(redis_url) as (one, first), process(redis_url) as (other, second):
        await other.request(a_call(1, **paced))
        await other.request(a_call(2, **paced))
        await one.request(a_call(3, **paced, judge=lambda _: {"meta:app": timedelta(seconds=0.4)}))
        for number in range(4, 7):
            await other.request(a_call(number, **paced))
    assert gaps(second)[0] < 0.3
    assert min(gaps(second)[-2:]) >= 0.35
    assert len(first) == 1
    assert 0 < redis_server_raw.ttl("aae:pace:meta:app") <= 300


@pytest.fixture
def redis_server_raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def test_a_refusal_is_known_to_the_next_process_and_so_is_how_many_there_were(redis_url: str) -> None:
    seen: list[int] = []

    def judge(answer: Answer) -> dict[str, datetime]:
        seen.append(answer.throttled_before)
        raise Throttled("patience", until=NOW + timedelta(hours=3), scope="google:developer")

    scopes = {"scopes": ("google:developer",), "platform": Platform.GOOGLE}
    async with process(redis_url) as (door, _):
        with pytest.raises(Throttled):
            await door.request(a_call(judge=judge, **scopes))
    async with process(redis_url) as (restarted, sent):
        with pytest.raises(Throttled) as caught:
            await restarted.request(a_call(judge=judge, **scopes))
    assert (seen, sent, caught.value.until) == ([0], [], NOW + timedelta(hours=3))


@pytest.mark.parametrize("shared", [True, False])
async def test_refusals_in_a_row_are_counted_by_pause_until_a_call_goes_well(redis_url: str, shared: bool) -> None:
    state = SharedState(redis_url) if shared else LocalState(lambda: NOW)
    minute = timedelta(minutes=1)
    await state.block("a", NOW + minute, now=NOW)
    await state.block("a", NOW + minute, now=NOW + minute / 2)  # within the pause: the same one
    await state.block("b", NOW + minute, now=NOW, refused=False)
    assert await state.pauses(["a", "b"]) == {"a": Pause(NOW + minute, 1), "b": Pause(NOW + minute)}
    await state.block("a", NOW + 3 * minute, now=NOW + minute)
    assert await state.pauses(["a"]) == {"a": Pause(NOW + 3 * minute, 2)}
    await state.relieve("a")
    assert await state.pauses(["a"]) == {"a": Pause(NOW + 3 * minute)}
    if isinstance(state, SharedState):
        await state.aclose()


@pytest.mark.parametrize("junk", ["nan", "9e300", "-5", "x", "1e-9", str(10**15)])
async def test_a_turn_or_pace_that_nobody_can_have_given_stops_nobody(
    redis_url: str, redis_server_raw: redis.Redis, junk: str
) -> None:
    state = SharedState(redis_url)
    redis_server_raw.set("aae:turn:a", junk)
    redis_server_raw.set("aae:pace:b", junk)
    assert await state.take_turn({"a": 0.2, "b": 0.2}, longest=60) == 0
    assert await state.take_turn({"a": 0.2}, longest=60) == pytest.approx(0.2, abs=0.15)
    assert await state.take_turn({"b": 0.2}, longest=60) <= 60
    await state.aclose()


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, NOW, days=10, ahead=1, users=3, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    few = {"AAE_FETCH__FIRST_DAYS": "3", "AAE_FETCH__FIRST_HOURLY_DAYS": "1", "AAE_FETCH__HOURLY_DAYS": "1"}
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        it.connect()
        yield it


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_quota_that_is_used_up_for_hours_costs_one_call_and_the_other_platforms_go_on(product: Bench) -> None:
    product.order("faults", name="google_throttled", platform="google", value=43_200)
    first, again = product.fetch("run-1"), product.fetch("run-2")
    google = [one for one in first + again if one.platform == "google"]
    assert len(google) > 2
    assert {one.outcome for one in google} == {"throttled"}
    assert sum(one.calls for one in google) == 1, "every other account, and the next run, knew it beforehand"
    assert not any(one.retry for one in google)
    assert {one.outcome for one in first if one.platform != "google"} <= {"stored", "reauthorize"}
    open_stores.cache_clear()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_report_of_tiktok_that_hangs_is_stored_from_its_parts(
    product: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = next(one for one in product.accounts() if one.platform is Platform.TIKTOK)
    monkeypatch.setattr("aae.platforms.tiktok.wire.SPACING", 0.0)
    product.order("faults", name="tiktok_internal_timeout", platform="tiktok", purpose="metrics", times=3)
    (outcome,) = product.fetch("run-1", [account])
    assert outcome.outcome == "stored", outcome.detail
    today = account.local_day(NOW)
    since = today - timedelta(days=2)
    assert product.stored(account, "daily", since, today) == product.truth(account, "daily", since, today)


PAGE = {Platform.META: 5, Platform.TIKTOK: 6}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small world has many."""
    monkeypatch.setattr("aae.platforms.meta.wire.LARGEST_PAGE", PAGE[Platform.META])
    monkeypatch.setattr("aae.platforms.tiktok.wire.PAGE_SIZE", PAGE[Platform.TIKTOK])


def fewest_calls(product: Bench, account: Account, run_id: str) -> dict[str, int]:
    """The least that a platform lets one ask for what the run stored: by entities and rows, and the size of a page."""
    with reading(product.engine) as connection:
        mine = (fetches.c.account_id == account.id, fetches.c.run_id == run_id)
        slices = connection.execute(select(fetches.c.granularity, fetches.c.rows_fetched).where(*mine)).all()
        levels = select(func.count()).where(entities.c.account_id == account.id).group_by(entities.c.level)
        listed = list(connection.scalars(levels))
    assert len(listed) == 3
    assert {piece.granularity for piece in slices} == {"daily", "hourly"}
    daily = sum(piece.granularity == "daily" for piece in slices)
    if account.platform is Platform.GOOGLE:  # a stream each; Performance Max has no ads and is asked for by itself
        return {"listing": 3, "metrics": 2 * len(slices), "totals": daily}

    def pages(rows: int) -> int:
        return max(1, -(-rows // PAGE[account.platform]))

    metrics = sum(pages(piece.rows_fetched) for piece in slices)
    assert metrics > 2 * len(slices), "there is something to page through"
    return {"listing": sum(map(pages, listed)), "metrics": metrics, "totals": daily}


def seen(product: Bench) -> int:
    """How many calls the platforms have had."""
    return sum(each["count"] for each in product.control("calls"))


def on_record(product: Bench, account: Account, run_id: str) -> dict[str, int]:
    query = (
        select(api_calls.c.purpose, func.sum(api_calls.c.calls))
        .where(api_calls.c.account_id == account.id, api_calls.c.run_id == run_id)
        .group_by(api_calls.c.purpose)
    )
    with reading(product.engine) as connection:
        return {purpose: int(calls) for purpose, calls in connection.execute(query)}


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_an_undisturbed_fetch_makes_the_fewest_calls_that_there_can_be(product: Bench, platform: Platform) -> None:
    account = next(one for one in product.accounts() if one.platform is platform)
    product.fetch("first", [account])  # a token that must be renewed is, by now
    for run_id in ("regular", "once more"):
        before = seen(product)
        (outcome,) = product.fetch(run_id, [account])
        assert outcome.outcome == "stored", outcome.detail
        assert outcome.calls_by == fewest_calls(product, account, run_id) == on_record(product, account, run_id)
        assert outcome.calls == seen(product) - before
        product.clock.advance(timedelta(minutes=30))


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_calls_of_the_daily_look_at_an_account_are_its_own(product: Bench, platform: Platform) -> None:
    account = product.accounts(platforms=[platform])[-1]
    product.fetch("first", [account])
    product.clock.advance(timedelta(days=1))
    before = seen(product)
    (outcome,) = product.fetch("look", [account])
    assert outcome.outcome == "stored", outcome.detail
    assert outcome.calls_by == on_record(product, account, "look")
    assert outcome.calls == seen(product) - before


SECOND_SLICE = {"purpose": "metrics", "after": 1}
TROUBLES: dict[str, tuple[str, dict[str, Any]]] = {
    "a token that ends after a slice": ("reauthorize", {"name": "meta_token_revoked", **SECOND_SLICE}),
    "a token that ends before any": ("reauthorize", {"name": "meta_token_revoked", "purpose": "listing"}),
    "a quota that is used up": ("throttled", {"name": "meta_throttled", **SECOND_SLICE}),
    "slices that fail": ("partial", {"name": "http_500", **SECOND_SLICE}),
    "a listing that fails": ("failed", {"name": "http_502", "purpose": "listing"}),
    "no permission": ("partial", {"name": "meta_no_permission", "purpose": "totals"}),
}


@pytest.mark.parametrize("name", TROUBLES)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_every_call_that_a_platform_has_had_is_on_record_whatever_came_of_it(product: Bench, name: str) -> None:
    account = product.accounts(platforms=[Platform.META])[-1]
    product.fetch("first", [account])
    wanted, fault = TROUBLES[name]
    for run_id, later in (("regular", timedelta(hours=1)), ("with a look", timedelta(days=1))):
        product.clock.advance(later)
        product.order("faults", account=account.external_id, **fault)
        before = seen(product)
        (outcome,) = product.fetch(run_id, product.accounts(ids=[account.id], statuses=None))
        assert outcome.outcome == wanted or run_id == "with a look", outcome
        assert outcome.calls_by == on_record(product, account, run_id)
        assert outcome.calls == seen(product) - before > 0
        product.forgive()


class Trouble(Exception):
    """What nobody has thought of."""


@pytest.mark.parametrize("error", [Trouble, Superseded])
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_calls_of_a_fetch_that_breaks_off_are_on_record(
    product: Bench, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    account, before = product.accounts(platforms=[Platform.META])[-1], seen(product)

    def store_slice(*_: Any, **__: Any) -> None:
        raise error("broken off")

    monkeypatch.setattr("aae.storage.metrics.store_slice", store_slice)
    with pytest.raises(error):
        product.fetch("run", [account])
    assert sum(on_record(product, account, "run").values()) == seen(product) - before > 3


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_calls_of_a_fetch_that_has_no_time_for_a_slice_are_on_record(product: Bench) -> None:
    account = product.accounts(platforms=[Platform.META])[-1]
    (outcome,) = product.fetch("run", [account], deadline=Deadline(0))
    assert outcome.calls_by == on_record(product, account, "run") == {"listing": 3}


def connect_undescribed(product: Bench) -> Connected:
    """Connect the sandbox's accounts by a list that leaves out what they are called."""
    rows = [row | {"name": ""} for row in product.control("accounts")]
    vault = open_stores(product.settings).vault
    listed = read_accounts(json.dumps(rows), "list")
    settings = product.settings
    return connect_all(listed, "list", settings=settings, engine=product.engine, vault=vault, clock=product.now)


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_calls_of_connecting_are_the_accounts_and_need_no_redis(product: Bench, away: bool) -> None:
    if away:
        product = replace(product, settings=product.settings.model_copy(update={"redis_url": NOWHERE}))
    connected = connect_undescribed(product)
    everybody = [account.id for account in product.accounts()]
    assert connected.renewed == len(everybody)
    by_account = select(api_calls.c.account_id, func.sum(api_calls.c.calls)).group_by(api_calls.c.account_id)
    with reading(product.engine) as connection:
        counted = dict(map(tuple, connection.execute(by_account)))
    assert sorted(counted) == everybody
    assert sum(counted.values()) == seen(product)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_connecting_leaves_alone_whom_a_fetch_was_told_to_leave_alone(product: Bench) -> None:
    product.order("faults", name="meta_app_throttled", platform="meta", purpose="metrics")
    (outcome,) = product.fetch("run", product.accounts(platforms=[Platform.META])[-1:])
    assert outcome.outcome == "throttled"
    before = [call for call in product.control("calls") if call["platform"] == "meta"]
    with pytest.raises(Retry, match="asked for patience until"):
        connect_undescribed(product)
    assert [call for call in product.control("calls") if call["platform"] == "meta"] == before


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_report_run_of_meta_costs_its_pages_and_the_polls(product: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aae.platforms.meta.reports._POLL_SECONDS", (0.01,) * 5)
    account = next(one for one in product.accounts() if one.platform is Platform.META)
    today = account.local_day(NOW)
    long = Slice(account.id, Granularity.DAILY, today - timedelta(days=8), today)
    (outcome,) = product.fetch("run-1", [account], pieces=[long])
    fewest = {"metrics": -(-outcome.rows // PAGE[Platform.META]), "totals": 1, "poll": 3}  # asked for, looked at twice
    assert {name: outcome.calls_by[name] for name in fewest} == fewest
