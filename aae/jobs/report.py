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

from aae.jobs.context import Stores
from aae.jobs.fetch import read_hot_frames
from aae.jobs.telling import tell
from aae.model import Account, AccountStatus
from aae.notify import messages
from aae.reporting import IncidentNote, Report, build_report, render_csv, render_html, render_markdown
from aae.storage import accounts, fetches, incidents, reports
from aae.storage.accounts import User
from aae.storage.engine import reading

REPORTED = (AccountStatus.ACTIVE, AccountStatus.EXPIRED, AccountStatus.REVOKED)
"""Accounts whose owner expects them in the report; one that lost its authorization is listed as late."""


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """What came of one user's report. ``outcome``: ``written``, ``exists``, ``no accounts`` or ``previewed``."""

    user_id: int
    user: str
    outcome: str
    report_date: date
    completeness: float = 0.0
    headline: str = ""
    markdown: str = ""
    files: tuple[str, ...] = ()


def lags(account: Account, through: datetime | None, *, now: datetime, day: date | None) -> bool:
    """Whether numbers that reach ``through`` do not cover the account's reported day, although that has ended."""
    reported = day or account.local_day(now) - timedelta(days=1)
    ended = datetime.combine(reported + timedelta(days=1), time(), tzinfo=account.zone)
    return ended <= now and (through is None or through < ended)


def report_user(stores: Stores, user: User, *, now: datetime, day: date | None, dry_run: bool) -> ReportOutcome:
    """Write the report on ``day`` (the user's yesterday without it), unless it is there already.

    ``dry_run`` shows it and keeps nothing.
    """
    with reading(stores.engine) as connection:
        owned = accounts.list_accounts(connection, user_ids=[user.id], statuses=REPORTED)
        versions = accounts.data_versions(connection)
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
    with reading(stores.engine) as connection:
        kept = None if dry_run else reports.get(connection, user_id=user.id, report_date=report.report_date)
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
    with stores.engine.begin() as connection:
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
            return _outcome(user, report, "exists")
        note = messages.daily_report(user_id=user.id, report=report, public_url=stores.settings.public_url)
        tell(connection, user, note, now=now)
    files = _write_files(stores, user, report.report_date, html, csv)
    return _outcome(user, report, "written", markdown=markdown, files=files)


def _write_files(stores: Stores, user: User, day: date, html: str, csv: str) -> list[str]:
    """The report's files; one that is there already stays (a run that was cut off after the transaction left none)."""
    stem = stores.settings.reports_dir / f"{day}-user-{user.id}"
    return [_write(stem.with_suffix(f".{kind}"), text) for kind, text in (("html", html), ("csv", csv))]


def _incidents(stores: Stores, user: User, now: datetime) -> list[IncidentNote]:
    """What is open, and what ended within the two days that the report may speak of."""
    with reading(stores.engine) as connection:
        rows = incidents.list_between(connection, now - timedelta(days=2), now, user_ids=[user.id])
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
    with reading(stores.engine) as connection:
        found = {
            one.id: fetches.drift_on(connection, one.id, day or one.local_day(now) - timedelta(days=1)) for one in owned
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
