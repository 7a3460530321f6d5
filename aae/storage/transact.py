"""Writing and reading that survive a database which misbehaves for a moment; writing is fenced, too.

Every write of a job goes through :func:`transact`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aae.storage import attempts
from aae.storage.engine import reading

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE_SECONDS: float = 30.0
"""For this long after its first failure a transaction is tried again; a server that restarts is back by then."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 3.0

# Numbers that MySQL and MariaDB give to what passes by itself.
_READ_ONLY: Final = frozenset({1290, 1792, 1836, 3100, 3101})  # a fail-over
_PASSING: Final = frozenset(
    {
        *(1205, 1213, 1020),  # lock wait, deadlock, a row changed since it was read
        *(2002, 2003, 2006, 2013, 2014, 2055, 1927, 4031),  # no server, connection lost or killed
        *(1040, 1203, 1047, 1053, 1077, 1079, 1317),  # too many clients, not ready, shutting down, killed
        *(1152, 1158, 1159, 1160, 1161),  # the network
        *_READ_ONLY,
        *(3, 20, 28, 1021, 1026, 1030, 1114, 1180),  # disk or table full until somebody makes room
    }
)
_NO_SAVEPOINT: Final = 1305
_SQLITE_PASSING: Final = ("locked", "busy", "disk is full", "disk i/o error", "readonly")

_log = logging.getLogger(__name__)


def transact(engine: Engine, work: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do ``work(connection, ...)`` in one transaction of our attempt; again from its start if the database faltered.

    The work must be repeatable: when a connection is lost in the middle of a commit nobody knows whether it happened.
    What it changes outside the database it must change after this has returned.

    Raises:
        Superseded: our attempt has been declared over; nothing was written.
        SQLAlchemyError: the database failed for good, or for longer than our patience.
    """

    def fenced(connection: Connection) -> R:
        attempts.check_hold(connection)
        return work(connection, *args, **kwargs)

    return _persist(engine, engine.begin, fenced)


def transact_unfenced(
    engine: Engine, work: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """The same for what anybody alive may do, such as delivering mail and ending attempts."""
    return _persist(engine, engine.begin, lambda connection: work(connection, *args, **kwargs))


def look(engine: Engine, work: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Read with the same patience; all queries of ``work`` see the database as it was at the first one.

    Raises:
        SQLAlchemyError: as :func:`transact`.
    """
    snapshot = partial(reading, engine, snapshot=True)
    return _persist(engine, snapshot, lambda connection: work(connection, *args, **kwargs))


def is_passing(error: SQLAlchemyError) -> bool:
    """Whether the same may succeed in a moment."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeout)
    if error.connection_invalidated:
        return True
    number = _number(error)
    if number is None:
        return any(word in str(error.orig).lower() for word in _SQLITE_PASSING)
    # PyMySQL's number for a connection that we ourselves have closed is 0.
    return number in _PASSING or number == 0 or (number == _NO_SAVEPOINT and _began_as_passing(error))


def _number(error: SQLAlchemyError) -> int | None:
    """The server's number of the error, if it has one."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return cause.args[0] if cause is not None and cause.args and isinstance(cause.args[0], int) else None


def _began_as_passing(error: BaseException) -> bool:
    """A deadlock takes back the whole transaction with its savepoints; going back to one then fails in its place."""
    before = error.__context__
    while before is not None and not isinstance(before, SQLAlchemyError):
        before = before.__context__
    return before is not None and is_passing(before)


def _persist(
    engine: Engine, connected: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], R]
) -> R:
    pause = _FIRST_PAUSE_SECONDS
    # Counted from the first failure: to be told that a lock or a connection is lost may itself take minutes.
    give_up_at: float | None = None
    while True:
        try:
            with connected() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            if give_up_at is None:
                give_up_at = time.monotonic() + PATIENCE_SECONDS
                _log.warning("the database faltered (%s); trying again", _brief(error))
            elif time.monotonic() > give_up_at:
                raise
            if _number(error) in _READ_ONLY:
                # Another server may be the one to write to now; a connection that is kept leads to this one for ever.
                engine.dispose()
        # Not in step with whoever met the same trouble.
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _brief(error: SQLAlchemyError) -> str:
    """Kind and number: the statement's values stay out of the log."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return f"{type(cause or error).__name__} {_number(error) or ''}".strip()
