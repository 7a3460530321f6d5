"""How fast a slice gets into the tables, beside the quickest the database can do and what people would write.

The same rows, hour by hour for every ad of one account, each time in a transaction, into the product's own tables:

  first         into a slice that holds nothing: a new account, a new day
  again         the same rows once more: most of what a regular run does
  changed       every fifth row has other numbers: all are compared, the changes written and kept on record
  LOAD DATA     of a file that is ready, no questions asked: the limit (MySQL and MariaDB only)
  upsert        executemany of INSERT ... ON DUPLICATE KEY UPDATE, by the driver
  to_sql        DataFrame.to_sql into a table without any keys

Speeds depend on the machine and its load; only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import SecretStr
from sqlalchemy import Engine, text

from aae.model import METRIC_COLUMNS, Account, Granularity, Platform, Slice
from aae.storage import accounts, loading, metrics
from aae.storage.engine import upgrade
from aae.vault import Vault
from benchmarks import bench
from benchmarks.bench import Measured
from benchmarks.fetch import _to_sql, _upsert
from tests.servers import connected

NOW = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
FIRST = date(2026, 11, 1)
TABLE = "ad_metrics_hourly"


@dataclass(frozen=True, slots=True)
class Work:
    """One account's slice, and what it is stored with."""

    account: Account
    piece: Slice
    rows: pd.DataFrame


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with bench.scratch() as folder, bench.databases(options.database, folder) as databases:
        rounds = [_round(databases.fresh(), options, folder) for _ in range(options.rounds)]
    best = {name: min((one[name] for one in rounds), key=lambda each: each.cost.seconds) for name in rounds[0]}
    _report(options, databases.kind, best)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ads", type=int, default=2000, help="ads of the account (default: %(default)s)")
    parser.add_argument("--days", type=int, default=3, help="days of 24 hours (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the quickest counts (default: %(default)s)")
    parser.add_argument(
        "--database",
        choices=("auto", "mariadb", "sqlite"),
        default="auto",
        help="a private server or a file (default: MariaDB if it is installed)",
    )
    return parser.parse_args(arguments)


def _round(url: str, options: argparse.Namespace, folder: Path) -> dict[str, Measured[int]]:
    with connected(url) as engine:
        upgrade(engine)
        work = _work(engine, options.ads, options.days)
        other = Work(work.account, work.piece, _changed(work.rows))
        # Entities are known after the first listing, and are none of what is compared.
        with engine.begin() as connection:
            metrics._entity_ids(connection, work.account.id, work.rows, NOW)
        took = {name: _timed(engine, each) for name, each in (("first", work), ("again", work), ("changed", other))}
        with engine.begin() as connection:
            plain = metrics._rows(connection, work.account, work.rows, NOW)
        frame = _as_scripts_have_it(work, plain)
        peers: dict[str, Callable[[], Measured[int]]] = {
            "upsert": lambda: bench.measured(_upsert, engine, {TABLE: frame}),
            "to_sql": lambda: bench.measured(_to_sql, engine, {TABLE: frame}),
        }
        if engine.dialect.name != "sqlite":
            peers = {"LOAD DATA": lambda: _load_data(engine, frame, folder / "rows.csv")} | peers
        for name, peer in peers.items():
            with engine.begin() as connection:
                connection.execute(text(f"DELETE FROM {TABLE}"))
            took[name] = peer()
        return took


def _work(engine: Engine, ads: int, days: int) -> Work:
    with engine.begin() as connection:
        user = accounts.add_user(connection, email="bench@example.com", name="Bench", now=NOW)
        accounts.connect_account(
            connection,
            Vault([("bench", bytes(32))]),
            user_id=user,
            platform=Platform.META,
            external_id="1",
            name="Bench",
            currency="EUR",
            timezone="Europe/Berlin",
            login_customer_id=None,
            access_token=SecretStr("none"),
            refresh_token=None,
            expires_at=None,
            now=NOW,
        )
        (account,) = accounts.list_accounts(connection)
    piece = Slice(account.id, Granularity.HOURLY, FIRST, FIRST + timedelta(days=days - 1))
    return Work(account, piece, _rows(ads, days))


