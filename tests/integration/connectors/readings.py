"""The connectors around a sandbox that is served over HTTP: what they read beside what is in its world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import pandas as pd
from pydantic import SecretStr

from aae.model import Account, Granularity, Platform, Slice, Token, Totals
from aae.patience import SharedState
from aae.platforms import connectors
from aae.platforms.base import Connector
from aae.platforms.transport import Transport
from aae.sandbox import APP, Faults, World
from aae.sandbox.entities import AdAccount
from aae.settings import GoogleSettings, MetaSettings, Settings, TikTokSettings

NOW = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)
T = TypeVar("T")


class Bench:
    """A sandbox that runs, and the connectors pointed at it."""

    def __init__(self, url: str, world: World, faults: Faults) -> None:
        self.world, self.faults = world, faults
        self.now, self.slept = NOW, 0.0
        self.settings = Settings(
            _env_file=None,
            meta=MetaSettings(base_url=url, app_id=APP.meta_app_id, app_secret=SecretStr(APP.meta_app_secret)),
            tiktok=TikTokSettings(base_url=url, app_id=APP.tiktok_app_id, secret=SecretStr(APP.tiktok_secret)),
            google=GoogleSettings(
                base_url=url,
                token_url=f"{url}/token",
                client_id=APP.google_client_id,
                client_secret=SecretStr(APP.google_client_secret),
                developer_token=SecretStr(APP.google_developer_token),
            ),
        )

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += timedelta(seconds=seconds)

    def run(
        self,
        platform: Platform,
        action: Callable[[Connector], Coroutine[Any, Any, T]],
        *,
        store: SharedState | None = None,
        limit: float = 10,
    ) -> T:
        async def go() -> T:
            async with Transport(limit, lambda: self.now, self.sleep, store) as transport:
                return await action(connectors(self.settings, transport)[platform])

        return asyncio.run(go())

    def account(self, platform: Platform, user: str = "ada@example.com") -> tuple[Account, Token, AdAccount]:
        person = next(one for one in self.world.users if one.email == user)
        truth = next(one for one in self.world.accounts_of(person.index, platform) if one.enabled)
        access, refresh, expires_at = self.world.credentials(truth)
        account = Account(
            id=1,
            user_id=1,
            platform=platform,
            external_id=truth.external_id,
            name=truth.name,
            currency=truth.currency,
            timezone=truth.timezone,
            login_customer_id=truth.manager,
        )
        return account, Token(SecretStr(access), SecretStr(refresh) if refresh else None, expires_at), truth

    def fetch(self, platform: Platform, granularity: Granularity, days: int = 3, **more: Any) -> pd.DataFrame:
        account, token, _ = self.account(platform)
        return self.rows(platform, account, token, self.piece(account, granularity, days), **more)

    def rows(self, platform: Platform, account: Account, token: Token, piece: Slice, **more: Any) -> pd.DataFrame:
        async def gather(connector: Connector) -> pd.DataFrame:
            pages = [page async for page in connector.fetch_metrics(account, token, piece)]
            return pd.concat(pages, ignore_index=True)

        return self.run(platform, gather, **more)

    @staticmethod
    def piece(account: Account, granularity: Granularity, days: int) -> Slice:
        today = account.local_day(NOW)
        return Slice(1, granularity, today - timedelta(days=days - 1), today)


async def totals_of(account: Account, token: Token, piece: Slice, connector: Connector) -> Totals:
    return await connector.fetch_totals(account, token, piece)


async def listing_of(account: Account, token: Token, connector: Connector) -> pd.DataFrame:
    return await connector.list_entities(account, token)


def truth_of(account: AdAccount, piece: Slice) -> pd.DataFrame:
    """The ledger's rows in the contract's columns, as seen at the sandbox's moment."""
    by_hour = piece.granularity is Granularity.HOURLY
    rows = []
    for leaf, day, hour, *numbers in account.leaf_facts(piece.since, piece.until, NOW, hourly=by_hour).rows():
        entity = account.leaf_entity(account.leaves[leaf])
        told = entity.tells_conversions and not (by_hour and account.platform is Platform.META)
        moment = pd.Timestamp(date.fromordinal(day))
        rows.append(
            (entity.external_id, moment, hour if by_hour else -1, *numbers[:3], *(numbers[3:5] if told else (-1, -1)))
        )
    return _sorted(pd.DataFrame(rows, columns=COMPARED))


COMPARED = [
    *("external_id", "local_date", "local_hour", "impressions", "clicks", "spend_micros"),
    *("conversions_micros", "revenue_micros"),
]


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    return _sorted(frame[COMPARED])


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame.fillna({"local_hour": -1, "conversions_micros": -1, "revenue_micros": -1})
    kinds = dict.fromkeys(COMPARED[2:], "int64") | {"external_id": "str", "local_date": "datetime64[s]"}
    return numbers.astype(kinds).sort_values(COMPARED[:3], ignore_index=True)
