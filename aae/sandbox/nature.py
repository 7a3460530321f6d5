"""Makes an account's hours: delivery, prices, clicks and conversions that arrive late.

Everything is drawn in time order from one generator per quantity, so the past does not depend on how far the
future has been made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from aae.sandbox.incidents import Effect
from aae.sandbox.ledger import Conversions, IntArray, Ledger

FloatArray = npt.NDArray[np.float64]
Stream = Callable[[str], np.random.Generator]

_HOURS: Final = np.array(
    [
        *(0.55, 0.4, 0.32, 0.3, 0.32, 0.42, 0.6, 0.8, 0.95, 1.03, 1.08, 1.12),
        *(1.2, 1.18, 1.1, 1.08, 1.12, 1.22, 1.38, 1.52, 1.6, 1.5, 1.22, 0.85),
    ]
)
"""Delivery by local hour, mean about 1: quiet nights, busy evenings."""

_WEEK_SHOP: Final = np.array([0.97, 0.95, 0.96, 1.0, 1.02, 1.06, 1.08])
_WEEK_OFFICE: Final = np.array([1.16, 1.2, 1.18, 1.15, 1.08, 0.58, 0.55])
"""Delivery by weekday from Monday: a shop that sells every day, and one that sells to offices."""

_DELAYS: Final = ((0.45, 1.5 * 3600), (0.30, 10 * 3600), (0.25, 60 * 3600))
"""Shares of conversions and the mean seconds until they are known: about 60 % the same day, a tail beyond a week."""

_LONGEST_DELAY: Final = 21 * 86_400


@dataclass(frozen=True, slots=True)
class Hours:
    """The account's hours: epoch seconds, local day (ordinal), local hour, weekday from Monday."""

    starts: IntArray
    day: IntArray
    hour: IntArray

    @property
    def weekday(self) -> IntArray:
        """0 is Monday."""
        return (self.day + 6) % 7


@cache
def hours(timezone: str, first: date, last: date) -> Hours:
    """Every hour of the local days, both inclusive, as the zone's clocks show them."""
    zone = ZoneInfo(timezone)
    begin = int(datetime.combine(first, time(), zone).timestamp())
    end = int(datetime.combine(last + timedelta(days=1), time(), zone).timestamp())
    starts = np.arange(begin, end, 3600, dtype=np.int64)
    local = [datetime.fromtimestamp(start, zone) for start in starts.tolist()]
    return Hours(
        starts=starts,
        day=np.array([moment.toordinal() for moment in local], np.int64),
        hour=np.array([moment.hour for moment in local], np.int64),
    )


@dataclass(frozen=True, slots=True)
class Habit:
    """How one leaf behaves.

    ``impressions`` per hour on average, ``price`` in micros (of a click, or of an impression), ``order_value`` in
    micros, rates as fractions; it delivers from ``begins`` until ``ends`` (epoch seconds).
    """

    impressions: float
    ctr: float
    price: float
    cvr: float
    order_value: float
    begins: float = -np.inf
    ends: float = np.inf


@dataclass(frozen=True, slots=True)
class Influence:
    """An effect on some leaves during ``since`` <= t < ``until`` (aware)."""

    effect: Effect
    leaves: tuple[int, ...]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Business:
    """What all leaves of an account share. ``pays_per_click`` as on Google, else per impression."""

    office_hours: bool
    pays_per_click: bool
    fractional: bool
    quantum: int


