"""One check of a token at a time, over all processes and machines: the refresh log, written ahead.

A check is in the log before its platform is asked: outcome ``checking``, ``expires_at`` the end of its lease by the
database's clock, ``detail`` who makes it. Its end is written over it. So whoever finds a check under way waits for its
end instead of asking again; one whose process has died, or whose lease is out, is taken over and stays in the log as
``unanswered``: its platform may have given a new token that nobody has. No row stays locked while a platform is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from aae.model import Process
from aae.storage.bulk import fit
from aae.storage.engine import database_clock
from aae.storage.schema import ad_accounts, token_refreshes

CHECKING: Final = "checking"
UNANSWERED: Final = "unanswered"

LEASE_SECONDS: float = 60.0
"""A check has ended by then, or its process is frozen or dead. Longer than a platform may take to answer."""

_LOST_ANSWERS: Final = frozenset({"timeout", "connection", "not-json"})
_LOOK_BACK: Final = 20


@dataclass(frozen=True, slots=True)
class Check:
    """A check that we make, by its row in the log: the newer one has the higher id."""

    id: int


@dataclass(frozen=True, slots=True)
class Busy:
    """A check that somebody else is making, by its row in the log."""

    id: int


@dataclass(frozen=True, slots=True)
class End:
    """How a check ended: ``outcome`` as in the log; ``checking`` if it has not, ``forgotten`` if it was nothing new."""

    outcome: str
    error_code: str | None = None
    detail: str | None = None


IsAlive = Callable[[Process], bool | None]


def begin(
    connection: Connection,
    account_id: int,
    *,
    token_version: int,
    process: Process,
    nonce: str,
    is_alive: IsAlive,
    now: datetime,
    run_id: str | None,
) -> Check | Busy | None:
    """Begin a check of the account's token of this version; None if that is no longer its token.

    Asked again with the same ``nonce`` it is the same check: the first answer may have been lost.
    """
    # Who comes second waits here until the first one's row can be seen.
    known = connection.scalar(
        select(ad_accounts.c.token_version).where(ad_accounts.c.id == account_id).with_for_update()
    )
    if known != token_version:
        return None
    author = f"{process.place} {process.pid} {process.born} {nonce}"
    under_way = select(token_refreshes).where(
        token_refreshes.c.account_id == account_id, token_refreshes.c.outcome == CHECKING
    )
    for row in connection.execute(under_way).all():
        if row.detail == author:
            return Check(row.id)
        if not _is_out(connection, row.detail, row.expires_at, is_alive):
            return Busy(row.id)
        over = update(token_refreshes).where(token_refreshes.c.id == row.id)
        connection.execute(over.values(outcome=UNANSWERED, expires_at=None, detail="Its process ended or fell silent."))
    written = connection.execute(
        insert(token_refreshes).values(
            account_id=account_id,
            at=now,
            outcome=CHECKING,
            token_version=token_version,
            expires_at=database_clock(connection) + timedelta(seconds=LEASE_SECONDS),
            detail=author,
            run_id=run_id,
        )
    )
    (row_id,) = written.inserted_primary_key or (None,)
    assert row_id is not None  # noqa: S101 - for the type checker
    return Check(int(row_id))


def look_at(connection: Connection, busy: Busy) -> End:
    """How somebody else's check ended, if it has."""
    columns = (token_refreshes.c.outcome, token_refreshes.c.error_code, token_refreshes.c.detail)
    row = connection.execute(select(*columns).where(token_refreshes.c.id == busy.id)).one_or_none()
    return End("forgotten") if row is None else End(*row)


def conclude(
    connection: Connection,
    check: Check,
    *,
    outcome: str,
    token_version: int,
    expires_at: datetime | None,
    error_code: str | None = None,
    detail: str | None = None,
) -> None:
    """Write how our check ended; may be repeated. No secrets."""
    connection.execute(
        update(token_refreshes)
        .where(token_refreshes.c.id == check.id)
        .values(
            outcome=outcome,
            token_version=token_version,
            expires_at=expires_at,
            error_code=error_code and fit(error_code, 64),
            detail=detail and fit(detail, 500),
        )
    )


def forget(connection: Connection, check: Check) -> None:
    """End a check that found what is in the log already."""
    connection.execute(delete(token_refreshes).where(token_refreshes.c.id == check.id))


def stored_version(connection: Connection, check: Check) -> int | None:
    """The version that our check has stored its new token as; None if it has not (yet)."""
    query = select(token_refreshes.c.token_version).where(
        token_refreshes.c.id == check.id, token_refreshes.c.outcome == "refreshed"
    )
    return connection.scalar(query)


def stored_by_older(connection: Connection, account_id: int, check: Check, *, version: int) -> bool:
    """Whether the token of this version came from a check that began before ours and was given up meanwhile.

    The platform gave ours later, so ours is the one that lasts where refresh tokens rotate.
    """
    older = select(token_refreshes.c.id).where(
        token_refreshes.c.account_id == account_id,
        token_refreshes.c.token_version == version,
        token_refreshes.c.outcome == "refreshed",
        token_refreshes.c.id < check.id,
    )
    return connection.execute(older.limit(1)).first() is not None


def lost_answer_since(connection: Connection, account_id: int, *, token_version: int) -> bool:
    """Whether a check of the token of this version may have had an effect that nobody heard of."""
    query = (
        select(token_refreshes.c.outcome, token_refreshes.c.error_code)
        .where(token_refreshes.c.account_id == account_id, token_refreshes.c.token_version == token_version)
        .order_by(token_refreshes.c.id.desc())
        .limit(_LOOK_BACK)
    )
    return any(
        row.outcome == UNANSWERED or (row.outcome == "transient_failure" and _may_have_answered(row.error_code))
        for row in connection.execute(query)
    )


def first_with(connection: Connection, account_id: int, *, token_version: int, error_code: str) -> datetime | None:
    """When a check of the token of this version first ended with this error."""
    query = (
        select(token_refreshes.c.at)
        .where(
            token_refreshes.c.account_id == account_id,
            token_refreshes.c.token_version == token_version,
            token_refreshes.c.error_code == error_code,
        )
        .order_by(token_refreshes.c.id)
        .limit(1)
    )
    return connection.scalar(query)


def _is_out(connection: Connection, author: str, ends: datetime, is_alive: IsAlive) -> bool:
    """Whether a check under way can be taken over: its process is dead, or its lease is out."""
    place, pid, born, _ = author.rsplit(" ", 3)
    return is_alive(Process(place, int(pid), int(born))) is False or ends <= database_clock(connection)


def _may_have_answered(code: str | None) -> bool:
    """Whether a failure with this code came after the platform had the request; 5xx often come from what is between."""
    return code in _LOST_ANSWERS or bool(code and code.isdigit() and code.startswith("5") and len(code) == 3)
