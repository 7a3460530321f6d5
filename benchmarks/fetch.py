"""How fast numbers get from the platforms into the tables: the product beside its peers and beside its limits.

One user's accounts on the chosen platforms, copied as often as asked; every client asks the same process for the same
days over the same wire and stores into the same database server, one after the other:

  ours          aae.jobs.fetch for all accounts, as a flow runs it: listing, metrics, totals to reconcile with, storing
                by comparison, publishing; at TikTok's permitted pace of 10 calls a second
  again         the same days once more, nothing having changed: what most of a regular run is
  plain         a script with httpx, pandas and to_sql; one account after the other
  dlt           dlt's REST client into its SQLAlchemy destination, in an environment of its own (make peers)
  singer        a tap and a target of Meltano's singer-sdk, joined by a pipe, in an environment of its own (make peers)
  limits        the same rows into tables without asking anybody: LOAD DATA of a file that is ready, executemany of an
                upsert by the driver, DataFrame.to_sql
  ceiling       the same requests as ours, bodies discarded: faster than this no client can be

What answers is no sandbox but a tape of one (benchmarks/tape.py), whose ceiling is far above every client. The peers
append, and neither list entities nor reconcile. Nothing here is a gate: speeds depend on the machine and on its load,
and only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import httpx
import orjson
import pandas as pd
import redis
from sqlalchemy import Connection, Engine, inspect

from aae.jobs.context import Context, open_context, open_stores
from aae.jobs.fetch import AccountOutcome, _AccountFetch, fetch_account, publish
from aae.jobs.planning import plan_backfill
from aae.model import Account, Granularity, Platform, Slice, Token, Totals
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all
from aae.platforms import connectors
from aae.platforms.base import Connector
from aae.platforms.meta.wire import LARGEST_PAGE
from aae.platforms.tiktok.wire import PAGE_SIZE, SPACING
from aae.platforms.transport import Transport
from aae.settings import Settings
from aae.storage import accounts, loading
from aae.storage.engine import reading, upgrade
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly
from aae.vault import Vault
from benchmarks import bench, tape
from benchmarks.bench import Cost, Measured
from benchmarks.peers.wire import Job
from benchmarks.tape import Tape
from tests.servers import connected, redis_server

NOW = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
UNTIL = NOW.date() - timedelta(days=1)
LEDGERS = (ad_metrics_daily, ad_metrics_hourly)
ROOT: Final = Path(__file__).parents[1]
PEERS: Final = ("plain", "dlt", "singer")
BOUND_MB: Final = 1024
"""What a fetch of any size is to stay below."""

LIMIT_ROWS: Final = 200_000
"""So many rows are enough to know a limit by."""

WATCHED_ACCOUNTS: Final = 20
"""So many accounts are enough to know where the time goes."""


@dataclass
class Split:
    """Where one-account-at-a-time fetching spends its seconds: ``asking`` includes ``network`` and ``pacing``."""

    asking: float = 0.0
    network: float = 0.0
    pacing: float = 0.0
    storing: float = 0.0
    publishing: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What all accounts together came to."""

    rows: int
    inserted: int
    calls: int | None
    unhappy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One client's quickest go, and what the tape was asked meanwhile."""

    rows: int
    calls: int
    passed: int
    cost: Cost
    unhappy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """What every client finds: the tape, the templates and all accounts, where to store, which days."""

    tape: Tape
    templates: list[dict[str, Any]]
    people: list[dict[str, Any]]
    databases: bench.Databases
    product: Callable[[list[dict[str, Any]], str], Settings]
    since: date


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    since = UNTIL - timedelta(days=options.days - 1)
    with (
        bench.scratch() as folder,
        bench.databases(options.database, folder) as databases,
        redis_server() as cache,
        bench.sandbox(
            NOW, seed=options.seed, users=2, days=options.days + 3, campaigns=3, ads=_ads_per_set(options.ads)
        ) as url,
        tape.running(url) as recorder,
    ):
        templates = [one for one in _accounts(recorder.url) if one["platform"] in options.platforms]
        people, copies = _copied(templates, options.accounts)
        recorder.copy(copies)
        product = partial(_product, recorder.url, cache, folder)
        stage = Stage(recorder, templates, people, databases, product, since)
        contest = _Contest(stage)
        for number in range(options.rounds):
            for name in options.only:
                bench.progress(f"round {number + 1}: {name}, {len(people):,} accounts")
                contest.run(name)
        _report(options, stage, contest)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=10, help="accounts (default: %(default)s)")
    parser.add_argument("--ads", type=int, default=100, help="ads of each, or a few more (default: %(default)s)")
    parser.add_argument("--days", type=int, default=3, help="days, by day and by the hour (default: %(default)s)")
    parser.add_argument(
        "--platforms",
        nargs="+",
        choices=tuple(Platform),
        default=["meta", "google"],
        help="in equal shares (default: meta google; TikTok's pace would be what is measured)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("ours", "again", *PEERS),
        default=["ours", "again", *PEERS],
        help="clients, in this order; 'again' comes after ours (default: all)",
    )
    parser.add_argument("--rounds", type=int, default=1, help="the quickest of so many counts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another world (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument(
        "--database",
        choices=("auto", "mariadb", "sqlite"),
        default="auto",
        help="a private server or a file; auto takes MariaDB where it is installed (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if "again" in options.only and "ours" not in options.only[: options.only.index("again")]:
        parser.error("--only: 'again' needs 'ours' before it")
    return options


def minimum_calls(platform: Platform, entities: Sequence[int], slices: Sequence[int], totals: int) -> int:
    """The fewest calls that can bring an account, polls of report runs aside.

    Every page of a listing per level (``entities``) and of each slice (its rows), and a call for each of the totals;
    what is empty still takes one. Google answers a query at once whatever it finds, and a slice is two of them: the
    ads, and the campaigns that have none.
    """
    page = {Platform.META: LARGEST_PAGE, Platform.TIKTOK: PAGE_SIZE}.get(platform)
    if page is None:
        return len(entities) + 2 * len(slices) + totals
    return sum(max(1, math.ceil(rows / page)) for rows in (*entities, *slices)) + totals


# The accounts


def _ads_per_set(ads: int) -> int:
    """The sandbox's measure, for at least so many ads that deliver: in six large ad sets and two smaller ones."""
    return max(1, math.ceil((ads + 5) / 8))


def _copied(templates: Sequence[dict[str, Any]], number: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """So many accounts, the platforms in turn, and the template of each that is a copy of one.

    An id stays as long as it was, and no copy's meets another's: the templates' lie within a million.
    """
    people, copies = [], {}
    for place in range(number):
        lap, template = divmod(place, len(templates))
        one = templates[template]
        own = str(int(one["external_id"]) + lap * 1_000_000)
        people.append({**one, "external_id": own})
        if lap:
            copies[own] = one["external_id"]
    return people, copies


# The clients


class _Contest:
    """Every client's quickest run."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._taped: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.missing: dict[str, str] = {}
        self.asked: tuple[tape.Asked, ...] = ()
        self.settings: Settings | None = None

    @property
    def best_peer(self) -> float | None:
        """Rows per second of the quickest one that ran."""
        speeds = (one.rows / one.cost.seconds for name, one in self.runs.items() if name in PEERS)
        return max(speeds, default=None)

    def run(self, name: str) -> None:
        """One go of a client, after a first one for the tape."""
        stage = self._stage
        if name in PEERS and (lacking := _lacking(name, stage.databases.kind)):
            self.missing[name] = lacking
            return
        if name not in self._taped:
            self._go(name, stage.templates)
            self._taped |= {name, "again"}  # which asks what ours does
        run = self._go(name, stage.people)
        self.runs[name] = min((run, self.runs.get(name, run)), key=lambda one: one.cost.seconds)

    def _go(self, name: str, people: list[dict[str, Any]]) -> Run:
        stage = self._stage
        if name in PEERS:
            database = _plain(stage.databases.fresh())
            return self._heard(lambda: _peer(name, stage, people, database))
        if name == "ours":
            self.settings = stage.product(people, stage.databases.fresh())
        settings = self.settings
        assert settings is not None
        run = self._heard(lambda: _cold(settings, stage.since))
        if name == "ours":
            self.asked = stage.tape.heard().asked
        return run

    def _heard(self, go: Callable[[], Measured[Fetched]]) -> Run:
        self._stage.tape.forget()
        done, heard = go(), self._stage.tape.heard()
        return Run(done.value.rows, len(heard.asked), heard.passed, done.cost, done.value.unhappy)


def _python(peer: str) -> Path:
    """The peer's own; the plain script needs nothing that the product does not bring."""
    return Path(sys.executable) if peer == "plain" else Path(sys.prefix, "peers", peer, "bin", "python")


def _lacking(peer: str, database: str) -> str:
    """Why a peer cannot run, if it cannot."""
    if not _python(peer).exists():
        return f"{peer} is left out: it is not installed; make peers"
    if peer == "singer" and database.startswith("SQLite"):
        return f"{peer} is left out: its SDK gives decimals to the driver, and SQLite's takes none"
    return ""


def _peer(peer: str, stage: Stage, people: list[dict[str, Any]], database: str) -> Measured[Fetched]:
    """One run of a peer, in a process of its own; what it took is what it says, without the start of the process."""
    token = httpx.get(f"{stage.tape.url}/_sandbox/settings").json()["AAE_GOOGLE__DEVELOPER_TOKEN"]
    job = Job(people, stage.tape.url, token, str(stage.since), str(UNTIL), database)
    with bench.scratch() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), "TMPDIR": str(folder)}
        done = subprocess.run(
            [_python(peer), "-m", f"benchmarks.peers.{peer if peer == 'plain' else f'with_{peer}'}"],
            input=json.dumps(asdict(job)),
            text=True,
            capture_output=True,
            cwd=folder,
            env=environment,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"The peer {peer} failed:\n{done.stderr[-4000:]}")
    told = json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])
    rows = _rows_in(database)
    if rows != told.pop("rows"):
        raise SystemExit(f"The peer {peer} has stored {rows:,} rows, and says otherwise.")
    return Measured(Fetched(rows, rows, None), Cost(**told))


