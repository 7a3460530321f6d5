"""A source that is slow or away must not hold up an answer: a thread of its own reads it, and is waited for briefly.

A reading is used for some seconds, so that several who ask at once cost one reading. A new one that takes longer than
we wait leaves the last one in use for a minute, with its age told; one that failed is told at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from aae.errors import AaeError

T = TypeVar("T")

FRESH_SECONDS: Final = 10.0
"""A reading younger than this is not repeated."""

KEEP_SECONDS: Final = 60.0
"""A reading older than this says nothing any more."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What a source said last: its ``value`` (None: nothing that counts, and ``error`` says why), ``age`` in seconds.

    ``took`` is how many seconds the last finished reading took, ``errors`` how many have failed so far.
    """

    value: T | None
    error: str | None
    age: float | None
    took: float | None
    errors: int


class Source(Generic[T]):
    """One thing to read, by one thread at a time. For any number of threads that ask."""

    def __init__(self, work: Callable[[], T], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._busy = False
        self._value: T | None = None
        self._error: str | None = "it has not been read yet"
        self._tried_at: float | None = None
        self._read_at: float | None = None
        self._took: float | None = None
        self._errors = 0

    def begin(self) -> None:
        """Begin to read it again, unless that is under way or the last reading is fresh."""
        with self._changed:
            now = self._monotonic()
            if self._busy or (self._tried_at is not None and now - self._tried_at < FRESH_SECONDS):
                return
            self._busy = True
        # A daemon: a server that hangs must not keep the process from ending.
        threading.Thread(target=self._read, name="metrics-source", daemon=True).start()

    def reading(self, within: float) -> Reading[T]:
        """The present reading, waiting at most ``within`` seconds for one that is under way."""
        self.begin()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, timeout=max(0.0, within))
            age = None if self._read_at is None else self._monotonic() - self._read_at
            is_good = self._error is None and age is not None and age <= KEEP_SECONDS
            error = None if is_good else self._error or "it does not answer in time"
            return Reading(self._value if is_good else None, error, age if is_good else None, self._took, self._errors)

    def _read(self) -> None:
        began = self._monotonic()
        value: T | None = None
        error: str | None = None
        try:
            value = self._work()
        except AaeError as trouble:
            error = str(trouble)
        except Exception as trouble:  # noqa: BLE001 - whatever a foreign answer does to us, the next one is read again
            # Only the kind: messages of foreign exceptions may quote anything.
            error = f"it cannot be read ({type(trouble).__name__})"
        with self._changed:
            self._tried_at = self._monotonic()
            self._took = self._tried_at - began
            self._error = error
            if error is None:
                self._value, self._read_at = value, self._tried_at
            else:
                self._errors += 1
            self._busy = False
            self._changed.notify_all()
