"""Exact sums over frames, the ratios made of them, and one day held against the days before it.

Sums are ``int`` micros; ratios are ``Decimal`` quotients of sums, never averages of ratios. Where a platform does not
tell conversions or revenue, a sum remembers it: a ratio then covers only the spend that can be judged, and a total of
which nothing is told is unknown, not zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from operator import add, attrgetter, sub
from typing import Final, Literal, TypeVar, cast

import pandas as pd

from aae.frames import AccountFrames
from aae.model import MICROS, from_micros

HISTORY_DAYS: Final = 28
"""Days a report looks at, the reported one included."""
WEEK_DAYS: Final = 7

_Key = TypeVar("_Key", bound=Hashable)
Metric = Literal["spend", "revenue", "roas", "conversions", "cpa"]
METRICS: Final[tuple[Metric, ...]] = ("spend", "revenue", "roas", "conversions", "cpa")


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over rows; all fields add up.

    ``conversions_micros`` and ``revenue_micros`` are over the rows that tell them; ``*_missing`` counts those that do
    not. ``conversions_spend_micros``, ``conversions_clicks`` and ``revenue_spend_micros`` are over the telling rows.
    """

    rows: int = 0
    impressions: int = 0
    clicks: int = 0
    spend_micros: int = 0
    conversions_micros: int = 0
    conversions_missing: int = 0
    conversions_spend_micros: int = 0
    conversions_clicks: int = 0
    revenue_micros: int = 0
    revenue_missing: int = 0
    revenue_spend_micros: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*map(add, _values(self), _values(other)))

    def __sub__(self, other: Sums) -> Sums:
        return Sums(*map(sub, _values(self), _values(other)))

    @property
    def delivered(self) -> bool:
        """Whether anything ran."""
        return bool(self.impressions or self.clicks or self.spend_micros)

    @property
    def spend(self) -> Decimal:
        """In the account's currency."""
        return from_micros(self.spend_micros)

    @property
    def conversions(self) -> Decimal | None:
        """Conversions that are told; None if none of the rows tells."""
        return None if self.rows and self.conversions_missing == self.rows else from_micros(self.conversions_micros)

    @property
    def revenue(self) -> Decimal | None:
        """Revenue that is told; None if none of the rows tells."""
        return None if self.rows and self.revenue_missing == self.rows else from_micros(self.revenue_micros)

    @property
    def cpa(self) -> Decimal | None:
        """Spend per conversion, where conversions are told; None without any."""
        return _quotient(self.conversions_spend_micros, self.conversions_micros)

    @property
    def roas(self) -> Decimal | None:
        """Revenue per spend, where revenue is told; None without either."""
        return _quotient(self.revenue_micros, self.revenue_spend_micros) if self.revenue is not None else None

    @property
    def ctr(self) -> Decimal | None:
        """Clicks per impression."""
        return _quotient(self.clicks, self.impressions)

    @property
    def cpm(self) -> Decimal | None:
        """Spend per thousand impressions."""
        return _quotient(self.spend_micros * 1000, self.impressions * MICROS)

    @property
    def cpc(self) -> Decimal | None:
        """Spend per click."""
        return _quotient(self.spend_micros, self.clicks * MICROS)

    @property
    def cvr(self) -> Decimal | None:
        """Conversions per click, where conversions are told."""
        return _quotient(self.conversions_micros, self.conversions_clicks * MICROS)

    def value(self, metric: Metric) -> Decimal | None:
        """One of ``METRICS`` by name."""
        return cast("Decimal | None", getattr(self, metric))

    def partial(self, metric: Metric) -> bool:
        """Whether some, but not all, of what the metric needs is told."""
        if metric in {"conversions", "cpa"}:
            return 0 < self.conversions_missing < self.rows
        if metric in {"revenue", "roas"}:
            return 0 < self.revenue_missing < self.rows
        return False


FIELDS: Final = tuple(field.name for field in fields(Sums))
NOTHING: Final = Sums()
_values = attrgetter(*FIELDS)  # many times faster than dataclasses.astuple, which copies deeply


