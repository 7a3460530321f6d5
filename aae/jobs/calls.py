"""The API calls that work for an account takes, on their way into the log: all of them, whatever comes of the work."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from aae.jobs.context import Stores
from aae.model import Account
from aae.platforms.transport import counting
from aae.storage import fetches
from aae.storage.transact import transact_unfenced

_log = logging.getLogger(__name__)


class Calls:
    """Calls made so far, by purpose, and those of them that are in the log."""

    def __init__(self, made: Counter[str]) -> None:
        self.made = made
        self.logged: Counter[str] = Counter()

    @property
    def left(self) -> Counter[str]:
        """Those that are not in the log yet."""
        return self.made - self.logged


@asynccontextmanager
async def on_record(
    stores: Stores, account: Account, *, clock: Callable[[], datetime], run_id: str | None
) -> AsyncIterator[Calls]:
    """Count the calls made within this block; those that it leaves are put into the log at its end, however it ends.

    Also by a run that is over for another: what it has asked for was asked for.
    """
    with counting() as made:
        calls = Calls(made)
        try:
            yield calls
        finally:
            if calls.left:
                await asyncio.to_thread(_put_down, stores, account, calls.left, clock(), run_id)


def _put_down(stores: Stores, account: Account, calls: Counter[str], at: datetime, run_id: str | None) -> None:
    engine, batch = stores.engine, fetches.new_batch()
    try:
        transact_unfenced(engine, fetches.record_calls, account.id, calls, at=at, run_id=run_id, batch=batch)
    except SQLAlchemyError as error:  # a number for people is no reason to fail
        _log.warning("%d API calls of %s could not be logged (%s)", calls.total(), account, type(error).__name__)
