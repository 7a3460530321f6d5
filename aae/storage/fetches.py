"""The log of fetching: one row per slice and try. It says which days are covered, and what they cost."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, func, insert, select

from aae.model import Account, AccountStatus, Granularity, Platform, Slice, Totals
from aae.storage.bulk import fit, new_id
from aae.storage.schema import ad_accounts, fetches
from aae.storage.schema import api_calls as calls_table

REZONED: Final = "rezoned"
"""An outcome that is none: from here on the account counts its days in another time zone, and what was stored before
settles none of them."""

_STORED_BY_AD_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """Local days, both inclusive, that one fetch stored, when it began to ask for them (UTC), and in which run.

    What happened after that moment it need not have seen, however long it took.
    """

    since: date
    until: date
    asked_at: datetime
    run_id: str | None = None

    def covers(self, day: date) -> bool:
        """Whether the day was part of it."""
        return self.since <= day <= self.until


@dataclass(frozen=True, slots=True)
class FetchRow:
    """One try at one slice. Money is in micros, ``drift`` a share (0.01 is 1 %), moments are aware UTC."""

    id: int
    account_id: int
    granularity: Granularity
    since: date
    until: date
    started_at: datetime
    finished_at: datetime
    outcome: str
    rows_fetched: int
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    api_calls: int
    impressions: int | None
    spend: int | None
    platform_impressions: int | None
    platform_spend: int | None
    drift: float | None
    error_code: str | None
    detail: str | None
    run_id: str | None


def record(
    connection: Connection,
    *,
    account_id: int,
    piece: Slice,
    started_at: datetime,
    finished_at: datetime,
    outcome: str,
    rows_fetched: int = 0,
    rows_inserted: int = 0,
    rows_updated: int = 0,
    rows_deleted: int = 0,
    calls_by: Mapping[str, int] | None = None,
    totals: Totals | None = None,
    platform_totals: Totals | None = None,
    drift: float | None = None,
    error_code: str | None = None,
    detail: str | None = None,
    run_id: str | None = None,
) -> int:
    """Log one try, unless it is in the log (see :func:`find`); returns its id.

    ``outcome``: stored, throttled, failed, reauthorize, skipped, or ``REZONED``. ``totals`` are the sums of our rows,
    ``platform_totals`` the platform's own, ``drift`` how far they are apart as a share of the platform's.
    ``calls_by`` purpose were made for it and go into the log of calls with it.
    """
    before = find(connection, piece, started_at=started_at, run_id=run_id, outcome=outcome)
    if before is not None:
        return before.id
    result = connection.execute(
        insert(fetches).values(
            account_id=account_id,
            granularity=piece.granularity.value,
            since=piece.since,
            until=piece.until,
            started_at=started_at,
            finished_at=finished_at,
            outcome=outcome,
            rows_fetched=rows_fetched,
            rows_inserted=rows_inserted,
            rows_updated=rows_updated,
            rows_deleted=rows_deleted,
            api_calls=sum((calls_by or {}).values()),
            impressions=totals and totals.impressions,
            spend=totals and totals.spend_micros,
            platform_impressions=platform_totals and platform_totals.impressions,
            platform_spend=platform_totals and platform_totals.spend_micros,
            # The column ends at 999.999999; beyond it, more digits say nothing more.
            drift=None if drift is None else max(-999.0, min(999.0, drift)),
            error_code=error_code and fit(error_code, 64),
            detail=detail and fit(detail, 500),
            run_id=run_id,
        )
    )
    record_calls(connection, account_id, calls_by or {}, at=finished_at, run_id=run_id)
    return new_id(result)


def record_calls(
    connection: Connection,
    account_id: int,
    calls_by: Mapping[str, int],
    *,
    at: datetime,
    run_id: str | None,
    batch: int | None = None,
) -> None:
    """Log API calls made for an account, by purpose; those of a ``batch`` (:func:`new_batch`) once."""
    if batch is not None and connection.scalar(select(calls_table.c.id).where(calls_table.c.batch == batch).limit(1)):
        return  # this transaction has happened before, and nobody was told
    same = {"account_id": account_id, "at": at, "run_id": run_id, "batch": batch}
    if rows := [same | {"purpose": purpose, "calls": calls} for purpose, calls in calls_by.items()]:
        connection.execute(insert(calls_table), rows)


def new_batch() -> int:
    """A name for calls that nobody else has."""
    return secrets.randbits(63)


def find(
    connection: Connection, piece: Slice, *, started_at: datetime, run_id: str | None, outcome: str = "stored"
) -> FetchRow | None:
    """The try at ``piece`` that this run began at this moment and that ended so, if it is in the log.

    This is how a transaction that is made again finds out that it has happened, though nobody was told.
    """
    row = connection.execute(
        select(fetches).where(
            fetches.c.account_id == piece.account_id,
            fetches.c.granularity == piece.granularity.value,
            # For the index; the margin is for clocks that are set back.
            fetches.c.finished_at >= started_at - timedelta(days=1),
            fetches.c.started_at == started_at,
            fetches.c.outcome == outcome,
            fetches.c.since == piece.since,
            fetches.c.until == piece.until,
            fetches.c.run_id.is_not_distinct_from(run_id),
        )
    ).first()
    return None if row is None else _row(row)


def covering(connection: Connection, account_id: int, day: date) -> list[FetchRow]:
    """Every try at a slice that held the local day, whatever its outcome, oldest first."""
    own = and_(fetches.c.account_id == account_id, fetches.c.since <= day, fetches.c.until >= day)
    rows = connection.execute(select(fetches).where(own).order_by(fetches.c.finished_at, fetches.c.id))
    return [_row(row) for row in rows]


def latest(connection: Connection, account_id: int) -> dict[Granularity, FetchRow]:
    """The newest try of each granularity, whatever its outcome."""
    newest = select(func.max(fetches.c.id)).where(fetches.c.account_id == account_id).group_by(fetches.c.granularity)
    rows = connection.execute(select(fetches).where(fetches.c.id.in_(newest)))
    return {row.granularity: row for row in map(_row, rows)}


def stored_windows(
    connection: Connection, account_id: int, granularity: Granularity, since: date
) -> list[StoredWindow]:
    """What was stored of the local days from ``since`` on, by when it was finished, oldest first.

    Days of another time zone were other days: what was stored before the account's zone changed does not count.
    """
    rows = connection.execute(
        select(fetches.c.since, fetches.c.until, fetches.c.started_at, fetches.c.run_id, fetches.c.outcome)
        .where(
            fetches.c.account_id == account_id,
            fetches.c.granularity == granularity.value,
            fetches.c.outcome.in_(("stored", REZONED)),
            fetches.c.until >= since,
        )
        .order_by(fetches.c.finished_at, fetches.c.id)
    )
    windows: list[StoredWindow] = []
    for *window, outcome in rows:
        if outcome == REZONED:
            windows.clear()
        else:
            windows.append(StoredWindow(*window))
    return windows


def record_new_zone(connection: Connection, account_id: int, old: str, new: str, *, now: datetime) -> None:
    """Log that the account's days begin at other moments from now on: every day that can still be read is owed again.

    What cannot be read again, or is further back than a first fetch, stays as it was told, under the old zone.
    """
    for granularity in Granularity:
        record(
            connection,
            account_id=account_id,
            # A day more: somewhere it is tomorrow already.
            piece=Slice(
                account_id, granularity, now.date() - timedelta(_STORED_BY_AD_DAYS), now.date() + timedelta(days=1)
            ),
            started_at=now,
            finished_at=now,
            outcome=REZONED,
            detail=f"The account's time zone is {new} now and was {old} before; its days are read again.",
        )


def freshness(connection: Connection) -> list[tuple[str, datetime]]:
    """Each active account (``platform:id``), and when data of it was stored last, or else when it was connected."""
    stored = (
        select(fetches.c.account_id, func.max(fetches.c.finished_at).label("at"))
        .where(fetches.c.outcome == "stored")
        .group_by(fetches.c.account_id)
        .subquery()
    )
    rows = connection.execute(
        select(ad_accounts.c.platform, ad_accounts.c.external_id, ad_accounts.c.created_at, stored.c.at)
        .outerjoin(stored, stored.c.account_id == ad_accounts.c.id)
        .where(ad_accounts.c.status == AccountStatus.ACTIVE)
    )
    return [(f"{Platform(row.platform).value}:{row.external_id}", row.at or row.created_at) for row in rows]


def last_stored(connection: Connection, account_id: int) -> int:
    """The id of the account's newest fetch that stored something or found nothing to change; 0 if there is none.

    Its fetches are stored one after the other (``lock_account``), so that one with a lower id never comes later.
    """
    stored = and_(fetches.c.account_id == account_id, fetches.c.outcome == "stored")
    return connection.execute(select(func.max(fetches.c.id)).where(stored)).scalar() or 0


def last_stored_at(connection: Connection, account_id: int) -> datetime | None:
    """When something was stored of the account last, if only that there was nothing."""
    stored = and_(fetches.c.account_id == account_id, fetches.c.outcome == "stored")
    at: datetime | None = connection.scalar(select(func.max(fetches.c.finished_at)).where(stored))
    return at


def platform_gave_others(connection: Connection, account: Account, since: datetime) -> bool:
    """Whether something was stored since of another account of the platform, or it has no other active one."""
    other = and_(ad_accounts.c.platform == account.platform.value, ad_accounts.c.id != account.id)
    active = select(ad_accounts.c.id).where(other, ad_accounts.c.status == AccountStatus.ACTIVE.value)
    stored = (
        select(fetches.c.id)
        .join_from(fetches, ad_accounts)
        .where(other, fetches.c.outcome == "stored", fetches.c.finished_at >= since)
    )
    none = connection.execute(active.limit(1)).first() is None
    return none or connection.execute(stored.limit(1)).first() is not None


def changed_since(connection: Connection, account_id: int, fetch_id: int) -> list[Slice]:
    """The slices in which fetches later than ``fetch_id`` changed any row."""
    rows = connection.execute(
        select(fetches.c.granularity, fetches.c.since, fetches.c.until)
        .where(fetches.c.account_id == account_id, fetches.c.id > fetch_id, fetches.c.outcome == "stored")
        .where(fetches.c.rows_inserted + fetches.c.rows_updated + fetches.c.rows_deleted > 0)
    )
    return [Slice(account_id, Granularity(row.granularity), row.since, row.until) for row in rows]


def drift_on(connection: Connection, account_id: int, day: date) -> float | None:
    """How far the newest stored fetch of ``day`` was from the platform's own totals, by the day or by the hour,
    whichever is further; None if nothing tells."""
    newest = (
        select(func.max(fetches.c.id))
        .where(
            fetches.c.account_id == account_id,
            fetches.c.outcome == "stored",
            fetches.c.since <= day,
            fetches.c.until >= day,
        )
        .group_by(fetches.c.granularity)
    )
    known = connection.scalars(select(fetches.c.drift).where(fetches.c.id.in_(newest), fetches.c.drift.is_not(None)))
    return max(known, key=abs, default=None)


def _row(row: Row[Any]) -> FetchRow:
    return FetchRow(**{**row._mapping, "granularity": Granularity(row.granularity)})
