"""One user's daily report: read the hot windows, write the report, keep it once, tell its reader.

The unique key (user, day) decides: a report that exists is never made or sent again, whoever asks how often.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from aae.errors import UserError
from aae.jobs.context import Stores
from aae.jobs.fetch import HOT_DAILY_DAYS, read_hot_frames
from aae.jobs.telling import tell
from aae.model import Account, AccountStatus
from aae.notify import messages
from aae.reporting import IncidentNote, Report, build_report, render_csv, render_html, render_markdown, usual_day
from aae.reporting.numbers import HISTORY_DAYS
from aae.storage import accounts, fetches, incidents, reports
from aae.storage.accounts import User
from aae.storage.transact import look, transact

REPORTED = (AccountStatus.ACTIVE, AccountStatus.EXPIRED, AccountStatus.REVOKED)
"""Accounts whose owner expects them in the report; one that lost its authorization is listed as late."""

OLDEST_DAYS = HOT_DAILY_DAYS - HISTORY_DAYS
"""A report looks back four weeks on what is read of an account; an older one would show days as empty that were not."""

USEFUL_DAYS = 3
"""How far back the reports of missed mornings are still written; older ones nobody would read."""


@dataclass(frozen=True, slots=True)
class Edition:
    """A report to be written: for whom, and about which local day (None: each account's yesterday ``at`` that moment).

    ``at`` (aware) is when it was found to be owed. A run that takes long, or starts over, writes about the same day.
    """

    user: User
    day: date | None
    at: datetime
    missed: bool = False


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """What came of one user's report. ``outcome``: ``written``, ``exists``, ``no accounts`` or ``previewed``.

    ``missed``: it should have come on an earlier morning.
    """

    user_id: int
    user: str
    outcome: str
    report_date: date
    completeness: float = 0.0
    headline: str = ""
    markdown: str = ""
    files: tuple[str, ...] = ()
    missed: bool = False


def lags(account: Account, through: datetime | None, *, now: datetime, day: date | None) -> bool:
    """Whether numbers that reach ``through`` do not cover the account's reported day, although that has ended.

    Nothing reaches into the future: what says so comes of a clock that was wrong, and tells nothing.
    """
    reported = day or account.local_day(now) - timedelta(days=1)
    ended = datetime.combine(reported + timedelta(days=1), time(), tzinfo=account.zone)
    return ended <= now and (through is None or through > now or through < ended)


def editions(stores: Stores, users: Sequence[User], *, now: datetime, day: date | None) -> list[Edition]:
    """What is to be written: the report on ``day``, or without it today's and those of the mornings that were missed.

    Missed are the days after a user's last report, the oldest first; a user who never had one misses none.

    Raises:
        UserError: nobody can report on that ``day``.
    """
    owned: dict[int, list[Account]] = {user.id: [] for user in users}
    for account in look(stores.engine, accounts.list_accounts, user_ids=list(owned), statuses=REPORTED):
        owned[account.user_id].append(account)
    if day is not None:
        for user in users:
            _check_day(day, user, yesterday=usual_day(owned[user.id], now))
        return [Edition(user, day, now) for user in users]
    last = look(stores.engine, reports.last_days)
    found = []
    for user in users:
        yesterday = usual_day(owned[user.id], now)
        # Without accounts there is nothing to report on, and without a report before nobody has missed one.
        before = last.get(user.id, yesterday) if owned[user.id] else yesterday
        missed = [yesterday - timedelta(days=age) for age in range(USEFUL_DAYS, 0, -1)]
        found += [Edition(user, each, now, missed=True) for each in missed if each > before]
        found.append(Edition(user, None, now))
    return found


def _check_day(day: date, user: User, *, yesterday: date) -> None:
    # A report is written once: one before its day is over would take the place of the real one.
    if day > yesterday:
        raise UserError(f"{day} is not over yet for user {user.id}: the last day to report on is {yesterday}.")
    oldest = yesterday - timedelta(days=OLDEST_DAYS)
    if day < oldest:
        raise UserError(f"{day} is too long ago: reports are written on days from {oldest} on.")


def report_user(stores: Stores, user: User, *, now: datetime, day: date | None, dry_run: bool) -> ReportOutcome:
    """Write the report on ``day`` (the user's yesterday without it), unless it is there already.

    ``dry_run`` shows it and keeps nothing.
    """
    owned = look(stores.engine, accounts.list_accounts, user_ids=[user.id], statuses=REPORTED)
    versions = look(stores.engine, accounts.data_versions, user_id=user.id)
    if not owned:
        return ReportOutcome(user.id, user.name, "no accounts", day or now.date() - timedelta(days=1))
    frames = [read_hot_frames(stores, account, now=now, version=versions[account.id][0]) for account in owned]
    report = build_report(
        user_name=user.name,
        frames=frames,
        incidents=_incidents(stores, user, now),
        now=now,
        report_date=day,
        drift=_drift(stores, owned, now=now, day=day),
    )
    kept = None if dry_run else look(stores.engine, reports.get, user_id=user.id, report_date=report.report_date)
    if kept is not None:
        files = _write_files(stores, user, report.report_date, kept.html, kept.csv)
        return _outcome(user, report, "exists", files=files)
    markdown = render_markdown(report)
    if dry_run:
        return _outcome(user, report, "previewed", markdown=markdown)
    return _keep(stores, user, report, markdown, now=now)


def _keep(stores: Stores, user: User, report: Report, markdown: str, *, now: datetime) -> ReportOutcome:
    """Report and notification in one transaction, the files after it: they can be written again, it cannot."""
    html = render_html(report, public_url=stores.settings.public_url)
    csv = render_csv(report)

    def work(connection: Connection) -> bool:
        if not reports.save(
            connection,
            user_id=user.id,
            report_date=report.report_date,
            now=now,
            completeness=float(report.completeness),
            summary=report.summary(),
            html=html,
            csv=csv,
            markdown=markdown,
        ):
            return False
        note = messages.daily_report(user_id=user.id, report=report, public_url=stores.settings.public_url)
        tell(connection, user, note, now=now)
        return True

    if not transact(stores.engine, work):
        return _outcome(user, report, "exists")
    files = _write_files(stores, user, report.report_date, html, csv)
    return _outcome(user, report, "written", markdown=markdown, files=files)


def _write_files(stores: Stores, user: User, day: date, html: str, csv: str) -> list[str]:
    """The report's files; one that is there already stays (a run that was cut off after the transaction left none)."""
    stem = stores.settings.reports_dir / f"{day}-user-{user.id}"
    return [_write(stem.with_suffix(f".{kind}"), text) for kind, text in (("html", html), ("csv", csv))]


def _incidents(stores: Stores, user: User, now: datetime) -> list[IncidentNote]:
    """What is open, and what ended within the two days that the report may speak of."""
    rows = look(stores.engine, incidents.list_between, now - timedelta(days=2), now, user_ids=[user.id])
    return [
        IncidentNote(
            metric=row.metric,
            level=row.level,
            entity_name=row.data.get("entity_name"),
            platform=row.data.get("platform"),
            severity=row.severity,
            state=row.state,
            opened_at=row.opened_at,
            cause=row.data.get("cause"),
            recommendation=row.data.get("recommendation"),
            currency=row.currency,
            stake_micros=row.stake,
        )
        for row in rows
    ]


def _drift(stores: Stores, owned: Sequence[Account], *, now: datetime, day: date | None) -> dict[int, Decimal]:
    """How far each account's sums for the day were from its platform's own when they were last stored."""
    found = {
        one.id: look(stores.engine, fetches.drift_on, one.id, day or one.local_day(now) - timedelta(days=1))
        for one in owned
    }
    return {key: Decimal(str(drift)) for key, drift in found.items() if drift is not None}


def _write(path: Path, text: str) -> str:
    """Atomically, readable by the owner only: a report is somebody's business."""
    if path.exists():
        return str(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", newline=""
    ) as f:
        f.write(text)
    draft.replace(path)
    return str(path)


def _outcome(
    user: User, report: Report, outcome: str, *, markdown: str = "", files: Sequence[str] = ()
) -> ReportOutcome:
    return ReportOutcome(
        user.id,
        user.name,
        outcome,
        report.report_date,
        float(report.completeness),
        report.headline,
        markdown,
        tuple(files),
    )
