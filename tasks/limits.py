"""What every step gets: retries by meaning, a soft and a hard time limit, results that are data.

The numbers are the customer's from Celery (``max_retries=3``, 300 s apart, limits of 3300 and 3600 s) and can be set
(``AAE_LIMITS__...``). Each limit counts per attempt:

- **soft**: the step asks :func:`deadline` between two pieces of work, keeps what is done and says that it stopped.
- **hard**: Prefect cancels the attempt, which a waiting coroutine feels at once, and the attempt counts as failed.
- **last resort**: code that cannot be cancelled (a C call, a loop that never awaits, a thread that hangs) is ended with
  its process by a timer inside the interpreter that needs neither the GIL nor the event loop; every stack is written to
  stderr first. A thread stays guarded until it has really ended, also when nobody waits for it any more.
  This is why all steps are coroutines in one process, and not child processes: one mechanism covers them all, and a
  retry that waits costs a coroutine, not a worker.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import count
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.client.schemas import TaskRun

from aae.deadline import NEVER, Deadline
from aae.errors import Bug, Reauthorize, Skip, UserError
from aae.settings import load

P = ParamSpec("P")
R = TypeVar("R")

LIMITS = load().limits
GRACE_SECONDS = 10.0
"""How long after the hard limit a process that ignores its cancellation is left alive."""

_deadline: ContextVar[Deadline] = ContextVar("deadline", default=NEVER)
_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


def deadline() -> Deadline:
    """The soft limit of the attempt that is running."""
    return _deadline.get()


def step(
    *, name: str, run_name: str | None = None, description: str, tags: set[str] | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Task[P, Coroutine[Any, Any, R]]]:
    """Make a coroutine function a Prefect task with the guarantees above.

    ``run_name`` is a template over the parameters, shown in the UI.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, Coroutine[Any, Any, R]]:
        @wraps(function)
        async def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
            mark = _deadline.set(Deadline(LIMITS.soft_seconds))
            turn = _turn.get()
            if turn is not None:
                await turn.take()
            try:
                with watchdog.guard(LIMITS.hard_seconds + GRACE_SECONDS):
                    return await function(*args, **kwargs)
            finally:
                _deadline.reset(mark)
                if turn is not None:
                    turn.give()

        return task(
            name=name,
            task_run_name=run_name,
            description=description,
            tags=tags,
            retries=LIMITS.retries,
            retry_delay_seconds=LIMITS.retry_delay_seconds,
            retry_condition_fn=worth_retrying,
            timeout_seconds=LIMITS.hard_seconds,
            persist_result=True,
            result_serializer="json",
        )(attempt)

    return decorate


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a blocking function in a thread that the last resort watches until it has ended."""

    def guarded() -> R:
        with watchdog.guard(LIMITS.hard_seconds + GRACE_SECONDS):
            return function(*args, **kwargs)

    return await asyncio.to_thread(guarded)


class Turn:
    """A place among so many at once. It is given back while a step waits for its next try, so that steps that fail
    again and again do not keep the others waiting."""

    def __init__(self, gate: asyncio.Semaphore) -> None:
        self._gate = gate
        self._held = False

    async def take(self) -> None:
        """Wait for a place; nothing if there is one already."""
        if not self._held:
            await self._gate.acquire()
            self._held = True

    def give(self) -> None:
        """Give the place back; nothing if there is none."""
        if self._held:
            self._held = False
            self._gate.release()


@asynccontextmanager
async def place(gate: asyncio.Semaphore) -> AsyncIterator[None]:
    """Within this block, call a step: it has a place from the start, which does not count against its time limit."""
    turn = Turn(gate)
    before = _turn.set(turn)
    await turn.take()
    try:
        yield
    finally:
        turn.give()
        _turn.reset(before)


async def settled(running: Any) -> State[Any]:
    """Await a step called with ``return_state=True`` (which Prefect types as if it were not a coroutine)."""
    state: State[Any] = await running
    return state


class Incomplete(Exception):
    """A step did a part and owes the rest: its attempt counts as failed, and what was done reaches the flow.

    An exception and not a ``Failed`` state with data: Prefect 3.8 commits the result of a returned state before the
    retry, which then ends at once as "Cached".
    """

    def __init__(self, message: str, *, outcome: Any = None, retry: bool = False) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.retry = retry


async def worth_retrying(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Retry everything but what repeating cannot mend."""
    error = state.data
    if isinstance(error, Incomplete):
        return error.retry
    return not isinstance(error, Reauthorize | Skip | Bug | UserError)


class Watchdog:
    """Ends the process when one of several guarded pieces of work outlives its limit.

    The interpreter has one such timer, so it is always set to the earliest end.
    """

    def __init__(self, arm: Callable[[float], None] | None = None, disarm: Callable[[], None] | None = None) -> None:
        self._arm = arm or _arm_faulthandler
        self._disarm = disarm or faulthandler.cancel_dump_traceback_later
        self._ends: dict[int, float] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    @contextmanager
    def guard(self, seconds: float) -> Iterator[None]:
        """Within this block, ``seconds`` may pass."""
        number = next(self._numbers)
        with self._lock:
            self._ends[number] = time.monotonic() + seconds
            self._set()
        try:
            yield
        finally:
            with self._lock:
                del self._ends[number]
                self._set()

    def _set(self) -> None:
        if self._ends:
            self._arm(max(0.001, min(self._ends.values()) - time.monotonic()))
        else:
            self._disarm()


def _arm_faulthandler(seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)


watchdog = Watchdog()