def _rows(ads: int, days: int) -> pd.DataFrame:
    """Every ad in every hour, page by page as a platform tells it: an ad's hours one after the other."""
    hours = days * 24
    dice, total = np.random.default_rng(1), ads * hours
    ad = np.repeat(np.arange(ads), hours)
    hour = np.tile(np.arange(hours), ads)
    named = pd.Series([f"12000000000{number:06d}" for number in range(ads)])
    frame = pd.DataFrame(
        {
            "level": "ad",
            "external_id": named.to_numpy()[ad],
            "ad_set_external_id": named.str.cat(["s"] * ads).to_numpy()[ad // 10],
            "campaign_external_id": named.str.cat(["c"] * ads).to_numpy()[ad // 100],
            "local_date": np.datetime64(FIRST) + (hour // 24).astype("timedelta64[D]"),
            "local_hour": hour % 24,
            "impressions": dice.integers(0, 5000, total),
            "clicks": dice.integers(0, 200, total),
            "spend_micros": dice.integers(0, 10**9, total),
            "conversions_micros": pd.array(dice.integers(0, 10**7, total), dtype="Int64"),
            "revenue_micros": pd.array(dice.integers(0, 10**10, total), dtype="Int64"),
        }
    )
    return frame.astype(METRIC_COLUMNS)


def _changed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(clicks=rows["clicks"] + (np.arange(len(rows)) % 5 == 0))


def _timed(engine: Engine, work: Work) -> Measured[int]:
    def store() -> int:
        with engine.begin() as connection:
            done = metrics.store_slice(
                connection, work.account, work.piece, work.rows, attribution="7d_click", run_id="bench", now=NOW
            )
        return done.rows

    return bench.measured(store)


def _as_scripts_have_it(work: Work, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of the table, amounts as decimal numbers."""
    amounts = {name: rows[name].astype(float) / 1e6 for name in ("spend", "conversions", "revenue")}
    times = {name: rows[name].astype(str) for name in ("local_date", "utc_start")}
    return rows.assign(account_id=work.account.id, attribution="7d_click", **times, **amounts)


def _load_data(engine: Engine, rows: pd.DataFrame, path: Path) -> Measured[int]:
    """Only the statement counts: the file is there already."""
    rows.to_csv(path, index=False, header=False)
    statement = (
        f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {TABLE} FIELDS TERMINATED BY ',' ({', '.join(rows.columns)})"
    )

    def load() -> int:
        with engine.begin() as connection, loading._giving_out_files(connection):
            return connection.exec_driver_sql(statement).rowcount

    return bench.measured(load)


def _report(options: argparse.Namespace, kind: str, best: dict[str, Measured[int]]) -> None:
    limit = best.get("LOAD DATA", best["upsert"])
    unit = "x LOAD DATA" if "LOAD DATA" in best else "x upsert"
    lines = {
        name: (one.value, one.cost.seconds, one.value / one.cost.seconds, limit.cost.seconds / one.cost.seconds)
        for name, one in best.items()
    }
    bench.show(
        bench.table(
            f"Storing {options.ads:,} ads by the hour for {options.days} days, into {kind}",
            ("", "rows", "seconds", "rows/s", unit),
            [(name, *line) for name, line in lines.items()],
            caption=f"The quickest of {options.rounds} rounds. Ours also checks, compares, finds ids and UTC hours.",
        )
    )
    bench.conclude(
        {
            "benchmark": "storing",
            "database": kind,
            "rows": best["first"].value,
            "limit": unit.removeprefix("x "),
            "runs": {
                name: {"seconds": line[1], "rows_per_second": line[2], "times_limit": line[3]}
                for name, line in lines.items()
            },
        }
    )


if __name__ == "__main__":
    main()
