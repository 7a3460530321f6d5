"""What would have been ordinary: one account's numbers as arrays, and the value to expect for any of them.

Everything here is vectorised over the *nodes* of an account: the account itself, its campaigns, ad sets and ads, each
the sum of its leaves. Time runs in the account's local days and hours, so that a day compares with days and six in the
evening with six in the evening, also across a change of the clocks. Money is in micros, as floats: statistics, not
book-keeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from aae.frames import AccountFrames
from aae.model import Account, Platform

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

HISTORY_DAYS: Final = 28
"""Days behind an expected price or delivery: four of each weekday."""

RATE_DAYS: Final = 42
"""Days behind an expected conversion rate, where there are so many: orders are few, so more of them help."""

RECENT_DAYS: Final = 3
"""Full days that are judged, and so never part of the expectation for conversions."""

SETTLING_HOURS: Final = {Platform.META: 1, Platform.TIKTOK: 1, Platform.GOOGLE: 3}
"""Hours before the fetch whose clicks and spend may still be incomplete. Google documents "under 3 h" for clicks and
cost; Meta and TikTok refresh several times an hour, so one hour is ample."""

_AGES: Final = np.log1p(np.array([0, 1, 3, 6, 12, 24, 48, 72, 168, 336, 672], dtype=float))
_SHARES: Final = {
    Platform.META: np.array([0.10, 0.32, 0.48, 0.59, 0.69, 0.79, 0.88, 0.93, 0.985, 1.0, 1.0]),
    Platform.TIKTOK: np.array([0.10, 0.32, 0.49, 0.60, 0.70, 0.80, 0.89, 0.94, 0.99, 1.0, 1.0]),
    Platform.GOOGLE: np.array([0.05, 0.25, 0.40, 0.52, 0.63, 0.73, 0.83, 0.88, 0.95, 0.98, 1.0]),
}
"""Share of a click's final conversions that is known this many hours after it, until an account's own is learnt.

Reporting itself takes up to an hour. Many orders follow the click at once, the rest within the attribution window:
7 days after a click on Meta and commonly on TikTok, 30 on Google, which also models conversions up to 15 h late and
dates them back to the click.
"""

MATURITY_DOUBT: Final = 0.5
"""One standard deviation of a share's error, as a part of what is still to come: a share of 0.6 is good to 0.2."""

GROWN_DAYS: Final = 10
"""Days after which an entity has a usual spend: before, it is still being ramped up."""

PRIOR_CONVERSIONS: Final = 4.0
"""Weight of the parent's rate, in conversions: siblings differ by about a factor 1.6 (a relative deviation of 1/2)."""

_WEEKDAY_CONVERSIONS: Final = 60.0
"""Conversions that a weekday needs before half of its own shape is believed."""

Curve = tuple[tuple[float, float], ...]
"""(hours since the click, share of its conversions known), rising: an account's own maturity."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The nodes of one account, parents before children; node 0 is the account. All arrays run over the nodes."""

    account: Account
    entity_id: Ints  # 0 for the account
    level: list[str]
    name: list[str]
    parent: Ints  # -1 for the account
    active: Bools  # it and everything above it may deliver
    daily_budget: Floats  # micros, NaN where there is none
    sums: sparse.csr_matrix  # nodes x leaves: which leaves a node is the sum of

    @property
    def depth(self) -> Ints:
        """0 account, 1 campaign, 2 ad set, 3 ad."""
        return np.array([("account", "campaign", "ad_set", "ad").index(level) for level in self.level])

    def children(self, node: int) -> list[int]:
        """Nodes directly below."""
        return [int(child) for child in np.flatnonzero(self.parent == node)]

    def path(self, node: int) -> list[int]:
        """Entity ids from the campaign down to the node; empty for the account."""
        ids: list[int] = []
        while node > 0:
            ids.insert(0, int(self.entity_id[node]))
            node = int(self.parent[node])
        return ids


@dataclass(frozen=True, slots=True)
class Cube:
    """Numbers of every node at every step of local time: arrays of shape (nodes, steps).

    ``conversions`` and ``revenue`` sum only what is known; ``*_told`` is the exposure they belong to.
    """

    start: datetime  # naive local beginning of step 0
    impressions: Floats
    clicks: Floats
    spend: Floats
    conversions: Floats
    revenue: Floats
    spend_told: Floats  # spend of the rows whose conversions are known
    clicks_told: Floats
    spend_valued: Floats  # spend of the rows whose revenue is known
    delivery: Floats  # impressions of what is active now
    delivery_spend: Floats  # spend of what is active now
    grown_spend: Floats  # spend of what is old enough to have a usual

    @property
    def steps(self) -> int:
        """Length of the time axis."""
        return int(self.impressions.shape[1])


