"""What a row costs before it is stored: our CPU between the wire and the frame, for each platform.

A sandbox's answers for one account, kept in memory, are asked for again by the product's own connector:

  json.loads    of the same bodies and nothing else: what Python's own decoder takes, which is not even exact
  decoding      by the product: exact decimals, and rows in the shape that their platform has declared
  the rest      requests, judging, columns, each key once, frames

How fast rows are stored is told by benchmarks.storing. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import httpx
from pydantic import SecretStr

from aae.model import Account, Granularity, Platform, Slice, Token
from aae.platforms import connectors, shapes, transport
from aae.platforms.transport import Transport
from aae.settings import Settings
from benchmarks import bench
from benchmarks.cost import measured
from benchmarks.fetch import _accounts

NOW = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
UNTIL = NOW.date() - timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One account's day by the hour, and what its platform answered to every question about it."""

    account: Account
    token: Token
    piece: Slice
    settings: Settings
    answers: dict[bytes, httpx.Response]
    shapes: dict[bytes, Any]
    """Of each body."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds for a million rows."""

    rows: int
    limit: float
    decoding: float
    all: float

    @property
    def figures(self) -> tuple[float, ...]:
        """The limit, then the parts, then the whole."""
        return self.limit, self.decoding, self.all - self.decoding, self.all


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with bench.sandbox(NOW, seed=7, users=2, days=4, campaigns=3, ads=options.ads) as url:
        settings = bench.settings_of(httpx.get(f"{url}/_sandbox/settings").json())
        cases = asyncio.run(_heard([_case(settings, person) for person in _accounts(url)]))
    costs = {case.account.platform.value: _cost(case, options.rounds) for case in cases}
    _report(options, costs)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parsing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ads", type=int, default=30, help="ads in a large ad set (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="the cheapest counts (default: %(default)s)")
    return parser.parse_args(arguments)


async def _heard(cases: Sequence[Case]) -> list[Case]:
    """For each platform, the account of most rows."""
    best: dict[Platform, tuple[int, Case]] = {}
    for case in cases:
        with mock.patch.object(transport, "decode", _noting(case.shapes)):
            rows = await _ask(case, _Listening(case.answers))
        if rows > best.get(case.account.platform, (0, case))[0]:
            best[case.account.platform] = (rows, case)
    return [best[platform][1] for platform in Platform]


def _case(settings: Settings, person: dict[str, Any]) -> Case:
    account = Account(
        id=1,
        user_id=1,
        platform=Platform(person["platform"]),
        external_id=person["external_id"],
        name="Bench",
        currency="EUR",
        timezone="UTC",
        login_customer_id=person.get("login_customer_id"),
    )
    return Case(
        account=account,
        token=Token(SecretStr(person["access_token"])),
        piece=Slice(1, Granularity.HOURLY, UNTIL, UNTIL),
        settings=settings,
        answers={},
        shapes={},
    )


def _noting(found: dict[bytes, Any]) -> Callable[..., tuple[Any, bool]]:
    """The product's decoder, with the shape of each body written down."""

    def decode(body: bytes, shape: Any) -> tuple[Any, bool]:
        found[body] = shape
        return shapes.decode(body, shape)

    return decode


class _Listening(httpx.AsyncHTTPTransport):
    """The network, with its answers written down."""

    def __init__(self, answers: dict[bytes, httpx.Response]) -> None:
        super().__init__()
        self._answers = answers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        await response.aread()
        self._answers[_key(request)] = response
        return _again(response)


class _Repeating(httpx.AsyncBaseTransport):
    """The answers, without a network."""

    def __init__(self, answers: dict[bytes, httpx.Response]) -> None:
        self._answers = answers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return _again(self._answers[_key(request)])


def _key(request: httpx.Request) -> bytes:
    return str(request.url).encode() + request.content


def _again(response: httpx.Response) -> httpx.Response:
    return httpx.Response(response.status_code, stream=httpx.ByteStream(response.content))


async def _ask(case: Case, network: httpx.AsyncBaseTransport) -> int:
    async with Transport(60, lambda: NOW, _at_once, handler=network) as transport:
        connector = connectors(case.settings, transport)[case.account.platform]
        return sum([len(frame) async for frame in connector.fetch_metrics(case.account, case.token, case.piece)])


async def _at_once(seconds: float) -> None:
    """No pace is kept: nobody is asked."""


def _cost(case: Case, rounds: int) -> Cost:
    def cpu(work: Any) -> tuple[int, float]:
        done = [measured(work) for _ in range(rounds)]
        return done[0].value, min(one.cost.cpu for one in done)

    rows, whole = cpu(lambda: asyncio.run(_ask(case, _Repeating(case.answers))))
    _, limit = cpu(lambda: [json.loads(body) for body in case.shapes])
    _, decoding = cpu(lambda: [shapes.decode(*one) for one in case.shapes.items()])
    return Cost(rows, *(seconds / rows * 1e6 for seconds in (limit, decoding, whole)))


def _report(options: argparse.Namespace, costs: dict[str, Cost]) -> None:
    bench.show(
        bench.table(
            "CPU seconds for a million rows, from the wire to the frame",
            ("", "rows", "json.loads", "decoding", "the rest", "all", "rows/s", "x json.loads"),
            [(name, one.rows, *one.figures, 1e6 / one.all, one.all / one.limit) for name, one in costs.items()],
            caption=f"A day by the hour of one account. The cheapest of {options.rounds} rounds each.",
        )
    )
    bench.conclude(
        {
            "benchmark": "parsing",
            "platforms": {
                name: {"rows": one.rows, "json_loads": one.limit, "decoding": one.decoding, "all": one.all}
                for name, one in costs.items()
            },
        }
    )


if __name__ == "__main__":
    main()
