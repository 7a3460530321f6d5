"""Small worlds for the proof: few ads, odd zones, numbers that change afterwards, entities that come and go.

A world is a pure function of a :class:`Plot` and of the revisions it has seen; what it tells at a moment is never
remembered but computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from aae.model import Granularity, Level, Platform
from aae.sandbox import World
from aae.sandbox.entities import AdAccount, Entity, Leaf, Status, User, money_quantum
from aae.sandbox.ledger import Conversions, Ledger
from aae.sandbox.nature import hours

PAST_DAYS: Final = 5
FUTURE_DAYS: Final = 11
"""How far the ledgers reach from the day on which a story begins."""

ZONES: Final = (
    "UTC",
    "America/New_York",
    "America/Los_Angeles",
    "America/Santiago",  # the clocks change at midnight: a day that begins at one o'clock
    "Africa/Cairo",
    "Europe/Paris",
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Kiritimati",  # +14
    "Pacific/Pago_Pago",  # -11
)
CURRENCIES: Final = ("USD", "EUR", "JPY", "KWD")

Key = tuple[str, str, date, int | None]
Numbers = tuple[int, int, int, int | None, int | None]
Rows = dict[Key, Numbers]
"""Impressions, clicks, spend, conversions and revenue (micros; None: not told) by level, id, local day and hour."""


@dataclass(frozen=True)
class Seat:
    """One ad account of a story: everything else about it follows from ``seed``."""

    platform: Platform
    currency: str
    timezone: str
    seed: int
    campaigns: int = 2


@dataclass(frozen=True)
class Revision:
    """What a platform changes afterwards: ``restate``, ``withdraw``, ``rename``, ``hide`` or ``show``."""

    kind: str
    seed: int


REVISIONS: Final = ("restate", "withdraw", "rename", "hide", "show")


@dataclass(frozen=True)
class Plot:
    """Where a story begins: its accounts, and the moment."""

    anchor: datetime
    seats: tuple[Seat, ...]

    def world(self, revisions: Sequence[Revision] = ()) -> World:
        """The world as it is after these revisions. Tokens stay good through all of them."""
        users = tuple(User(index, f"user{index}@example.com", f"User {index}") for index in range(len(self.seats)))
        accounts = [_account(seat, index, self.anchor, revisions) for index, seat in enumerate(self.seats)]
        return World(seed=1, anchor=self.anchor, users=users, accounts=tuple(accounts))


def told(account: AdAccount, granularity: Granularity, since: date, until: date, at: datetime) -> Rows:
    """What the account's platform says at a moment about local days, both inclusive."""
    hourly = granularity is Granularity.HOURLY
    rows: Rows = {}
    for group, day, hour, *numbers in account.leaf_facts(since, until, at, hourly=hourly).rows():
        entity = account.leaf_entity(account.leaves[group])
        # Meta gives no purchases by the hour.
        tells = entity.tells_conversions and not (hourly and account.platform is Platform.META)
        impressions, clicks, spend, conversions, revenue = numbers
        key = (entity.level.value, entity.external_id, date.fromordinal(day), hour if hourly else None)
        rows[key] = (impressions, clicks, spend, conversions if tells else None, revenue if tells else None)
    return rows


@cache
def odd_days(timezone: str, year: int = 2026) -> tuple[date, ...]:
    """The days of the year that do not have 24 hours."""
    zone, first = ZoneInfo(timezone), date(year, 1, 1)
    days = [first + timedelta(days=n) for n in range(365)]
    return tuple(day for day in days if _begins(day + timedelta(days=1), zone) - _begins(day, zone) != 24 * 3600)


def _begins(day: date, zone: ZoneInfo) -> float:
    return datetime.combine(day, time(), zone).timestamp()


# Structure


_FIRST_ID: Final = {Platform.META: 120_210_000_000_000_000, Platform.TIKTOK: 1_801_000_000_000_000_000}
_ACCOUNT_ID: Final = {Platform.META: 1_001_000_000_000_000, Platform.TIKTOK: 7_001_000_000_000_000_000}