def simulate(
    seed: int,
    key: str,
    *,
    hours: Hours,
    habits: Sequence[Habit],
    business: Business,
    influences: Sequence[Influence],
) -> Ledger:
    """The ledger of one account; ``key`` names it, so that accounts differ under one seed."""

    def stream(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, zlib.crc32(f"{key}/{name}".encode())])

    shape = (len(hours.starts), len(habits))
    factor = _factors(hours, shape, influences)
    days, day_of = np.unique(hours.day, return_inverse=True)

    # Busy and slow days move an account as a whole; ads wander on their own; hours jitter.
    mood = stream("account-day").lognormal(0.0, 0.07, len(days))[day_of, None]
    drift = stream("leaf-day").lognormal(0.0, 0.10, (len(days), len(habits)))[day_of]
    week = (_WEEK_OFFICE if business.office_hours else _WEEK_SHOP)[hours.weekday, None]
    mean = _column(habits, "impressions") * _HOURS[hours.hour, None] * week * mood * drift
    mean *= factor["impressions"] * _delivering(hours, habits)
    impressions = stream("impressions").poisson(mean * stream("jitter").gamma(14.0, 1 / 14.0, shape)).astype(np.int64)

    ctr = _column(habits, "ctr") * factor["ctr"] * stream("ctr").lognormal(0.0, 0.06, shape)
    clicks = np.minimum(stream("clicks").poisson(impressions * ctr).astype(np.int64), impressions)

    price = _column(habits, "price") * factor["price"] * stream("price").lognormal(0.0, 0.07, shape)
    paid_for = clicks if business.pays_per_click else impressions
    spend = np.rint(paid_for * price / business.quantum).astype(np.int64) * business.quantum

    luck = stream("cvr").gamma(40.0, 1 / 40.0, (len(days), len(habits)))[day_of]
    bought = stream("conversions").poisson(clicks * _column(habits, "cvr") * factor["cvr"] * luck).astype(np.int64)
    conversions = _conversions(stream, hours, bought, _column(habits, "order_value") * factor["order_value"], business)
    for influence in influences:
        if influence.effect.lost:
            conversions = _lose(conversions, influence, len(habits))
    return Ledger(hours.starts, hours.day, hours.hour, impressions, clicks, spend, conversions, business.quantum)


def _column(habits: Sequence[Habit], name: str) -> FloatArray:
    return np.array([getattr(habit, name) for habit in habits], np.float64)[None, :]


def _delivering(hours: Hours, habits: Sequence[Habit]) -> npt.NDArray[np.bool_]:
    starts = hours.starts[:, None]
    return (starts >= _column(habits, "begins")) & (starts < _column(habits, "ends"))


def _factors(hours: Hours, shape: tuple[int, int], influences: Sequence[Influence]) -> dict[str, FloatArray]:
    names = ("impressions", "ctr", "price", "cvr", "order_value")
    factor = {name: np.ones(shape) for name in names}
    for influence in influences:
        low, high = np.searchsorted(hours.starts, [influence.since.timestamp(), influence.until.timestamp()])
        for name in names:
            factor[name][low:high, list(influence.leaves)] *= getattr(influence.effect, name)
    return factor


def _conversions(
    stream: Stream, hours: Hours, bought: IntArray, order_value: FloatArray, business: Business
) -> Conversions:
    """One entry per purchase, with its value and the moment it is known."""
    cell = np.repeat(np.arange(bought.size, dtype=np.int64), bought.ravel())
    total = len(cell)
    mixture = np.searchsorted(np.cumsum([share for share, _ in _DELAYS])[:-1], stream("mixture").random(total))
    means = np.array([seconds for _, seconds in _DELAYS])[mixture]
    delay = np.minimum(stream("delay").exponential(1.0, total) * means, _LONGEST_DELAY)
    clicked = hours.starts[cell // bought.shape[1]] + (stream("minute").random(total) * 3600)
    value = order_value.ravel()[cell] * stream("order").lognormal(-0.08, 0.4, total)
    count = np.full(total, 1_000_000, np.int64)
    if business.fractional:
        # Data-driven attribution credits part of a purchase to each ad that led to it.
        share = np.array([1.0, 0.5, 0.25])[np.searchsorted([0.82, 0.94], stream("credit").random(total))]
        count, value = (share * 1_000_000).astype(np.int64), value * share
    return Conversions(
        cell=cell,
        arrives=(clicked + delay).astype(np.int64),
        count_micros=count,
        value_micros=np.rint(value / business.quantum).astype(np.int64) * business.quantum,
    )


def _lose(conversions: Conversions, influence: Influence, leaves: int) -> Conversions:
    since, until = influence.since.timestamp(), influence.until.timestamp()
    during = (conversions.arrives >= since) & (conversions.arrives < until)
    hit = np.isin(conversions.cell % leaves, influence.leaves)
    return conversions.keep(~(during & hit))
