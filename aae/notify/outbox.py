"""The outbox, emptied: claim one e-mail, send it, note what came of it, take the next.

Whoever is alive may do it: it belongs to no job's attempt. At least once: who dies between sending and noting leaves a
lease that ends, and the next one sends the same message under the same Message-ID. Leases run on the database's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from email.message import EmailMessage
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from aae.errors import AaeError, Retry, Skip, UserError
from aae.notify.email import Attachment, Mail, Sender, compose, sender_for
from aae.settings import Settings
from aae.storage import notifications, reports
from aae.storage.notifications import NotificationRow
from aae.storage.transact import look, transact_unfenced

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 300.0
"""Longer than a mail server may take over one message."""
MAX_ATTEMPTS: Final = 48
"""With pauses of up to an hour: two days of trying, then the mail is given up (the in-app list has it all the same)."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """E-mails that left, and tries that failed. ``stopped`` says why the rest was left for later, if it was."""

    sent: int
    failed: int
    stopped: str | None = None


def deliver_pending(
    engine: Engine,
    settings: Settings,
    *,
    clock: Callable[[], datetime],
    limit: int = 1000,
    sender: Sender | None = None,
) -> Delivered:
    """Send what is due, oldest first, at most ``limit``; several processes may do this at once.

    A message that is refused for good is noted and passed over. When the server itself cannot be used, the message and
    all after it stay for the next time. ``sender`` replaces the one of the settings, in tests.

    Raises:
        UserError: the SMTP address in the settings is wrong.
        SQLAlchemyError: the database fails for longer than our patience; nothing is lost.
    """
    sent = failed = 0
    with sender or sender_for(settings) as way_out:
        while sent + failed < limit:
            row = transact_unfenced(engine, notifications.claim_email, lease_seconds=LEASE_SECONDS)
            if row is None:
                break
            try:
                way_out.send(_message(engine, settings, row))
            except SQLAlchemyError:
                # That says nothing about the message: its lease ends, and then it is due again.
                raise
            except Exception as error:  # noqa: BLE001 - one message that cannot be made must not block the others
                failed += 1
                _note_failure(engine, row, error)
                if _concerns_all(error):
                    return Delivered(sent, failed, stopped=str(error))
            else:
                sent += 1
                transact_unfenced(engine, notifications.email_sent, row, now=clock())
    return Delivered(sent, failed)


def _message(engine: Engine, settings: Settings, row: NotificationRow) -> EmailMessage:
    html, attachments = _report_of(engine, row) if row.kind == "daily_report" else (None, ())
    mail = Mail(
        address=row.email,
        user_name=row.user_name,
        urgent=row.urgency == "urgent",
        title=row.title,
        message=row.message,
        data=row.data,
        dedupe_key=row.dedupe_key,
        at=row.created_at,
        html=html,
        attachments=attachments,
    )
    return compose(mail, sender=settings.email.sender, public_url=settings.public_url)


def _report_of(engine: Engine, row: NotificationRow) -> tuple[str | None, tuple[Attachment, ...]]:
    """The stored report that the notification speaks of; without one (retention), the message stands alone."""
    day = date.fromisoformat(row.data["report_date"])
    report = look(engine, reports.get, row.user_id, day)
    if report is None:
        return None, ()
    return report.html, (Attachment(f"report-{day.isoformat()}.csv", "csv", report.csv),)


def _note_failure(engine: Engine, row: NotificationRow, error: Exception) -> None:
    # A wrong setting gets corrected: the mail waits for that. What we did not foresee will not get better by itself.
    lasting = isinstance(error, Skip) or not isinstance(error, AaeError)
    retry = not lasting and row.email_attempts < MAX_ATTEMPTS
    told = str(error) if isinstance(error, AaeError) else f"Unforeseen: {type(error).__name__}"
    log.warning("e-mail %s for user %s did not leave: %s", row.id, row.user_id, told, exc_info=_unforeseen(error))
    transact_unfenced(engine, notifications.email_failed, row, error=told, retry=retry)


def _concerns_all(error: Exception) -> bool:
    """Whether the next message would meet the same: the settings are wrong, or nobody answers.

    A ``Retry`` with a code is the server's answer to this one message, for instance greylisting.
    """
    return isinstance(error, UserError) or (isinstance(error, Retry) and error.code is None)


def _unforeseen(error: Exception) -> Exception | None:
    return None if isinstance(error, AaeError) else error
