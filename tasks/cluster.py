"""Where accounts are fetched: in the run's own process, or on a Dask cluster (``AAE_FETCH__RUNNER``).

The steps stay in the run's process, with Prefect's record of them, their retries, time limits, places at once and
progress. What travels is the work of one attempt, an :class:`Order`: so a step that waits minutes for its next try
keeps no thread of the cluster, and one that the cluster lost is tried again like any other. (Prefect's own runner for
Dask sends the step as a whole, waits included, and gives each an event loop of its own and with it connections of its
own to the platforms.)

An order names no secret: the processes of the cluster have the settings of a worker in their environment. They write
under the fencing token of the run's attempt, so what they still do when the run has been given to another process, or
cancelled, ends at their next transaction.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final, TypeVar, TypeVarTuple

from prefect.runtime import task_run

from aae import logs
from aae.errors import Retry, UserError
from aae.operate.processes import leave_no_core_dump
from aae.settings import FetchSettings, load
from aae.storage import attempts
from tasks.limits import limited
from tasks.resources import for_run, run_id

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

PROCESSES: Final = 2
"""Of a cluster that is started for one run, on this machine."""

CONNECT_SECONDS: Final = 30

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """A coroutine function of ours to be called elsewhere, and on whose behalf. Pickled: it holds no secret."""

    function: Callable[..., Coroutine[Any, Any, Any]]
    args: tuple[Any, ...]
    run_id: str | None
    attempt: int | None
    about: Mapping[str, str]
    doing: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What an order came to; an error of its own is told apart from one of the cluster."""

    value: Any = None
    error: Exception | None = None


Send = Callable[[Order], Awaitable[Answer]]

_send: ContextVar[Send | None] = ContextVar("send", default=None)


# --- in the run's process ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def cluster(settings: FetchSettings) -> AsyncIterator[None]:
    """Within this block :func:`carried_out` uses the cluster that is set, if one is.

    Raises:
        UserError: its packages are not installed, or it cannot be reached.
    """
    if settings.runner == "local":
        yield
        return
    async with _dask(settings) as send:
        mark = _send.set(send)
        try:
            yield
        finally:
            _send.reset(mark)


async def carried_out(function: Callable[[*Ts], Coroutine[Any, Any, R]], *args: *Ts) -> R:
    """What ``function(*args)`` returns or raises, called here or on the cluster. It must be importable there.

    Raises:
        Retry: the cluster lost the work, or cannot be reached.
    """
    send = _send.get()
    if send is None:
        return await function(*args)
    doing = task_run.get_name() or function.__name__
    order = Order(function, args, run_id(), attempts.held(), logs.fields(), doing)
    try:
        answer = await send(order)
    except Exception as error:  # noqa: BLE001 - whatever a cluster raises, it is the cluster's
        raise Retry(f"The cluster did not do its part ({_told(error)}).") from None
    if answer.error is not None:
        raise answer.error
    result: R = answer.value
    return result


@asynccontextmanager
async def _dask(settings: FetchSettings) -> AsyncIterator[Send]:
    distributed = _package()
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every connection
    async with AsyncExitStack() as stack:
        address: Any = settings.cluster
        if not address:
            threads = -(-settings.accounts_at_once // PROCESSES)
            # With keys of its own for the time of the run: whoever reaches a scheduler can run code in its workers.
            local = distributed.LocalCluster(
                n_workers=PROCESSES,
                threads_per_worker=threads,
                security=True,
                # Of this machine alone, and any port: two runs may have a cluster each.
                dashboard_address="127.0.0.1:0",
                asynchronous=True,
            )
            address = await stack.enter_async_context(local)
        connecting = asyncio.Lock()
        client: Any = None

        async def connected() -> Any:
            # It connects again by itself after a short loss; after a long one it is closed for good.
            nonlocal client
            async with connecting:
                if client is None or client.status in {"closing", "closed"}:
                    new = distributed.Client(address, asynchronous=True, set_as_default=False, timeout=CONNECT_SECONDS)
                    stack.push_async_exit(new)  # also if it is not let in: nobody else closes it
                    client = await new
                return client

        async def send(order: Order) -> Answer:
            future = (await connected()).submit(carry_out, order, pure=False)
            try:
                answer: Answer = await future
                return answer
            finally:
                future.release()  # if we no longer wait, the cluster need not begin

        try:
            await connected()
        except Exception as error:  # noqa: BLE001 - of TLS, say, or of an address that is none
            raise _unreachable(settings, error) from None
        log.info("accounts are fetched on the Dask cluster at %s", client.scheduler.address)
        yield send


def _package() -> Any:
    try:
        return import_module("distributed")
    except ImportError:
        raise UserError(
            "AAE_FETCH__RUNNER=dask needs packages that are not installed here: run 'make dask', "
            "or install requirements-dask.lock."
        ) from None


def _unreachable(settings: FetchSettings, error: Exception) -> UserError:
    where = f"at {settings.cluster}" if settings.cluster else "on this machine"
    return UserError(f"The cluster {where} (AAE_FETCH__RUNNER=dask) cannot be reached: {_told(error)}.")


def _told(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


# --- in a process of the cluster --------------------------------------------------------------------------------------


def carry_out(order: Order) -> Answer:
    """Do the work, in this process's one event loop: all orders share the door to the platforms."""
    try:
        _get_ready()
        return Answer(asyncio.run_coroutine_threadsafe(_attempt(order), _loop()).result())
    except Exception as error:  # noqa: BLE001 - it is raised where the order came from
        return Answer(error=error)


async def _attempt(order: Order) -> Any:
    with for_run(order.run_id), attempts.on_behalf_of(order.attempt), logs.about(**order.about):
        async with limited(order.doing):
            return await order.function(*order.args)


_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _started_loop()


@cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="orders", daemon=True).start()
    return loop


@cache
def _get_ready() -> None:
    """Once per process: what a process of ours does with its secrets and logs."""
    settings = load()
    leave_no_core_dump()
    logs.set_levels(settings)
    if settings.log_format == "json":
        logs.configure(settings, sys.stderr)
