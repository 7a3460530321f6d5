"""Daily reports: one per user and day, made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from aae.storage.bulk import add_once
from aae.storage.schema import reports


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One report. ``completeness`` is the share (0..1) of the accounts whose numbers for the day were all there."""

    id: int
    user_id: int
    report_date: date
    created_at: datetime
    completeness: float
    summary: dict[str, Any]
    html: str
    csv: str
    markdown: str


def save(
    connection: Connection,
    *,
    user_id: int,
    report_date: date,
    now: datetime,
    completeness: float,
    summary: Mapping[str, Any],
    html: str,
    csv: str,
    markdown: str,
) -> bool:
    """Store the report; False, and nothing changes, if the user has one for this day already."""
    values = {
        "user_id": user_id,
        "report_date": report_date,
        "created_at": now,
        "completeness": completeness,
        "summary": dict(summary),
        "html": html,
        "csv": csv,
        "markdown": markdown,
    }
    return add_once(connection, reports, values, _key(user_id, report_date)) is not None


def get(connection: Connection, user_id: int, report_date: date) -> ReportRow | None:
    """The user's report about this day, if there is one."""
    row = connection.execute(select(reports).where(_key(user_id, report_date))).one_or_none()
    return None if row is None else ReportRow(**row._mapping)


def exists(connection: Connection, user_id: int, report_date: date) -> bool:
    """Whether the user has a report about this day."""
    return connection.execute(select(reports.c.id).where(_key(user_id, report_date))).first() is not None


def last_days(connection: Connection) -> dict[int, date]:
    """The latest day that each user has a report about; users without any are absent."""
    newest = select(reports.c.user_id, func.max(reports.c.report_date).label("day")).group_by(reports.c.user_id)
    return {row.user_id: row.day for row in connection.execute(newest)}


def _key(user_id: int, report_date: date) -> ColumnElement[bool]:
    return and_(reports.c.user_id == user_id, reports.c.report_date == report_date)
