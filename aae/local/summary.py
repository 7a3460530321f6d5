"""What a round of all jobs brought, read from the tables, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, func, select

from aae.storage.schema import (
    ad_accounts,
    ad_metrics_daily,
    ad_metrics_hourly,
    api_calls,
    entities,
    fetches,
    incidents,
    reports,
    token_refreshes,
    users,
)


@dataclass(frozen=True, slots=True)
class PlatformLine:
    """One platform: how many accounts, entities and stored rows there are, and how many calls brought them."""

    platform: str
    accounts: int
    entities: int
    daily_rows: int
    hourly_rows: int
    api_calls: int
    drift: float | None


@dataclass(frozen=True, slots=True)
class Found:
    """An incident that detection holds for open.

    ``entity`` is the platform's id, None for a whole account; ``parent`` and ``grandparent`` are those above it.
    """

    user: str
    platform: str | None
    account: str | None
    entity: str | None
    parent: str | None
    grandparent: str | None
    entity_name: str | None
    level: str
    metric: str
    severity: str
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Comparison:
    """Planted incidents beside the open ones: pairs that belong together, planted ones missed, others reported."""

    matched: tuple[tuple[dict[str, Any], Found], ...]
    missed: tuple[dict[str, Any], ...]
    extra: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One report in the tables; ``completeness`` is a share (0..1)."""

    user: str
    day: date
    completeness: float


@dataclass(frozen=True, slots=True)
class TokenLine:
    """How many accounts a token check left in one way; ``outcome`` as in table ``token_refreshes``."""

    outcome: str
    accounts: tuple[str, ...]


def per_platform(connection: Connection, since: datetime) -> list[PlatformLine]:
    """One line per platform that has accounts; calls made and drift of the fetches that began at or after ``since``."""

    def counts(table: Any) -> dict[str, int]:
        query = (
            select(ad_accounts.c.platform, func.count().label("rows"))
            .join_from(table, ad_accounts, table.c.account_id == ad_accounts.c.id)
            .group_by(ad_accounts.c.platform)
        )
        return {row.platform: row.rows for row in connection.execute(query)}

    def lately(value: Any, table: Any, moment: Any) -> dict[str, Any]:
        query = (
            select(ad_accounts.c.platform, value)
            .join_from(table, ad_accounts, table.c.account_id == ad_accounts.c.id)
            .where(moment >= since)
            .group_by(ad_accounts.c.platform)
        )
        return dict(map(tuple, connection.execute(query)))

    calls = lately(func.sum(api_calls.c.calls), api_calls, api_calls.c.at)
    drift = lately(func.max(fetches.c.drift), fetches, fetches.c.started_at)
    held, daily, hourly = counts(entities), counts(ad_metrics_daily), counts(ad_metrics_hourly)
    owned = (
        select(ad_accounts.c.platform, func.count()).group_by(ad_accounts.c.platform).order_by(ad_accounts.c.platform)
    )
    return [
        PlatformLine(
            platform=platform,
            accounts=count,
            entities=held.get(platform, 0),
            daily_rows=daily.get(platform, 0),
            hourly_rows=hourly.get(platform, 0),
            api_calls=int(calls.get(platform, 0)),
            drift=drift.get(platform),
        )
        for platform, count in connection.execute(owned)
    ]


def open_incidents(connection: Connection) -> list[Found]:
    """Every incident that is open, oldest first."""
    parent, grandparent = entities.alias(), entities.alias()
    query = (
        select(
            users.c.email.label("user"),
            ad_accounts.c.platform,
            ad_accounts.c.external_id.label("account"),
            entities.c.external_id.label("entity"),
            parent.c.external_id.label("parent"),
            grandparent.c.external_id.label("grandparent"),
            entities.c.name.label("entity_name"),
            incidents.c.level,
            incidents.c.metric,
            incidents.c.severity,
            incidents.c.opened_at,
        )
        .join_from(incidents, users, incidents.c.user_id == users.c.id)
        .join(ad_accounts, incidents.c.account_id == ad_accounts.c.id, isouter=True)
        .join(entities, incidents.c.entity_id == entities.c.id, isouter=True)
        .join(parent, entities.c.parent_id == parent.c.id, isouter=True)
        .join(grandparent, parent.c.parent_id == grandparent.c.id, isouter=True)
        .where(incidents.c.resolved_at.is_(None))
        .order_by(incidents.c.id)
    )
    return [Found(**row._mapping) for row in connection.execute(query)]


def compare(planted: Sequence[dict[str, Any]], found: Sequence[Found]) -> Comparison:
    """Which of the planted incidents were found.

    A planted one is the fields ``user``, ``platform``, ``account``, ``level`` and ``entity`` of the sandbox's answer.
    Planted on a whole account, it is found by anything on that account; planted on an entity, by an incident on that
    entity, on one below it, or on the account as a whole. An incident over several accounts of a user counts for each
    of them.
    """
    matched = [(one, hit) for one in planted for hit in found if _same(one, hit)]
    hits = [hit for _, hit in matched]
    seen: dict[int, tuple[dict[str, Any], Found]] = {}
    for one, hit in matched:
        seen.setdefault(id(one), (one, hit))
    return Comparison(
        matched=tuple(seen.values()),
        missed=tuple(one for one in planted if id(one) not in seen),
        extra=tuple(one for one in found if one not in hits),
    )


def _same(planted: dict[str, Any], found: Found) -> bool:
    if found.account is None:
        return bool(found.user == planted["user"])
    if (found.platform, found.account) != (planted["platform"], planted["account"]):
        return False
    # An incident names the lowest entity that explains it, so it may lie below the one that was planted.
    return (
        planted["level"] == "account"
        or planted["entity"] in (found.entity, found.parent, found.grandparent)
        or (found.entity is None)
    )


def written_reports(connection: Connection, since: datetime) -> list[ReportLine]:
    """The reports made at or after ``since``."""
    query = (
        select(users.c.email, reports.c.report_date, reports.c.completeness)
        .join_from(reports, users, reports.c.user_id == users.c.id)
        .where(reports.c.created_at >= since)
        .order_by(users.c.id, reports.c.report_date)
    )
    return [ReportLine(user, day, float(completeness)) for user, day, completeness in connection.execute(query)]


def token_outcomes(connection: Connection, since: datetime) -> list[TokenLine]:
    """What token checks at or after ``since`` found, the last word on each account."""
    newest = (
        select(func.max(token_refreshes.c.id))
        .where(token_refreshes.c.at >= since, token_refreshes.c.outcome != "checking")
        .group_by(token_refreshes.c.account_id)
    )
    query = (
        select(token_refreshes.c.outcome, ad_accounts.c.platform, ad_accounts.c.external_id)
        .join_from(token_refreshes, ad_accounts, token_refreshes.c.account_id == ad_accounts.c.id)
        .where(token_refreshes.c.id.in_(newest))
        .order_by(token_refreshes.c.account_id)
    )
    grouped: dict[str, list[str]] = {}
    for outcome, platform, external_id in connection.execute(query):
        grouped.setdefault(outcome, []).append(f"{platform}:{external_id}")
    return [TokenLine(outcome, tuple(names)) for outcome, names in grouped.items()]
