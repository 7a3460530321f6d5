"""The sandbox's own time: it runs with the real one, can be set, moved on and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta


class Clock:
    """Starts at an aware moment and runs on from there, one second per second of ``ticks``, unless frozen."""

    def __init__(self, start: datetime, *, frozen: bool = False, ticks: Callable[[], float] = time.monotonic) -> None:
        if start.tzinfo is None:
            raise ValueError("the clock needs an aware datetime")
        self._ticks = ticks
        self._since = ticks()
        self._base = start
        self.frozen = frozen

    def now(self) -> datetime:
        """The sandbox's moment, aware."""
        passed = 0.0 if self.frozen else self._ticks() - self._since
        return self._base + timedelta(seconds=passed)

    def set(self, moment: datetime, *, frozen: bool | None = None) -> None:
        """Jump to ``moment``; ``frozen`` stops or starts the clock, None leaves it as it is."""
        if moment.tzinfo is None:
            raise ValueError("the clock needs an aware datetime")
        self._base, self._since = moment, self._ticks()
        self.frozen = self.frozen if frozen is None else frozen

    def advance(self, by: timedelta) -> None:
        """Move on (or back)."""
        self.set(self.now() + by)

    def freeze(self) -> None:
        """Stop the clock where it is."""
        self.set(self.now(), frozen=True)
