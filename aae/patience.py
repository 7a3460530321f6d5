"""What is known of how patient one must be with the platforms: pauses, pace, whose turn it is, answers at hand.

:class:`SharedState` is what the door to the network asks of it. ``aae.cache`` keeps it in Redis for all processes;
:class:`LocalState` keeps it within one, which is also what every process falls back on while Redis is away.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

KEPT_AFTER: Final = timedelta(minutes=1)
"""A pause is kept for as long as it was to last, and this: one that was set by a clock that was wrong ends in time, and
replays live in the past."""

IN_A_ROW: Final = timedelta(hours=1)
"""A refusal this long after the end of a pause is the first of its kind again, whoever is asked."""

PACE_SECONDS: Final = 300.0
"""How long a pace holds that nobody renews. Those who keep to it renew it with every answer."""

SLOWEST: Final = 60.0
"""Seconds between two calls; what needs more needs a pause."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A scope is to be left alone until this moment, which may be over; ``refusals`` in a row have led to it.

    There are none if a good answer only said that the limit is near; they are remembered longer than the moment.
    """

    until: datetime | None
    refusals: int = 0


class SharedState(Protocol):
    """What all processes know together. Losing it loses time, never data.

    Scopes are names such as ``meta:account:1001``; moments are aware UTC datetimes; bodies are bytes as received. The
    implementation decides how long answers live.
    """

    async def pauses(self, scopes: Sequence[str]) -> dict[str, Pause]:
        """The last pause of each of the scopes that had one lately; the caller says whether it is over."""

    async def block(self, scope: str, until: datetime, *, now: datetime, refused: bool = True) -> None:
        """Begin a pause, or lengthen it; never shorten it. ``now`` is the caller's, by which it knew when to end it.

        ``refused``: a call was refused. Within a pause that has begun that is the same refusal as before.
        """

    async def relieve(self, scope: str) -> None:
        """A call of the scope went well again: the next refusal is the first."""

    async def set_pace(self, scope: str, seconds: float) -> None:
        """Leave so many seconds between any two calls of the scope, for now; the last word counts."""

    async def take_turn(self, paces: Mapping[str, float], *, longest: float) -> float:
        """Seconds until the caller's turn in every one of the scopes; each has a pace that is always kept.

        A turn further away than ``longest`` seconds is told, not taken.
        """

    async def get_answer(self, key: str) -> bytes | None:
        """A body that was kept a short while ago."""

    async def put_answer(self, key: str, body: bytes) -> None:
        """Keep a body for a short while."""


class LocalState:
    """:class:`SharedState` within one process, bounded in memory (``largest`` bytes of answers; oldest leave first)."""

    def __init__(
        self, clock: Callable[[], datetime], *, answer_ttl_seconds: float = 0, largest: int = 64 * 1024 * 1024
    ) -> None:
        self._clock = clock
        self._ttl = timedelta(seconds=answer_ttl_seconds)
        self._largest = largest
        self._pauses: dict[str, tuple[datetime, float]] = {}
        self._refusals: dict[str, tuple[int, float]] = {}
        self._paces: dict[str, tuple[float, float]] = {}
        self._turns: dict[str, float] = {}
        self._answers: OrderedDict[str, tuple[datetime, bytes]] = OrderedDict()
        self._held = 0

    async def pauses(self, scopes: Sequence[str]) -> dict[str, Pause]:
        """The last pause of each of the scopes that had one lately."""
        now = time.monotonic()
        until = {scope: self._pauses[scope][0] for scope in scopes if self._pauses.get(scope, (0, 0.0))[1] > now}
        row = {scope: self._refusals[scope][0] for scope in scopes if self._refusals.get(scope, (0, 0.0))[1] > now}
        return {scope: Pause(until.get(scope), row.get(scope, 0)) for scope in until | row}

    async def block(self, scope: str, until: datetime, *, now: datetime, refused: bool = True) -> None:
        """Begin a pause, or lengthen it; never shorten it."""
        before = (await self.pauses([scope])).get(scope, Pause(None))
        start, lasts = time.monotonic(), max(until - now, timedelta(0))
        self._pauses = {name: kept for name, kept in self._pauses.items() if kept[1] > start}
        self._refusals = {name: kept for name, kept in self._refusals.items() if kept[1] > start}
        if refused and (before.until is None or before.until <= now or not before.refusals):
            self._refusals[scope] = (before.refusals + 1, start + (lasts + IN_A_ROW).total_seconds())
        if before.until is None or before.until <= until:
            self._pauses[scope] = (until, start + (lasts + KEPT_AFTER).total_seconds())

    async def relieve(self, scope: str) -> None:
        """A call of the scope went well again: the next refusal is the first."""
        self._refusals.pop(scope, None)

    async def set_pace(self, scope: str, seconds: float) -> None:
        """Leave so many seconds between any two calls of the scope, for now."""
        self._paces[scope] = (min(seconds, SLOWEST), time.monotonic() + PACE_SECONDS)

    async def take_turn(self, paces: Mapping[str, float], *, longest: float) -> float:
        """Seconds until the caller's turn in every one of the scopes."""
        # Monotonic: it also runs where the caller's clock is set.
        now = time.monotonic()
        turns = {scope: max(now, self._turns.get(scope, now)) for scope in paces}
        wait = max(turns.values(), default=now) - now
        if wait <= longest:
            for scope, pace in paces.items():
                told, until = self._paces.get(scope, (0.0, now))
                self._turns[scope] = turns[scope] + max(pace, told if until > now else 0.0)
        return wait

    async def get_answer(self, key: str) -> bytes | None:
        """A body that was kept a short while ago."""
        kept = self._answers.get(key)
        if kept is None or self._clock() - kept[0] >= self._ttl:
            return None
        return kept[1]

    async def put_answer(self, key: str, body: bytes) -> None:
        """Keep a body for a short while."""
        if not self._ttl or len(body) > self._largest:
            return
        _, replaced = self._answers.pop(key, (None, b""))
        self._answers[key] = (self._clock(), body)
        self._held += len(body) - len(replaced)
        while self._held > self._largest:
            _, (_, oldest) = self._answers.popitem(last=False)
            self._held -= len(oldest)
