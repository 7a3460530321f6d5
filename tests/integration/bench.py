"""The product without Prefect, around a sandbox: a world, a database, a cache, and a clock they share."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import Engine, select

from aae.jobs.context import open_context, open_stores
from aae.jobs.fetch import AccountOutcome, fetch_account
from aae.model import Account, Platform
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all
from aae.sandbox import World, create_app
from aae.sandbox.clock import Clock
from aae.sandbox.server import running
from aae.settings import Settings
from aae.storage import accounts
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, ad_metrics_daily, ad_metrics_hourly, entities

# One for all: reading the certificates takes longer than a call. No connection outlives it.
_http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))


@dataclass(frozen=True)
class Bench:
    """Everything a test needs to play a day in the life of the product."""

    url: str
    settings: Settings
    engine: Engine
    clock: Clock

    @property
    def now(self) -> Callable[[], datetime]:
        return self.clock.now

    def control(self, path: str, **query: Any) -> Any:
        return _http.get(f"{self.url}/_sandbox/{path}", params=query).raise_for_status().json()

    def order(self, path: str, **body: Any) -> Any:
        return _http.post(f"{self.url}/_sandbox/{path}", json=body).raise_for_status().json()

    def forgive(self) -> None:
        """Switch all faults off."""
        _http.delete(f"{self.url}/_sandbox/faults").raise_for_status()

    def accounts(self, **filters: Any) -> list[Account]:
        with reading(self.engine) as connection:
            return accounts.list_accounts(connection, **filters)

    def lasting(self, platform: Platform) -> Account:
        """The platform's account whose token lasts longest, for what is not about tokens that end."""
        with reading(self.engine) as connection:
            rows = [one for one in accounts.token_overview(connection) if one.account.platform is platform]
        return max(rows, key=lambda one: one.expires_at or datetime.max.replace(tzinfo=UTC)).account

    def status(self, account: Account) -> str:
        with reading(self.engine) as connection:
            return str(connection.scalar(select(ad_accounts.c.status).where(ad_accounts.c.id == account.id)))

    def connect(self) -> None:
        """Import every account that the sandbox's users have connected."""
        source = "sandbox"
        rows = read_accounts(orjson.dumps(self.control("accounts")).decode(), source)
        connect_all(
            rows,
            source,
            settings=self.settings,
            engine=self.engine,
            vault=open_stores(self.settings).vault,
            clock=self.now,
        )

    def fetch(self, run_id: str, chosen: list[Account] | None = None, **more: Any) -> list[AccountOutcome]:
        """One fetch of all active accounts, as a run would make it."""

        async def all_of_them() -> list[AccountOutcome]:
            async with open_context(self.settings, self.now) as context:
                return [
                    await fetch_account(context, account, clock=self.now, run_id=run_id, **more)
                    for account in (self.accounts() if chosen is None else chosen)
                ]

        return asyncio.run(all_of_them())

    def stored(self, account: Account, granularity: str, since: date, until: date) -> list[dict[str, Any]]:
        """The account's rows in the shape of the sandbox's ledger."""
        table = {"daily": ad_metrics_daily, "hourly": ad_metrics_hourly}[granularity]
        query = (
            select(table, entities.c.level, entities.c.external_id)
            .join_from(table, entities, table.c.entity_id == entities.c.id)
            .where(table.c.account_id == account.id, table.c.local_date.between(since, until))
        )
        with reading(self.engine) as connection:
            rows = [row._mapping for row in connection.execute(query)]
        return sorted((_ledger_row(row) for row in rows), key=_key)

    def truth(self, account: Account, granularity: str, since: date, until: date) -> list[dict[str, Any]]:
        """The sandbox's ledger as of its clock."""
        answer = self.control(
            "ledger", account=str(account), granularity=granularity, since=str(since), until=str(until)
        )
        return sorted(({name: row[name] for name in _COLUMNS} for row in answer["rows"]), key=_key)


@contextmanager
def bench(
    world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> Iterator[Bench]:
    """A sandbox with a clock that stands still, and settings that point at it."""
    clock = Clock(world.anchor, frozen=True)
    with running(create_app(world, clock=clock)) as url:
        environment = _http.get(f"{url}/_sandbox/settings").json() | {
            "AAE_DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "AAE_REDIS_URL": redis_url,
            "AAE_ENCRYPTION_KEYS": "test:" + base64.b64encode(bytes(range(32))).decode(),
            # Tests move the clock; an answer of a moment ago must not hide that.
            "AAE_FETCH__ANSWER_TTL_SECONDS": "0",
            **settings,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        open_stores.cache_clear()
        try:
            yield Bench(url, Settings(), engine, clock)
        finally:
            open_stores.cache_clear()


_COLUMNS = (
    "level",
    "external_id",
    "local_date",
    "local_hour",
    "impressions",
    "clicks",
    "spend_micros",
    "conversions_micros",
    "revenue_micros",
)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["local_date"], row["local_hour"] or 0, row["external_id"]


def _ledger_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "level": row["level"],
        "external_id": row["external_id"],
        "local_date": row["local_date"].isoformat(),
        "local_hour": row.get("local_hour"),
        "impressions": row["impressions"],
        "clicks": row["clicks"],
        "spend_micros": row["spend"],
        "conversions_micros": row["conversions"],
        "revenue_micros": row["revenue"],
    }