@dataclass
class _Tree:
    """The whole tree of an account with its leaves, before anything is hidden."""

    campaigns: list[Entity]
    ad_sets: list[Entity]
    ads: list[Entity]
    leaves: list[Leaf]


def _tree(seat: Seat, index: int, anchor: datetime) -> _Tree:
    rng = np.random.default_rng([seat.seed, 1])
    ids = iter(range(_FIRST_ID.get(seat.platform, 20_000_000_000) + index * 1000, 2**62))
    tree = _Tree([], [], [], [])

    def entity(level: Level, parent: str | None, **more: Any) -> Entity:
        status = Status(str(rng.choice([*Status])))
        external_id = str(next(ids))
        created = anchor.replace(microsecond=0) - timedelta(days=40)
        return Entity(level, external_id, parent, f"{level} {external_id}", status, created, **more)

    for number in range(seat.campaigns):
        # Only Google has campaigns without ads, and they must stand last.
        ads = not (seat.platform is Platform.GOOGLE and number == seat.campaigns - 1)
        tells = not (seat.platform is Platform.TIKTOK and number == 0)
        channel = "REACH" if not tells else "SEARCH" if ads else "PERFORMANCE_MAX"
        campaign = entity(Level.CAMPAIGN, None, channel=channel, tells_conversions=tells)
        tree.campaigns.append(campaign)
        if not ads:
            tree.leaves.append(Leaf(number, None, None))
            continue
        ad_set = entity(Level.AD_SET, campaign.external_id, tells_conversions=tells)
        tree.ad_sets.append(ad_set)
        for _ in range(int(rng.integers(1, 3))):
            tree.leaves.append(Leaf(number, len(tree.ad_sets) - 1, len(tree.ads)))
            tree.ads.append(entity(Level.AD, ad_set.external_id, tells_conversions=tells))
    return tree


def _account(seat: Seat, index: int, anchor: datetime, revisions: Sequence[Revision]) -> AdAccount:
    tree, ledger, hidden = _tree(seat, index, anchor), _ledger(seat, index, anchor), set[int]()
    for revision in revisions:
        rng = np.random.default_rng([revision.seed, index, 2])
        if revision.kind in {"restate", "withdraw"}:
            ledger = _revised(ledger, rng, withdraw=revision.kind == "withdraw")
        elif revision.kind == "rename":
            place = int(rng.integers(len(tree.campaigns)))
            tree.campaigns[place] = replace(tree.campaigns[place], name=f"Renamed {revision.seed}")
        elif revision.kind == "hide":
            hidden.add(int(rng.integers(len(tree.campaigns))))
        else:
            hidden.clear()
    return _without(
        AdAccount(
            user=index,
            platform=seat.platform,
            external_id=str(_ACCOUNT_ID.get(seat.platform, 1_234_500_000) + index),
            name=f"Account {index}",
            currency=seat.currency,
            timezone=seat.timezone,
            campaigns=tuple(tree.campaigns),
            ad_sets=tuple(tree.ad_sets),
            ads=tuple(tree.ads),
            leaves=tuple(tree.leaves),
            ledger=ledger,
        ),
        hidden,
    )


def _without(account: AdAccount, hidden: set[int]) -> AdAccount:
    """The account without some of its campaigns and all that is in them, as if there had never been any."""
    kept = [number for number in range(len(account.campaigns)) if number not in hidden]
    campaigns = [account.campaigns[number] for number in kept]
    ad_sets = [one for one in account.ad_sets if one.parent in {campaign.external_id for campaign in campaigns}]
    ads = [one for one in account.ads if one.parent in {ad_set.external_id for ad_set in ad_sets}]
    columns = [place for place, leaf in enumerate(account.leaves) if leaf.campaign in kept]
    leaves = [
        Leaf(
            kept.index(leaf.campaign),
            None if leaf.ad_set is None else ad_sets.index(account.ad_sets[leaf.ad_set]),
            None if leaf.ad is None else ads.index(account.ads[leaf.ad]),
        )
        for leaf in (account.leaves[place] for place in columns)
    ]
    return replace(
        account,
        campaigns=tuple(campaigns),
        ad_sets=tuple(ad_sets),
        ads=tuple(ads),
        leaves=tuple(leaves),
        ledger=_columns(account.ledger, columns),
    )


