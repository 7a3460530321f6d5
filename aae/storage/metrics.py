"""The numbers: storing a slice so that twice is once, and reading them back as columns.

A slice is *replaced*. Into one that holds nothing the rows go straight. Otherwise they are staged in a temporary table
and compared with what is there in the database; only what differs is written, what the platform no longer reports is
deleted, and every stored value that changed, and every row that came late, goes to the ledger ``metric_revisions``.
Money and conversions are micros in Python and in the staging table; SQL turns them into the tables' decimals and back
by exact decimal arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Date,
    DateTime,
    Numeric,
    Select,
    SmallInteger,
    Table,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from aae.frames import DAILY, ENTITIES, HOURLY, AccountFrames, Reach
from aae.model import METRIC_COLUMNS, Account, AccountStatus, Granularity, Level, Platform, Slice, Totals
from aae.storage import fetches
from aae.storage.entities import ensure, ids_of, lock_account, upsert_entities
from aae.storage.fetches import StoredWindow
from aae.storage.history import unfold
from aae.storage.loading import load, refill, temporary, unload
from aae.storage.schema import (
    UtcDateTime,
    ad_accounts,
    ad_metrics_daily,
    ad_metrics_hourly,
    entities,
    metric_revisions,
)

# Entities have a module of their own; those who store numbers find them here.
__all__ = [
    "StoreResult",
    "daily_totals",
    "last_of_other_zone",
    "read_frames",
    "slice_totals",
    "store_slice",
    "upsert_entities",
]

_COUNTS: Final = ("impressions", "clicks")
_AMOUNTS: Final = ("spend", "conversions", "revenue")
_MEASURES: Final = (*_COUNTS, *_AMOUNTS)
# The hour of a daily row in the staging tables, where it is part of a key.
_NO_HOUR: Final = -1
_HOURS: Final = 25  # no hour is one of them
_NEW, _CHANGED, _WITHDRAWN = 0, 1, 2
_KEY: Final = ["local_date", "local_hour", "entity_id"]

_stage = temporary(
    "aae_stage",
    Column("local_date", Date, primary_key=True),
    Column("local_hour", SmallInteger, primary_key=True, autoincrement=False),
    Column("entity_id", BigInteger, primary_key=True, autoincrement=False),
    Column("utc_start", DateTime, nullable=False),
    *(Column(name, BigInteger) for name in _MEASURES),  # amounts in micros
)
_changes = temporary(
    "aae_changes",
    Column("local_date", Date, primary_key=True),
    Column("local_hour", SmallInteger, primary_key=True, autoincrement=False),
    Column("entity_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("utc_start", DateTime, nullable=False),
    *(
        Column(f"{state}_{name}", BigInteger if name in _COUNTS else Numeric(18, 6).with_variant(BigInteger, "sqlite"))
        for state in ("old", "new")
        for name in _MEASURES
    ),
)


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What storing a slice did: rows given, and rows of the table inserted, updated and deleted."""

    rows: int
    inserted: int
    updated: int
    deleted: int


def store_slice(
    connection: Connection,
    account: Account,
    piece: Slice,
    metrics: pd.DataFrame,
    *,
    attribution: str,
    run_id: str | None,
    now: datetime,
) -> StoreResult:
    """Make the tables say about ``piece`` exactly what ``metrics`` (the columns of ``METRIC_COLUMNS``) says.

    Idempotent: doing it twice is doing it once. Writers of the same account queue up behind each other. Entities named
    only here are created. ``utc_start`` is the local hour's (or, on daily rows, local midnight's) beginning in the
    account's zone; one that the clocks skip is moved forward, of one that happens twice it is the first. Days that have
    been folded into the summary (``aae.storage.history``) come back as facts.

    Raises:
        ValueError: the frame has other columns, rows outside the slice, or two rows of the same key.
    """
    _validate(account, piece, metrics)
    lock_account(connection, account.id)
    rows = _rows(connection, account, metrics, now)
    if rows.duplicated(_KEY).any():
        raise ValueError(f"two rows for the same entity and time in the slice {piece}")
    facts = _facts(piece.granularity)
    there = connection.execute(select(func.count()).select_from(facts).where(_in_slice(facts, piece))).scalar_one()
    if not there:
        own = rows if "local_hour" in facts.c else rows.drop(columns="local_hour")
        load(connection, facts, own, account_id=account.id, attribution=attribution)
        counts = {_NEW: len(rows), _CHANGED: 0, _WITHDRAWN: 0}
    else:
        counts = _replace(connection, facts, piece, there, rows, attribution=attribution, run_id=run_id, now=now)
    if piece.granularity is Granularity.DAILY:
        days = rows["local_date"].dt.date.unique().tolist()
        unfold(connection, account.id, days, piece.since, piece.until)
    return StoreResult(len(metrics), counts[_NEW], counts[_CHANGED], counts[_WITHDRAWN])


