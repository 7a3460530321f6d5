"""Putting a notification into the list and the outbox, by its reader's preferences."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from aae.model import Account
from aae.notify.messages import Notification, wants_email
from aae.storage import accounts, notifications
from aae.storage.accounts import User


def tell(connection: Connection, user: User, note: Notification, *, now: datetime) -> bool:
    """Record the news in the transaction of what it tells of; False if it was told before."""
    return notifications.add(
        connection,
        user_id=user.id,
        kind=note.kind,
        urgency=note.urgency,
        title=note.title,
        message=note.message,
        data=note.data,
        dedupe_key=note.dedupe_key,
        wants_email=wants_email(user.preferences, note),
        now=now,
    )


def tell_owner(connection: Connection, account: Account, note: Notification, *, now: datetime) -> bool:
    """The same to the owner of an account, who may have left."""
    (owner,) = accounts.list_users(connection, ids=[account.user_id], active_only=False)
    return tell(connection, owner, note, now=now)