# Numbers


def _ledger(seat: Seat, index: int, anchor: datetime) -> Ledger:
    """Sparse hours: most ads are silent in many of them, some begin late or end early."""
    rng = np.random.default_rng([seat.seed, 3])
    leaves = len(_tree(seat, index, anchor).leaves)
    today = anchor.astimezone(ZoneInfo(seat.timezone)).date()
    axis = hours(seat.timezone, today - timedelta(days=PAST_DAYS), today + timedelta(days=FUTURE_DAYS))
    shape, quantum = (len(axis.starts), leaves), money_quantum(seat.currency)
    alive = rng.random(shape) < rng.choice([0.05, 0.3, 0.9], leaves)
    begins, ends = np.sort(rng.integers(0, shape[0], (2, leaves)), axis=0)
    always = rng.random(leaves) < 0.5
    row = np.arange(shape[0])[:, None]
    alive &= always | ((row >= begins) & (row < ends))
    largest = int(rng.choice([40, 5000, 10**6]))
    impressions = np.where(alive, rng.integers(1, largest, shape), 0)
    clicks = impressions * rng.integers(0, 100, shape) // 1000
    spend = np.where(alive, rng.integers(0, largest * 5, shape), 0) * quantum
    cells = np.flatnonzero(clicks.ravel() > 0)
    cells = np.sort(rng.choice(cells, min(len(cells), 60), replace=False)) if len(cells) else cells
    fractions = [1_000_000, 500_000, 250_000] if seat.platform is Platform.GOOGLE else [1_000_000]
    return Ledger(
        starts=axis.starts,
        day=axis.day,
        hour=axis.hour,
        impressions=impressions,
        clicks=clicks,
        spend_micros=spend,
        conversions=Conversions(
            cell=cells,
            arrives=axis.starts[cells // leaves] + rng.integers(0, 4 * 86_400, len(cells)),
            count_micros=rng.choice(fractions, len(cells)).astype(np.int64),
            value_micros=rng.integers(0, 100_000, len(cells)) * quantum,
        ),
        spend_quantum=quantum,
    )


def _revised(ledger: Ledger, rng: np.random.Generator, *, withdraw: bool) -> Ledger:
    """Some hours of some ads at other numbers, or as if they had never been."""
    hit = rng.random(ledger.impressions.shape) < 0.2
    if withdraw:
        # Whole days too, so that rows go and do not only shrink.
        hit |= (rng.random(len(ledger.day)) < 0.1)[:, None] | np.isin(ledger.day, rng.choice(ledger.day, 2))[:, None]
        factor = np.where(hit, 0, 1)
    else:
        factor = np.where(hit, int(rng.integers(2, 4)), 1)
    conversions = ledger.conversions
    return replace(
        ledger,
        impressions=ledger.impressions * factor,
        clicks=ledger.clicks * factor,
        spend_micros=ledger.spend_micros * factor,
        conversions=conversions.keep(~(hit.ravel()[conversions.cell])) if withdraw else conversions,
    )


def _columns(ledger: Ledger, kept: list[int]) -> Ledger:
    """The ledger of some of its leaves."""
    if len(kept) == ledger.impressions.shape[1]:
        return ledger
    conversions, leaves = ledger.conversions, ledger.impressions.shape[1]
    some = conversions.keep(np.isin(conversions.cell % leaves, kept))
    places = {old: new for new, old in enumerate(kept)}
    cells = [cell // leaves * len(kept) + places[cell % leaves] for cell in some.cell.tolist()]
    return replace(
        ledger,
        impressions=ledger.impressions[:, kept],
        clicks=ledger.clicks[:, kept],
        spend_micros=ledger.spend_micros[:, kept],
        conversions=replace(some, cell=np.array(cells, np.int64)),
    )


def beginning(timezone: str, day: date, minutes: int) -> datetime:
    """So many minutes after the local day's beginning, aware UTC."""
    return datetime.fromtimestamp(_begins(day, ZoneInfo(timezone)), UTC) + timedelta(minutes=minutes)
