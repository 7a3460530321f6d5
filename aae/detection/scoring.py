"""How surprising: every node of an account tested at once, metric by metric and window by window.

A :class:`Test` holds arrays over the nodes. Conversions are tested as over-dispersed counts given what was spent or
clicked (negative binomial), revenue as money (gamma), prices and delivery by a robust residual against the same hours
of the past four weeks. All deviations are relative and all bars are relative: nothing depends on the currency's unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import numpy as np
from scipy import special

from aae.detection.baseline import (
    HISTORY_DAYS,
    MATURITY_DOUBT,
    RATE_DAYS,
    RECENT_DAYS,
    Bools,
    Cube,
    Floats,
    History,
    Ints,
    Rate,
    expected_rate,
    median,
    spread,
)

Sensitivity = Literal["low", "medium", "high"]

FALSE_DISCOVERY: Final[dict[Sensitivity, float]] = {"low": 0.005, "medium": 0.03, "high": 0.1}
"""Accepted share of false discoveries among all; the bars of size below come on top."""

SINGLE: Final = 0.02
"""No discovery is accepted at more than this part of that share: one large incident must not carry small ones along."""

EVIDENT: Final = 0.01
"""A test that is told must be unlikely by itself too, not only together with its neighbours."""

BARS: Final[dict[str, tuple[float, float, float]]] = {
    # metric: adverse relative change from which it is told at sensitivity high, medium, low
    "cpa": (0.20, 0.30, 0.50),
    "roas": (0.15, 0.20, 0.30),
    "cvr": (0.17, 0.23, 1 / 3),
    "ctr": (0.20, 0.30, 0.50),
    "cpc": (0.30, 0.50, 1.00),
    "cpm": (0.30, 0.50, 1.00),
    "spend": (0.40, 0.60, 1.00),
    "delivery": (0.50, 0.70, 0.90),
}
"""How large a change must be to be worth a person's time."""

SEVERITIES: Final = ("low", "medium", "high", "critical")

_CLASSES: Final[dict[str, tuple[tuple[float, str], ...]]] = {
    # The customer's rule: CPA up more than 50 % is high, ROAS down more than 30 % is critical. A CVR down by a third
    # is a CPA up by a half. The others follow in the same spirit.
    "cpa": ((0.50, "high"), (0.30, "medium")),
    "roas": ((0.30, "critical"), (0.20, "medium")),
    "cvr": ((1 / 3, "high"), (0.23, "medium")),
    "ctr": ((0.50, "high"), (0.30, "medium")),
    "cpc": ((1.00, "high"), (0.50, "medium")),
    "cpm": ((1.00, "high"), (0.50, "medium")),
    "spend": ((1.00, "high"), (0.50, "medium")),
    "delivery": ((0.90, "high"), (0.60, "medium")),
}

FAMILY: Final = {
    "cpa": "conversion",
    "roas": "conversion",
    "cvr": "conversion",
    "tracking": "conversion",
    "ctr": "price",
    "cpc": "price",
    "cpm": "price",
    "spend": "delivery",
    "delivery": "delivery",
}
"""Metrics that move together for one cause."""

MIN_EXPECTED: Final = 5.0
"""Conversions that the spend should have brought before their absence is judged: this is the minimum spend, in orders
rather than in money, so that it means the same in every currency."""

MIN_CLICKS: Final = 30.0
"""Clicks that a window should have before its prices are judged: below, one click more or less is a deviation."""

MIN_IMPRESSIONS: Final = 500.0
"""The same for CPM and delivery."""

MIN_SHARE: Final = 0.02
"""Nodes that take less than this share of their account's spend are left to their parents."""

MIN_LAGS: Final = 10
"""Past days with delivery that a price needs: younger entities are still learning."""

_ORDER_SPREAD: Final = (0.4, 1.5)
"""Bounds of the standard deviation of an order's value over its mean; between them the account's own is used."""

