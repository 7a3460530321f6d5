"""A sandbox in a process of its own, the platforms' own clients in theirs, our connectors: all on the same world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pandas as pd
import pytest
from pydantic import SecretStr

from aae.model import Account, Granularity, Platform, Slice, Token
from aae.platforms import connectors
from aae.platforms.transport import Transport
from aae.settings import Settings
from tests import audit

NOW: Final = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)
_HERE: Final = Path(__file__).parent
_PYTHON: Final = audit.CLIENTS / "bin" / "python"


class Sandbox:
    """``aae sandbox`` as anybody starts it, and its control API."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http
        self.settings: dict[str, str] = self.control("settings")

    def control(self, path: str, **query: str) -> Any:
        return self.http.get(f"{self.url}/_sandbox/{path}", params=query).raise_for_status().json()

    def break_(self, name: str, **how: Any) -> None:
        """Switch a fault on."""
        self.http.post(f"{self.url}/_sandbox/faults", json={"name": name, **how}).raise_for_status()

    def mend(self) -> None:
        """Switch all off."""
        self.http.delete(f"{self.url}/_sandbox/faults").raise_for_status()

    def account(self, platform: Platform, user: str = "ada@example.com") -> dict[str, Any]:
        """An account of the user's, with its tokens."""
        found: Iterator[dict[str, Any]] = (
            one for one in self.control("accounts") if (one["platform"], one["user_email"]) == (platform, user)
        )
        return next(found)

    def ledger(self, account: Mapping[str, Any], piece: Slice) -> list[dict[str, Any]]:
        """The truth about the slice: one row per leaf and day or hour."""
        key = f"{account['platform']}:{account['external_id']}"
        span = {"granularity": piece.granularity.value, "since": str(piece.since), "until": str(piece.until)}
        rows: list[dict[str, Any]] = self.control("ledger", account=key, **span)["rows"]
        return rows

    def connector(self, account: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Ours:
        """Our own connector on the account."""
        for name, value in self.settings.items():
            monkeypatch.setenv(name, value)
        return Ours(account, Settings())


class Ours:
    """What our connector reads of an account."""

    def __init__(self, account: Mapping[str, Any], settings: Settings) -> None:
        refresh, ends = account["refresh_token"], account["expires_at"]
        self.settings = settings
        self.token = Token(
            SecretStr(account["access_token"]),
            SecretStr(refresh) if refresh else None,
            datetime.fromisoformat(ends) if ends else None,
        )
        self.account = Account(
            id=1,
            user_id=1,
            platform=Platform(account["platform"]),
            external_id=account["external_id"],
            name=account["name"],
            currency=account["currency"],
            timezone=account["timezone"],
            login_customer_id=account["login_customer_id"],
        )

    def piece(self, granularity: Granularity, days: int) -> Slice:
        """The last days, today among them."""
        today = self.account.local_day(NOW)
        return Slice(1, granularity, today - timedelta(days=days - 1), today)

    def entities(self) -> pd.DataFrame:
        async def read() -> pd.DataFrame:
            async with Transport(10, lambda: NOW, asyncio.sleep) as transport:
                connector = connectors(self.settings, transport)[self.account.platform]
                return await connector.list_entities(self.account, self.token)

        return asyncio.run(read())

    def rows(self, piece: Slice) -> pd.DataFrame:
        async def read() -> pd.DataFrame:
            async with Transport(10, lambda: NOW, asyncio.sleep) as transport:
                connector = connectors(self.settings, transport)[self.account.platform]
                pages = [page async for page in connector.fetch_metrics(self.account, self.token, piece)]
                return pd.concat(pages, ignore_index=True)

        return asyncio.run(read())


class Client:
    """A program of ``make clients`` that carries out orders."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, order: str, **arguments: Any) -> Any:
        """What it answers; ``Refused`` if the platform's client raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        if "raised" in told:
            raise Refused(told)
        return told["answer"]

    def refused(self, order: str, **arguments: Any) -> dict[str, Any]:
        """The same where it must raise: in which words."""
        with pytest.raises(Refused) as failure:
            self(order, **arguments)
        return failure.value.told


class Refused(Exception):
    """The platform's own client raised."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(json.dumps(told)[:2000])
        self.told = told


@contextlib.contextmanager
def sandbox() -> Iterator[Sandbox]:
    """A sandbox whose clock stands still."""
    options = ["--seed", "7", "--now", NOW.isoformat(), "--frozen", "--days", "40"]
    command = [sys.executable, "-m", "aae.sandbox", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, httpx.Client(timeout=30) as http:
        try:
            assert process.stdout is not None
            yield Sandbox(process.stdout.readline().strip(), http)
        finally:
            process.terminate()


@contextlib.contextmanager
def client(program: str) -> Iterator[Client]:
    """A client program; the test is skipped if their environment has not been made."""
    if not audit.client_distributions():
        pytest.skip(audit.NEEDS_CLIENTS)
    environment = {"NO_PROXY": "*", "GRPC_VERBOSITY": "NONE"}
    command = [str(_PYTHON), str(_HERE / program)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            yield Client(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
