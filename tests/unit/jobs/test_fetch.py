"""While a slice is stored the next one is asked for, one ahead and in order; nothing of what is promised changes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from aae.deadline import NEVER, Deadline
from aae.errors import AaeError, Reauthorize, Retry, Superseded, Throttled
from aae.jobs import fetch
from aae.jobs.fetch import AccountOutcome, _AccountFetch, check_sums, empty_metrics
from aae.model import Account, Granularity, Platform, Slice, Token
from tests.unit.platforms.support import account

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FIRST = date(2026, 11, 1)
PIECES = [Slice(1, Granularity.HOURLY, FIRST + timedelta(days=n), FIRST + timedelta(days=n)) for n in range(4)]
LATER = NOW + timedelta(hours=5)
TOKEN = Token(SecretStr("t"))
Troubles = Mapping[int, Exception]


class Fetch(_AccountFetch):
    """A fetch whose platform and tables are a diary: what was asked for, stored and noted, in order."""

    def __init__(self, asking: Troubles, storing: Troubles, seconds: float) -> None:
        connector: Any = SimpleNamespace(list_entities=self.list_entities, fetch_metrics=self.fetch_metrics)
        context: Any = SimpleNamespace(connectors={Platform.META: connector})
        super().__init__(context, account(Platform.META), lambda: NOW, "run")
        self.diary: list[str] = []
        self.asked = [threading.Event() for _ in PIECES]
        self._asking, self._storing, self._seconds = asking, storing, seconds

    async def _with_token(self, ask: Callable[[Token], Awaitable[Any]]) -> Any:
        return await ask(TOKEN)

    async def list_entities(self, _account: Account, _token: Token) -> pd.DataFrame:
        return pd.DataFrame()

    async def fetch_metrics(self, _account: Account, _token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
        number = PIECES.index(piece)
        self.diary.append(f"ask {number}")
        self._calls.made["metrics"] += 1
        self.asked[number].set()
        if number in self._asking:
            raise self._asking[number]
        yield empty_metrics()

    def _store(self, piece: Slice, *_: Any, **__: Any) -> None:
        number = PIECES.index(piece)
        time.sleep(self._seconds)
        if number in self._storing:
            raise self._storing[number]
        self.diary.append(f"stored {number}")

    def _store_entities(self, *_: Any) -> None:
        pass

    def _record_failure(self, piece: Slice, error: AaeError, started: datetime, calls: Counter[str]) -> None:
        self.diary.append(f"{fetch.outcome_of(error)} {PIECES.index(piece)}")

    @property
    def written(self) -> list[str]:
        return [line for line in self.diary if not line.startswith("ask")]

    def work(self, deadline: Deadline = NEVER) -> AccountOutcome:
        asyncio.run(self._fetch_all(PIECES, deadline, NOW))
        return self._outcome


@pytest.fixture
def fetching() -> Callable[..., Fetch]:
    def made(asking: Troubles | None = None, storing: Troubles | None = None, *, seconds: float = 0.02) -> Fetch:
        return Fetch(asking or {}, storing or {}, seconds)

    return made


def busy() -> OperationalError:
    return OperationalError("INSERT", {}, Exception("busy"))


def test_the_next_slice_is_asked_for_while_one_is_being_stored(
    fetching: Callable[..., Fetch], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, waited = fetching(), []

    def store(piece: Slice, *_: Any, **__: Any) -> None:
        number = PIECES.index(piece)
        if number + 1 < len(PIECES):
            waited.append(one.asked[number + 1].wait(10))

    monkeypatch.setattr(one, "_store", store)
    assert one.work().owed == 0
    assert waited == [True] * 3


def test_calls_are_those_of_their_own_slice_although_the_next_one_is_asked_for_meanwhile(
    fetching: Callable[..., Fetch], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, noted = fetching(), []

    def store(piece: Slice, *_: Any, calls: Counter[str], **__: Any) -> None:
        number = PIECES.index(piece)
        if number + 1 < len(PIECES):
            one.asked[number + 1].wait(10)
        noted.append(calls)
        one._calls.logged += calls

    monkeypatch.setattr(one, "_store", store)
    one.work()
    assert noted == [{"metrics": 1}] * len(PIECES)


def test_no_slice_is_asked_for_before_the_last_but_one_is_stored(fetching: Callable[..., Fetch]) -> None:
    one = fetching()
    one.work()
    assert one.written == [f"stored {number}" for number in range(4)]
    for number in range(2, 4):
        assert one.diary.index(f"ask {number}") > one.diary.index(f"stored {number - 2}")


def test_what_fails_is_noted_after_what_came_before_and_the_rest_is_still_fetched(
    fetching: Callable[..., Fetch],
) -> None:
    one = fetching({1: Retry("not now")}, {2: busy()})
    outcome = one.work()
    assert one.written == ["stored 0", "failed 1", "failed 2", "stored 3"]
    assert (outcome.outcome, outcome.owed, outcome.retry) == ("partial", 2, True)


@pytest.mark.parametrize("error", [Throttled("later", until=LATER, scope="meta:account:1"), Reauthorize("no more")])
def test_what_ends_the_account_leaves_stored_what_came_before(fetching: Callable[..., Fetch], error: AaeError) -> None:
    one = fetching({2: error})
    with pytest.raises(type(error)):
        one.work()
    assert one.written == ["stored 0", "stored 1", f"{fetch.outcome_of(error)} 2"]
    assert one._remaining == 2


def test_a_fetch_that_another_has_replaced_stores_nothing_more(fetching: Callable[..., Fetch]) -> None:
    one = fetching(storing={1: Superseded("another one runs")})
    with pytest.raises(Superseded):
        one.work()
    assert one.diary == ["ask 0", "ask 1", "stored 0", "ask 2"]


def test_at_the_soft_limit_what_was_asked_for_is_stored_and_the_rest_owed(fetching: Callable[..., Fetch]) -> None:
    ticks = iter([0.0, 1.0, 2.0, 3.0])
    one = fetching()
    outcome = one.work(Deadline(3, monotonic=lambda: next(ticks)))
    assert one.written == ["stored 0", "stored 1"]
    assert (outcome.outcome, outcome.owed, outcome.retry) == ("partial", 2, False)


@pytest.mark.parametrize("rows", [1, 9, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_64_bits_is_seen(rows: int, sign: int) -> None:
    frame = pd.DataFrame(
        {"spend_micros": [0] * rows, "conversions_micros": 0, "revenue_micros": [sign * (2**62)] * rows}
    )
    with pytest.raises(AaeError, match="add up to too much revenue"):
        check_sums(frame, account(Platform.META))
