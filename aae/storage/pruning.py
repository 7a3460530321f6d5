"""Records that have grown old, deleted a few at a time: logs, ended incidents, notifications, reports, attempts.

Every rule keeps what is still asked for, whatever its age, and always the newest row of its table: SQLite gives the id
of a deleted last row to the next one, and an id here may be a fencing token or part of a key that means "once".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, delete, func, or_, select, true

from aae.settings import RetentionSettings
from aae.storage.schema import (
    api_calls,
    attempt_beats,
    attempts,
    fetches,
    incident_events,
    incidents,
    metric_revisions,
    notifications,
    reports,
    token_refreshes,
)

_LOOKED_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True)
class Rule:
    """What of one table goes: rows that are ``old`` and ``done_with``, with what depends on them.

    Rows lie in the table in the order in which they become old, nearly: once none of many is, the rest is not read.
    """

    table: Table
    old: ColumnElement[bool]
    done_with: ColumnElement[bool]
    dependents: tuple[Column[Any], ...] = ()

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some rows that may go, and where to look on (None: there is nothing more to look at)."""

    ids: tuple[int, ...]
    after: int | None


def rules(settings: RetentionSettings, *, now: datetime, planning_days: int) -> list[Rule]:
    """All rules at ``now``. The planning of fetches asks for what was stored of the last ``planning_days`` days."""

    def ago(days: int) -> datetime:
        return now - timedelta(days=days)

    def day(days: int) -> date:
        # Somewhere it is still yesterday.
        return (ago(days) - timedelta(days=1)).date()

    newer = token_refreshes.alias("newer")
    repeated = (
        select(newer.c.id)
        .where(
            newer.c.account_id == token_refreshes.c.account_id,
            newer.c.outcome == token_refreshes.c.outcome,
            newer.c.id > token_refreshes.c.id,
        )
        .exists()
    )
    later = fetches.alias("later")
    followed = (
        select(later.c.id)
        .where(
            later.c.account_id == fetches.c.account_id,
            later.c.granularity == fetches.c.granularity,
            later.c.id > fetches.c.id,
        )
        .exists()
    )
    read = and_(notifications.c.read_at.is_not(None), notifications.c.created_at < ago(settings.notifications_days))
    return [
        Rule(
            metric_revisions,
            metric_revisions.c.changed_at < ago(settings.revisions_days),
            metric_revisions.c.local_date < day(settings.revisions_days),
        ),
        Rule(
            fetches,
            fetches.c.finished_at < ago(settings.fetches_days),
            and_(fetches.c.until < day(max(settings.fetches_days, planning_days)), followed),
        ),
        Rule(api_calls, api_calls.c.at < ago(settings.fetches_days), true()),
        # Whether an account's owner was told of a dead token is read from the last row of each outcome.
        Rule(token_refreshes, token_refreshes.c.at < ago(settings.tokens_days), repeated),
        Rule(
            incidents,
            incidents.c.opened_at < ago(settings.incidents_days),
            and_(incidents.c.open_fingerprint.is_(None), incidents.c.resolved_at < ago(settings.incidents_days)),
            dependents=(incident_events.c.incident_id,),
        ),
        Rule(
            notifications,
            notifications.c.created_at < ago(min(settings.notifications_days, settings.unread_days)),
            and_(
                notifications.c.email_state.not_in(("pending", "sending")),
                or_(read, notifications.c.created_at < ago(settings.unread_days)),
            ),
        ),
        Rule(
            reports,
            reports.c.created_at < ago(settings.reports_days),
            reports.c.report_date < day(settings.reports_days),
        ),
        Rule(
            attempts,
            attempts.c.started_at < ago(settings.attempts_days),
            and_(attempts.c.holding.is_(None), attempts.c.ended_at < ago(settings.attempts_days)),
            dependents=(attempt_beats.c.attempt_id,),
        ),
    ]


def choose(connection: Connection, rule: Rule, *, after: int) -> Chosen:
    """Of the rows that follow the id ``after``, some that may go."""
    table = rule.table
    newest = connection.scalar(select(func.max(table.c.id))) or 0
    looked_at = connection.execute(
        select(table.c.id, rule.old.label("old"))
        .where(table.c.id > after, table.c.id < newest)
        .order_by(table.c.id)
        .limit(_LOOKED_AT_ONCE)
    ).all()
    old = [row.id for row in looked_at if row.old]
    if not old:
        return Chosen((), None)
    within = and_(table.c.id.between(old[0], old[-1]), rule.old, rule.done_with)
    ids = tuple(connection.scalars(select(table.c.id).where(within).order_by(table.c.id)))
    return Chosen(ids, looked_at[-1].id)


def remove(connection: Connection, rule: Rule, ids: tuple[int, ...]) -> int:
    """Delete those of the rows that may still go, and what depends on them; returns how many."""
    table = rule.table
    # Locked and looked at again: somebody may have taken an incident up once more.
    still = list(
        connection.scalars(select(table.c.id).where(table.c.id.in_(ids), rule.old, rule.done_with).with_for_update())
    )
    for column in rule.dependents:
        connection.execute(delete(column.table).where(column.in_(still)))
    return connection.execute(delete(table).where(table.c.id.in_(still))).rowcount
