"""A scripted network and a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs

import httpx
import pandas as pd
from pydantic import SecretStr

from aae.model import Account, Granularity, Platform, Slice, Token
from aae.patience import LocalState, SharedState
from aae.platforms import connectors
from aae.platforms.base import Connector
from aae.platforms.transport import Transport
from aae.settings import GoogleSettings, MetaSettings, Settings, TikTokSettings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TOKEN = "EAABsbCS1iHgBAKZCXaTOPSECRETtokenZD"
REFRESH = "1//0gREFRESHsecretXYZ"
SECRETS = {
    "token": TOKEN,
    "refresh": REFRESH,
    "meta app": "meta-app-secret-5f1c",
    "tiktok": "tiktok-secret-77aa",
    "google client": "GOCSPX-client-secret-1",
    "developer": "developer-token-Q9x",
}
SETTINGS = Settings(
    _env_file=None,
    meta=MetaSettings(base_url="http://meta.test", app_id="111", app_secret=SecretStr(SECRETS["meta app"])),
    tiktok=TikTokSettings(base_url="http://tiktok.test", app_id="222", secret=SecretStr(SECRETS["tiktok"])),
    google=GoogleSettings(
        base_url="http://google.test",
        token_url="http://oauth.test/token",
        client_id="333",
        client_secret=SecretStr(SECRETS["google client"]),
        developer_token=SecretStr(SECRETS["developer"]),
    ),
)
T = TypeVar("T")
DAY = date(2026, 11, 21)

Reply = httpx.Response | Exception
Script = Sequence[Reply] | Callable[[httpx.Request], Reply]


class Clock:
    """Stands still except for sleep."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


class Network:
    """Answers requests from a script, a list in order or a function, and remembers them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.script(request) if callable(self.script) else self.script[len(self.requests) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def asked(self, number: int = -1) -> dict[str, str]:
        """The query of a request, or its form."""
        return self.query_of(self.requests[number])

    @staticmethod
    def query_of(request: httpx.Request) -> dict[str, str]:
        """The query of a request, or its form."""
        text = request.url.query.decode() or request.content.decode()
        return {name: values[-1] for name, values in parse_qs(text).items()}


def door(network: Network, clock: Clock, store: SharedState | None = None) -> Transport:
    return Transport(5, clock, clock.sleep, store, handler=httpx.MockTransport(network))


def keeping(clock: Clock) -> LocalState:
    return LocalState(clock, answer_ttl_seconds=300)


def account(platform: Platform, **more: Any) -> Account:
    return Account(
        **{
            **{"id": 1, "user_id": 1, "platform": platform, "external_id": "1001", "name": "Shop", "currency": "USD"},
            **{"timezone": "America/New_York"},
            **more,
        }
    )


def token(**more: Any) -> Token:
    return Token(**{**{"access": SecretStr(TOKEN), "refresh": SecretStr(REFRESH), "version": 3}, **more})


def piece(granularity: Granularity = Granularity.DAILY, since: date = DAY, until: date = DAY) -> Slice:
    return Slice(1, granularity, since, until)


def ok(value: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(200, content=json.dumps(value), headers=named)  # ASCII, so that it may hold any text


def use(
    platform: Platform,
    script: Script,
    action: Callable[[Connector], Coroutine[Any, Any, T]],
    *,
    clock: Clock | None = None,
    store: SharedState | None = None,
) -> tuple[T, Network, Clock]:
    """Run ``action`` with the platform's connector against a script."""
    clock = clock or Clock()
    network = Network(script)

    async def run() -> T:
        async with door(network, clock, store) as transport:
            return await action(connectors(SETTINGS, transport)[platform])

    return asyncio.run(run()), network, clock


async def gather(pages: AsyncIterator[pd.DataFrame]) -> pd.DataFrame:
    """All pages as one frame."""
    found = [page async for page in pages]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def body(request: httpx.Request) -> Any:
    return json.loads(request.content)