@dataclass(frozen=True, slots=True)
class History:
    """One account, ready to be judged. ``daily`` ends with the day of ``through``, ``hourly`` before its last hour."""

    tree: Tree
    through: datetime  # naive local: numbers are known up to here
    daily: Cube
    hourly: Cube | None
    maturity: Floats  # per day: share of its conversions that is known


@dataclass(frozen=True, slots=True)
class _Leaves:
    """The leaves of the tree: entity ids, whether they may deliver, whether they are older than ``GROWN_DAYS``."""

    ids: pd.Index
    active: Bools
    grown: Bools


def _leaf_grid(table: pd.DataFrame, leaf: Ints, step: Ints, shape: tuple[int, int]) -> dict[str, Floats]:
    keep = (leaf >= 0) & (step >= 0) & (step < shape[1])
    flat = leaf[keep] * shape[1] + step[keep]

    def grid(values: Floats) -> Floats:
        return np.asarray(
            np.bincount(flat, weights=values[keep], minlength=shape[0] * shape[1]), dtype=np.float64
        ).reshape(shape)

    impressions, clicks, spend = (
        table[name].to_numpy(dtype=float) for name in ("impressions", "clicks", "spend_micros")
    )
    conversions = table["conversions_micros"].to_numpy(dtype=float, na_value=np.nan) / 1e6
    revenue = table["revenue_micros"].to_numpy(dtype=float, na_value=np.nan)
    told, valued = np.isfinite(conversions), np.isfinite(revenue)
    return {
        "impressions": grid(impressions),
        "clicks": grid(clicks),
        "spend": grid(spend),
        "conversions": grid(np.where(told, conversions, 0.0)),
        "revenue": grid(np.where(valued, revenue, 0.0)),
        "spend_told": grid(np.where(told, spend, 0.0)),
        "clicks_told": grid(np.where(told, clicks, 0.0)),
        "spend_valued": grid(np.where(valued, spend, 0.0)),
    }


def _cube(tree: Tree, leaf: _Leaves, start: datetime, grids: dict[str, Floats]) -> Cube:
    active, grown = leaf.active[:, None], leaf.grown[:, None]
    shown, spend = grids["impressions"], grids["spend"]
    grids = grids | {"delivery": shown * active, "delivery_spend": spend * active, "grown_spend": spend * grown}
    return Cube(start=start, **{name: np.asarray(tree.sums @ grid) for name, grid in grids.items()})


def _tree(account: Account, entities: pd.DataFrame, seen: Ints) -> tuple[Tree, pd.Index, Bools]:
    """The nodes that have numbers, the entity ids of the leaves, and which leaves are active."""
    table = entities.drop_duplicates("entity_id").set_index("entity_id")
    leaves = pd.Index(np.intersect1d(seen, table.index.to_numpy(dtype=np.int64)))
    ad_set = table["ad_set_id"].reindex(leaves).to_numpy(dtype=np.int64, na_value=-1)
    campaign = table["campaign_id"].reindex(leaves).to_numpy(dtype=np.int64)
    lineage = np.stack([leaves.to_numpy(dtype=np.int64), ad_set, campaign])
    used = np.intersect1d(lineage, table.index.to_numpy(dtype=np.int64))
    order = {"campaign": 1, "ad_set": 2, "ad": 3}
    rows = table.loc[used]
    rows = rows.iloc[np.argsort(rows["level"].map(order).to_numpy(), kind="stable")]
    nodes = pd.Index(rows.index)

    def position(ids: Ints) -> Ints:
        return np.asarray(nodes.get_indexer(pd.Index(ids)), dtype=np.int64) + 1  # an unknown id gives 0, the account

    own_campaign = position(rows["campaign_id"].to_numpy(dtype=np.int64))
    own_ad_set = position(rows["ad_set_id"].to_numpy(dtype=np.int64, na_value=-1))
    level = rows["level"].astype(str).tolist()
    parent = np.select(
        [rows["level"].to_numpy() == "campaign", (rows["level"].to_numpy() == "ad") & (own_ad_set > 0)],
        [0, own_ad_set],
        own_campaign,
    )
    parent = np.concatenate([[-1], parent]).astype(np.int64)
    active = np.concatenate([[True], (rows["status"] == "active").to_numpy(dtype=bool)])
    for node in range(1, len(parent)):
        active[node] &= active[parent[node]]

    columns = np.arange(len(leaves))
    pairs = {(0, int(column)) for column in columns}
    for ids in lineage:
        pairs |= {(int(node), int(column)) for node, column in zip(position(ids), columns, strict=True) if node > 0}
    where = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    sums = sparse.csr_matrix(
        (np.ones(len(where)), (where[:, 0], where[:, 1])), shape=(len(nodes) + 1, max(len(leaves), 1))
    )
    tree = Tree(
        account=account,
        entity_id=np.concatenate([[0], nodes.to_numpy(dtype=np.int64)]),
        level=["account", *level],
        name=[account.name, *rows["name"].astype(str).tolist()],
        parent=parent,
        active=active,
        daily_budget=np.concatenate([[np.nan], rows["daily_budget_micros"].to_numpy(dtype=float, na_value=np.nan)]),
        sums=sums,
    )
    return tree, leaves, active[position(leaves.to_numpy(dtype=np.int64))]


