"""Old days: folded into ``daily_summary``, and read together with the days that are still whole.

A day of an account lives in one place: its facts in ``ad_metrics_daily``, or its sums by campaign in ``daily_summary``.
Folding moves it in one transaction, so that whoever reads both (:func:`campaign_days`) counts it once, at any moment.
The day's hours go afterwards, in pieces, once the summary has the day; a day that only the hours know is folded from
them first.

A backfill moves a day back: storing facts of it takes its summary away (:func:`unfold`), and the next fold makes it
anew. A day of which the platform no longer tells anything keeps its summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
)

from aae.errors import Bug
from aae.storage.entities import lock_account
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, daily_summary, entities

_SUMS: Final = (
    "fact_rows",
    "impressions",
    "clicks",
    "spend",
    "conversions",
    "conversions_rows",
    "conversions_spend",
    "conversions_clicks",
    "revenue",
    "revenue_rows",
    "revenue_spend",
)
_DAYS_AT_ONCE: Final = 62


@dataclass(frozen=True, slots=True)
class CampaignDay:
    """One campaign on one local day: exact sums, amounts in micros of the account's currency.

    ``conversions`` and ``revenue`` are ``None`` where nothing told them; ``*_rows`` of the ``fact_rows`` told them, and
    ``*_spend`` and ``*_clicks`` are of just those. ``folded``: read from the summary.
    """

    account_id: int
    local_date: date
    campaign_id: int
    fact_rows: int
    impressions: int
    clicks: int
    spend: int
    conversions: int | None
    conversions_rows: int
    conversions_spend: int
    conversions_clicks: int
    revenue: int | None
    revenue_rows: int
    revenue_spend: int
    folded: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of an account is older than it is kept: days to fold and their rows, and rows by the hour to drop."""

    days: int
    daily_rows: int
    hourly_rows: int


@dataclass(frozen=True, slots=True)
class Folded:
    """What one piece of folding did."""

    days: int = 0
    daily_rows: int = 0
    hourly_rows: int = 0

    def __add__(self, other: Folded) -> Folded:
        return Folded(self.days + other.days, self.daily_rows + other.daily_rows, self.hourly_rows + other.hourly_rows)


def campaign_days(connection: Connection, account_ids: Sequence[int], since: date, until: date) -> list[CampaignDay]:
    """Every campaign and local day of these accounts, both ends included, whole or folded; in this order of keys."""

    def of(table: Table) -> ColumnElement[bool]:
        return and_(table.c.account_id.in_(account_ids), table.c.local_date.between(since, until))

    folded = select(
        *(daily_summary.c[name] for name in ("account_id", "local_date", "campaign_id", *_SUMS)),
        literal(1).label("folded"),
    ).where(of(daily_summary))
    whole = _by_campaign(ad_metrics_daily, of(ad_metrics_daily), literal(0).label("folded"))
    both = union_all(folded, whole).subquery()
    rows = connection.execute(select(both).order_by(both.c.account_id, both.c.local_date, both.c.campaign_id))
    return [CampaignDay(**{**row._mapping, **_whole_numbers(row)}) for row in rows]


def backlog(connection: Connection, account_id: int, before: date) -> Backlog:
    """What of the account's days before ``before`` is not folded yet."""
    days, daily_rows = connection.execute(_extent(ad_metrics_daily, account_id, before)).one()
    hourly_rows = connection.execute(_extent(ad_metrics_hourly, account_id, before)).one()[1]
    only_hours = connection.scalar(
        select(func.count(ad_metrics_hourly.c.local_date.distinct())).where(
            _of(ad_metrics_hourly, account_id, before), _unknown_to(ad_metrics_daily), _unknown_to(daily_summary)
        )
    )
    return Backlog(days + (only_hours or 0), daily_rows, hourly_rows)


