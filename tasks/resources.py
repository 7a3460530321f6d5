"""What the steps share within one flow run's process, and how they know their run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

from prefect.runtime import flow_run

from aae.jobs.context import Context, Stores, open_context, open_stores
from aae.settings import load


def clock() -> datetime:
    """The wall clock, aware UTC: the one place where the steps ask what time it is."""
    return datetime.now(UTC) + timedelta(seconds=load().clock_offset_seconds)


def run_id() -> str | None:
    """The flow run's id, written beside everything it stores; the same when the run is run again."""
    return _run.get() or flow_run.get_id()


@contextmanager
def for_run(run_id: str | None) -> Iterator[None]:
    """Within this block :func:`run_id` is this one: on a cluster Prefect does not know whose work it is."""
    mark = _run.set(run_id)
    try:
        yield
    finally:
        _run.reset(mark)


def stores() -> Stores:
    """Database, cache and vault."""
    return open_stores(load())


@asynccontextmanager
async def platforms() -> AsyncIterator[Context]:
    """The stores and the ad platforms, for the length of one step.

    Steps that overlap share one door to the network: a platform's pace and pauses count for the whole process.
    """
    shared = _shared.setdefault(asyncio.get_running_loop(), _Shared())
    async with shared.lock:
        if shared.context is None:
            shared.context = await shared.stack.enter_async_context(open_context(load(), clock))
        shared.users += 1
    try:
        yield shared.context
    finally:
        async with shared.lock:
            shared.users -= 1
            if shared.users == 0:
                shared.context = None
                await shared.stack.aclose()


class _Shared:
    """The open door of one event loop, and how many steps are using it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.stack = AsyncExitStack()
        self.context: Context | None = None
        self.users = 0


_run: ContextVar[str | None] = ContextVar("run", default=None)
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()
