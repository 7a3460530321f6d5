"""The last resort: ends a process in which guarded work outlives its limit, and knows what is being worked on.

A timer inside the interpreter that needs neither the GIL nor the event loop writes every stack to stderr and ends the
process. It is for code that cannot be cancelled: a C call, a loop that never awaits, a thread that hangs.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True)
class _Guard:
    doing: str
    begun: float
    ends: float


class Watchdog:
    """Ends the process when one of several guarded pieces of work outlives its limit.

    The interpreter has one such timer, so it is always set to the earliest end.
    """

    def __init__(self, arm: Callable[[float], None] | None = None, disarm: Callable[[], None] | None = None) -> None:
        self._arm = arm or _arm_faulthandler
        self._disarm = disarm or faulthandler.cancel_dump_traceback_later
        self._guards: dict[int, _Guard] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    @contextmanager
    def guard(self, seconds: float, doing: str = "") -> Iterator[None]:
        """Within this block, ``seconds`` may pass. ``doing`` names the work for :meth:`activity`."""
        number = next(self._numbers)
        self._put(number, seconds, doing)
        try:
            yield
        finally:
            with self._lock:
                del self._guards[number]
                self._set()

    def guard_interpreter(self, seconds: float) -> None:
        """From now on: end the process if no thread of it gets a turn for ``seconds`` (a C call may hold the GIL)."""
        number = next(self._numbers)

        def pulse() -> None:
            while True:
                self._put(number, seconds, "")
                time.sleep(min(1.0, seconds / 4))

        threading.Thread(target=pulse, name="pulse", daemon=True).start()

    def activity(self) -> str:
        """What is guarded right now, for how long it has been and may be, the oldest first."""
        now = time.monotonic()
        with self._lock:
            named = sorted((each for each in self._guards.values() if each.doing), key=lambda each: -each.begun)
        # A step and its thread are guarded under one name; the older of the two tells how long it has been.
        guards = {each.doing: each for each in named}
        return ", ".join(
            f"{each.doing} for {now - each.begun:.0f} s of at most {each.ends - each.begun:.0f} s"
            for each in reversed(guards.values())
        )

    def _put(self, number: int, seconds: float, doing: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._guards[number] = _Guard(doing, now, now + seconds)
            self._set()

    def _set(self) -> None:
        if self._guards:
            self._arm(max(0.001, min(each.ends for each in self._guards.values()) - time.monotonic()))
        else:
            self._disarm()


def _arm_faulthandler(seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)


watchdog = Watchdog()
