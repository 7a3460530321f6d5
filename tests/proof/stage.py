"""The product without Prefect around a sandbox whose world can be changed, with a clock that waiting moves on.

Nothing here really waits: a pause that a platform asks for takes as long as setting the clock. Every moment at which
the sandbox can have answered is known, so what the tables should say is known to the row, also where the clock moved in
the middle of a fetch.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final
from unittest import mock

import httpx
import orjson
import pymysql
import redis
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from aae.cache import SharedState
from aae.jobs import tokens
from aae.jobs.context import Context, open_context, open_stores
from aae.jobs.fetch import AccountOutcome, fetch_account
from aae.model import Account, Granularity, Slice
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all
from aae.platforms import connectors
from aae.platforms.tiktok import wire as tiktok
from aae.platforms.transport import Transport
from aae.sandbox import Clock, Fault, Faults, World, create_app, running
from aae.sandbox.entities import AdAccount
from aae.settings import Settings
from aae.storage import metrics
from aae.storage.attempts import Process
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, ad_metrics_daily, ad_metrics_hourly, entities, fetches, metric_revisions
from tests import servers
from tests.integration.bench import Bench
from tests.proof.worlds import Numbers, Rows, told

HISTORY: Final = {Granularity.DAILY: 6, Granularity.HOURLY: 3}
"""Local days that an account is fetched back: enough to prove the point."""

_FACTS: Final = {Granularity.DAILY: ad_metrics_daily, Granularity.HOURLY: ad_metrics_hourly}


class Killed(BaseException):
    """The process ends here; no ``except`` of the product's may catch it."""


@dataclass
class Mishap:
    """At the ``count``-th request, answer or statement: ``cancel`` or ``kill`` the fetch, let the database ``falter``
    (statements only), or let the ``clock`` jump (requests and answers only)."""

    where: str
    count: int
    what: str
    jump: timedelta = timedelta(minutes=40)
    happened: bool = field(default=False, compare=False)

    def due(self, where: str) -> bool:
        """Whether it happens now; called for each of them, from any thread."""
        if where != self.where or self.happened:
            return False
        self.count -= 1
        self.happened = self.count < 0
        return self.happened