@dataclass(frozen=True, slots=True)
class Compared:
    """One day beside the day before it and the average of the up to seven days before it.

    ``before`` and ``week`` are None where there is no earlier day on record; ``week`` sums ``week_days`` days.
    """

    day: Sums
    before: Sums | None = None
    week: Sums | None = None
    week_days: int = 0

    def average(self, metric: Metric) -> Decimal | None:
        """Per day of the week before; a ratio is the quotient of the week's sums."""
        if self.week is None:
            return None
        value = self.week.value(metric)
        return value if value is None or metric in {"roas", "cpa"} else value / self.week_days

    def change(self, metric: Metric, against: Literal["before", "week"] = "week") -> Decimal | None:
        """Relative change (0.12 is 12 % more); None where either side is unknown or the base is zero."""
        base = self.average(metric) if against == "week" else self.before.value(metric) if self.before else None
        value = self.day.value(metric)
        return None if value is None or not base else value / base - 1


def facts(frames: AccountFrames, day: date) -> pd.DataFrame:
    """The account's daily rows of the ``HISTORY_DAYS`` that end with ``day``, ready for :func:`sums_by`.

    Columns: ``age`` (0 is ``day``, 1 the day before ...), ``entity_id``, ``ad_set_id`` (-1 without one),
    ``campaign_id`` and the fields of :class:`Sums`, all int64.
    """
    daily = frames.daily
    age = (pd.Timestamp(day) - daily["local_date"]).dt.days
    kept = daily[(age >= 0) & (age < HISTORY_DAYS)]
    entities = frames.entities.set_index("entity_id")
    leaf = kept["entity_id"]
    told, valued = kept["conversions_micros"].notna(), kept["revenue_micros"].notna()
    spend, clicks = kept["spend_micros"], kept["clicks"]
    return pd.DataFrame(
        {
            "age": age[kept.index],
            "entity_id": leaf,
            "ad_set_id": leaf.map(entities["ad_set_id"]).fillna(-1),
            "campaign_id": leaf.map(entities["campaign_id"]).fillna(leaf),
            "rows": 1,
            "impressions": kept["impressions"],
            "clicks": clicks,
            "spend_micros": spend,
            "conversions_micros": kept["conversions_micros"].fillna(0),
            "conversions_missing": ~told,
            "conversions_spend_micros": spend.where(told, 0),
            "conversions_clicks": clicks.where(told, 0),
            "revenue_micros": kept["revenue_micros"].fillna(0),
            "revenue_missing": ~valued,
            "revenue_spend_micros": spend.where(valued, 0),
        },
        index=kept.index,
    ).astype("int64")


def sums_by(rows: pd.DataFrame, key: str) -> dict[int, Sums]:
    """Sums per value of the column ``key`` of :func:`facts`."""
    values = rows[list(FIELDS)]
    if int(values.abs().max().max() if len(rows) else 0) >= 2**63 // max(len(rows), 1):
        values = values.astype(object)  # slower, but numpy's integers would silently begin again from below
    grouped = values.groupby(rows[key], sort=True).sum()
    return {int(cast("int", k)): Sums(*map(int, v)) for k, v in zip(grouped.index, grouped.to_numpy(), strict=True)}


def total(parts: Iterable[Sums]) -> Sums:
    """All parts as one."""
    return sum(parts, start=NOTHING)


def ages(rows: pd.DataFrame, first: int, last: int) -> pd.DataFrame:
    """The rows whose age in days is between ``first`` and ``last``, both inclusive."""
    return rows[rows["age"].between(first, last)]


def known_days(by_age: Iterable[int]) -> int:
    """How many days there are on record before the reported one: since the oldest row, at most the week."""
    return min(WEEK_DAYS, max(by_age, default=0))


def compare(
    day: dict[_Key, Sums], before: dict[_Key, Sums], week: dict[_Key, Sums], week_days: int
) -> dict[_Key, Compared]:
    """Every key of the three, compared; what did not run on a day that is on record is zero there."""
    return {
        key: Compared(
            day=day.get(key, NOTHING),
            before=before.get(key, NOTHING) if week_days else None,
            week=week.get(key, NOTHING) if week_days else None,
            week_days=week_days,
        )
        for key in {**day, **before, **week}
    }


def _quotient(numerator: int, denominator: int) -> Decimal | None:
    return Decimal(numerator) / Decimal(denominator) if denominator else None