_COUNT_SPREAD: Final = 1.4
"""Least variance of a number of conversions over its mean. The field shows 2 to 16 on whole campaigns, where the noise
of the days, estimated for every node, adds to this."""

_TAIL: Final = 12
"""Degrees of freedom of a price's residual: heavier tails than a normal distribution. The spread, which follows the
90 % quantile, takes care of tails that are heavier still."""

_PRICE_FLOOR: Final = 0.07
"""Least standard deviation of a logarithmic price: auctions move by several per cent for no reason."""


@dataclass(frozen=True, slots=True)
class Test:
    """One metric in one window for every node of one account. Arrays over the nodes; money in micros.

    ``current`` and ``expected`` are in the metric's own unit (NaN: undefined); ``adverse`` the size of the change for
    the worse (relative, 0.3 is 30 % worse); ``excess`` what adds up over children (money or impressions lost);
    ``volume`` how large the node is in that unit; ``judged`` where there was enough to judge.
    """

    metric: str
    window: str
    since: datetime
    until: datetime
    current: Floats
    expected: Floats
    deviation: Floats
    adverse: Floats
    p_value: Floats
    stake: Floats
    excess: Floats
    volume: Floats
    judged: Bools
    days: slice | None  # steps of the daily cube, None for hour windows

    __test__ = False  # not a test case of pytest


def severity(metric: str, adverse: float) -> str:
    """The class of a change for the worse: by the customer's rule for CPA and ROAS."""
    return next((name for bar, name in _CLASSES[metric] if adverse > bar), "low")


def bar(metric: str, sensitivity: Sensitivity) -> float:
    """The least adverse change that is told."""
    return BARS[metric][("high", "medium", "low").index(sensitivity)]


