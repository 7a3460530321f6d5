"""How fast numbers get from the platforms into the tables: the product beside a plain script and beside its limits.

A sandbox in a process of its own speaks the three platforms' wires. One user has accounts on all three; more users
repeat a cast of four. In one run, on the same data:

  ours          aae.jobs.fetch for all accounts, as a flow runs it: listing, metrics, totals to reconcile with, storing
                by comparison, publishing; at TikTok's permitted pace of 10 calls a second
  again         the same days once more, nothing having changed: what most of a regular run is
  peer          benchmarks/peer.py: httpx, pandas, to_sql; one account after the other, never waits
  limits        the same rows from memory into tables: DataFrame.to_sql, and executemany of an upsert by the driver
  sandbox       the same requests as ours, bodies discarded: faster than this no client can be

Nothing here is a gate: speeds depend on the machine and on its load, and only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pandas as pd
import redis
from sqlalchemy import Connection, Engine

from aae.jobs.context import Context, open_context, open_stores
from aae.jobs.fetch import AccountOutcome, fetch_account
from aae.jobs.planning import plan_backfill
from aae.model import Account, Platform, Slice, Token, Totals
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all
from aae.platforms import connectors
from aae.platforms.base import Connector
from aae.platforms.transport import Transport
from aae.settings import Settings
from aae.storage import accounts
from aae.storage.engine import reading, upgrade
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly
from aae.vault import Vault
from benchmarks import bench
from benchmarks.bench import Measured
from benchmarks.peer import fetch_everything
from tests.servers import connected, redis_server

NOW = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
UNTIL = NOW.date() - timedelta(days=1)
LEDGERS = (ad_metrics_daily, ad_metrics_hourly)


@dataclass
class Split:
    """Where one-account-at-a-time fetching spends its seconds: ``asking`` includes ``network`` and ``pacing``."""

    asking: float = 0.0
    network: float = 0.0
    pacing: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What all accounts together came to."""

    rows: int
    inserted: int
    calls: int | None
    unhappy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it went over the wire."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    since = UNTIL - timedelta(days=options.days - 1)
    with (
        bench.scratch() as folder,
        bench.databases(options.database, folder) as databases,
        redis_server() as cache,
        bench.sandbox(
            NOW, seed=options.seed, users=options.users, days=options.days + 3, campaigns=3, ads=options.ads
        ) as url,
    ):
        people = _accounts(url)
        new = partial(_product, url, cache, folder, people)
        rounds: defaultdict[str, list[Measured[Fetched]]] = defaultdict(list)
        watched = []
        for _ in range(options.rounds):
            product = new(databases.fresh())
            token = product.google.developer_token.get_secret_value()
            rounds["ours"].append(_cold(product, since))
            rounds["ours, again"].append(_cold(product, since))
            rounds["peer (plain script)"].append(
                bench.apart(bench.measured, plain, people, url, token, since, _plain(databases.fresh()))
            )
            watched.append(_one_at_a_time(new(databases.fresh()), since))
        split, sent, alone = min(watched, key=lambda one: one[2].cost.seconds)
        best = {name: min(each, key=lambda one: one.cost.seconds) for name, each in rounds.items()}
        ceiling = bench.apart(bench.measured, replay, sent)
        limits = bench.apart(storing_limits, product.resolved_database_url, _plain(databases.fresh()))
        _report(options, databases.kind, people, best, ceiling, limits, split, alone)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=2, help="users; two have five accounts (default: %(default)s)")
    parser.add_argument("--ads", type=int, default=4, help="ads in a large ad set (default: %(default)s)")
    parser.add_argument("--days", type=int, default=7, help="days, by day and by the hour (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="the quickest of so many counts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another world (default: %(default)s)")
    parser.add_argument(
        "--database",
        choices=("auto", "mariadb", "sqlite"),
        default="auto",
        help="a private server or a file; auto takes MariaDB where it is installed (default: %(default)s)",
    )
    return parser.parse_args(arguments)


# Ours


def _accounts(url: str) -> list[dict[str, Any]]:
    """Every account of the sandbox with a fresh token, as a list to import."""
    with httpx.Client(base_url=f"{url}/_sandbox") as control:
        keys = [f"{one['platform']}:{one['external_id']}" for one in control.get("/accounts").json()]
        return [control.post("/reauthorize", json={"account": key}).raise_for_status().json() for key in keys]


def _product(url: str, cache: str, folder: Path, people: list[dict[str, Any]], database: str) -> Settings:
    """Settings that point at the sandbox and at an empty, migrated database in which all accounts are connected."""
    environment = httpx.get(f"{url}/_sandbox/settings").json()
    own = {"AAE_DATABASE_URL": database, "AAE_REDIS_URL": cache, "AAE_STATE_DIR": str(folder / "state")}
    settings = bench.settings_of(environment | own)
    rows = read_accounts(orjson.dumps(people).decode(), "sandbox")
    with connected(database) as engine:
        upgrade(engine)
        vault = Vault.from_settings(settings, make=True)
        connect_all(rows, "sandbox", settings=settings, engine=engine, vault=vault, clock=_now)
    return settings


def _cold(settings: Settings, since: date) -> Measured[Fetched]:
    """One fetch in a new process."""
    _forget(settings)
    return bench.apart(bench.measured, fetch_all, settings, since)


def _forget(settings: Settings) -> None:
    """Empty the cache: an answer kept from an earlier fetch would be no fetch at all."""
    with redis.Redis.from_url(settings.redis_url) as client:
        client.flushall()


def fetch_all(settings: Settings, since: date) -> Fetched:
    """All accounts, as many at once as a flow takes."""

    async def together() -> list[AccountOutcome]:
        async with open_context(settings, _now) as context:
            gate = asyncio.Semaphore(settings.fetch.accounts_at_once)

            async def one(account: Account) -> AccountOutcome:
                async with gate:
                    return await _fetch(context, account, since)

            return await asyncio.gather(*(one(account) for account in _connected(context.engine)))

    try:
        return _sum(asyncio.run(together()))
    finally:
        _close(settings)


async def _fetch(context: Context, account: Account, since: date) -> AccountOutcome:
    pieces = plan_backfill([account], context.connectors, since, UNTIL)
    return await fetch_account(context, account, clock=_now, run_id=None, pieces=pieces)


def _sum(outcomes: Sequence[AccountOutcome]) -> Fetched:
    return Fetched(
        rows=sum(one.rows for one in outcomes),
        inserted=sum(one.inserted for one in outcomes),
        calls=sum(one.calls for one in outcomes),
        unhappy=tuple(f"{one.account}: {one.outcome}: {one.detail}" for one in outcomes if one.outcome != "stored"),
    )


def _connected(engine: Engine) -> list[Account]:
    with reading(engine) as connection:
        return accounts.list_accounts(connection)


def _now() -> datetime:
    return NOW


def _close(settings: Settings) -> None:
    """Let go of what a process opens once."""
    stores = open_stores(settings)
    stores.engine.dispose()
    stores.cache.close()
    open_stores.cache_clear()


# Where the time goes


def _one_at_a_time(settings: Settings, since: date) -> tuple[Split, list[Sent], Measured[Fetched]]:
    """A fetch of one account after the other, watched: its split, the requests it sent, what it took."""
    split, sent = Split(), list[Sent]()

    async def sleep(seconds: float) -> None:
        begun = time.perf_counter()
        await asyncio.sleep(seconds)
        split.pacing += time.perf_counter() - begun

    async def in_turn() -> list[AccountOutcome]:
        async with (
            open_context(settings, _now) as product,
            Transport(settings.fetch.request_timeout_seconds, _now, sleep, handler=_Wire(split, sent)) as transport,
        ):
            doors = {name: _Watched(one, split) for name, one in connectors(settings, transport).items()}
            context = replace(product, transport=transport, connectors=doors)
            return [await _fetch(context, account, since) for account in _connected(context.engine)]

    _forget(settings)
    try:
        return split, sent, bench.measured(lambda: _sum(asyncio.run(in_turn())))
    finally:
        _close(settings)


class _Wire(httpx.AsyncHTTPTransport):
    """The real network, with a watch and a notebook."""

    def __init__(self, split: Split, sent: list[Sent]) -> None:
        super().__init__()
        self._split, self._sent = split, sent

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._sent.append(Sent(request.method, str(request.url), dict(request.headers), request.content))
        begun = time.perf_counter()
        response = await super().handle_async_request(request)
        body = await response.aread()
        await response.aclose()
        self._split.network += time.perf_counter() - begun
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(body))