def days_to_fold(connection: Connection, account_id: int, before: date, *, rows: int) -> tuple[date, date] | None:
    """The oldest days before ``before`` that are not folded, about as many as have ``rows`` facts; None without any.

    Both ends included. A day is never divided.
    """
    hours = ad_metrics_hourly
    whole = connection.execute(_counted_days(ad_metrics_daily, _of(ad_metrics_daily, account_id, before))).all()
    # A list that was cut says nothing of the days after its end.
    known = whole[-1].local_date if len(whole) == _DAYS_AT_ONCE else before
    unknown = and_(_unknown_to(ad_metrics_daily), _unknown_to(daily_summary))
    only_hours = _counted_days(hours, and_(_of(hours, account_id, before), hours.c.local_date <= known, unknown))
    counted = sorted((day, number) for day, number in (*whole, *connection.execute(only_hours)))
    if not counted:
        return None
    last, total = counted[0]
    for day, number in counted[1:]:
        total += number
        if total > rows:
            break
        last = day
    return counted[0][0], last


def fold(connection: Connection, account_id: int, since: date, until: date) -> Folded:
    """Move the days from facts to summary, and prove in the same transaction that all sums are the same.

    Doing it twice is doing it once. Other writers of the account wait meanwhile.

    Raises:
        Bug: the sums differ; the transaction must not be committed.
    """
    lock_account(connection, account_id)
    daily, hours = ad_metrics_daily, ad_metrics_hourly
    of_days = _between(daily, account_id, since, until)
    # Facts beside a summary are the newer ones.
    connection.execute(
        delete(daily_summary).where(
            _between(daily_summary, account_id, since, until), ~_unknown_to(daily, beside=daily_summary)
        )
    )
    of_hours = and_(_between(hours, account_id, since, until), _unknown_to(daily), _unknown_to(daily_summary))
    summary_before = _total(connection, daily_summary, account_id, since, until)
    # The hours before the days: what is "unknown" to both is known as soon as the days are in.
    only_hours = list(connection.scalars(select(hours.c.local_date.distinct()).where(of_hours)))
    of_only_hours = and_(hours.c.account_id == account_id, hours.c.local_date.in_(only_hours))
    days = connection.scalar(select(func.count(daily.c.local_date.distinct())).where(of_days)) or 0
    expected = _plus(_sums_where(connection, daily, of_days), _sums_where(connection, hours, of_only_hours))
    for facts, where, from_hours in ((daily, of_days, False), (hours, of_only_hours, True)):
        rows = _by_campaign(facts, where, literal(int(from_hours)).label("from_hours"))
        names = ["account_id", "local_date", "campaign_id", *_SUMS, "from_hours"]
        connection.execute(insert(daily_summary).from_select(names, rows))
    summary_after = _total(connection, daily_summary, account_id, since, until)
    if summary_after != _plus(summary_before, expected):
        raise Bug(f"Folding {since} to {until} of account {account_id} would change its sums; nothing was folded.")
    dropped = connection.execute(delete(daily).where(of_days)).rowcount
    return Folded(days=days + len(only_hours), daily_rows=dropped)


def has_hours(connection: Connection, account_id: int, before: date) -> bool:
    """Whether there are rows by the hour of days before ``before`` that the summary has."""
    hours = ad_metrics_hourly
    row = select(hours.c.local_date).where(_of(hours, account_id, before), ~_unknown_to(daily_summary)).limit(1)
    return connection.execute(row).first() is not None


def drop_hours(connection: Connection, account_id: int, before: date, *, rows: int) -> Folded:
    """Delete about the oldest ``rows`` rows by the hour of days that the summary has; nothing if there are none."""
    lock_account(connection, account_id)
    hours = ad_metrics_hourly
    folded = and_(_of(hours, account_id, before), ~_unknown_to(daily_summary))
    in_order = select(hours.c.local_date, hours.c.local_hour).where(folded).order_by(*hours.primary_key.columns)
    last = connection.execute(in_order.limit(1).offset(rows - 1)).first()
    if last is None:
        return Folded(hourly_rows=connection.execute(delete(hours).where(folded)).rowcount)
    day, hour = last
    up_to = or_(hours.c.local_date < day, and_(hours.c.local_date == day, hours.c.local_hour <= hour))
    return Folded(
        hourly_rows=connection.execute(delete(hours).where(folded, hours.c.local_date <= day, up_to)).rowcount
    )


def unfold(connection: Connection, account_id: int, days: Sequence[date], since: date, until: date) -> None:
    """Take away the summary of ``days``, all between ``since`` and ``until``, that get facts again."""
    there = select(daily_summary.c.local_date).where(_between(daily_summary, account_id, since, until))
    # Nearly always there is none, and looking locks nothing.
    if connection.execute(there.limit(1)).first() is not None:
        connection.execute(
            delete(daily_summary).where(daily_summary.c.account_id == account_id, daily_summary.c.local_date.in_(days))
        )