def slice_totals(connection: Connection, account_id: int, piece: Slice) -> Totals:
    """The sums of what is stored of ``piece``; conversions and revenue are ``None`` if no row tells them."""
    facts = _facts(piece.granularity)
    where = and_(facts.c.account_id == account_id, facts.c.local_date.between(piece.since, piece.until))
    return _totals(connection.execute(select(*_sums(facts)).where(where)).one())


def daily_totals(connection: Connection, account_id: int, since: date, until: date) -> dict[date, Totals]:
    """Local day to the sums over its daily rows, for the days that have any; both ends included."""
    facts = ad_metrics_daily
    rows = connection.execute(
        select(facts.c.local_date, *_sums(facts))
        .where(facts.c.account_id == account_id, facts.c.local_date.between(since, until))
        .group_by(facts.c.local_date)
        .order_by(facts.c.local_date)
    )
    return {row.local_date: _totals(row) for row in rows}


def last_of_other_zone(connection: Connection, account: Account, windows: Sequence[StoredWindow]) -> date | None:
    """The newest local day that ``windows`` have brought, if it is another day in the account's zone."""
    facts = ad_metrics_daily
    newest = connection.execute(
        select(facts.c.local_date, facts.c.utc_start)
        .where(facts.c.account_id == account.id)
        .order_by(facts.c.local_date.desc())
        .limit(1)
    ).one_or_none()
    if newest is None or not any(window.covers(newest.local_date) for window in windows):
        return None
    same = newest.utc_start.replace(tzinfo=None) == _utc_start(account.zone, newest.local_date, _NO_HOUR)
    return None if same else newest.local_date


def read_frames(
    connection: Connection,
    account_id: int,
    *,
    daily_since: date,
    hourly_since: date,
    before: AccountFrames | None = None,
) -> AccountFrames:
    """The account's hot window: everything from those local days on, with exactly the dtypes of ``aae.frames``.

    Of frames ``before`` that began on the same days, only those days are read again in which a fetch has changed
    something since. The window moves every day, so once a day everything is read, whatever else has touched the tables.

    Raises:
        LookupError: there is no such account.
    """
    row = connection.execute(select(ad_accounts).where(ad_accounts.c.id == account_id)).one_or_none()
    if row is None:
        raise LookupError(f"there is no account {account_id}")
    known = {name: row._mapping[name] for name in Account.__dataclass_fields__}
    reach = Reach(daily_since, hourly_since, fetches.last_stored(connection, account_id))
    if before is not None and (before.reach is None or not reach.continues(before.reach)):
        before = None
    return AccountFrames(
        account=Account(**known | {"platform": Platform(row.platform), "status": AccountStatus(row.status)}),
        version=row.data_version,
        data_through=row.data_through,
        entities=unload(connection, _entities_query(connection, account_id), ENTITIES),
        daily=_numbers(connection, account_id, Granularity.DAILY, daily_since, before),
        hourly=_numbers(connection, account_id, Granularity.HOURLY, hourly_since, before),
        reach=reach,
    )


def hot_rows(connection: Connection, account_id: int, *, daily_since: date, hourly_since: date, at_most: int) -> int:
    """How many rows of numbers :func:`read_frames` would read, counting no more than ``at_most`` of a granularity."""
    counted = 0
    for facts, since in ((ad_metrics_daily, daily_since), (ad_metrics_hourly, hourly_since)):
        rows = select(facts.c.entity_id).where(facts.c.account_id == account_id, facts.c.local_date >= since)
        counted += connection.scalar(select(func.count()).select_from(rows.limit(at_most).subquery())) or 0
    return counted