def _rows_in(database: str) -> int:
    """Rows of all tables that a peer made, other than those for itself."""
    with connected(database) as engine, reading(engine) as connection:
        names = [name for name in inspect(connection).get_table_names() if not name.startswith("_")]
        return sum(connection.exec_driver_sql(f"SELECT COUNT(*) FROM {name}").scalar_one() for name in names)


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


def _one_at_a_time(settings: Settings, since: date) -> tuple[Split, Measured[Fetched]]:
    """A fetch of one account after the other, watched: its split, what it took."""
    split = Split()

    async def sleep(seconds: float) -> None:
        begun = time.perf_counter()
        await asyncio.sleep(seconds)
        split.pacing += time.perf_counter() - begun

    async def in_turn() -> list[AccountOutcome]:
        async with (
            open_context(settings, _now) as product,
            Transport(settings.fetch.request_timeout_seconds, _now, sleep, handler=_Wire(split)) as transport,
        ):
            doors = {name: _Watched(one, split) for name, one in connectors(settings, transport).items()}
            context = replace(product, transport=transport, connectors=doors)
            return [await _fetch(context, account, since) for account in _connected(context.engine)]

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def go(*arguments: Any, **more: Any) -> Any:
            begun = time.perf_counter()
            try:
                return work(*arguments, **more)
            finally:
                setattr(split, part, getattr(split, part) + time.perf_counter() - begun)

        return go

    _forget(settings)
    try:
        with (
            mock.patch("aae.jobs.fetch.publish", timed("publishing", publish)),
            mock.patch.object(_AccountFetch, "_store", timed("storing", _AccountFetch._store)),
        ):
            return split, bench.measured(lambda: _sum(asyncio.run(in_turn())))
    finally:
        _close(settings)


