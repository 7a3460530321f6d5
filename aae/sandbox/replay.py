"""Replays a CSV of real performance data as one more account of the world, exact to the last decimal.

Rows of one ad and day add up; texts such as ``#N/A`` stay texts; oddities (more clicks than impressions, more
conversions than clicks) come through untouched. Everything counts as known from the start.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np

from aae.errors import UserError
from aae.model import Level, Platform, to_micros
from aae.sandbox.entities import AdAccount, Entity, Leaf, Status, User, money_quantum
from aae.sandbox.ledger import Conversions, Ledger
from aae.sandbox.world import World

_MONTHS: Final = {date(2000, month, 1).strftime("%B").lower(): month for month in range(1, 13)}
_NOON: Final = 12
_NAME_SEPARATOR: Final = " / "


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the file mean what.

    The day is either ``date`` (YYYY-MM-DD) or ``month`` (an English name or a number) and ``day``, with the year from
    outside. ``ad`` may join several columns. Money is in units of the account's currency.
    """

    campaign: str
    ad_set: str
    ad: tuple[str, ...]
    impressions: str
    spend: str
    clicks: str
    conversions: str
    revenue: str
    date: str | None = None
    month: str = "month"
    day: str = "day"

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that must be there."""
        days = (self.month, self.day) if self.date is None else (self.date,)
        numbers = (self.impressions, self.spend, self.clicks, self.conversions, self.revenue)
        return (*days, self.campaign, self.ad_set, *self.ad, *numbers)


DISPLAY_CAMPAIGNS: Final = Columns(
    campaign="campaign_number",
    ad_set="user_engagement",
    ad=("banner", "placement"),
    impressions="displays",
    spend="cost",
    clicks="clicks",
    conversions="post_click_conversions",
    revenue="post_click_sales_amount",
)
"""A published data set of display campaigns, whose own ``revenue`` is the publisher's and not used."""

Key = tuple[str, str, str]
Numbers = tuple[int, int, int, int, int]
_ACCOUNT_ID: Final = {
    Platform.META: 9_001_000_000_000_001,
    Platform.TIKTOK: 7_900_000_000_000_000_001,
    Platform.GOOGLE: 9_001_000_001,
}
_FIRST_ID: Final = {
    Platform.META: 190_210_000_000_000_000,
    Platform.TIKTOK: 1_901_000_000_000_000_000,
    Platform.GOOGLE: 90_000_000_000,
}
_CHANNEL: Final = {Platform.META: "OUTCOME_SALES", Platform.TIKTOK: "WEB_CONVERSIONS", Platform.GOOGLE: "DISPLAY"}


def replay(
    world: World,
    path: Path,
    platform: Platform,
    *,
    year: int,
    currency: str = "USD",
    timezone: str = "UTC",
    columns: Columns = DISPLAY_CAMPAIGNS,
) -> World:
    """The world with the file as one more account, owned by a user of its own.

    Hourly, each day's numbers stand at 12 o'clock. Raises UserError if the file cannot be read as described.
    """
    cells = read(path, year, columns)
    user = User(len(world.users), f"replay-{platform}@example.com", f"Replay {path.stem}")
    zone = ZoneInfo(timezone)
    days = sorted({day for _, day in cells})
    tree = _Tree(platform, sorted({key for key, _ in cells}), datetime.combine(days[0], time(), zone).astimezone(UTC))
    account = AdAccount(
        user=user.index,
        platform=platform,
        external_id=str(_ACCOUNT_ID[platform] + user.index),
        name=user.name,
        currency=currency,
        timezone=timezone,
        campaigns=tuple(tree.campaigns.values()),
        ad_sets=tuple(tree.ad_sets.values()),
        ads=tuple(tree.ads.values()),
        leaves=tuple(tree.leaves),
        ledger=_ledger(cells, days, list(tree.ads), zone, money_quantum(currency)),
    )
    return world.adopt(user, account)


def last_day(path: Path, year: int, columns: Columns = DISPLAY_CAMPAIGNS) -> date:
    """The last day in the file."""
    return max(day for _, day in read(path, year, columns))


