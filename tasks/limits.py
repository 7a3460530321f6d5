"""What every step gets: retries by meaning, a soft and a hard time limit, results that are data.

The numbers are the customer's from Celery (``max_retries=3``, 300 s apart, limits of 3300 and 3600 s) and can be set
(``AAE_LIMITS__...``). Each limit counts per attempt:

- **soft**: the step asks :func:`deadline` between two pieces of work, keeps what is done and says that it stopped.
- **hard**: Prefect cancels the attempt, which a waiting coroutine feels at once, and the attempt counts as failed.
- **last resort**: code that cannot be cancelled is ended with its process (:mod:`tasks.watchdog`), and the run is run
  again. A thread stays guarded until it has really ended, also when nobody waits for it any more.
  This is why all steps are coroutines in one process, and not child processes: one mechanism covers them all, and a
  retry that waits costs a coroutine, not a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.client.schemas import TaskRun
from prefect.runtime import task_run

from aae import logs
from aae.deadline import NEVER, Deadline
from aae.errors import AaeError, Bug, Reauthorize, Skip, Superseded, UserError
from aae.model import Account
from aae.settings import load
from tasks import results
from tasks.watchdog import watchdog

P = ParamSpec("P")
R = TypeVar("R")

LIMITS = load().limits

results.guard()

_deadline: ContextVar[Deadline] = ContextVar("deadline", default=NEVER)
_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


def deadline() -> Deadline:
    """The soft limit of the attempt that is running."""
    return _deadline.get()


def _last_resort() -> float:
    """Seconds after which a process that ignores its cancellation is ended."""
    return LIMITS.hard_seconds + LIMITS.grace_seconds


@contextmanager
def _soft_limit() -> Iterator[None]:
    mark = _deadline.set(Deadline(LIMITS.soft_seconds))
    try:
        yield
    finally:
        _deadline.reset(mark)


@asynccontextmanager
async def limited(doing: str) -> AsyncIterator[None]:
    """Within this block: all three limits, for an attempt at a step that is made in another process than the step."""
    with _soft_limit(), watchdog.guard(_last_resort(), doing):
        async with asyncio.timeout(LIMITS.hard_seconds):
            yield


def step(
    *, name: str, run_name: str | None = None, description: str, tags: set[str] | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Task[P, Coroutine[Any, Any, R]]]:
    """Make a coroutine function a Prefect task with the guarantees above.

    ``run_name`` is a template over the parameters, shown in the UI.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, Coroutine[Any, Any, R]]:
        @wraps(function)
        async def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
            turn = _turn.get()
            with _soft_limit():
                if turn is not None:
                    await turn.take()
                try:
                    with watchdog.guard(_last_resort(), task_run.get_name() or name), logs.about(**_subject(args)):
                        return await function(*args, **kwargs)
                finally:
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


def _subject(args: tuple[object, ...]) -> dict[str, str]:
    """What a step's logs are about: its account."""
    account = next((one for one in args if isinstance(one, Account)), None)
    return {} if account is None else {"account": str(account)}


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a blocking function in a thread that the last resort watches until it has ended."""

    doing = task_run.get_name() or ""

    def guarded() -> R:
        with watchdog.guard(_last_resort(), doing):
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


def reason(state: State[Any], result: object) -> str:
    """Why a step ended without a result: our own error's sentence, or else what Prefect says."""
    return str(result) if isinstance(result, AaeError) else state.message or type(result).__name__


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
    return not isinstance(error, Reauthorize | Skip | Bug | Superseded | UserError)