def benjamini_hochberg(p_values: Floats, rate: float) -> float:
    """Largest p-value that is significant when the share of false discoveries is to stay below ``rate``; 0 if none."""
    ordered = np.sort(p_values)
    passed = np.flatnonzero(ordered <= rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    return float(ordered[passed[-1]]) if len(passed) else 0.0


def combined(p_values: Floats, judged: Bools) -> Floats:
    """One p-value per node for several tests of the same thing: Cauchy combination, valid however they depend.

    Liu and Xie, "Cauchy Combination Test", JASA 2020. Arrays (tests, nodes); 1 where nothing was judged.
    """
    # Upper bound: a test that points the other way must not outweigh all others.
    heights = np.tan(np.pi * (0.5 - np.clip(p_values, 1e-15, 0.9))) * judged
    count = judged.sum(axis=0)
    mean = heights.sum(axis=0) / np.maximum(count, 1)
    return np.asarray(np.where(count > 0, np.clip(0.5 - np.arctan(mean) / np.pi, 1e-15, 1.0), 1.0))


def few_p(count: Floats, mean: Floats, relative_variance: Floats) -> Floats:
    """Chance of at most ``count`` results when ``mean`` are expected: negative binomial, also for fractions.

    ``relative_variance`` is the variance beyond counting over the squared mean.
    """
    size = 1.0 / np.maximum(relative_variance, 1e-6)
    return np.asarray(special.betainc(size, np.maximum(count, 0.0) + 1.0, size / (size + np.maximum(mean, 1e-9))))


def tests(past: History) -> list[Test]:
    """Every test of one account."""
    return [*_result_tests(past), *_price_tests(past)]


# Conversions and revenue, on the daily table


@dataclass(frozen=True, slots=True)
class _Window:
    name: str
    days: slice
    since: datetime
    until: datetime


def _day_windows(past: History) -> list[_Window]:
    steps, start = past.daily.steps, past.daily.start
    midnight = start + timedelta(days=steps - 1)
    day = timedelta(days=1)
    windows = [
        _Window("today so far", slice(steps - 1, steps), midnight, past.through),
        _Window("since yesterday", slice(steps - 2, steps), midnight - day, past.through),
        _Window("yesterday", slice(steps - 2, steps - 1), midnight - day, midnight),
        _Window("last 3 days", slice(steps - 1 - RECENT_DAYS, steps - 1), midnight - RECENT_DAYS * day, midnight),
    ]
    return [window for window in windows if window.days.start > MIN_LAGS // 2 and window.until > window.since]


def _result_tests(past: History) -> list[Test]:
    windows = _day_windows(past)
    if not windows:
        return []
    daily = past.daily
    before = slice(max(0, daily.steps - 1 - RECENT_DAYS - RATE_DAYS), daily.steps - 1 - RECENT_DAYS)
    weekday = (np.arange(daily.steps) + daily.start.weekday()) % 7
    mature = past.maturity[None, :]
    told = float(daily.conversions[0, before].sum())
    if told <= 0:
        return []
    order = float(daily.revenue[0, before].sum()) / told

    by_spend = expected_rate(
        daily.conversions[:, before], (daily.spend_told * mature)[:, before], weekday[before], past.tree, per_result=1.0
    )
    by_clicks = expected_rate(
        daily.conversions[:, before],
        (daily.clicks_told * mature)[:, before],
        weekday[before],
        past.tree,
        per_result=1.0,
    )
    by_money = worth = None
    if order > 0:
        money = daily.revenue[:, before]
        valued = (daily.spend_valued * mature)[:, before]
        by_money = expected_rate(money, valued, weekday[before], past.tree, per_result=order)
        worth = expected_rate(money, daily.conversions[:, before], weekday[before], past.tree, per_result=order)
    found: list[Test] = []
    for window in windows:
        found.append(_cpa(past, window, by_spend, weekday))
        found.append(_cvr(past, window, by_clicks, weekday))
        if by_money is not None and worth is not None:
            found.append(_roas(past, window, weekday, rate=by_money, orders=by_spend, worth=worth, order=order))
    return found


def _expected(past: History, days: slice, exposure: Floats, rate: Rate, weekday: Ints) -> tuple[Floats, Floats]:
    """Mean result of the window per node, and its relative variance beyond counting."""
    mature = past.maturity[days]
    mean = rate.rate[:, None] * exposure[:, days] * mature * rate.weekday[weekday[days]]
    total = mean.sum(axis=1)
    safe = np.maximum(total, 1e-9)
    alone = (mean**2).sum(axis=1) / safe**2  # 1 for one day, 1/3 for three equal ones
    unsure = (mean * MATURITY_DOUBT * (1.0 - mature)).sum(axis=1) / safe
    # Bad days come in rows: a fifth of a day's noise is shared with its neighbours.
    return total, rate.noise * (0.8 * alone + 0.2) + rate.doubt + unsure**2


def _big_enough(exposure: Floats) -> Bools:
    return np.asarray(exposure >= MIN_SHARE * exposure[0])


def _inverse(values: Floats, of: Floats) -> Floats:
    return np.asarray(np.divide(of, values, out=np.full_like(of, np.nan), where=values > 0))


def _cpa(past: History, window: _Window, rate: Rate, weekday: Ints) -> Test:
    count = past.daily.conversions[:, window.days].sum(axis=1)
    spend = past.daily.spend_told[:, window.days].sum(axis=1)
    mean, beyond = _expected(past, window.days, past.daily.spend_told, rate, weekday)
    # With no conversions the cost of one is undefined; half a conversion stands in for the size of the change.
    adverse = _inverse(np.maximum(count, 0.5), mean) - 1.0
    return Test(
        metric="cpa",
        window=window.name,
        since=window.since,
        until=window.until,
        current=_inverse(count, spend),
        expected=_inverse(mean, spend),
        deviation=adverse,
        adverse=adverse,
        p_value=few_p(count, mean, beyond + (_COUNT_SPREAD - 1.0) / np.maximum(mean, 1.0)),
        stake=spend * np.clip(1.0 - _inverse(np.maximum(mean, 1e-9), count), 0.0, 1.0),
        excess=np.maximum(mean - count, 0.0),
        volume=mean,
        judged=(mean >= MIN_EXPECTED) & _big_enough(spend),
        days=window.days,
    )


def _cvr(past: History, window: _Window, rate: Rate, weekday: Ints) -> Test:
    count = past.daily.conversions[:, window.days].sum(axis=1)
    clicks = past.daily.clicks_told[:, window.days].sum(axis=1)
    spend = past.daily.spend_told[:, window.days].sum(axis=1)
    mean, beyond = _expected(past, window.days, past.daily.clicks_told, rate, weekday)
    change = _inverse(np.maximum(mean, 1e-9), count) - 1.0
    return Test(
        metric="cvr",
        window=window.name,
        since=window.since,
        until=window.until,
        current=_inverse(clicks, count),
        expected=_inverse(clicks, mean),
        deviation=change,
        adverse=-change,
        p_value=few_p(count, mean, beyond + (_COUNT_SPREAD - 1.0) / np.maximum(mean, 1.0)),
        stake=spend * np.clip(-change, 0.0, 1.0),
        excess=np.maximum(mean - count, 0.0),
        volume=mean,
        judged=(mean >= MIN_EXPECTED) & _big_enough(spend),
        days=window.days,
    )


def _roas(
    past: History, window: _Window, weekday: Ints, *, rate: Rate, orders: Rate, worth: Rate, order: float
) -> Test:
    daily = past.daily
    revenue = daily.revenue[:, window.days].sum(axis=1)
    spend = daily.spend_valued[:, window.days].sum(axis=1)
    mean, beyond = _expected(past, window.days, daily.spend_valued, rate, weekday)
    count, _ = _expected(past, window.days, daily.spend_valued, orders, weekday)
    shape = 1.0 / (beyond + (_COUNT_SPREAD + _order_variance(past)) / np.maximum(count, 1e-9))
    change = _inverse(np.maximum(mean, 1e-9), revenue) - 1.0
    cheap = _worth_p(past, window, worth, weekday, order)
    # A gamma never gives exactly nothing; selling nothing at all is the chance of no orders.
    low = special.gammainc(shape, shape * revenue / np.maximum(mean, 1e-9)) + few_p(np.zeros_like(count), count, beyond)
    return Test(
        metric="roas",
        window=window.name,
        since=window.since,
        until=window.until,
        current=_inverse(spend, revenue),
        expected=_inverse(spend, mean),
        deviation=change,
        adverse=-change,
        # ROAS falls with the number of orders or with their worth, and worth needs no guess at what is still to come.
        # It may speak for ROAS as far as ROAS agrees: a price promotion sells more orders of less worth.
        p_value=np.minimum(2.0 * np.minimum(low, np.maximum(cheap, low**2)), 1.0),
        stake=spend * np.clip(-change, 0.0, 1.0),
        excess=np.maximum(mean - revenue, 0.0) / max(order, 1e-9),
        volume=mean / max(order, 1e-9),
        judged=(count >= MIN_EXPECTED) & _big_enough(spend),
        days=window.days,
    )


def _order_variance(past: History) -> float:
    """Relative variance of one order's value, from how the mean order varies with the number of orders in a day."""
    campaign = past.tree.depth == 1
    orders, revenue = past.daily.conversions[campaign], past.daily.revenue[campaign]
    mean = revenue.sum(axis=1, keepdims=True) / np.maximum(orders.sum(axis=1, keepdims=True), 1e-9)
    there = (orders >= 3) & (revenue > 0)
    if there.sum() < 20:
        return _ORDER_SPREAD[1] ** 2 / 2
    away = revenue[there] / (orders * np.maximum(mean, 1e-9))[there] - 1.0
    # The median of a squared normal deviation is 0.455 of its variance, and incidents hardly move it.
    return float(np.clip(np.median(away**2 * orders[there]) / 0.455, _ORDER_SPREAD[0] ** 2, _ORDER_SPREAD[1] ** 2))


def _worth_p(past: History, window: _Window, worth: Rate, weekday: Ints, order: float) -> Floats:
    """Chance of so little revenue from the orders there were; 1 where they are too few."""
    daily = past.daily
    orders = daily.conversions[:, window.days]
    mean = worth.rate[:, None] * orders * worth.weekday[weekday[window.days]]
    total = np.maximum(mean.sum(axis=1), 1e-9)
    alone = (mean**2).sum(axis=1) / total**2
    beyond = worth.noise * (0.8 * alone + 0.2) + worth.doubt
    shape = 1.0 / (beyond + _order_variance(past) / np.maximum(orders.sum(axis=1), 1e-9))
    low = special.gammainc(shape, shape * daily.revenue[:, window.days].sum(axis=1) / total)
    return np.asarray(np.where(total / order >= MIN_EXPECTED, low, 1.0))


# Prices and delivery, on hours where there are some, on days otherwise


@dataclass(frozen=True, slots=True)
class _Lagged:
    """A window and the same window on each of the past days: arrays (nodes, 1 + lags), the judged one first."""

    impressions: Floats
    clicks: Floats
    spend: Floats
    delivery: Floats
    delivery_spend: Floats
    grown_spend: Floats
    weekday: Ints
    there: Bools  # per lag: the account has numbers


def _lagged(cube: Cube, end: int, length: int, per_day: int) -> _Lagged | None:
    """Sums over ``length`` steps before ``end``, and the same ``k`` days earlier."""
    lags = min(HISTORY_DAYS, (end - length) // per_day)
    # A window of several days would otherwise be compared with windows that hold part of itself.
    skip = max(1, -(-length // per_day))
    if lags - skip + 1 < MIN_LAGS:
        return None
    ends = end - per_day * np.concatenate([[0], np.arange(skip, lags + 1)])

    def sums(values: Floats) -> Floats:
        total = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
        return np.asarray(total[:, ends] - total[:, ends - length])

    impressions = sums(cube.impressions)
    usual = float(np.median(impressions[0]))
    return _Lagged(
        impressions=impressions,
        clicks=sums(cube.clicks),
        spend=sums(cube.spend),
        delivery=sums(cube.delivery),
        delivery_spend=sums(cube.delivery_spend),
        grown_spend=sums(cube.grown_spend),
        weekday=(cube.start.weekday() + (ends - 1) // per_day) % 7,
        # Hours that were never fetched are not hours without delivery.
        there=impressions[0] > 0.1 * usual,
    )


def _price_tests(past: History) -> list[Test]:
    found: list[Test] = []
    daily, hourly = past.daily, past.hourly
    if hourly is not None:
        until = hourly.start + timedelta(hours=hourly.steps)
        for length in (6, 24):
            lagged = _lagged(hourly, hourly.steps, length, 24)
            if lagged is not None:
                found += _window_tests(
                    past, lagged, f"last {length} h", since=until - timedelta(hours=length), until=until, days=None
                )
    midnight = daily.start + timedelta(days=daily.steps - 1)
    for name, length in (("yesterday", 1), (f"last {RECENT_DAYS} days", RECENT_DAYS)):
        lagged = _lagged(daily, daily.steps - 1, length, 1)
        if lagged is not None:
            since = midnight - timedelta(days=length)
            days = slice(daily.steps - 1 - length, daily.steps - 1)
            found += _window_tests(past, lagged, name, since=since, until=midnight, days=days)
    return found


@dataclass(frozen=True, slots=True)
class _Residual:
    """A logarithm against its past: ``change`` is relative, ``up`` and ``down`` the chances of one so far that way."""

    current: Floats
    expected: Floats
    change: Floats
    up: Floats
    down: Floats
    judged: Bools


def _residual(
    values: Floats, known: Bools, lagged: _Lagged, counting: Floats, floor: float = _PRICE_FLOOR
) -> _Residual:
    """Compare column 0 of ``values`` (logarithms) with the others: robust level, weekday shape, robust spread.

    ``counting`` is the variance that counting alone gives the judged value: the spread is never less.
    """
    known = known & lagged.there[None, :]
    past, there, weekday = values[:, 1:], known[:, 1:], lagged.weekday[1:]
    level = np.nan_to_num(median(past, there))
    residuals = past - level[:, None]
    shape = np.zeros((len(values), 7))
    for day in range(7):
        same = there & (weekday == day)
        count = same.sum(axis=1)
        shape[:, day] = np.nan_to_num(median(residuals, same)) * count / (count + 1.0) * (count >= 2)
    residuals = residuals - shape[:, weekday]
    count = there.sum(axis=1)
    own = np.nan_to_num(spread(residuals, there))
    # Every node's spread leans on its account's, which is the best known.
    width = np.sqrt((count * own**2 + 7.0 * own[0] ** 2) / (count + 7.0))
    width = np.maximum(np.maximum(width, own), np.maximum(floor, np.sqrt(counting)))
    expected = level + shape[:, lagged.weekday[0]]
    away = values[:, 0] - expected
    score = away / (width * np.sqrt(1.0 + 1.6 / np.maximum(count, 1)))
    tail = special.stdtr(_TAIL, -np.abs(score))  # of Student's t; all of scipy.stats would take a second to load
    # The same weekday a week ago and before is the fairest comparison: worse than all of them but one, or ordinary.
    same = there & (weekday == lagged.weekday[0])
    higher = (same & (past >= values[:, :1])).sum(axis=1)
    lower = (same & (past <= values[:, :1])).sum(axis=1)
    return _Residual(
        current=values[:, 0],
        expected=expected,
        change=np.expm1(away),
        up=np.where((away > 0) & (higher <= 1), tail, 1.0),
        down=np.where((away < 0) & (lower <= 1), tail, 1.0),
        judged=(count >= MIN_LAGS) & lagged.there[0],
    )


def _log(values: Floats) -> Floats:
    return np.asarray(np.log(np.where(values > 0, values, 1.0)))


def _window_tests(
    past: History, lagged: _Lagged, window: str, *, since: datetime, until: datetime, days: slice | None
) -> list[Test]:
    impressions, clicks, spend = lagged.impressions, lagged.clicks, lagged.spend
    seen, bought, money = impressions[:, 0], clicks[:, 0], spend[:, 0]
    usual_seen, usual_bought, usual_money = (
        np.median(values[:, 1:][:, lagged.there[1:]], axis=1) for values in (impressions, clicks, spend)
    )
    # Half a click keeps the logarithms finite; it matters only where clicks have all but vanished.
    log_clicks, log_spend, log_seen = np.log(clicks + 0.5), _log(spend), np.log(impressions + 1.0)
    shown = (impressions > 0) & (spend > 0)
    # Clicks are counted, a little unevenly: no ratio of theirs is surer than the clicks there should be.
    counting = 1.3 / np.maximum(seen * usual_bought / np.maximum(usual_seen, 1.0), 1.0)
    ctr = _residual(log_clicks - log_seen, impressions > 0, lagged, counting)
    cpc = _residual(log_spend - log_clicks, shown & (clicks > 0), lagged, counting)
    cpm = _residual(log_spend - log_seen, shown, lagged, np.zeros(len(seen)))
    large = _big_enough(usual_money) & _big_enough(money)
    clicked = (seen * np.exp(ctr.expected) >= MIN_CLICKS) & (usual_bought >= MIN_CLICKS) & large
    watched = (np.minimum(seen, usual_seen) >= MIN_IMPRESSIONS) & large
    hour = window.endswith(" h")

    def test(metric: str, found: _Residual, judged: Bools, *, worse: int, usual: Floats, scale: float) -> Test:
        """``usual``: what the same result would have cost (money), per node."""
        excess = np.maximum(money - usual, 0.0)
        return Test(
            metric=metric,
            window=window,
            since=since,
            until=until,
            current=scale * np.exp(found.current),
            expected=scale * np.exp(found.expected),
            deviation=found.change,
            adverse=worse * found.change,
            p_value=found.up if worse > 0 else found.down,
            stake=excess,
            excess=excess,
            volume=usual_money,
            judged=judged & found.judged,
            days=days,
        )

    kept = np.clip(np.exp(ctr.current - ctr.expected), 0.0, 1.0)
    tests = [
        test("ctr", ctr, clicked, worse=-1, usual=money * kept, scale=1.0),
        test("cpc", cpc, clicked & (bought > 0), worse=1, usual=bought * np.exp(cpc.expected), scale=1.0),
        test("cpm", cpm, watched, worse=1, usual=seen * np.exp(cpm.expected), scale=1000.0),
    ]
    return [*tests, *_flow_tests(past, lagged, tests, hour)] if hour or window == "yesterday" else tests


def _flow_tests(past: History, lagged: _Lagged, beside: Sequence[Test], hour: bool) -> list[Test]:
    """Spend that runs away and delivery that stops."""
    tree, example = past.tree, beside[0]
    there = np.concatenate([[True], lagged.there[1:]])
    usual_spend = np.median(lagged.grown_spend[:, there][:, 1:], axis=1)
    usual_shown = np.median(lagged.delivery[:, there][:, 1:], axis=1)
    usual_paid = np.median(lagged.delivery_spend[:, there][:, 1:], axis=1)

    def against(values: Floats, usual: Floats) -> _Residual:
        # A hundredth of the usual keeps nothing at all finite: delivery that stopped is 99 % down.
        small = np.maximum(0.01 * usual, 1e-9)[:, None]
        return _residual(np.log(values + small), values[:, :] >= 0, lagged, np.zeros(len(values)), floor=0.12)

    spent = against(lagged.grown_spend, usual_spend)
    shown = against(lagged.delivery, usual_shown)
    paid = against(lagged.delivery_spend, usual_paid)
    money, seen = lagged.grown_spend[:, 0], lagged.delivery[:, 0]
    expected_money, expected_shown = np.exp(spent.expected), np.exp(shown.expected)

    # A budget that covers the pace was set by somebody: spending it is no accident.
    pace = money * 24.0 / max((example.until - example.since) / timedelta(hours=1), 1.0)
    intended = (
        (pace <= 1.1 * tree.daily_budget) if not hour or example.window == "last 24 h" else np.zeros(len(pace), bool)
    )
    extra = money - expected_money
    missing = expected_shown - seen
    runaway = Test(
        metric="spend",
        window=example.window,
        since=example.since,
        until=example.until,
        current=money,
        expected=expected_money,
        deviation=spent.change,
        adverse=spent.change,
        p_value=spent.up,
        stake=np.maximum(extra, 0.0),
        excess=np.maximum(extra, 0.0),
        volume=usual_spend,
        judged=spent.judged
        & (usual_shown >= MIN_IMPRESSIONS)
        & _big_enough(usual_spend)
        & ~intended
        & _parent_agrees(tree.parent, tree.depth, extra),
        days=example.days,
    )
    # Fewer impressions for the same money is a price; delivery stops when both fall.
    both = np.maximum(shown.change, paid.change)
    stopped = Test(
        metric="delivery",
        window=example.window,
        since=example.since,
        until=example.until,
        current=seen,
        expected=expected_shown,
        deviation=shown.change,
        adverse=-both,
        p_value=np.maximum(shown.down, paid.down),
        stake=np.maximum(np.exp(paid.expected) - lagged.delivery_spend[:, 0], 0.0),
        excess=np.maximum(missing, 0.0),
        volume=usual_shown,
        judged=shown.judged
        & tree.active
        & (usual_shown >= MIN_IMPRESSIONS)
        & _big_enough(usual_paid)
        & _parent_agrees(tree.parent, tree.depth, missing),
        days=example.days,
    )
    return [runaway, stopped]


def _parent_agrees(parent: Ints, depth: Ints, excess: Floats) -> Bools:
    """Below campaigns, money that moves between siblings is the platform at work: the parent must move as well."""
    above = excess[np.maximum(parent, 0)]
    return np.asarray((depth < 2) | (above >= 0.5 * excess))