def share_known(platform: Platform, hours: Floats, curve: Curve | None = None) -> Floats:
    """Share (0..1) of the final conversions that is known ``hours`` after the click.

    ``curve`` is the account's own, if it has been learnt; the platform's prior otherwise.
    """
    known = np.log1p(np.maximum(hours, 0.0))
    if curve:
        return np.asarray(np.interp(known, np.log1p([age for age, _ in curve]), [share for _, share in curve]))
    return np.asarray(np.interp(known, _AGES, _SHARES[platform]))


def day_maturity(platform: Platform, hours_since_midnight: Floats, curve: Curve | None = None) -> Floats:
    """Share known of a whole day's conversions, this many hours after the day began (a day still running: so far)."""
    length = np.clip(hours_since_midnight, 0.0, 24.0)
    points = np.array([0.125, 0.375, 0.625, 0.875])
    ages = hours_since_midnight[..., None] - length[..., None] * points
    return np.asarray(share_known(platform, ages, curve).mean(axis=-1))


def history(frames: AccountFrames, curve: Curve | None = None) -> History | None:
    """The account's numbers as arrays up to ``frames.data_through``; None if there are none."""
    account, daily, hourly = frames.account, frames.daily, frames.hourly
    if frames.data_through is None or daily.empty:
        return None
    through = frames.data_through.astimezone(account.zone).replace(tzinfo=None)
    last: date = through.date()
    first = min(daily["local_date"].min().date(), last)
    days = (last - first).days + 1
    seen = np.union1d(daily["entity_id"].to_numpy(), hourly["entity_id"].to_numpy()).astype(np.int64)
    tree, leaves, leaf_active = _tree(account, frames.entities, seen)
    if leaves.empty:
        return None

    start = datetime.combine(first, datetime.min.time())
    midnight = pd.Timestamp(start)
    step = (daily["local_date"] - midnight).dt.days.to_numpy().astype(np.int64)
    leaf = np.asarray(leaves.get_indexer(pd.Index(daily["entity_id"])), dtype=np.int64)
    grids = _leaf_grid(daily, leaf, step, (len(leaves), days))
    first_day = np.argmax(grids["impressions"] > 0, axis=1)
    # The frame may begin after the leaf did: a frame shorter than that leaves everybody grown.
    kind = _Leaves(leaves, leaf_active, (first_day < days - GROWN_DAYS) | (days <= GROWN_DAYS))
    age = (through - start) / timedelta(hours=1) - 24.0 * np.arange(days)
    return History(
        tree=tree,
        through=through,
        daily=_cube(tree, kind, start, grids),
        hourly=_hourly(frames, tree, kind, through),
        maturity=day_maturity(account.platform, age, curve),
    )


def _hourly(frames: AccountFrames, tree: Tree, leaves: _Leaves, through: datetime) -> Cube | None:
    table = frames.hourly
    if table.empty:
        return None
    settled = through - timedelta(hours=SETTLING_HOURS[frames.account.platform])
    end = pd.Timestamp(settled).floor("h")
    start = pd.Timestamp(table["local_date"].min())
    hours = int((end - start) / pd.Timedelta(hours=1))
    if hours <= 0:
        return None
    step = (table["local_date"] - start).dt.days.to_numpy(dtype=np.int64) * 24 + table["local_hour"].to_numpy(np.int64)
    leaf = np.asarray(leaves.ids.get_indexer(pd.Index(table["entity_id"])), dtype=np.int64)
    return _cube(tree, leaves, start.to_pydatetime(), _leaf_grid(table, leaf, step, (len(leaves.ids), hours)))


def median(values: Floats, mask: Bools) -> Floats:
    """Median over the last axis of the values where ``mask`` holds; NaN where it never does."""
    count = mask.sum(axis=-1)
    ordered = np.sort(np.where(mask, values, np.inf), axis=-1)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    middle = np.where(count > 0, low, 0.0) / 2 + np.where(count > 0, high, 0.0) / 2
    return np.where(count > 0, middle, np.nan)


