"""Incidents and what happened to them. A unique column decides that a fingerprint is open at most once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_in
from sqlalchemy.exc import IntegrityError

from aae.storage.bulk import add_once
from aae.storage.schema import incident_events, incidents

RESOLVED: Final = "resolved"


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """One incident, the columns of the table; ``stake`` in micros of ``currency``, moments aware UTC."""

    id: int
    user_id: int
    account_id: int | None
    entity_id: int | None
    fingerprint: str
    metric: str
    level: str
    state: str
    severity: str
    opened_at: datetime
    updated_at: datetime
    resolved_at: datetime | None
    snoozed_until: datetime | None
    currency: str | None
    stake: int | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventRow:
    """One step in an incident's life."""

    incident_id: int
    at: datetime
    state: str
    severity: str
    data: dict[str, Any]


_COLUMNS: Final = [incidents.c[name] for name in IncidentRow.__dataclass_fields__]


def open_incidents(connection: Connection, user_ids: Collection[int] | None = None) -> list[IncidentRow]:
    """Incidents that are not resolved, oldest first: of everybody, or of ``user_ids``."""
    query = select(*_COLUMNS).where(incidents.c.open_fingerprint.is_not(None)).order_by(incidents.c.id)
    if user_ids is not None:
        query = query.where(incidents.c.user_id.in_(user_ids))
    return [IncidentRow(**row._mapping) for row in connection.execute(query)]


def insert(
    connection: Connection,
    *,
    user_id: int,
    account_id: int | None,
    entity_id: int | None,
    fingerprint: str,
    metric: str,
    level: str,
    state: str,
    severity: str,
    currency: str | None,
    stake: int | None,
    data: Mapping[str, Any],
    now: datetime,
) -> int | None:
    """Open an incident; its id, or ``None`` if one of this fingerprint is open already. ``stake`` is in micros."""
    values = {
        "user_id": user_id,
        "account_id": account_id,
        "entity_id": entity_id,
        "fingerprint": fingerprint,
        "open_fingerprint": fingerprint,
        "metric": metric,
        "level": level,
        "state": state,
        "severity": severity,
        "opened_at": now,
        "updated_at": now,
        "currency": currency,
        "stake": stake,
        "data": dict(data),
    }
    return add_once(connection, incidents, values, incidents.c.open_fingerprint == fingerprint)


def update(
    connection: Connection,
    incident_id: int,
    *,
    now: datetime,
    state: str | None = None,
    severity: str | None = None,
    stake: int | None = None,
    data: Mapping[str, Any] | None = None,
    snoozed_until: datetime | None = None,
) -> bool:
    """Change what is given (``None`` leaves a column as it is); False if the incident is resolved or unknown.

    The state ``resolved`` closes it: its fingerprint may then be opened again.
    """
    given = {
        "state": state,
        "severity": severity,
        "stake": stake,
        "data": None if data is None else dict(data),
        "snoozed_until": snoozed_until,
    }
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if state == RESOLVED:
        values |= {"resolved_at": now, "open_fingerprint": None}
    changed = connection.execute(
        update_in(incidents)
        .where(incidents.c.id == incident_id, incidents.c.open_fingerprint.is_not(None))
        .values(**values, updated_at=now)
    )
    return changed.rowcount == 1


def reopen(
    connection: Connection,
    incident_id: int,
    *,
    now: datetime,
    state: str,
    severity: str,
    stake: int | None,
    data: Mapping[str, Any],
) -> bool:
    """Open a resolved incident again; False if it is open already, or another of its fingerprint is."""
    again = (
        update_in(incidents)
        .where(incidents.c.id == incident_id, incidents.c.open_fingerprint.is_(None))
        .values(
            open_fingerprint=incidents.c.fingerprint,
            state=state,
            severity=severity,
            stake=stake,
            data=dict(data),
            updated_at=now,
            resolved_at=None,
        )
    )
    try:
        with connection.begin_nested():
            return connection.execute(again).rowcount == 1
    except IntegrityError:
        return False


def add_event(
    connection: Connection, incident_id: int, *, at: datetime, state: str, severity: str, data: Mapping[str, Any]
) -> None:
    """Add to the incident's history."""
    connection.execute(
        insert_into(incident_events).values(
            incident_id=incident_id, at=at, state=state, severity=severity, data=dict(data)
        )
    )


def events(connection: Connection, incident_id: int) -> list[EventRow]:
    """The incident's history, oldest first."""
    columns = [incident_events.c[name] for name in EventRow.__dataclass_fields__]
    query = (
        select(*columns)
        .where(incident_events.c.incident_id == incident_id)
        .order_by(incident_events.c.at, incident_events.c.id)
    )
    return [EventRow(**row._mapping) for row in connection.execute(query)]


def recently_resolved(connection: Connection, user_id: int, since: datetime) -> list[IncidentRow]:
    """The user's incidents that were resolved at or after ``since``, newest first."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(incidents.c.user_id == user_id, incidents.c.resolved_at >= since)
        .order_by(incidents.c.resolved_at.desc(), incidents.c.id.desc())
    )
    return [IncidentRow(**row._mapping) for row in rows]


def list_between(
    connection: Connection, since: datetime, until: datetime, *, user_ids: Collection[int] | None = None
) -> list[IncidentRow]:
    """Incidents that were open at some moment of ``since <= t < until``, oldest first."""
    query = (
        select(*_COLUMNS)
        .where(
            incidents.c.opened_at < until,
            incidents.c.resolved_at.is_(None) | (incidents.c.resolved_at >= since),
        )
        .order_by(incidents.c.opened_at, incidents.c.id)
    )
    if user_ids is not None:
        query = query.where(incidents.c.user_id.in_(user_ids))
    return [IncidentRow(**row._mapping) for row in connection.execute(query)]