class _Wire(httpx.AsyncHTTPTransport):
    """The real network, with a watch."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self._split = split

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
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


# Limits


def storing_limits(source: str, target: str, folder: Path) -> dict[str, Measured[int]]:
    """Some of the rows that ours stored, without asking anybody, into empty tables.

    ``LOAD DATA`` (where there is such a thing) and the upsert go into our tables, ``to_sql`` into some without keys.
    """
    with connected(source) as engine, reading(engine) as connection:
        frames = {table.name: _as_driver_gives(connection, table.name) for table in LEDGERS}
    works: dict[str, Callable[[Engine, Mapping[str, pd.DataFrame]], int]] = {"to_sql": _to_sql, "upsert": _upsert}
    with connected(target) as engine:
        upgrade(engine)
        took = {name: bench.measured(work, engine, frames) for name, work in works.items()}
        if engine.dialect.name == "sqlite":
            return took
        files = {name: _as_file(frame, folder / f"{name}.csv") for name, frame in frames.items()}
        for name in frames:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"TRUNCATE TABLE {name}")
        return {"LOAD DATA": bench.measured(_load_data, engine, files, frames)} | took


def _as_file(frame: pd.DataFrame, path: Path) -> Path:
    """Tab-separated, as ``LOAD DATA`` wants it without being told anything."""
    frame.to_csv(path, sep="\t", header=False, index=False, na_rep="\\N", quoting=csv.QUOTE_NONE, lineterminator="\n")
    return path


def _load_data(engine: Engine, files: Mapping[str, Path], frames: Mapping[str, pd.DataFrame]) -> int:
    loaded = 0
    with engine.begin() as connection, loading._giving_out_files(connection):
        connection.exec_driver_sql("SET foreign_key_checks = 0")
        for name, path in files.items():
            columns = ", ".join(map(str, frames[name].columns))
            loaded += connection.exec_driver_sql(
                f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {name} ({columns})"
            ).rowcount
    return loaded


def _as_driver_gives(connection: Connection, table: str) -> pd.DataFrame:
    rows = connection.exec_driver_sql(f"SELECT * FROM {table} LIMIT {LIMIT_ROWS}")
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


def _minimum(settings: Settings) -> int:
    """The fewest calls for what is stored: by the entities, the rows of each slice, and a total for each daily one."""
    with connected(settings.resolved_database_url) as engine, reading(engine) as connection:
        platforms = {one.id: one.platform for one in accounts.list_accounts(connection)}
        levels: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for account, level, number in connection.exec_driver_sql(
            "SELECT account_id, level, COUNT(*) FROM entities GROUP BY account_id, level"
        ):
            levels[account][level] = number
        slices: defaultdict[int, list[int]] = defaultdict(list)
        totals: Counter[int] = Counter()
        # The second fetch's slices are the same as the first one's.
        for account, granularity, _, rows in connection.exec_driver_sql(
            "SELECT account_id, granularity, since, MAX(rows_fetched) FROM fetches "
            "GROUP BY account_id, granularity, since"
        ):
            slices[account].append(rows)
            totals[account] += granularity == Granularity.DAILY
    return sum(
        minimum_calls(
            platform, [levels[one][level] for level in ("campaign", "ad_set", "ad")], slices[one], totals[one]
        )
        for one, platform in platforms.items()
    )


def _report(options: argparse.Namespace, stage: Stage, contest: _Contest) -> None:
    runs, figures = contest.runs, _figures(options, stage, contest)
    best = contest.best_peer
    shown: list[Any] = [
        f"\n{len(stage.people):,} accounts ({', '.join(options.platforms)}), {options.days} days by day and by hour, "
        f"into {stage.databases.kind}. Peers' calls are counted where ours are: at the tape.\n",
        bench.table(
            "End to end",
            ("", "rows", "calls", "seconds", "rows/s", "x best peer", "CPU s/M rows", "peak MB"),
            [
                (
                    name,
                    one.rows,
                    one.calls,
                    one.cost.seconds,
                    speed := one.rows / one.cost.seconds,
                    speed / best if best else None,
                    one.cost.cpu / one.rows * 1e6,
                    one.cost.peak_mb,
                )
                for name, one in runs.items()
            ],
            caption="Ours also lists entities, reconciles totals, compares with what is stored and publishes; 'again' "
            f"finds nothing changed. The quickest of {options.rounds}. CPU and memory are the client's own.",
        ),
    ]
    if contest.settings is not None:
        shown += _bounds(options, stage, contest, figures)
    shown += [f"NOT STORED in '{name}': {line}" for name, one in runs.items() for line in one.unhappy]
    shown += [
        f"'{name}' went past the tape {one.passed} times, of {one.calls} calls."
        for name, one in runs.items()
        if one.passed
    ]
    bench.show(*shown, *contest.missing.values())
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    bench.conclude(figures)


def _figures(options: argparse.Namespace, stage: Stage, contest: _Contest) -> dict[str, Any]:
    return {
        "benchmark": "fetch",
        "database": stage.databases.kind,
        "accounts": len(stage.people),
        "platforms": options.platforms,
        "days": options.days,
        "ads": options.ads,
        "runs": {
            name: {
                "rows": one.rows,
                "calls": one.calls,
                "passed_on": one.passed,
                "seconds": one.cost.seconds,
                "rows_per_second": one.rows / one.cost.seconds,
                "cpu_per_million_rows": one.cost.cpu / one.rows * 1e6,
                "peak_mb": one.cost.peak_mb,
            }
            for name, one in contest.runs.items()
        },
        "missing": contest.missing,
        "not_stored": sum(len(one.unhappy) for one in contest.runs.values()),
    }


def _bounds(options: argparse.Namespace, stage: Stage, contest: _Contest, figures: dict[str, Any]) -> list[Any]:
    """What ours is held against: the limits of the database and of the tape, the fewest calls, the bound of memory."""
    settings, ours = contest.settings, contest.runs["ours"]
    assert settings is not None
    bench.progress("limits and ceiling")
    with bench.scratch() as folder:
        limits = bench.apart(storing_limits, settings.resolved_database_url, _plain(stage.databases.fresh()), folder)
    ceiling = bench.apart(bench.measured, tape.replay, stage.tape.url, contest.asked)
    few = stage.people[:WATCHED_ACCOUNTS]
    bench.progress(f"where the time goes, {len(few)} accounts")
    split, alone = _one_at_a_time(stage.product(few, stage.databases.fresh()), stage.since)
    speeds = {
        **{name: one.value / one.cost.seconds for name, one in limits.items()},
        "ours, storing alone": alone.value.rows / split.storing,
        "ours, end to end": ours.rows / ours.cost.seconds,
        "the tape's ceiling": ours.rows / ceiling.cost.seconds,
    }
    if contest.best_peer:
        # How far the aim is from what the database takes of a single client that does nothing else.
        speeds["10 x the best peer"] = 10 * contest.best_peer
    first = next(iter(limits))
    parts = {
        "network": split.network,
        "parsing and checking": split.asking - split.network - split.pacing,
        "waiting for TikTok's pace": split.pacing,
        "storing and recording": split.storing,
        "publishing (the hot window, read back)": split.publishing,
    }
    fewest = _minimum(settings)
    paced = SPACING * sum(one.target.startswith("/open_api/") for one in contest.asked)
    figures |= {
        "limit": first,
        "speeds": speeds,
        "times_limit": {name: speed / speeds[first] for name, speed in speeds.items()},
        "split_seconds": parts,
        "minimum_calls": fewest,
        "pacing_seconds": paced,
        "bound_mb": BOUND_MB,
    }
    notes = [
        f"\nCalls: ours made {ours.calls:,}; the fewest possible at these page sizes are {fewest:,}.",
        f"Memory: ours peaked at {ours.cost.peak_mb:,.0f} MB; the bound is {BOUND_MB:,} MB.",
    ]
    if paced:
        notes.append(f"Of ours, {paced:,.0f} s are the least that TikTok's pace of 10 calls a second allows.")
    return [
        bench.table(
            "Limits",
            ("", "rows/s", f"x {first}"),
            [(name, speed, speed / speeds[first]) for name, speed in speeds.items()],
            caption=f"Of the same rows, at most {LIMIT_ROWS:,} of a table. LOAD DATA reads a file that is ready; it "
            "and the upsert go into our tables with their keys; to_sql into tables without any.",
        ),
        bench.table(
            f"Where the time goes, {len(few)} accounts one after the other",
            ("", "seconds", "share"),
            [(name, each, f"{each / alone.cost.seconds:.0%}") for name, each in parts.items()],
            caption="A slice is stored while the next one is asked for: together more than the whole.",
        ),
        *notes,
    ]


if __name__ == "__main__":
    main()