class _Watched:
    """A connector with a watch: what passes within its methods is asking, all else is storing."""

    def __init__(self, inner: Connector, split: Split) -> None:
        self._inner, self._split = inner, split
        self.platform: Platform = inner.platform
        self.rules = inner.rules
        self.check_token, self.accounts, self.describe = inner.check_token, inner.accounts, inner.describe

    async def list_entities(self, account: Account, token: Token) -> pd.DataFrame:
        with self._timed():
            return await self._inner.list_entities(account, token)

    async def fetch_totals(self, account: Account, token: Token, piece: Slice) -> Totals:
        with self._timed():
            return await self._inner.fetch_totals(account, token, piece)

    async def fetch_metrics(self, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
        begun = time.perf_counter()
        async for page in self._inner.fetch_metrics(account, token, piece):
            self._split.asking += time.perf_counter() - begun
            yield page
            begun = time.perf_counter()
        self._split.asking += time.perf_counter() - begun

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._split.asking += time.perf_counter() - begun


# Peer and limits


def plain(people: list[dict[str, Any]], url: str, token: str, since: date, database: str) -> Fetched:
    """The same days of the same accounts by the plain script, which does not count what it asks."""
    rows = fetch_everything(people, url, token, since, UNTIL, database)
    return Fetched(rows, rows, None)


def replay(sent: Sequence[Sent]) -> int:
    """Send the requests again, as many at once as ours, and throw the answers away; returns their bytes."""

    async def together() -> int:
        limits = httpx.Limits(max_connections=8)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            gate = asyncio.Semaphore(8)

            async def one(request: Sent) -> int:
                async with (
                    gate,
                    client.stream(
                        request.method, request.url, headers=request.headers, content=request.body
                    ) as response,
                ):
                    return sum([len(chunk) async for chunk in response.aiter_raw()])

            return sum(await asyncio.gather(*(one(request) for request in sent)))

    return asyncio.run(together())


def storing_limits(source: str, target: str) -> dict[str, Measured[int]]:
    """The rows that ours stored, from memory into an empty database: ``to_sql`` without keys, and into our tables."""
    with connected(source) as engine, reading(engine) as connection:
        frames = {table.name: _as_driver_gives(connection, table.name) for table in LEDGERS}
    with connected(target) as engine:
        upgrade(engine)
        return {name: bench.measured(work, engine, frames) for name, work in (("to_sql", _to_sql), ("upsert", _upsert))}


def _as_driver_gives(connection: Connection, table: str) -> pd.DataFrame:
    rows = connection.exec_driver_sql(f"SELECT * FROM {table}")
    return pd.DataFrame([tuple(row) for row in rows], columns=list(rows.keys()), dtype=object)


def _to_sql(engine: Engine, frames: Mapping[str, pd.DataFrame]) -> int:
    for name, frame in frames.items():
        numbers = dict.fromkeys(("impressions", "clicks", "spend", "conversions", "revenue"), float)
        frame.astype(numbers).to_sql(f"plain_{name}", engine, index=False)
    return sum(map(len, frames.values()))


def _upsert(engine: Engine, frames: Mapping[str, pd.DataFrame]) -> int:
    sqlite = engine.dialect.name == "sqlite"
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        # What the rows refer to is not there.
        cursor.execute("PRAGMA foreign_keys = OFF" if sqlite else "SET foreign_key_checks = 0")
        cursor.execute("BEGIN")
        for name, frame in frames.items():
            names = [str(each) for each in frame.columns]
            columns, marks = ", ".join(names), ", ".join(["?" if sqlite else "%s"] * len(names))
            changes = ", ".join(f"{each} = VALUES({each})" for each in names)
            verb, suffix = ("INSERT OR REPLACE", "") if sqlite else ("INSERT", f" ON DUPLICATE KEY UPDATE {changes}")
            rows = list(frame.itertuples(index=False, name=None))
            cursor.executemany(f"{verb} INTO {name} ({columns}) VALUES ({marks}){suffix}", rows)
        connection.commit()
    finally:
        connection.close()
    return sum(map(len, frames.values()))


def _plain(database: str) -> str:
    return database + "?charset=utf8mb4" if database.startswith("mysql") else database


# Telling


def _report(
    options: argparse.Namespace,
    database: str,
    people: Sequence[Mapping[str, Any]],
    best: Mapping[str, Measured[Fetched]],
    ceiling: Measured[int],
    limits: Mapping[str, Measured[int]],
    split: Split,
    alone: Measured[Fetched],
) -> None:
    rows, calls = alone.value.rows, alone.value.calls
    peer = best["peer (plain script)"].cost.seconds
    runs = {name: (one.value.rows, one.value.calls, one.cost) for name, one in best.items()}
    whole = [
        (name, got, asked, cost.seconds, got / cost.seconds, peer / cost.seconds, cost.cpu, cost.peak_mb)
        for name, (got, asked, cost) in runs.items()
    ]
    storing = alone.cost.seconds - split.asking
    limit = limits["upsert"].cost.seconds
    bounds = [
        ("sandbox, bodies discarded", ceiling.cost.seconds, rows / ceiling.cost.seconds, None),
        ("ours, storing (alone)", storing, rows / storing, limit / storing),
        *(
            (f"{name} from memory", one.cost.seconds, rows / one.cost.seconds, limit / one.cost.seconds)
            for name, one in limits.items()
        ),
    ]
    parts = {
        "network (the sandbox's work included)": split.network,
        "parsing and checking": split.asking - split.network - split.pacing,
        "waiting for TikTok's pace": split.pacing,
        "storing, recording, publishing": storing,
    }
    bench.show(
        f"\nFetched {len(people)} accounts of {options.users} users, {options.days} days by day and by hour, "
        f"{rows:,} rows, into {database}; {calls:,} calls to the sandbox's process over HTTP.\n",
        bench.table(
            "End to end",
            ("", "rows", "calls", "seconds", "rows/s", "x peer", "CPU s", "peak MB"),
            whole,
            caption="Ours also lists entities, reconciles totals, compares with what is stored and publishes; "
            f"'again' finds nothing changed. The quickest of {options.rounds} rounds each.",
        ),
        bench.table(
            "Limits, on the same rows",
            ("", "seconds", "rows/s", "x upsert"),
            bounds,
            caption="The upsert goes into our tables with their keys; to_sql into tables without any.",
        ),
        bench.table(
            "Where the time goes, one account after the other",
            ("", "seconds", "share"),
            [(name, each, f"{each / alone.cost.seconds:.0%}") for name, each in parts.items()],
        ),
        *(f"NOT STORED in '{name}': {line}" for name, one in best.items() for line in one.value.unhappy),
    )
    bench.conclude(
        {
            "benchmark": "fetch",
            "database": database,
            "accounts": len(people),
            "days": options.days,
            "rows": rows,
            "calls": calls,
            "runs": {
                name: {"rows": got, "calls": asked, "seconds": cost.seconds, "rows_per_second": got / cost.seconds}
                | {"times_peer": peer / cost.seconds, "cpu": cost.cpu, "peak_mb": cost.peak_mb}
                for name, (got, asked, cost) in runs.items()
            },
            "limits_seconds": {"sandbox": ceiling.cost.seconds}
            | {name: one.cost.seconds for name, one in limits.items()},
            "split_seconds": parts,
            "not_stored": sum(len(one.value.unhappy) for one in best.values()),
        }
    )


if __name__ == "__main__":
    main()