@dataclass
class _Served:
    """The sandbox's app, to be exchanged while it is served."""

    app: Starlette

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Stage:
    """One sandbox, one database, one cache. ``moments`` are all values the clock has had."""

    def __init__(self, bench: Bench, served: _Served) -> None:
        self.bench, self.clock, self.settings, self.engine = bench, bench.clock, bench.settings, bench.engine
        self._served = served
        self.faults = Faults()
        self.worlds: list[tuple[datetime, World]] = []
        self.moments: list[datetime] = []
        self.still = False
        self.mishap: Mishap | None = None
        self._lock = threading.Lock()
        self._lives = 0

    # The platforms' side

    def begin(self, world: World, *, seed: int = 0) -> None:
        """Empty tables, an empty cache, a new world at its anchor, all of its accounts connected."""
        servers.empty(self.engine)
        with redis.Redis.from_url(self.settings.redis_url) as client:
            client.flushall()
        self.faults = Faults(seed)
        self.worlds, self.moments = [], []
        self.clock.set(world.anchor, frozen=True)
        self.moments.append(world.anchor)
        self.show(world)
        self.bench.connect()

    def show(self, world: World) -> None:
        """From now on the platforms are so."""
        if self.worlds:
            self.later(timedelta(seconds=1))  # what was asked before was asked of the other world
        self.worlds.append((self.clock.now(), world))
        self._served.app = create_app(world, clock=self.clock, faults=self.faults)

    def later(self, by: timedelta) -> None:
        """Some time passes."""
        self.clock.advance(by)
        self.moments.append(self.clock.now())

    def trouble(self, *faults: Fault) -> None:
        """Switch faults on."""
        for fault in faults:
            self.faults.add(fault)

    def calls(self) -> int:
        """Requests that the platforms have seen of the present world."""
        return int(sum(self._served.app.state.bench.calls.values()))

    # The product's side

    def accounts(self, **filters: Any) -> list[Account]:
        return self.bench.accounts(**filters)

    def connect_again(self) -> None:
        """The owners of the accounts that are paused connect them again."""
        for account in self.accounts(statuses=("expired", "revoked")):
            row = self.bench.order("reauthorize", account=str(account))
            connect_all(
                read_accounts(orjson.dumps([row]).decode(), "sandbox"),
                "sandbox",
                settings=self.settings,
                engine=self.engine,
                vault=open_stores(self.settings).vault,
                clock=self.clock.now,
            )

    def fetch(
        self,
        run_id: str,
        chosen: Sequence[Account] | None = None,
        *,
        together: bool = False,
        still: bool = False,
        mishap: Mishap | None = None,
        pieces: Callable[[Context, Account], Sequence[Slice]] | None = None,
        timeout: float | None = None,
    ) -> list[AccountOutcome] | None:
        """One fetch, as a run makes it; None if a mishap ended it. ``still``: waiting does not move the clock."""
        self.still, self.mishap = still, mishap
        todo = self.accounts(statuses=None) if chosen is None else list(chosen)
        todo = [account for account in todo if account.status == "active"]

        async def one(context: Context, account: Account) -> AccountOutcome:
            asked = None if pieces is None else pieces(context, account)
            return await fetch_account(context, account, clock=self.clock.now, run_id=run_id, pieces=asked)

        async def all_of_them() -> list[AccountOutcome]:
            async with self._context(timeout) as context:
                if not together:
                    return [await one(context, account) for account in todo]
                tasks = [asyncio.create_task(one(context, account)) for account in todo]
                try:
                    return await asyncio.gather(*tasks)
                finally:  # where one ends, all do
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

        async def run() -> list[AccountOutcome] | None:
            task = asyncio.create_task(all_of_them())
            loop = asyncio.get_running_loop()
            with self._watched_statements(lambda: loop.call_soon_threadsafe(task.cancel)):
                self._cancel = task.cancel
                try:
                    return await task
                except (Killed, asyncio.CancelledError):
                    return None

        try:
            return asyncio.run(run())
        finally:
            self.mishap = None
            if mishap is not None and mishap.happened:
                self._forget()  # the next process knows nothing of this one

    @contextmanager
    def _watched_statements(self, cancel: Callable[[], object]) -> Iterator[None]:
        engine = open_stores(self.settings).engine

        def before(_: object, __: object, statement: str, *___: object) -> None:
            self._statement(statement, cancel)

        event.listen(engine, "before_cursor_execute", before)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", before)

    def _statement(self, statement: str, cancel: Callable[[], object]) -> None:
        with self._lock:
            mishap = self.mishap if self.mishap is not None and self.mishap.due("statement") else None
        if mishap is None:
            return
        if mishap.what == "kill":
            raise Killed
        if mishap.what == "cancel":
            cancel()
            return
        sqlite = self.engine.dialect.name == "sqlite"
        cause = sqlite3.OperationalError("database is locked") if sqlite else pymysql.OperationalError(1213, "Deadlock")
        raise OperationalError(statement, {}, cause)

    def _on_the_wire(self, where: str) -> None:
        mishap = self.mishap
        if mishap is None or not mishap.due(where):
            return
        if mishap.what == "kill":
            raise Killed
        if mishap.what == "cancel":
            self._cancel()
        else:
            self.later(mishap.jump)

    @asynccontextmanager
    async def _context(self, timeout: float | None) -> AsyncIterator[Context]:
        """The product's, whose door leads over our wire and waits by our clock."""
        settings, limit = self.settings, timeout or self.settings.fetch.request_timeout_seconds
        state = SharedState(settings.redis_url, answer_ttl_seconds=settings.fetch.answer_ttl_seconds)
        async with (
            open_context(settings, self.clock.now) as product,
            Transport(limit, self.clock.now, self.sleep, state, handler=_Wire(self)) as transport,
        ):
            try:
                yield replace(product, transport=transport, connectors=connectors(settings, transport))
            finally:
                await state.aclose()

    async def sleep(self, seconds: float) -> None:
        """Waiting, for the product."""
        if not self.still:
            self.later(timedelta(seconds=seconds))
        await asyncio.sleep(0)

    def process(self) -> Process:
        """Who we are, to the product: after a mishap somebody else."""
        return Process("the stage", self._lives, 0)

    def _forget(self) -> None:
        """Let go of everything that a process holds, and be another one."""
        self._lives += 1
        stores = open_stores(self.settings)
        stores.engine.dispose()
        stores.cache.close()
        open_stores.cache_clear()

    # Comparing

    def world_at(self, moment: datetime) -> World:
        """The world that answered at a moment."""
        return next(world for since, world in reversed(self.worlds) if since <= moment)

    def truth(self, account: Account, granularity: Granularity, since: date, until: date, at: datetime) -> Rows:
        """What the platform says at a moment."""
        return told(_there(self.world_at(at), account), granularity, since, until, at)

    def stored(self, account: Account, granularity: Granularity) -> Rows:
        """What the tables say."""
        table = _FACTS[granularity]
        query = (
            select(table, entities.c.level, entities.c.external_id)
            .join_from(table, entities, table.c.entity_id == entities.c.id)
            .where(table.c.account_id == account.id)
        )
        with reading(self.engine) as connection:
            rows = [row._mapping for row in connection.execute(query)]
        return {
            (row["level"], row["external_id"], row["local_date"], row.get("local_hour")): (
                row["impressions"],
                row["clicks"],
                row["spend"],
                row["conversions"],
                row["revenue"],
            )
            for row in rows
        }

    def differences(self, account: Account, *, odd_runs: Collection[str] = ()) -> list[str]:
        """Every row that is not what the platform said when its day was last stored.

        What was stored in ``odd_runs`` was told by a platform that lied, and is not compared.
        """
        wrong: list[str] = []
        for granularity in Granularity:
            have, newest = self.stored(account, granularity), self._newest(account, granularity)
            wrong += [f"{granularity} {key}: no fetch has stored its day" for key in have if key[2] not in newest]
            for day, (begun, ended, run) in newest.items():
                if run in odd_runs:
                    continue
                moments = [moment for moment in dict.fromkeys([begun, *self.moments]) if begun <= moment <= ended]
                said = [self.truth(account, granularity, day, day, moment) for moment in moments]
                mine = {key: row for key, row in have.items() if key[2] == day}
                for key in {key for one in (mine, *said) for key in one}:
                    could: list[Numbers | None] = [one.get(key) for one in said]
                    if mine.get(key) not in could:
                        wrong.append(f"{granularity} {key}: stored {mine.get(key)}, told {could}")
        return wrong

    def unsettled(self, account: Account) -> list[str]:
        """The past days of the history that nobody has asked for since they were over."""
        today, missing = account.local_day(self.clock.now()), []
        for granularity, days in HISTORY.items():
            newest = self._newest(account, granularity)
            for day in (today - timedelta(days=n) for n in range(1, days)):
                over = datetime.combine(day + timedelta(days=1), time(), account.zone).astimezone(UTC)
                if day not in newest or newest[day][0] < over:
                    missing.append(f"{granularity} {day}: last asked for {newest.get(day, ('never',))[0]}")
        return missing

    def entities_differing(self, account: Account) -> list[str]:
        """The entities of the platform's that are not known by their name and parent."""
        above = entities.alias()
        query = (
            select(entities.c.level, entities.c.external_id, entities.c.name, above.c.external_id.label("parent"))
            .outerjoin(above, entities.c.parent_id == above.c.id)
            .where(entities.c.account_id == account.id)
        )
        with reading(self.engine) as connection:
            known = {(row.level, row.external_id): (row.name, row.parent) for row in connection.execute(query)}
        there = _there(self.world_at(self.clock.now()), account)
        return [
            f"{one.level} {one.external_id}: stored {known.get((one.level, one.external_id))}, told {one.name}"
            for one in (*there.campaigns, *there.ad_sets, *there.ads)
            if known.get((one.level, one.external_id)) != (one.name, one.parent)
        ]

    def stale_frames(self, account: Account) -> list[str]:
        """Where the cached hot window is not what the tables say, though of their version."""
        far = date(2000, 1, 1)
        with reading(self.engine) as connection:
            fresh = metrics.read_frames(connection, account.id, daily_since=far, hourly_since=far)
        kept = open_stores(self.settings).cache.get_frames(account, fresh.version)
        if kept is None:
            return ["no frames of the present version"]
        return [
            name for name in ("entities", "daily", "hourly") if not getattr(kept, name).equals(getattr(fresh, name))
        ]

    def picture(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of the tables that hold numbers, by natural keys: no surrogate ids, no moments."""
        above, own = entities.alias(), [ad_accounts.c.platform, ad_accounts.c.external_id]
        named = [*own, entities.c.level, entities.c.external_id]

        def facts(table: Any, *columns: Any) -> Any:
            return (
                select(*named, *columns)
                .join_from(table, ad_accounts, table.c.account_id == ad_accounts.c.id)
                .join(entities, table.c.entity_id == entities.c.id)
            )

        measures = ("utc_start", "impressions", "clicks", "spend", "conversions", "revenue", "attribution")
        revision = ("granularity", "local_date", "local_hour", "metric", "old", "new")
        queries = {
            "daily": facts(ad_metrics_daily, *(ad_metrics_daily.c[name] for name in ("local_date", *measures))),
            "hourly": facts(
                ad_metrics_hourly, *(ad_metrics_hourly.c[name] for name in ("local_date", "local_hour", *measures))
            ),
            "revisions": facts(metric_revisions, *(metric_revisions.c[name] for name in revision)),
            "entities": select(
                *named,
                above.c.external_id,
                *(entities.c[name] for name in ("name", "status", "daily_budget", "channel")),
            )
            .join_from(entities, ad_accounts, entities.c.account_id == ad_accounts.c.id)
            .outerjoin(above, entities.c.parent_id == above.c.id),
        }
        with reading(self.engine) as connection:
            return {
                name: sorted((tuple(row) for row in connection.execute(query)), key=repr)
                for name, query in queries.items()
            }

    def log(self, account: Account) -> list[Any]:
        """The log of fetches, oldest first."""
        query = select(fetches).where(fetches.c.account_id == account.id).order_by(fetches.c.id)
        with reading(self.engine) as connection:
            return list(connection.execute(query))

    def _newest(self, account: Account, granularity: Granularity) -> dict[date, tuple[datetime, datetime, str]]:
        """When and in which run each day was stored last."""
        newest: dict[date, tuple[datetime, datetime, str]] = {}
        for row in self.log(account):
            if (row.outcome, row.granularity) == ("stored", granularity):
                piece = Slice(account.id, granularity, row.since, row.until)
                newest |= dict.fromkeys(piece.days, (row.started_at, row.finished_at, row.run_id))
        return newest


class _Wire(httpx.AsyncHTTPTransport):
    """The real network, on which mishaps happen."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(verify=False)  # there is no certificate to see, and reading our own takes long
        self._stage = stage

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._stage._on_the_wire("request")
        response = await super().handle_async_request(request)
        self._stage._on_the_wire("answer")
        return response


@contextmanager
def staged(engine: Engine, redis_url: str, folder: Path, *, hourly_days: int = 1) -> Iterator[Stage]:
    """A stage on migrated tables; :meth:`Stage.begin` puts a world on it.

    Every run asks for ``hourly_days`` by the hour again.
    """
    clock = Clock(datetime(2026, 6, 1, tzinfo=UTC), frozen=True)
    served = _Served(create_app(World(0, clock.now(), (), ()), clock=clock))
    # The sandbox takes any pace.
    with running(Starlette(routes=[Mount("/", served)])) as url, mock.patch.object(tiktok, "SPACING", 0.0):
        settings = _settings(
            httpx.get(f"{url}/_sandbox/settings").json()
            | {
                "AAE_DATABASE_URL": engine.url.render_as_string(hide_password=False),
                "AAE_REDIS_URL": redis_url,
                "AAE_STATE_DIR": str(folder),
                "AAE_ENCRYPTION_KEYS": "test:" + base64.b64encode(bytes(range(32))).decode(),
                # The clock is set; an answer of a moment ago must not hide that.
                "AAE_FETCH__ANSWER_TTL_SECONDS": "0",
                "AAE_FETCH__FIRST_DAYS": str(HISTORY[Granularity.DAILY]),
                "AAE_FETCH__FIRST_HOURLY_DAYS": str(HISTORY[Granularity.HOURLY]),
                "AAE_FETCH__RECENT_DAYS": "2",
                "AAE_FETCH__HOURLY_DAYS": str(hourly_days),
            }
        )
        stage = Stage(Bench(url, settings, engine, clock), served)
        ours = {"this_process": stage.process, "is_alive": lambda one: one == stage.process()}
        try:
            with mock.patch.multiple(tokens, **ours):
                yield stage
        finally:
            stage._forget()


def _settings(environment: dict[str, str]) -> Settings:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AAE_")}
    with mock.patch.dict(os.environ, kept | environment, clear=True):
        return Settings(_env_file=None)


def _there(world: World, account: Account) -> AdAccount:
    there = world.account(account.platform, account.external_id)
    assert there is not None
    return there
