"""Notifications: the in-app list and the e-mail outbox in one table. The dedupe key makes each piece of news unique."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, or_, select, update

from aae.storage.bulk import add_once, fit
from aae.storage.engine import database_clock
from aae.storage.schema import notifications, users

_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """One notification and whom it is for. Moments are aware UTC; ``email_attempts`` counts claims."""

    id: int
    user_id: int
    email: str
    user_name: str
    kind: str
    urgency: str
    title: str
    message: str
    data: dict[str, Any]
    dedupe_key: str
    created_at: datetime
    read_at: datetime | None
    email_state: str
    email_attempts: int
    email_sent_at: datetime | None
    email_error: str | None


def add(
    connection: Connection,
    *,
    user_id: int,
    kind: str,
    urgency: str,
    title: str,
    message: str,
    data: Mapping[str, Any],
    dedupe_key: str,
    wants_email: bool,
    now: datetime,
) -> bool:
    """Add to the list and, if an e-mail is wanted, to the outbox. False if there is one of this ``dedupe_key`` already.

    ``title`` is cut at 300 characters; ``dedupe_key`` (at most 190) is not.
    """
    values = {
        "user_id": user_id,
        "kind": kind,
        "urgency": urgency,
        "title": fit(title, 300),
        "message": fit(message, 1_000_000),
        "data": dict(data),
        "dedupe_key": dedupe_key,
        "created_at": now,
        "email_state": "pending" if wants_email else "not_wanted",
        "email_attempts": 0,
    }
    return add_once(connection, notifications, values, notifications.c.dedupe_key == dedupe_key) is not None


def claim_email(connection: Connection, *, lease_seconds: float) -> NotificationRow | None:
    """Take the oldest e-mail that is due; nobody else gets it until the lease ends, by the database's clock.

    Due are pending ones (not before the pause after a failed attempt is over) and those whose sender died with its
    lease. Commit before sending. ``None`` when nothing is due.
    """
    now = database_clock(connection)
    due = or_(
        and_(
            notifications.c.email_state == "pending",
            or_(notifications.c.email_claimed_until.is_(None), notifications.c.email_claimed_until <= now),
        ),
        and_(notifications.c.email_state == "sending", notifications.c.email_claimed_until <= now),
    )
    # Other workers pass over a row that one is just taking. SQLite has one writer at a time and ignores the clause.
    oldest = (
        select(notifications.c.id).where(due).order_by(notifications.c.id).limit(1).with_for_update(skip_locked=True)
    )
    chosen = connection.scalar(oldest)
    if chosen is None:
        return None
    connection.execute(
        update(notifications)
        .where(notifications.c.id == chosen)
        .values(
            email_state="sending",
            email_attempts=notifications.c.email_attempts + 1,
            email_claimed_until=now + timedelta(seconds=lease_seconds),
        )
    )
    return NotificationRow(**connection.execute(_rows().where(notifications.c.id == chosen)).one()._mapping)


def email_sent(connection: Connection, claim: NotificationRow, *, now: datetime) -> bool:
    """The claimed e-mail has left the house; False if somebody else has claimed it since, whose word counts then."""
    return _settle(connection, claim, email_state="sent", email_sent_at=now, email_error=None)


def email_failed(connection: Connection, claim: NotificationRow, *, error: str, retry: bool) -> bool:
    """The claimed e-mail has not left; False as with :func:`email_sent`.

    With ``retry`` it is due again after a pause, which doubles with every attempt from one minute up to an hour.
    ``error`` must not hold a secret.
    """
    pause = min(_PAUSE * 2 ** min(max(claim.email_attempts - 1, 0), 10), _LONGEST_PAUSE)
    return _settle(
        connection,
        claim,
        email_state="pending" if retry else "failed",
        email_claimed_until=database_clock(connection) + pause if retry else None,
        email_error=fit(error, 500),
    )


def list_for(connection: Connection, user_id: int, *, limit: int = 100) -> list[NotificationRow]:
    """The user's notifications, newest first."""
    query = (
        _rows()
        .where(notifications.c.user_id == user_id)
        .order_by(notifications.c.created_at.desc(), notifications.c.id.desc())
        .limit(limit)
    )
    return [NotificationRow(**row._mapping) for row in connection.execute(query)]


def _rows() -> Select[Any]:
    own = [notifications.c[name] for name in NotificationRow.__dataclass_fields__ if name in notifications.c]
    return select(*own, users.c.email, users.c.name.label("user_name")).join_from(notifications, users)


def _settle(connection: Connection, claim: NotificationRow, **values: Any) -> bool:
    ours = and_(
        notifications.c.id == claim.id,
        notifications.c.email_state == "sending",
        notifications.c.email_attempts == claim.email_attempts,
    )
    return connection.execute(update(notifications).where(ours).values(**values)).rowcount == 1
