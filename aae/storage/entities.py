"""Campaigns, ad sets and ads: known by the platform's ids, linked to their parents, never deleted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import pandas as pd
from sqlalchemy import Connection, and_, select, update

from aae.model import ENTITY_COLUMNS, Level
from aae.storage.bulk import fit, put
from aae.storage.schema import ad_accounts, entities

_log = logging.getLogger(__name__)

_IDS_AT_ONCE: Final = 1000
# Listings come every few hours; writing every row of every listing only to move a time stamp would be most of the work.
_SEEN_PRECISION: Final = timedelta(hours=20)
# Longer than that, and than whatever a platform may leave out for a moment.
_GONE_AFTER: Final = timedelta(days=2)
_ALIVE: Final = ("active", "paused")
_ABOVE: Final = {Level.AD_SET: Level.CAMPAIGN, Level.AD: Level.AD_SET}
_DESCRIPTION: Final = ("parent_id", "name", "status", "daily_budget", "channel")
_COLUMNS: Final = ("account_id", "level", "external_id", *_DESCRIPTION, "first_seen_at", "last_seen_at")

_Description = tuple[int | None, str, str, int | None, str | None]


def upsert_entities(connection: Connection, account_id: int, listing: pd.DataFrame, *, now: datetime) -> int:
    """Store a listing (the columns of ``ENTITY_COLUMNS``); returns how many entities are new or changed.

    What the listing does not name stays as it is, until :func:`retire`. ``last_seen_at`` is exact to a day. An ad set
    under a campaign that nobody has named brings it into being; an ad under an unknown ad set is left out until its
    numbers tell its lineage.

    Raises:
        ValueError: the frame has other columns.
    """
    if list(listing.columns) != list(ENTITY_COLUMNS):
        raise ValueError(f"a listing has the columns {list(ENTITY_COLUMNS)}, not {list(listing.columns)}")
    lock_account(connection, account_id)
    changed = 0
    for level in Level:
        rows = _described(listing[listing["level"] == level.value])
        if rows:
            wanted = _under_parents(connection, account_id, level, rows, now)
            changed += _store(connection, account_id, level, wanted, now)
    return changed


def retire(connection: Connection, account_id: int, *, now: datetime) -> int:
    """Call deleted what was active or paused and no listing has named for two days; returns how many.

    For after a complete listing has been stored: they name deleted ones, too, but not for ever. Nothing else of such an
    entity changes, and what is listed again is what it is called there. What none has ever named stays as it is.
    """
    missed = and_(entities.c.account_id == account_id, entities.c.last_seen_at < now - _GONE_AFTER)
    gone = update(entities).where(missed, entities.c.status.in_(_ALIVE)).values(status="deleted")
    return connection.execute(gone).rowcount


def ensure(
    connection: Connection, account_id: int, level: Level, parents: Mapping[str, int | None], *, now: datetime
) -> dict[str, int]:
    """External id to our id for all of ``parents`` (external id to the parent's id).

    Those unknown so far are created with their external id for a name, until a listing names them.
    """
    known = ids_of(connection, account_id, level, parents)
    missing = [external_id for external_id in parents if external_id not in known]
    if not missing:
        return known
    wanted: dict[str, _Description] = {
        external_id: (parents[external_id], external_id, "other", None, None) for external_id in missing
    }
    _store(connection, account_id, level, wanted, now)
    return known | ids_of(connection, account_id, level, missing)


def ids_of(connection: Connection, account_id: int, level: Level, external_ids: Collection[str]) -> dict[str, int]:
    """External id to our id, for those known."""
    rows = _of(connection, account_id, level, external_ids, "external_id", "id")
    return dict(map(tuple, rows))


def lock_account(connection: Connection, account_id: int) -> None:
    """Make writers of one account's entities and numbers queue up until the end of the transaction."""
    connection.execute(select(ad_accounts.c.id).where(ad_accounts.c.id == account_id).with_for_update()).one()


def _known(connection: Connection, account_id: int, level: Level, external_ids: Collection[str]) -> dict[str, Any]:
    rows = _of(connection, account_id, level, external_ids, "id", "external_id", *_DESCRIPTION, "last_seen_at")
    return {row.external_id: row for row in rows}


def _of(
    connection: Connection, account_id: int, level: Level, external_ids: Collection[str], *columns: str
) -> Iterator[Any]:
    query = select(*(entities.c[name] for name in columns)).where(
        entities.c.account_id == account_id, entities.c.level == level.value
    )
    wanted = list(external_ids)
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        yield from connection.execute(query.where(entities.c.external_id.in_(wanted[start : start + _IDS_AT_ONCE])))


def _described(listing: pd.DataFrame) -> dict[str, tuple[str | None, str, str, int | None, str | None]]:
    """External id to (parent's external id, name, status, daily budget, channel), fitted to the columns.

    A listing read in pages may name an entity twice; the last one holds.
    """
    plain = listing.astype(object).where(listing.notna(), None)
    return {
        external_id: (
            parent,
            fit(name or external_id, 400),
            fit(status or "other", 32),
            None if budget is None else int(budget),
            channel and fit(channel, 64),
        )
        for _, external_id, parent, name, status, budget, channel in plain.itertuples(index=False, name=None)
    }


def _under_parents(
    connection: Connection,
    account_id: int,
    level: Level,
    rows: dict[str, tuple[str | None, str, str, int | None, str | None]],
    now: datetime,
) -> dict[str, _Description]:
    """The rows with their parents' ids in place of the parents' external ids."""
    above = _ABOVE.get(level)
    if above is None:
        return {external_id: (None, *row[1:]) for external_id, row in rows.items()}
    named = {row[0] for row in rows.values() if row[0] is not None}
    if above is Level.CAMPAIGN:
        ids = ensure(connection, account_id, above, dict.fromkeys(named), now=now)
    else:
        ids = ids_of(connection, account_id, above, named)
    linked: dict[str, _Description] = {
        external_id: (ids[row[0]], *row[1:])
        for external_id, row in rows.items()
        if row[0] is not None and row[0] in ids
    }
    if len(linked) < len(rows):
        _log.warning(
            "account %d: left out %d of level %s whose parent is unknown", account_id, len(rows) - len(linked), level
        )
    return linked


def _store(
    connection: Connection, account_id: int, level: Level, wanted: dict[str, _Description], now: datetime
) -> int:
    known = _known(connection, account_id, level, wanted)
    changed, seen = [], []
    for external_id, description in wanted.items():
        old = known.get(external_id)
        row = (account_id, level.value, external_id, *description, now, now)
        if old is None or tuple(old[2:7]) != description:
            changed.append(row)
        elif old.last_seen_at < now - _SEEN_PRECISION:
            seen.append(row)
    put(
        connection,
        entities,
        _COLUMNS,
        changed + seen,
        key=("account_id", "level", "external_id"),
        update=(*_DESCRIPTION, "last_seen_at"),
    )
    return len(changed)
