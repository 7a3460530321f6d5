"""What more accounts cost: the jobs without Prefect, from 3 accounts on, beside the same for ten times as many.

A sandbox in a process of its own speaks the three platforms' wires; two and a half accounts belong to one user. For
each size, one after the other, in a process of its own on an empty database:

  first         a new account's first --days days, by day and by the hour
  regular       what every six hours fetches afterwards
  detect        all users' anomalies, with new numbers for every account
  report        all users' reports, written, stored and put into files
  retention     120 days later: every day folded into sums; 'longest' is its longest transaction

Each Prefect task run, one per account or user, adds about 10 ms to this. Nothing here is a gate: speeds depend on the
machine and on its load; what matters is whether the cost of one account stays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, text

from aae.jobs.context import open_context, open_stores
from aae.jobs.detect import detect_user
from aae.jobs.fetch import AccountOutcome, fetch_account
from aae.jobs.report import report_user
from aae.jobs.retention import keep_small
from aae.model import Account
from aae.settings import Settings
from aae.storage import accounts
from aae.storage.engine import reading
from benchmarks import bench, fetch
from benchmarks.bench import Measured
from benchmarks.fetch import NOW
from tests.servers import connected, redis_server

MONTH = 30
ACCOUNTS_PER_USER = 2.5


@dataclass(frozen=True, slots=True)
class Size:
    """All that was measured for one number of accounts. ``megabytes_a_month``: of one account."""

    accounts: int
    first: Measured[fetch.Fetched]
    regular: Measured[fetch.Fetched]
    detect: Measured[int]
    report: Measured[int]
    retention: Measured[float]
    megabytes_a_month: float

    def figures(self) -> dict[str, float]:
        """One line of the table."""
        return {
            "accounts": self.accounts,
            "first_seconds": self.first.cost.seconds,
            "regular_seconds": self.regular.cost.seconds,
            "regular_calls": self.regular.value.calls or 0,
            "detect_seconds": self.detect.cost.seconds,
            "report_seconds": self.report.cost.seconds,
            "retention_seconds": self.retention.cost.seconds,
            "longest_transaction": self.retention.value,
            "peak_mb": max(one.cost.peak_mb for one in (self.first, self.regular, self.detect, self.report)),
            "mb_per_account_month": self.megabytes_a_month,
            "not_stored": len(self.first.value.unhappy) + len(self.regular.value.unhappy),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    sizes = []
    for number in options.accounts:
        with (
            bench.scratch() as folder,
            bench.databases(options.database, folder) as databases,
            redis_server() as cache,
            bench.sandbox(
                NOW, seed=7, users=_users(number), days=options.days + 6, campaigns=2, ads=options.ads
            ) as url,
        ):
            kind = databases.kind
            people = fetch._accounts(url)[:number]
            settings = fetch._product(url, cache, folder, people, databases.fresh())
            sizes.append(_measure(_of_days(settings, options.days), number, options.days))
    columns = ("accounts", "first s", "regular s", "calls", "detect s", "report s", "retention", "longest")
    more = ("peak MB", "MB a month", "not stored")
    lines = [one.figures() for one in sizes]
    bench.show(
        bench.table(
            f"What more accounts cost, on {kind}",
            (*columns, *more),
            [tuple(f"{v}" if k == "accounts" else v for k, v in line.items()) for line in lines],
            caption="Seconds for all accounts together; MB in the database per account and month.",
        )
    )
    bench.conclude({"database": kind, "sizes": lines})


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, nargs="+", default=[3, 30], help="sizes (default: 3 30)")
    parser.add_argument("--days", type=int, default=28, help="days at first (default: %(default)s)")
    parser.add_argument("--ads", type=int, default=2, help="ads in a large ad set (default: %(default)s)")
    parser.add_argument(
        "--database",
        choices=("auto", "mariadb", "sqlite"),
        default="sqlite",
        help="a private server or a file (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _users(number: int) -> int:
    return math.ceil(number / ACCOUNTS_PER_USER) + 1


def _of_days(settings: Settings, days: int) -> Settings:
    """The same settings with this much history, so that the tables hold as much by the hour as by day."""
    fetching = settings.fetch.model_copy(update={"first_days": days, "first_hourly_days": days})
    return settings.model_copy(update={"fetch": fetching})


def _measure(settings: Settings, number: int, days: int) -> Size:
    first = bench.apart(bench.measured, fetch_all, settings, "first")
    megabytes = _megabytes(settings.resolved_database_url)
    fetch._forget(settings)
    regular = bench.apart(bench.measured, fetch_all, settings, "regular")
    detect = bench.apart(bench.measured, detect_all, settings)
    report = bench.apart(bench.measured, report_all, settings)
    retention = bench.apart(bench.measured, fold_all, settings)
    return Size(number, first, regular, detect, report, retention, megabytes / number * MONTH / days)


def fetch_all(settings: Settings, run_id: str) -> fetch.Fetched:
    """All accounts by the regular plan, as many at once as a flow takes."""

    async def together() -> list[AccountOutcome]:
        async with open_context(settings, _now) as context:
            gate = asyncio.Semaphore(settings.fetch.accounts_at_once)

            async def one(account: Account) -> AccountOutcome:
                async with gate:
                    return await fetch_account(context, account, clock=_now, run_id=run_id)

            return await asyncio.gather(*(one(account) for account in fetch._connected(context.engine)))

    try:
        return fetch._sum(asyncio.run(together()))
    finally:
        fetch._close(settings)


def detect_all(settings: Settings) -> int:
    """Every user, one after the other; how many."""
    stores = open_stores(settings)
    try:
        users = _users_of(stores.engine)
        for user in users:
            detect_user(stores, user, now=NOW, sensitivity="medium", again=True, dry_run=False)
        return len(users)
    finally:
        fetch._close(settings)


def report_all(settings: Settings) -> int:
    """Every user's report, one after the other; how many."""
    stores = open_stores(settings)
    try:
        users = _users_of(stores.engine)
        for user in users:
            report_user(stores, user, now=NOW, day=None, dry_run=False)
        return len(users)
    finally:
        fetch._close(settings)


def fold_all(settings: Settings) -> float:
    """Every day into sums; the longest transaction in seconds."""
    with connected(settings.resolved_database_url) as engine:
        return keep_small(engine, settings, now=NOW + timedelta(days=120)).longest_seconds


def _users_of(engine: Engine) -> list[accounts.User]:
    with reading(engine) as connection:
        return accounts.list_users(connection)


def _megabytes(url: str) -> float:
    """What the database takes."""
    with connected(url) as engine, engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            return float(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one() / 1e6)
        for table in connection.exec_driver_sql("SHOW TABLES").scalars().all():
            connection.exec_driver_sql(f"ANALYZE TABLE {table}")
        size = text(
            "SELECT SUM(data_length + index_length) FROM information_schema.tables WHERE table_schema = DATABASE()"
        )
        return float(connection.scalar(size) or 0) / 1e6


def _now() -> datetime:
    return NOW


if __name__ == "__main__":
    main()
