"""What a job needs around it, opened once and closed in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import Engine

from aae.cache import Cache, SharedState
from aae.errors import UserError
from aae.model import Platform
from aae.platforms import connectors
from aae.platforms.base import Connector
from aae.platforms.transport import Transport
from aae.settings import Settings
from aae.storage.engine import connect, require_current
from aae.vault import Vault


@dataclass(frozen=True, slots=True)
class Stores:
    """The places where things are kept."""

    settings: Settings
    engine: Engine
    cache: Cache
    vault: Vault


@dataclass(frozen=True, slots=True)
class Context(Stores):
    """The same, with the ad platforms within reach."""

    transport: Transport
    connectors: Mapping[Platform, Connector]


@cache
def open_stores(settings: Settings) -> Stores:
    """Database, cache and vault, opened once per process and settings.

    Raises:
        UserError: there is no cache set (the embedded one runs under ``aae up`` and ``aae demo``), or the tables are of
            another version.
    """
    if not settings.redis_url:
        raise UserError(
            "There is no cache: set AAE_REDIS_URL to a Redis or Valkey server, or start the embedded one with 'aae up'."
        )
    engine = connect(settings.resolved_database_url)
    require_current(engine)
    return Stores(
        settings=settings,
        engine=engine,
        cache=Cache(settings.redis_url),
        vault=Vault.from_settings(settings),
    )


@asynccontextmanager
async def open_transport(settings: Settings, clock: Callable[[], datetime]) -> AsyncIterator[Transport]:
    """A door to the platforms at the pace and with the pauses of all processes, closed at the end.

    Without a cache in the settings it keeps its own.
    """
    shared: AbstractAsyncContextManager[SharedState | None] = nullcontext()
    if settings.redis_url:
        shared = aclosing(SharedState(settings.redis_url, answer_ttl_seconds=settings.fetch.answer_ttl_seconds))
    async with shared as state, Transport(settings.fetch.request_timeout_seconds, clock, store=state) as transport:
        yield transport


@asynccontextmanager
async def open_context(settings: Settings, clock: Callable[[], datetime]) -> AsyncIterator[Context]:
    """The stores and a door to the platforms, closed at the end."""
    stores = open_stores(settings)
    async with open_transport(settings, clock) as transport:
        yield Context(
            settings=settings,
            engine=stores.engine,
            cache=stores.cache,
            vault=stores.vault,
            transport=transport,
            connectors=connectors(settings, transport),
        )
