"""What the steps share within one flow run's process, and how they know their run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from prefect.runtime import flow_run

from aae.jobs.context import Context, Stores, open_context, open_stores
from aae.settings import load


def clock() -> datetime:
    """The wall clock, aware UTC: the one place where the steps ask what time it is."""
    return datetime.now(UTC)


def run_id() -> str | None:
    """The flow run's id, written beside everything it stores; the same when the run is run again."""
    return flow_run.get_id()


def stores() -> Stores:
    """Database, cache and vault."""
    return open_stores(load())


@asynccontextmanager
async def platforms() -> AsyncIterator[Context]:
    """The stores and the ad platforms, for the length of one step."""
    async with open_context(load(), clock) as context:
        yield context
