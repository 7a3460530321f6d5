"""The truth of one account: what every ad did in every hour, and when each conversion became known.

All money and conversions are ``int`` micros. Hours are local hours of the account; the two hours of a clock set
back share one label and add up, as on the platforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

NO_HOUR: Final = -1
"""The hour of a row that covers a whole day."""


@dataclass(frozen=True, slots=True)
class Conversions:
    """Conversions in order of ``cell`` (hour index x leaves + leaf); ``arrives`` is in epoch seconds."""

    cell: IntArray
    arrives: IntArray
    count_micros: IntArray
    value_micros: IntArray

    def keep(self, mask: npt.NDArray[np.bool_]) -> Conversions:
        """Those where ``mask`` is true."""
        return Conversions(self.cell[mask], self.arrives[mask], self.count_micros[mask], self.value_micros[mask])


@dataclass(frozen=True, slots=True)
class Facts:
    """Rows with anything in them, sorted by day, hour, group; ``day`` is a date's ordinal."""

    group: IntArray
    day: IntArray
    hour: IntArray
    impressions: IntArray
    clicks: IntArray
    spend_micros: IntArray
    conversions_micros: IntArray
    revenue_micros: IntArray

    def __len__(self) -> int:
        return len(self.group)

    def take(self, index: slice | IntArray | npt.NDArray[np.bool_]) -> Facts:
        """A selection of the rows."""
        return Facts(*(getattr(self, name)[index] for name in self.__slots__))

    def merged(self, day: IntArray) -> Facts:
        """The same under other days: rows whose day, hour and group become equal add up."""
        keys, where = np.unique(np.stack([day, self.hour, self.group], axis=1), axis=0, return_inverse=True)
        sums = np.zeros((5, len(keys)), np.int64)
        for total, name in zip(sums, self.__slots__[3:], strict=True):
            np.add.at(total, where.ravel(), getattr(self, name))
        return Facts(keys[:, 2], keys[:, 0], keys[:, 1], *sums)

    def rows(self) -> list[tuple[int, ...]]:
        """The same as tuples of Python ints, in the order of the fields."""
        columns: list[list[int]] = [getattr(self, name).tolist() for name in self.__slots__]
        return list(zip(*columns, strict=True))


@dataclass(frozen=True, slots=True)
class Ledger:
    """Hours (rows) by leaves (columns).

    ``starts`` are epoch seconds, ``day`` (date ordinals) and ``hour`` local; both in time order. Leaves stand in the
    order campaign, ad set, ad, so that every coarser level is a run of columns. ``spend_quantum`` is the smallest
    step of the account's spend. ``settled``: everything is known at any moment (replayed history).
    """

    starts: IntArray
    day: IntArray
    hour: IntArray
    impressions: IntArray
    clicks: IntArray
    spend_micros: IntArray
    conversions: Conversions
    spend_quantum: int = 1
    settled: bool = False

    def facts(self, since: date, until: date, at: datetime, groups: IntArray, *, hourly: bool) -> Facts:
        """What is known at ``at`` of the local days ``since``..``until`` (both inclusive).

        ``groups`` gives each leaf its group, never falling from left to right. The running hour is there in
        proportion; conversions count once they have arrived.
        """
        moment = int(at.timestamp())
        low = int(np.searchsorted(self.day, since.toordinal()))
        high = int(np.searchsorted(self.day, until.toordinal(), side="right"))
        if not self.settled:
            high = min(high, int(np.searchsorted(self.starts, moment)))
        if high <= low or not len(groups):
            return Facts(*(np.zeros(0, np.int64) for _ in Facts.__slots__))

        label = self.day[low:high] * 24 + (self.hour[low:high] if hourly else 0)
        periods, period_starts, period_of = np.unique(label, return_index=True, return_inverse=True)
        group_ids, group_starts, group_of = np.unique(groups, return_index=True, return_inverse=True)

        def total(cube: IntArray) -> IntArray:
            by_group = np.add.reduceat(cube, group_starts, axis=1)
            return np.asarray(np.add.reduceat(by_group, period_starts, axis=0), np.int64)

        impressions, clicks, spend = (total(cube) for cube in self._delivery(low, high, moment))
        shape = (len(periods), len(group_ids))
        conversions, revenue = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        known = self._known(low, high, moment)
        row, leaf = np.divmod(known.cell, self.impressions.shape[1])
        where = (period_of[row - low], group_of[leaf])
        np.add.at(conversions, where, known.count_micros)
        np.add.at(revenue, where, known.value_micros)

        period, group = np.nonzero(impressions | clicks | spend | conversions | revenue)
        day, hour = np.divmod(periods[period], 24)
        return Facts(
            group=group_ids[group],
            day=day,
            hour=hour if hourly else np.full_like(hour, NO_HOUR),
            impressions=impressions[period, group],
            clicks=clicks[period, group],
            spend_micros=spend[period, group],
            conversions_micros=conversions[period, group],
            revenue_micros=revenue[period, group],
        )

    def _delivery(self, low: int, high: int, moment: int) -> tuple[IntArray, IntArray, IntArray]:
        """Impressions, clicks and spend of the hours, the running one cut to what has passed of it."""
        cubes = self.impressions[low:high], self.clicks[low:high], self.spend_micros[low:high]
        passed = moment - int(self.starts[high - 1])
        if self.settled or passed >= 3600:
            return cubes
        impressions, clicks, spend = (cube.copy() for cube in cubes)
        for cube in (impressions, clicks, spend):
            cube[-1] = cube[-1] * passed // 3600
        spend[-1] -= spend[-1] % self.spend_quantum
        return impressions, clicks, spend

    def _known(self, low: int, high: int, moment: int) -> Conversions:
        """The conversions of the hours that have arrived by ``moment``."""
        leaves = self.impressions.shape[1]
        first, last = np.searchsorted(self.conversions.cell, [low * leaves, high * leaves])
        arrives: Any = self.conversions.arrives[first:last]
        mask = np.zeros(len(self.conversions.cell), np.bool_)
        mask[first:last] = True if self.settled else arrives <= moment
        return self.conversions.keep(mask)