def read(path: Path, year: int, columns: Columns = DISPLAY_CAMPAIGNS) -> dict[tuple[Key, date], Numbers]:
    """The sums by (campaign, ad set, ad) and day: impressions, clicks, and spend, conversions, revenue in micros.

    Raises UserError if the file is missing, lacks a column or holds something that is not a number.
    """
    cells: dict[tuple[Key, date], Numbers] = {}
    for number, row in _rows(path, columns):
        try:
            cell = (_key(row, columns), _day(row, columns, year))
            numbers = (
                _whole(row[columns.impressions]),
                _whole(row[columns.clicks]),
                to_micros(row[columns.spend]),
                to_micros(row[columns.conversions]),
                to_micros(row[columns.revenue]),
            )
        except (KeyError, ValueError) as error:
            raise UserError(f"{path.name}, line {number}: {error}. Check the file and the column mapping.") from None
        old = cells.get(cell, (0, 0, 0, 0, 0))
        cells[cell] = (
            old[0] + numbers[0],
            old[1] + numbers[1],
            old[2] + numbers[2],
            old[3] + numbers[3],
            old[4] + numbers[4],
        )
    if not cells:
        raise UserError(f"{path.name} has no rows to replay.")
    return cells


def _rows(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            there = reader.fieldnames or ()
            missing = [name for name in columns.names if name not in there]
            if missing:
                raise UserError(
                    f"{path.name} lacks the columns {', '.join(missing)}; needed are {', '.join(columns.names)}."
                )
            yield from enumerate(reader, start=2)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from None


def _key(row: Mapping[str, str], columns: Columns) -> Key:
    return row[columns.campaign], row[columns.ad_set], _NAME_SEPARATOR.join(row[name] for name in columns.ad)


def _day(row: Mapping[str, str], columns: Columns, year: int) -> date:
    if columns.date is not None:
        return date.fromisoformat(row[columns.date])
    month = row[columns.month].strip().lower()
    return date(year, _MONTHS[month] if month in _MONTHS else int(month), int(row[columns.day]))


def _whole(text: str) -> int:
    """A count, which may be written as 4 or 4.0."""
    whole, rest = divmod(to_micros(text), 1_000_000)
    if rest:
        raise ValueError(f"not a whole number: {text!r}")
    return whole


class _Tree:
    """Campaigns, ad sets, ads and leaves for the sorted keys; ids rise in that order."""

    def __init__(self, platform: Platform, keys: Sequence[Key], created: datetime) -> None:
        self.campaigns: dict[str, Entity] = {}
        self.ad_sets: dict[tuple[str, str], Entity] = {}
        self.ads: dict[Key, Entity] = {}
        self.leaves: list[Leaf] = []
        self._next, self._created = _FIRST_ID[platform], created
        for key in keys:
            campaign, ad_set, ad = key
            if campaign not in self.campaigns:
                self.campaigns[campaign] = self._entity(Level.CAMPAIGN, None, campaign, _CHANNEL[platform])
            if (campaign, ad_set) not in self.ad_sets:
                parent = self.campaigns[campaign].external_id
                self.ad_sets[campaign, ad_set] = self._entity(Level.AD_SET, parent, ad_set)
            self.ads[key] = self._entity(Level.AD, self.ad_sets[campaign, ad_set].external_id, ad)
            self.leaves.append(Leaf(len(self.campaigns) - 1, len(self.ad_sets) - 1, len(self.ads) - 1))

    def _entity(self, level: Level, parent: str | None, name: str, channel: str | None = None) -> Entity:
        self._next += 1
        return Entity(level, str(self._next), parent, name, Status.ACTIVE, self._created, channel=channel)


def _ledger(
    cells: Mapping[tuple[Key, date], Numbers], days: Sequence[date], ads: Sequence[Key], zone: ZoneInfo, quantum: int
) -> Ledger:
    """One row per day at noon; one conversion entry per ad and day that has any."""
    row_of = {day: row for row, day in enumerate(days)}
    column_of = {key: column for column, key in enumerate(ads)}
    cube = np.zeros((5, len(days), len(ads)), np.int64)
    for (key, day), numbers in cells.items():
        cube[:, row_of[day], column_of[key]] = numbers
    count, value = cube[3].ravel(), cube[4].ravel()
    any_conversion = np.flatnonzero(count | value)
    starts = [int(datetime.combine(day, time(_NOON), zone).timestamp()) for day in days]
    return Ledger(
        starts=np.array(starts, np.int64),
        day=np.array([day.toordinal() for day in days], np.int64),
        hour=np.full(len(days), _NOON, np.int64),
        impressions=cube[0],
        clicks=cube[1],
        spend_micros=cube[2],
        conversions=Conversions(
            any_conversion, np.zeros_like(any_conversion), count[any_conversion], value[any_conversion]
        ),
        spend_quantum=quantum,
        settled=True,
    )
