"""Redis, the ad platforms, the name service and the clock misbehave in the middle of a job: the tables do not care."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError

from aae.deadline import Deadline
from aae.errors import AaeError, Retry
from aae.jobs.context import open_context, open_stores
from aae.jobs.detect import detect_user
from aae.jobs.fetch import AccountOutcome, fetch_account
from aae.jobs.report import editions, report_user
from aae.jobs.tokens import TokenResult, check_account
from aae.model import Account, Platform
from aae.platforms.transport import Transport
from aae.sandbox import World
from aae.sandbox.faults import CATALOGUE
from aae.storage import accounts
from aae.storage.engine import reading
from aae.storage.schema import (
    ad_accounts,
    ad_metrics_daily,
    ad_metrics_hourly,
    entities,
    fetches,
    incidents,
    metric_revisions,
    notifications,
    reports,
    token_refreshes,
)
from aae.storage.transact import is_passing
from tests import servers
from tests.integration.bench import Bench, bench
from tests.integration.cache_server import TROUBLES, CacheServer

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
LATER = ANCHOR + timedelta(days=1)
"""When every run that still owes something has had the chance to bring it."""


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=10, ahead=3, users=1, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def engine(tmp_path: Path, _sqlite_template: Path) -> Iterator[Engine]:
    """Only SQLite: what the database does is not the question here."""
    shutil.copy(_sqlite_template, tmp_path / "aae.db")
    with servers.connected(f"sqlite:///{tmp_path / 'aae.db'}") as engine:
        yield engine


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with opened(world, engine, redis_url, monkeypatch) as it:
        yield it


@pytest.fixture
def in_time(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with opened(world, engine, redis_url, monkeypatch, clock_runs=True) as it:
        yield it


@contextmanager
def opened(
    world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch, *, clock_runs: bool = False
) -> Iterator[Bench]:
    """The product; waiting takes no time in it, but with ``clock_runs`` its clock moves on all the same."""
    few = {
        "AAE_FETCH__FIRST_DAYS": "6",
        "AAE_FETCH__FIRST_HOURLY_DAYS": "2",
        "AAE_FETCH__HOURLY_DAYS": "1",
        "AAE_FETCH__REQUEST_TIMEOUT_SECONDS": "1",
    }
    with bench(world, engine, redis_url, monkeypatch, **few) as it:

        async def sleep(seconds: float) -> None:
            if clock_runs:
                it.clock.advance(timedelta(seconds=seconds))

        monkeypatch.setattr("aae.jobs.context.Transport", partial(Transport, sleep=sleep))
        # Turns are counted in real time, which does not pass here: waiting for them would move the clock ever further.
        monkeypatch.setattr("aae.platforms.tiktok.wire.SPACING", 0.0)
        it.connect()
        yield it


def assert_complete(product: Bench, account: Account) -> None:
    """The tables say what the platform says, by day and by hour; a row too many or too few shows."""
    today = account.local_day(product.now())
    since = today - timedelta(days=5)
    assert product.stored(account, "daily", since, today) == product.truth(account, "daily", since, today)
    hourly = product.truth(account, "hourly", today, today)
    if account.platform is Platform.META:  # which gives no purchases by the hour
        hourly = [row | {"conversions_micros": None, "revenue_micros": None} for row in hourly]
    assert product.stored(account, "hourly", today, today) == hourly


def check(product: Bench, account: Account, *, now: datetime | None = None) -> TokenResult:
    async def checked() -> TokenResult:
        async with open_context(product.settings, product.now) as context:
            return await check_account(context, account, now=now or product.now(), run_id="check")

    return asyncio.run(checked())


def told(product: Bench) -> list[str]:
    with reading(product.engine) as connection:
        return sorted(connection.scalars(select(notifications.c.kind)))


# --- the ad platforms -----------------------------------------------------------------------------------------------

DEAD = {
    "meta_token_expired",
    "meta_token_revoked",
    "tiktok_token_expired",
    "tiktok_token_revoked",
    "google_invalid_grant",
}
"""Faults after which only the owner can help."""
VALUES = {"hang": 5, "drip": 0.1, "slow": 0.1, "google_throttled": 7200, "meta_throttled": 30}
TIMES = {"hang": 3, "drip": 3}
# What can happen everywhere happens here on one platform after the other: the connectors' own tests have all.
FAULTS = [(name, kind.platforms[number % len(kind.platforms)]) for number, (name, kind) in enumerate(CATALOGUE.items())]


@pytest.mark.parametrize(("fault", "platform"), FAULTS)
def test_whatever_a_platform_does_in_the_middle_of_a_check_and_of_a_fetch_its_numbers_come_in_the_end(
    in_time: Bench, fault: str, platform: Platform
) -> None:
    product = in_time
    (account,) = product.accounts(platforms=[platform])
    trouble = {"name": fault, "platform": platform, "value": VALUES.get(fault), "times": TIMES.get(fault)}

    product.order("faults", **trouble)
    try:
        checked = check(product, account).outcome
    except AaeError as error:
        checked = type(error).__name__
    assert (checked == "permanent_failure") == (fault in DEAD), checked
    recover(product, account, dead=fault in DEAD)

    # Google's token has ended by now: its fetch begins with a new one.
    product.clock.advance(timedelta(hours=3))
    strikes = {"after": 2} if fault in DEAD else {"purpose": "metrics", "after": 1}
    product.order("faults", **trouble, **({} if fault == "google_invalid_grant" else strikes))
    (outcome,) = product.fetch("run-1", [account])
    assert outcome.outcome == "stored" or outcome.detail, "a reason is told"
    assert (outcome.outcome == "reauthorize") == (fault in DEAD)
    recover(product, account, dead=fault in DEAD)
    tries = 1
    while outcome.retry and tries <= 3:
        product.clock.advance(timedelta(seconds=300))
        (outcome,) = product.fetch("run-1", [account])
        tries += 1
    assert tries <= 2 or outcome.outcome == "stored", "one try more is enough when the trouble is over"

    product.clock.set(LATER)
    (outcome,) = product.fetch("run-2", product.accounts(platforms=[platform]))
    assert (outcome.outcome, outcome.owed) == ("stored", 0), outcome
    assert_complete(product, account)
    assert told(product) == (["token_expired"] * 2 + ["token_recovered"] * 2 if fault in DEAD else [])


def recover(product: Bench, account: Account, *, dead: bool) -> None:
    """The trouble is over; who lost the authorization gives it again."""
    product.forgive()
    paused = product.accounts(platforms=[account.platform]) == []
    assert paused == dead
    if dead:
        product.connect()
    product.clock.advance(timedelta(hours=2))
    assert check(product, account).outcome in ({"recovered"} if dead else {"still_valid", "refreshed"})


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache() -> Iterator[CacheServer]:
    with CacheServer() as server:
        yield server


def all_jobs(product: Bench, during: Callable[[str], None]) -> dict[str, Any]:
    """A day of the product; ``during`` is called in the middle of each job. What the tables say in the end."""
    (google,) = product.accounts(platforms=[Platform.GOOGLE])

    async def check_and_fetch() -> list[AccountOutcome]:
        async with open_context(product.settings, product.now) as context:
            first, *others = product.accounts()
            await check_account(context, first, now=product.now(), run_id="check")
            during("check")
            for each in others:
                await check_account(context, each, now=product.now(), run_id="check")
            done = []
            for each in product.accounts():
                if each == google:
                    during("fetch")
                done.append(await fetch_account(context, each, clock=product.now, run_id="fetch"))
            return done

    assert {outcome.outcome for outcome in asyncio.run(check_and_fetch())} == {"stored"}
    stores = open_stores(product.settings)
    with reading(product.engine) as connection:
        (user,) = accounts.list_users(connection)
    during("detect")
    found = detect_user(stores, user, now=product.now(), sensitivity="high", again=False, dry_run=False)
    during("report")
    (edition,) = editions(stores, [user], now=product.now(), day=None)
    written = report_user(stores, user, now=edition.at, day=edition.day, dry_run=False)
    assert (found.outcome, written.outcome) == ("judged", "written")
    return tables(product)


def tables(product: Bench) -> dict[str, list[tuple[Any, ...]]]:
    """What the tables say, in an order of their own: a row that is there twice shows."""
    measures = ("local_date", "impressions", "clicks", "spend", "conversions", "revenue")
    queries = {
        "daily": select(ad_metrics_daily.c.entity_id, *(ad_metrics_daily.c[name] for name in measures)),
        "hourly": select(
            ad_metrics_hourly.c.entity_id,
            ad_metrics_hourly.c.local_hour,
            *(ad_metrics_hourly.c[name] for name in measures),
        ),
        "entities": select(entities.c.external_id, entities.c.name, entities.c.status),
        "revisions": select(metric_revisions.c.entity_id, metric_revisions.c.old, metric_revisions.c.new),
        "fetches": select(fetches.c.granularity, fetches.c.since, fetches.c.until, fetches.c.outcome, fetches.c.drift),
        "tokens": select(token_refreshes.c.account_id, token_refreshes.c.outcome, token_refreshes.c.token_version),
        "accounts": select(ad_accounts.c.external_id, ad_accounts.c.status, ad_accounts.c.data_through),
        "incidents": select(incidents.c.fingerprint, incidents.c.state, incidents.c.severity),
        "reports": select(reports.c.user_id, reports.c.report_date, reports.c.html, reports.c.csv),
        "notifications": select(notifications.c.dedupe_key, notifications.c.title, notifications.c.message),
    }
    with reading(product.engine) as connection:
        return {name: sorted(map(tuple, connection.execute(query)), key=str) for name, query in queries.items()}


@pytest.fixture(scope="module")
def undisturbed(
    world: World, _redis_server: str, _sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("undisturbed") / "aae.db"
    shutil.copy(_sqlite_template, path)
    with pytest.MonkeyPatch.context() as monkeypatch, servers.connected(f"sqlite:///{path}") as engine:
        monkeypatch.setenv("AAE_STATE_DIR", str(path.parent))
        with opened(world, engine, _redis_server, monkeypatch) as product:
            said = all_jobs(product, lambda job: None)
    assert all(said[name] for name in said if name not in {"revisions", "incidents"}), "there is something to compare"
    return said


@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_redis_does_in_the_middle_of_the_jobs_the_tables_say_the_same_and_little_time_is_lost(
    world: World,
    engine: Engine,
    cache: CacheServer,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
    trouble: str,
) -> None:
    monkeypatch.setattr("aae.cache._TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("aae.cache._QUIET_SECONDS", 0.5)
    happened = []

    def during(job: str) -> None:
        if happened:
            cache.end(trouble)
        happened.append(job)
        cache.begin(trouble)

    with opened(world, engine, cache.url, monkeypatch) as product:
        began = time.monotonic()
        assert all_jobs(product, during) == undisturbed
        assert time.monotonic() - began < 30
    assert happened == ["check", "fetch", "detect", "report"]
    cache.end(trouble)


# --- the name service -------------------------------------------------------------------------------------------------


@contextmanager
def no_names() -> Iterator[None]:
    """No host name is known, as when the name service is down; addresses still are."""

    def fails(host: Any, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket, "getaddrinfo", fails)
        yield


def test_without_a_name_service_a_fetch_says_so_changes_nothing_and_is_made_up_for_by_a_try_more(
    product: Bench,
) -> None:
    settings = product.settings
    by_name = settings.tiktok.model_copy(update={"base_url": product.url.replace("127.0.0.1", "localhost")})
    redis_by_name = settings.redis_url.replace("127.0.0.1", "localhost")
    named = replace(product, settings=settings.model_copy(update={"redis_url": redis_by_name, "tiktok": by_name}))
    (account,) = product.accounts(platforms=[Platform.TIKTOK])
    with no_names():
        (outcome,) = named.fetch("run-1", [account])
        with pytest.raises(Retry, match="could not be reached"):
            check(named, account)
    assert (outcome.outcome, outcome.retry) == ("failed", True)
    assert "could not be reached" in str(outcome.detail)
    (outcome,) = named.fetch("run-1", [account])
    assert outcome.outcome == "stored"
    assert_complete(product, account)
    assert told(product) == []


def test_a_database_whose_name_cannot_be_resolved_is_worth_another_try() -> None:
    with (
        servers.connected("mysql+pymysql://aae@database.invalid/aae") as engine,
        no_names(),
        pytest.raises(OperationalError) as caught,
    ):
        engine.connect()
    assert is_passing(caught.value)


# --- the clock --------------------------------------------------------------------------------------------------------

JUMPS = [timedelta(hours=1), timedelta(hours=-1), timedelta(days=1), timedelta(days=-1)]


class WrongClock:
    """The jobs' clock, which from some call on is wrong; the platforms' goes on as it should."""

    def __init__(self, right: Callable[[], datetime], by: timedelta, *, after: int) -> None:
        self._right, self._by, self._after = right, by, after

    def __call__(self) -> datetime:
        self._after -= 1
        return self._right() + (self._by if self._after < 0 else timedelta(0))


def fetch_with(product: Bench, clock: Callable[[], datetime], run_id: str) -> list[AccountOutcome]:
    async def all_of_them() -> list[AccountOutcome]:
        async with open_context(product.settings, clock) as context:
            return [await fetch_account(context, account, clock=clock, run_id=run_id) for account in product.accounts()]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("jump", JUMPS, ids=str)
@pytest.mark.parametrize("after", [0, 12], ids=["before", "in the middle"])
def test_a_clock_that_jumps_does_no_lasting_harm(product: Bench, jump: timedelta, after: int) -> None:
    for account in product.accounts():
        check(product, account)
    active = product.accounts()
    fetch_with(product, WrongClock(product.now, jump, after=after), "run-1")
    assert product.accounts() == active, "no token is called dead"
    # The clock is right again.
    product.clock.advance(timedelta(minutes=5))
    assert {outcome.outcome for outcome in product.fetch("run-1")} == {"stored"}
    product.clock.set(LATER)
    assert {outcome.outcome for outcome in product.fetch("run-2")} == {"stored"}
    if jump > timedelta(0):
        # What was stored with tomorrow's time counts as tomorrow's daily reading of older days; the next one mends it.
        product.clock.advance(timedelta(days=1))
        assert {outcome.outcome for outcome in product.fetch("run-3")} == {"stored"}
    for account in active:
        assert_complete(product, account)
        assert check(product, account).outcome in {"still_valid", "refreshed"}
    assert product.accounts() == active
    assert told(product) == []


def test_a_token_that_was_renewed_by_a_wrong_clock_is_renewed_again_when_it_really_ends(product: Bench) -> None:
    (account,) = product.accounts(platforms=[Platform.GOOGLE])
    ahead = product.now() + timedelta(days=1)
    assert check(product, account, now=ahead).outcome == "refreshed"
    product.clock.advance(timedelta(hours=2))
    (outcome,) = product.fetch("run-1", [account])
    assert outcome.outcome == "stored"
    assert_complete(product, account)


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_pause_that_a_wrong_clock_has_begun_ends(product: Bench, jump: timedelta) -> None:
    (account,) = product.accounts(platforms=[Platform.META])
    check(product, account)
    product.order("faults", name="meta_throttled", platform=Platform.META, value=5, times=1)
    outcomes = fetch_with(product, WrongClock(product.now, jump, after=0), "run-1")
    assert "throttled" in {outcome.outcome for outcome in outcomes}
    with redis.Redis.from_url(product.settings.redis_url) as client:
        left = [client.ttl(key) for key in client.keys("aae:blocked:meta:*")]
        # The five minutes are over by every clock.
        client.flushall()
    assert left
    assert 0 < max(left) <= 6 * 60
    (outcome,) = product.fetch("run-1", [account])
    assert outcome.outcome == "stored"


def test_time_limits_do_not_move_with_the_clock() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        deadline = Deadline(3300)
        for jump in JUMPS:
            monkeypatch.setattr(time, "time", partial(float, time.monotonic() + jump.total_seconds()))
            assert not deadline.passed