def _by_campaign(facts: Table, where: ColumnElement[bool], *more: ColumnElement[Any]) -> Select[Any]:
    """The facts as rows of the summary. What is above an ad and an ad set is looked up; a campaign is its own."""
    leaf, parent = entities.alias("leaf"), entities.alias("parent")
    campaign = func.coalesce(parent.c.parent_id, leaf.c.parent_id, leaf.c.id)
    source = facts.join(leaf, leaf.c.id == facts.c.entity_id).outerjoin(parent, parent.c.id == leaf.c.parent_id)
    key = (facts.c.account_id, facts.c.local_date, campaign.label("campaign_id"))
    return select(*key, *_sums_of(facts), *more).select_from(source).where(where).group_by(*key[:2], campaign)


def _sums_of(facts: FromClause) -> list[ColumnElement[Any]]:
    told, valued = facts.c.conversions.is_not(None), facts.c.revenue.is_not(None)

    def where(known: ColumnElement[bool], column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.coalesce(func.sum(case((known, column))), 0, type_=column.type)

    measures = {
        "fact_rows": func.count(),
        "impressions": func.sum(facts.c.impressions),
        "clicks": func.sum(facts.c.clicks),
        "spend": func.sum(facts.c.spend),
        "conversions": func.sum(facts.c.conversions),
        "conversions_rows": func.count(facts.c.conversions),
        "conversions_spend": where(told, facts.c.spend),
        "conversions_clicks": where(told, facts.c.clicks),
        "revenue": func.sum(facts.c.revenue),
        "revenue_rows": func.count(facts.c.revenue),
        "revenue_spend": where(valued, facts.c.spend),
    }
    return [measures[name].label(name) for name in _SUMS]


def _sums_where(connection: Connection, facts: Table, where: ColumnElement[bool]) -> tuple[int, ...]:
    return _added(connection, select(*_sums_of(facts)).where(where).group_by(facts.c.local_date))


def _total(connection: Connection, table: Table, account_id: int, since: date, until: date) -> tuple[int, ...]:
    sums = [func.sum(table.c[name]) for name in _SUMS]
    where = _between(table, account_id, since, until)
    return _added(connection, select(*sums).where(where).group_by(table.c.local_date))


def _added(connection: Connection, by_day: Select[Any]) -> tuple[int, ...]:
    """The sums over all days. Python adds them: one day's fit into SQLite's integers, those of several may not."""
    days = [tuple(int(value or 0) for value in row) for row in connection.execute(by_day)]
    return tuple(map(sum, zip(*days, strict=True))) if days else (0,) * len(_SUMS)


def _plus(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _whole_numbers(row: Any) -> dict[str, Any]:
    """Sums of integers as integers: MySQL gives decimals."""
    counts = ("fact_rows", "impressions", "clicks", "conversions_rows", "conversions_clicks", "revenue_rows")
    return {name: int(row._mapping[name]) for name in counts} | {"folded": bool(row.folded)}


def _extent(facts: Table, account_id: int, before: date) -> Select[Any]:
    return select(func.count(facts.c.local_date.distinct()), func.count()).where(_of(facts, account_id, before))


def _counted_days(facts: Table, where: ColumnElement[bool]) -> Select[Any]:
    day = facts.c.local_date
    return select(day, func.count()).where(where).group_by(day).order_by(day).limit(_DAYS_AT_ONCE)


def _of(table: Table, account_id: int, before: date) -> ColumnElement[bool]:
    return and_(table.c.account_id == account_id, table.c.local_date < before)


def _between(table: Table, account_id: int, since: date, until: date) -> ColumnElement[bool]:
    return and_(table.c.account_id == account_id, table.c.local_date.between(since, until))


def _unknown_to(table: Table, *, beside: Table = ad_metrics_hourly) -> ColumnElement[bool]:
    """Rows of ``beside`` whose account and day ``table`` does not have."""
    same = and_(table.c.account_id == beside.c.account_id, table.c.local_date == beside.c.local_date)
    return ~exists(select(1).select_from(table).where(same).correlate(beside))