# Storing


def _facts(granularity: Granularity) -> Table:
    return ad_metrics_daily if granularity is Granularity.DAILY else ad_metrics_hourly


def _validate(account: Account, piece: Slice, metrics: pd.DataFrame) -> None:
    if piece.account_id != account.id:
        raise ValueError(f"a slice of account {piece.account_id} cannot be stored for account {account.id}")
    if list(metrics.columns) != list(METRIC_COLUMNS):
        raise ValueError(f"metrics have the columns {list(METRIC_COLUMNS)}, not {list(metrics.columns)}")
    if not metrics["local_date"].between(pd.Timestamp(piece.since), pd.Timestamp(piece.until)).all():
        raise ValueError(f"rows outside of the slice {piece}")
    hours = metrics["local_hour"]
    fits = hours.isna() if piece.granularity is Granularity.DAILY else hours.between(0, 23).fillna(value=False)
    if not fits.all():
        raise ValueError(f"rows whose hour does not fit the slice {piece}")
    if not metrics["level"].isin([Level.AD.value, Level.CAMPAIGN.value]).all():
        raise ValueError("metrics are of ads, or of campaigns that have none")


def _rows(connection: Connection, account: Account, metrics: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """The rows in the columns of the staging table, in the order of the tables' keys."""
    hours = metrics["local_hour"].fillna(_NO_HOUR).astype("int64")
    rows = pd.DataFrame(
        {
            "local_date": metrics["local_date"],
            "local_hour": hours,
            "entity_id": _entity_ids(connection, account.id, metrics, now),
            "utc_start": _utc_starts(account.zone, metrics["local_date"], hours),
            **{name: metrics[name] for name in _COUNTS},
            **{name: metrics[f"{name}_micros"] for name in _AMOUNTS},
        }
    )
    return rows.sort_values(_KEY)


def _utc_starts(zone: ZoneInfo, days: pd.Series[Any], hours: pd.Series[Any]) -> Any:
    """The naive UTC moment at which each local day and hour begins; asked once for each."""
    # As one number, the days since 1970 before the hour: numbers are told apart ten times as fast as pairs.
    moments = days.to_numpy("datetime64[D]").astype(np.int64) * _HOURS + (hours.to_numpy() - _NO_HOUR)
    codes, shared = pd.factorize(moments)
    pairs = [
        (np.datetime64(int(day), "D").item(), int(hour) + _NO_HOUR)
        for day, hour in zip(*divmod(shared, _HOURS), strict=True)
    ]
    return np.array([_utc_start(zone, day, hour) for day, hour in pairs], dtype="datetime64[s]")[codes]


def _utc_start(zone: ZoneInfo, day: date, hour: int) -> datetime:
    # Without a fold Python takes the offset from before the change of clocks. That is the first of two equal hours, and
    # puts an hour that does not exist after the gap.
    local = datetime.combine(day, time(max(hour, 0)), tzinfo=zone)
    return local.astimezone(UTC).replace(tzinfo=None)


def _entity_ids(connection: Connection, account_id: int, metrics: pd.DataFrame, now: datetime) -> Any:
    """Our id of every row's entity. Unknown ones are created from the top down."""
    ids = np.zeros(len(metrics), dtype=np.int64)
    for name, places in metrics.groupby("level", sort=False).indices.items():
        level = Level(str(name))
        codes, wanted = pd.factorize(metrics["external_id"].iloc[places])
        known = ids_of(connection, account_id, level, wanted.tolist())
        if len(known) < len(wanted):
            rows = metrics.iloc[places]
            unknown = rows[~rows["external_id"].isin(list(known))].drop_duplicates("external_id")
            known |= _create(connection, account_id, level, unknown, now)
        ids[places] = np.array([known[external_id] for external_id in wanted], dtype=np.int64)[codes]
    return ids


def _create(
    connection: Connection, account_id: int, level: Level, unknown: pd.DataFrame, now: datetime
) -> dict[str, int]:
    lineage = ["campaign_external_id"] + (["ad_set_external_id"] if level is Level.AD else [])
    if unknown[lineage].isna().any(axis=None):
        raise ValueError(f"a new {level} comes without the ids of what is above it")
    campaigns = dict.fromkeys(unknown["campaign_external_id"])
    campaign_ids = ensure(connection, account_id, Level.CAMPAIGN, campaigns, now=now)
    if level is Level.CAMPAIGN:
        return campaign_ids
    above = dict(zip(unknown["ad_set_external_id"], unknown["campaign_external_id"].map(campaign_ids), strict=True))
    ad_set_ids = ensure(connection, account_id, Level.AD_SET, above, now=now)
    parents = dict(zip(unknown["external_id"], unknown["ad_set_external_id"].map(ad_set_ids), strict=True))
    return ensure(connection, account_id, Level.AD, parents, now=now)


def _replace(
    connection: Connection,
    facts: Table,
    piece: Slice,
    there: int,
    rows: pd.DataFrame,
    *,
    attribution: str,
    run_id: str | None,
    now: datetime,
) -> dict[int, int]:
    """Write what differs from the rows that are ``there``; how many are new, changed and gone."""
    refill(connection, _stage, rows)
    refill(connection, _changes)
    counts = _compare(connection, facts, piece, attribution, there=there, given=len(rows))
    if any(counts.values()):
        for measure in _MEASURES:
            _record_revisions(connection, piece, measure, run_id, now)
    if counts[_WITHDRAWN]:
        _delete_withdrawn(connection, facts, piece)
    if counts[_CHANGED]:
        _update_changed(connection, facts, piece, attribution)
    if counts[_NEW]:
        _insert_new(connection, facts, piece, attribution)
    return counts


def _compare(
    connection: Connection, facts: Table, piece: Slice, attribution: str, *, there: int, given: int
) -> dict[int, int]:
    """Fill ``_changes`` with what is new, what is different and what is gone; how many of each."""
    _find_given(connection, facts, piece, attribution)
    rows = connection.execute(select(_changes.c.kind, func.count()).group_by(_changes.c.kind))
    counts = {_NEW: 0, _CHANGED: 0} | {row[0]: row[1] for row in rows}
    # Each given row that is not new is one that is there. The others are looked for only if there are any.
    withdrawn = there - (given - counts[_NEW])
    if withdrawn:
        _find_withdrawn(connection, facts, piece)
    return counts | {_WITHDRAWN: withdrawn}


def _find_given(connection: Connection, facts: Table, piece: Slice, attribution: str) -> None:
    staged = {name: _to_table(connection, _stage.c[name]) for name in _MEASURES}
    old = [_plain(connection, facts.c[name]) for name in _MEASURES]
    differs = or_(
        *(staged[name].is_distinct_from(before) for name, before in zip(_MEASURES, old, strict=True)),
        _stage.c.utc_start != type_coerce(facts.c.utc_start, DateTime),
        facts.c.attribution != attribution,
    )
    is_new = facts.c.entity_id.is_(None)
    _note(
        connection,
        select(
            _stage.c.local_date,
            _stage.c.local_hour,
            _stage.c.entity_id,
            case((is_new, _NEW), else_=_CHANGED),
            _stage.c.utc_start,
            *old,
            *staged.values(),
        )
        .select_from(_stage.outerjoin(facts, and_(_same_row(facts, _stage), facts.c.account_id == piece.account_id)))
        .where(or_(is_new, differs)),
    )


def _find_withdrawn(connection: Connection, facts: Table, piece: Slice) -> None:
    _note(
        connection,
        select(
            facts.c.local_date,
            _hour(facts),
            facts.c.entity_id,
            literal(_WITHDRAWN),
            facts.c.utc_start,
            *(_plain(connection, facts.c[name]) for name in _MEASURES),
            *(null() for _ in _MEASURES),
        )
        .select_from(facts.outerjoin(_stage, _same_row(facts, _stage)))
        .where(_in_slice(facts, piece), _stage.c.entity_id.is_(None)),
    )


def _note(connection: Connection, found: Select[Any]) -> None:
    connection.execute(insert(_changes).from_select([column.name for column in _changes.columns], found))


def _record_revisions(connection: Connection, piece: Slice, measure: str, run_id: str | None, now: datetime) -> None:
    """What changed, went, or came late: rows of a day (or hour) of which others were there already."""
    facts = _facts(piece.granularity)
    old, new = _changes.c[f"old_{measure}"], _changes.c[f"new_{measure}"]
    # The ledger keeps counts as amounts too, so that one pair of columns serves all five.
    scale: ColumnElement[int] = literal_column(
        "1000000" if measure in _COUNTS and connection.dialect.name == "sqlite" else "1"
    )
    hour = null() if piece.granularity is Granularity.DAILY else _changes.c.local_hour
    values = {
        "account_id": literal(piece.account_id),
        "entity_id": _changes.c.entity_id,
        "granularity": literal(piece.granularity.value),
        "local_date": _changes.c.local_date,
        "local_hour": hour,
        "metric": literal(measure),
        "old": old * scale,
        "new": new * scale,
        "changed_at": literal(now, UtcDateTime),
        "run_id": literal(run_id),
    }
    was_there = exists().where(
        _in_slice(facts, piece), facts.c.local_date == _changes.c.local_date, _hour(facts) == _changes.c.local_hour
    )
    changed = select(*values.values()).where(
        old.is_distinct_from(new), or_(_changes.c.kind != _NEW, was_there.correlate(_changes))
    )
    # An order, so that the ledger's ids say the same on every database.
    changed = changed.order_by(_changes.c.local_date, _changes.c.local_hour, _changes.c.entity_id)
    connection.execute(insert(metric_revisions).from_select(list(values), changed))


def _delete_withdrawn(connection: Connection, facts: Table, piece: Slice) -> None:
    gone = exists().where(_same_row(facts, _changes), _changes.c.kind == _WITHDRAWN)
    connection.execute(delete(facts).where(_in_slice(facts, piece), gone))


def _update_changed(connection: Connection, facts: Table, piece: Slice, attribution: str) -> None:
    connection.execute(
        update(facts)
        .values(_values(facts, attribution))
        .where(facts.c.account_id == piece.account_id, _same_row(facts, _changes), _changes.c.kind == _CHANGED)
    )


def _insert_new(connection: Connection, facts: Table, piece: Slice, attribution: str) -> None:
    values = {facts.c.account_id: literal(piece.account_id)} | _values(facts, attribution)
    values |= {column: _changes.c[column.name] for column in facts.primary_key if column is not facts.c.account_id}
    rows = select(*values.values()).where(_changes.c.kind == _NEW)
    connection.execute(insert(facts).from_select(list(values), rows))


def _values(facts: Table, attribution: str) -> dict[Any, ColumnElement[Any]]:
    """What a new or changed row says, besides its key."""
    measures: dict[Any, ColumnElement[Any]] = {facts.c[name]: _changes.c[f"new_{name}"] for name in _MEASURES}
    return {facts.c.utc_start: _changes.c.utc_start, facts.c.attribution: literal(attribution)} | measures


def _in_slice(facts: Table, piece: Slice) -> ColumnElement[bool]:
    return and_(facts.c.account_id == piece.account_id, facts.c.local_date.between(piece.since, piece.until))


def _same_row(facts: Table, other: Table) -> ColumnElement[bool]:
    return and_(
        facts.c.local_date == other.c.local_date,
        _hour(facts) == other.c.local_hour,
        facts.c.entity_id == other.c.entity_id,
    )


def _hour(facts: Table) -> ColumnElement[int]:
    return facts.c.local_hour if "local_hour" in facts.c else literal_column(str(_NO_HOUR), SmallInteger)


# Money between micros and the tables' decimals


def _plain(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The stored value as the database has it, without conversion in Python."""
    return type_coerce(column, BigInteger if connection.dialect.name == "sqlite" else Numeric(18, 6))


def _to_table(connection: Connection, staged: Column[Any]) -> ColumnElement[Any]:
    """Staged micros as the tables hold them."""
    if connection.dialect.name == "sqlite" or staged.name in _COUNTS:
        return staged
    return cast(staged * literal_column("0.000001"), Numeric(18, 6))


def _as_micros(connection: Connection, column: Column[Any]) -> ColumnElement[int]:
    """A stored amount as an integer of micros; the multiplication is exact decimal arithmetic."""
    if connection.dialect.name == "sqlite":
        return type_coerce(column, BigInteger)
    return cast(type_coerce(column, Numeric(18, 6)) * literal_column("1000000"), BigInteger)


# Reading


def _sums(facts: Table) -> list[ColumnElement[Any]]:
    return [func.sum(facts.c[name]).label(name) for name in _MEASURES]


def _totals(row: Any) -> Totals:
    return Totals(
        impressions=int(row.impressions or 0),
        clicks=int(row.clicks or 0),
        spend_micros=row.spend or 0,
        conversions_micros=row.conversions,
        revenue_micros=row.revenue,
    )


def _entities_query(connection: Connection, account_id: int) -> Select[Any]:
    parent = entities.alias("parent")
    level = entities.c.level
    campaign_id = case(
        (level == Level.CAMPAIGN.value, entities.c.id),
        (level == Level.AD_SET.value, entities.c.parent_id),
        else_=parent.c.parent_id,
    )
    ad_set_id = case(
        (level == Level.AD_SET.value, entities.c.id),
        (level == Level.AD.value, entities.c.parent_id),
    )
    return (
        select(
            entities.c.id,
            level,
            entities.c.external_id,
            entities.c.name,
            entities.c.status,
            campaign_id,
            ad_set_id,
            _as_micros(connection, entities.c.daily_budget),
            entities.c.channel,
        )
        .select_from(entities.outerjoin(parent, parent.c.id == entities.c.parent_id))
        .where(entities.c.account_id == account_id)
        .order_by(entities.c.id)
    )


def _numbers(
    connection: Connection, account_id: int, granularity: Granularity, since: date, before: AccountFrames | None
) -> pd.DataFrame:
    """The hot window's rows of one granularity, out of ``before`` (whose reach fits) where they are still the same."""
    if before is None or before.reach is None:
        return _facts_between(connection, account_id, granularity, since, date.max)
    known = before.daily if granularity is Granularity.DAILY else before.hourly
    changed = [
        piece
        for piece in fetches.changed_since(connection, account_id, before.reach.fetch_id)
        if piece.granularity is granularity and piece.until >= since
    ]
    if not changed:
        return known
    first, last = max(since, min(piece.since for piece in changed)), max(piece.until for piece in changed)
    days = known["local_date"]
    earlier, later = known[days < pd.Timestamp(first)], known[days > pd.Timestamp(last)]
    fresh = _facts_between(connection, account_id, granularity, first, last)
    return _in_order(pd.concat([earlier, fresh, later]))


def _facts_between(
    connection: Connection, account_id: int, granularity: Granularity, since: date, until: date
) -> pd.DataFrame:
    facts, columns = _facts(granularity), DAILY if granularity is Granularity.DAILY else HOURLY
    query = select(*(_source(connection, facts, name) for name in columns)).where(
        facts.c.account_id == account_id, facts.c.local_date.between(since, until)
    )
    together = [facts.c[name] for name in ("local_date", "local_hour") if name in columns]
    return _in_order(unload(connection, query, columns, together=together))


def _source(connection: Connection, facts: Table, name: str) -> ColumnElement[Any]:
    """What the hot window's column of that name is in SQL."""
    if name.endswith("_micros"):
        return _as_micros(connection, facts.c[name.removesuffix("_micros")])
    return type_coerce(facts.c.utc_start, DateTime) if name == "utc_start" else facts.c[name]


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """By time and entity; of rows that are so already, in no time."""
    keys = [name for name in ("utc_start", "local_date", "local_hour", "entity_id") if name in rows.columns]
    return rows.iloc[np.lexsort([rows[name].to_numpy() for name in reversed(keys)])].reset_index(drop=True)