def spread(residuals: Floats, mask: Bools) -> Floats:
    """Robust standard deviation over the last axis: the wider of what the middle and the 90 % quantile tell."""
    size = np.abs(residuals)
    middle = 1.4826 * median(size, mask)
    count = mask.sum(axis=-1)
    ordered = np.sort(np.where(mask, size, np.inf), axis=-1)
    at = np.maximum((0.9 * (count - 1)).astype(np.int64), 0)
    wide = np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0] / 1.645
    return np.where(count > 0, np.maximum(middle, np.where(count > 0, wide, 0.0)), np.nan)


@dataclass(frozen=True, slots=True)
class Rate:
    """What to expect of a result given its exposure, per node.

    ``rate``: result per unit of exposure when all has arrived; ``doubt``: relative variance of that rate; ``noise``:
    relative variance of a day beyond counting; ``weekday``: factor of each weekday, Monday first; ``days``: days with
    exposure behind it.
    """

    rate: Floats
    doubt: Floats
    noise: Floats
    weekday: Floats
    days: Ints


def expected_rate(result: Floats, exposure: Floats, weekday: Ints, tree: Tree, *, per_result: float) -> Rate:
    """Fit what is ordinary on past days.

    Args:
        result: (nodes, days) conversions, or revenue.
        exposure: (nodes, days) clicks or spend, already scaled by each day's maturity.
        weekday: weekday of each day, Monday 0.
        tree: The nodes, parents first.
        per_result: Size of one result: 1 for conversions, the money of an average order for revenue.
    """
    shape = _weekday_shape(result[0], exposure[0], weekday, per_result)
    exposure = exposure * shape[weekday]
    there = exposure > 0
    pooled = _ratio(result.sum(axis=1), exposure.sum(axis=1))
    daily = _ratio(result, exposure)
    dense = result.sum(axis=1) / per_result >= 3 * there.sum(axis=1)
    rate = np.where(dense, np.nan_to_num(median(daily, there)), pooled)
    keep = there
    for _ in range(3):
        mean = rate[:, None] * exposure
        count = np.maximum(mean / per_result, 1e-9)
        error = (result - mean) / per_result
        keep = there & (np.abs(error) < 3.0 * np.sqrt(1.5 * count + (0.25 * count) ** 2) + 1.0)
        rate = _ratio((result * keep).sum(axis=1), (exposure * keep).sum(axis=1))

    own_result = (result * keep).sum(axis=1) / per_result
    own_exposure = (exposure * keep).sum(axis=1)
    mean = rate[:, None] * exposure * keep / per_result
    error = (result / per_result - mean) * keep
    beyond = np.maximum((error**2).sum(axis=1) - 1.2 * mean.sum(axis=1), 0.0)
    weight = (mean**2).sum(axis=1)
    level_noise = max(float(beyond.sum() / max(weight.sum(), 1e-9)), 0.05**2)
    prior = 0.25 * max(float(weight[0]), 1e-9)
    # What trimming took away from the tails is given back by the factor.
    noise = 1.3 * np.maximum((beyond + prior * level_noise) / (weight + prior), 0.05**2)

    shrunk = rate.copy()
    for node in range(1, len(rate)):
        above = shrunk[tree.parent[node]]
        if above > 0:
            prior_result = PRIOR_CONVERSIONS * per_result
            shrunk[node] = (own_result[node] * per_result + prior_result) / (own_exposure[node] + prior_result / above)
    days = keep.sum(axis=1)
    doubt = 1.0 / (own_result / 1.5 + PRIOR_CONVERSIONS) + noise / np.maximum(days, 1)
    return Rate(rate=shrunk, doubt=doubt, noise=noise, weekday=shape, days=days)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below > 0))


def _weekday_shape(result: Floats, exposure: Floats, weekday: Ints, per_result: float) -> Floats:
    """Factor of each weekday on the account's rate: the median of its days, believed as far as its size allows."""
    there = exposure > 0
    daily = _ratio(result, exposure)
    usual = float(np.nan_to_num(median(daily, there)))
    shape = np.ones(7)
    if usual <= 0:
        return shape
    for day in range(7):
        days = there & (weekday == day)
        if days.sum() >= 2:
            size = usual * float(exposure[days].sum()) / per_result
            belief = size / (size + _WEEKDAY_CONVERSIONS)
            shape[day] = 1.0 + belief * (float(np.median(daily[days])) / usual - 1.0)
    return np.maximum(shape, 0.2)
