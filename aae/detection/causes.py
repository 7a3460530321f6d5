"""From many significant tests to few findings: one per cause, at the level where the cause sits.

A broken ad makes its ad set, its campaign and its account look bad, in CPA, ROAS and CVR at once, today and over three
days. :func:`detect` walks down from the account as long as one child explains the move, and stops where the children
share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from aae.detection import explain
from aae.detection.baseline import RECENT_DAYS, Bools, Cube, Curve, Floats, History, history, median
from aae.detection.explain import Funnel, Part
from aae.detection.scoring import (
    EVIDENT,
    FALSE_DISCOVERY,
    FAMILY,
    SEVERITIES,
    SINGLE,
    Sensitivity,
    Test,
    bar,
    benjamini_hochberg,
    combined,
    severity,
    tests,
)
from aae.frames import AccountFrames
from aae.model import MICROS, Account, AccountStatus

LATE_AFTER: Final = timedelta(hours=8)
"""Numbers older than this give no verdict: fetching runs every 6 hours, and may take one and be retried for one."""

_RECENCY: Final = ("last 6 h", "today so far", "last 24 h", "since yesterday", "yesterday", f"last {RECENT_DAYS} days")
"""Windows, the freshest first."""

_ALIKE: Final = 0.6
"""Children whose rest does at least this share as badly are in it together."""

_COLLAPSE: Final = 0.4
"""A CVR this much lower on several campaigns at once, while clicks hold, is a broken tag or site."""

_CLICKS_HOLD: Final = 0.6

_MONEY: Final = {"cpa", "cpc", "cpm", "spend"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    ``level``: ad, ad_set, campaign, account or user. ``current`` and ``expected`` are in the metric's own unit
    (money in the currency's unit); ``current`` is None where it is undefined (a CPA without conversions).
    ``deviation`` is relative: +0.8 is 80 % up. ``since`` and ``until`` bound the window judged, ISO, in the account's
    local time. ``stake_micros``: money spent beyond what the same result usually costs; for delivery that stopped,
    the money not spent. ``data`` is JSON-safe: ``family``, ``path`` (entity
    ids from the campaign down), ``accounts``, ``funnel``, ``children``, counts.
    """

    user_id: int
    account_id: int | None
    entity_id: int | None
    level: str
    entity_name: str
    platform: str | None
    metric: str
    window: str
    since: str
    until: str
    current: float | None
    expected: float
    deviation: float
    severity: str
    p_value: float
    currency: str | None
    stake_micros: int
    cause: str
    recommendation: str
    data: dict[str, Any] = field(hash=False)

    @property
    def family(self) -> str:
        """Metrics that move together for one cause: ``conversion``, ``price`` or ``delivery``."""
        return str(self.data.get("family", FAMILY[self.metric]))

    @property
    def fingerprint(self) -> str:
        """What makes two findings the same incident: user, metric family, entity."""
        where = f"entity:{self.entity_id}" if self.entity_id is not None else f"account:{self.account_id}"
        return f"user:{self.user_id}/{self.family}/{'user' if self.level == 'user' else where}"


@dataclass(frozen=True, slots=True)
class LateAccount:
    """An account without fresh numbers: no verdict on it. ``hours`` old, None if it has never been fetched."""

    account: Account
    data_through: datetime | None
    hours: float | None


def is_late(data_through: datetime | None, *, now: datetime) -> bool:
    """Whether numbers that are complete up to ``data_through`` (None: never fetched) are too old to judge by."""
    return data_through is None or now - data_through > LATE_AFTER


def late_accounts(frames: Sequence[AccountFrames], *, now: datetime) -> list[LateAccount]:
    """Active accounts whose numbers are too old to judge."""
    late = []
    for frame in frames:
        if frame.account.status is not AccountStatus.ACTIVE:
            continue
        if is_late(frame.data_through, now=now):
            hours = None if frame.data_through is None else (now - frame.data_through) / timedelta(hours=1)
            late.append(LateAccount(frame.account, frame.data_through, hours))
    return late


def detect(
    frames: Sequence[AccountFrames],
    *,
    now: datetime,
    sensitivity: Sensitivity = "medium",
    maturity: Mapping[int, Curve] | None = None,
) -> list[Finding]:
    """Everything wrong with one user's accounts, the gravest first, then by money at stake.

    Accounts that are not active or whose numbers are late (:func:`late_accounts`) give no verdict.

    Args:
        frames: The hot windows of all accounts of one user.
        now: The moment of judging, aware.
        sensitivity: Moves the bars of size and of significance.
        maturity: Learnt maturity curves by account id; the platform's prior where there is none.
    """
    late = {entry.account.id for entry in late_accounts(frames, now=now)}
    judged: list[_Judged] = []
    for frame in sorted(frames, key=lambda each: each.account.id):
        if frame.account.status is AccountStatus.ACTIVE and frame.account.id not in late:
            past = history(frame, (maturity or {}).get(frame.account.id))
            if past is not None:
                judged.append(_Judged(past, tests(past), sensitivity))
    p_values = [p_value for one in judged for p_value in one.p_values()]
    if not p_values:
        return []
    accepted = FALSE_DISCOVERY[sensitivity]
    limit = min(benjamini_hochberg(np.concatenate(p_values), accepted), accepted * SINGLE)
    for one in judged:
        one.mark(limit)
    found = _tracking(judged)
    broken = {account for finding in found for account in finding.data["accounts"]}
    for one in judged:
        own = [_finding(one, node, test) for family in ("conversion", "price", "delivery")
               if not (family == "conversion" and one.account.id in broken)
               for node, test in _culprits(one, family)]  # fmt: skip
        found += _one_per_cause([finding for finding in own if finding is not None])
    return sorted(found, key=lambda each: (-SEVERITIES.index(each.severity), -each.stake_micros, each.fingerprint))


class _Judged:
    """One account's tests, and for every family the nodes where something is both significant and large."""

    def __init__(self, past: History, all_tests: list[Test], sensitivity: Sensitivity) -> None:
        self.past, self.tests, self.sensitivity = past, all_tests, sensitivity
        self.account = past.tree.account
        self.best: dict[str, dict[int, Test]] = {"conversion": {}, "price": {}, "delivery": {}}
        self.beside: dict[tuple[str, int], set[str]] = {}

        self.evidence: dict[str, Floats] = {}
        self.testable: dict[str, Bools] = {}
        for family in self.best:
            members = [test for test in self.tests if FAMILY[test.metric] == family]
            if members:
                where = np.stack([test.judged for test in members])
                self.evidence[family] = combined(np.stack([test.p_value for test in members]), where)
                self.testable[family] = np.asarray(where.any(axis=0))

    def p_values(self) -> list[Floats]:
        """The evidence of every family at every node where there was something to judge."""
        return [evidence[self.testable[family]] for family, evidence in self.evidence.items()]

    def mark(self, limit: float) -> None:
        """Keep, per significant family and node, the gravest test that is above its bar."""
        for metric in {test.metric for test in self.tests}:
            over: Bools = np.zeros(len(self.past.tree.level), dtype=np.bool_)
            significant = self.evidence[FAMILY[metric]] <= limit
            least = bar(metric, self.sensitivity)
            for test in sorted(
                (test for test in self.tests if test.metric == metric), key=lambda each: _RECENCY.index(each.window)
            ):
                bad = significant & test.judged & (test.p_value <= EVIDENT) & (test.adverse > least) & ~over
                for node in np.flatnonzero(bad):
                    self._keep(int(node), test)
                # Ordinary again in a fresher window: what an older window still shows is over.
                over = over | (test.judged & (test.adverse < 0.5 * least)).astype(np.bool_)

    def _keep(self, node: int, test: Test) -> None:
        family = FAMILY[test.metric]
        self.beside.setdefault((family, node), set()).add(test.metric)
        known = self.best[family].get(node)
        if known is None or _gravity(test, node) > _gravity(known, node):
            self.best[family][node] = test


def _gravity(test: Test, node: int) -> tuple[int, int, float]:
    # Ties go to what people think in: the cost of a result before the rates that make it.
    plain = {"roas": 3, "cpa": 2, "cpc": 2, "spend": 2}.get(test.metric, 1)
    return SEVERITIES.index(severity(test.metric, float(test.adverse[node]))), plain, -float(test.p_value[node])


def _culprits(one: _Judged, family: str) -> list[tuple[int, Test]]:
    """The lowest nodes that explain the moves of everything above them."""
    best, tree = one.best[family], one.past.tree
    marked = set(best)
    for node in best:
        above = int(tree.parent[node])
        while above >= 0:
            marked.add(above)
            above = int(tree.parent[above])

    def visit(node: int) -> list[tuple[int, Test]]:
        bad = [child for child in tree.children(node) if child in marked]
        if node in best and (not bad or _shared(best[node], node, bad)):
            return [(node, best[node])]
        return [found for child in bad for found in visit(child)]

    return visit(0) if 0 in marked else []


def _shared(test: Test, node: int, bad: list[int]) -> bool:
    """Whether the node's move is spread over its children rather than sitting in the ``bad`` ones."""
    excess, volume = float(test.excess[bad].sum()), float(test.volume[bad].sum())
    rest_excess, rest_volume = float(test.excess[node]) - excess, float(test.volume[node]) - volume
    if volume <= 0:
        return True
    if rest_volume < 0.1 * float(test.volume[node]):
        return len(bad) > 1
    return rest_excess / rest_volume >= _ALIKE * excess / volume


def _one_per_cause(findings: list[Finding]) -> list[Finding]:
    """Of findings with the same cause on the same branch of the account, one.

    Dearer clicks make conversions dear and spend high: where the funnel says so, the price is the cause. It is told as
    the CPA or ROAS it did harm to if both sit in the same place, and as the price, with the same urgency, if not.
    """
    prices = [finding for finding in findings if finding.metric in {"cpc", "cpm", "ctr"}]
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda each: (-SEVERITIES.index(each.severity), each.p_value)):
        path = finding.data["path"]
        elsewhere = [price for price in prices if _same_branch(price.data["path"], path) and price.data["path"] != path]
        if finding not in prices and elsewhere and _by_price(finding):
            finding = replace(  # noqa: PLW2901
                elsewhere[0],
                severity=max(finding.severity, elsewhere[0].severity, key=SEVERITIES.index),
                data=elsewhere[0].data | {"also": sorted({*elsewhere[0].data["also"], finding.metric})},
            )
        if not any(
            other.family == finding.family and _same_branch(other.data["path"], finding.data["path"]) for other in kept
        ):
            kept.append(finding)
    return kept


def _by_price(finding: Finding) -> bool:
    """Whether the price of clicks or impressions is most of the finding's cause."""
    return float(finding.data.get("price_share", 0.0)) >= 0.5


def _same_branch(one: list[int], other: list[int]) -> bool:
    short = min(len(one), len(other))
    return one[:short] == other[:short]


# The finding itself


def _finding(one: _Judged, node: int, test: Test) -> Finding | None:
    """Dress a significant test with its cause; None if the cause is the advertiser's own doing (a price promotion)."""
    account, tree = one.account, one.past.tree
    name = tree.name[node]
    metric, adverse = test.metric, float(test.adverse[node])
    now = _now(one.past, node, test)
    data: dict[str, Any] = {
        "family": FAMILY[metric],
        "path": tree.path(node),
        "accounts": [account.id],
        "also": sorted(one.beside.get((FAMILY[metric], node), set()) - {metric}),
        "children": _children(one, node, test),
        "now": {key: round(amount, 6) for key, amount in now.items()},
    }
    unit = MICROS if metric in _MONEY else 1
    expected = float(test.expected[node]) / unit
    current = None if np.isnan(test.current[node]) else float(test.current[node]) / unit
    spent = explain.money(now["spend"], account.currency)
    parts = _parts(one, node, test, now)
    data["funnel"] = [
        {
            "step": part.step,
            "change": round(part.change, 6),
            "effect": round(part.effect, 6),
            "share": round(part.share, 6),
        }
        for part in parts
    ]
    if metric == "roas" and _promotion(parts):
        return None
    mixed = _mix(one, node, test) if FAMILY[metric] == "conversion" else None
    if mixed is not None:
        data["mix"], data["rate"] = mixed
    if FAMILY[metric] == "conversion":
        data["expected_conversions"] = round(_expected_conversions(one, node, test), 3)
        step = parts[0].step if parts else "cvr"
        data["price_share"] = round(sum(part.share for part in parts if part.step in {"cpm", "ctr", "cpc"}), 6)
        if data["price_share"] >= 0.5:
            data["family"] = "price"
    else:
        step = parts[0].step if metric == "cpc" and parts else metric
        if metric == "spend":
            data["price_share"] = _dearer(one, node, test)
            if data["price_share"] >= 0.5:
                data["family"] = "price"
    if mixed is not None and data["family"] == "conversion" and mixed[0] < 0 and mixed[0] <= 2 * mixed[1]:
        step, cause = (
            "mix",
            (f"{name} converts less because its money moved to children that convert worse; they did not get worse."),
        )
    elif parts:
        cause = explain.cause_of_parts(metric, name, parts, conversions=now["conversions"], spend=spent)
    else:
        cause = _plain_cause(
            metric, name, current=current or 0.0, expected=expected, window=test.window, currency=account.currency
        )
    return Finding(
        user_id=account.user_id,
        account_id=account.id,
        entity_id=int(tree.entity_id[node]) if node else None,
        level=tree.level[node],
        entity_name=name,
        platform=str(account.platform),
        metric=metric,
        window=test.window,
        since=test.since.isoformat(),
        until=test.until.isoformat(),
        current=current,
        expected=expected,
        deviation=float(test.deviation[node]),
        severity=severity(metric, adverse),
        p_value=float(test.p_value[node]),
        currency=account.currency,
        stake_micros=round(float(test.stake[node])),
        cause=cause,
        recommendation=explain.recommendation(step, name),
        data=data,
    )


def _dearer(one: _Judged, node: int, test: Test) -> float:
    """Share of a rise in spend that is a rise in the price of impressions rather than more of them."""
    cpm = _sibling(one, "cpm", test)
    if cpm is None or test.deviation[node] <= 0 or cpm.deviation[node] <= 0:
        return 0.0
    return round(float(np.log1p(cpm.deviation[node]) / np.log1p(test.deviation[node])), 6)


def _plain_cause(metric: str, name: str, *, current: float, expected: float, window: str, currency: str) -> str:
    now, usual = (explain.value(metric, amount, currency) for amount in (current, expected))
    match metric:
        case "spend":
            return f"{name} spent {now} ({window}), {usual} is usual by now."
        case "delivery":
            return f"{name} had {now} ({window}) where {usual} are usual."
        case _:
            return f"{explain.STEP_NAMES[metric].capitalize()} of {name} is {now} ({window}), usually {usual}."


def _span(past: History, test: Test) -> tuple[Cube, slice]:
    """The steps of the cube that a test judged."""
    if test.days is not None or past.hourly is None:
        return past.daily, test.days or slice(0, 0)
    hours = round((test.until - test.since) / timedelta(hours=1))
    return past.hourly, slice(past.hourly.steps - hours, past.hourly.steps)


def _now(past: History, node: int, test: Test) -> dict[str, float]:
    """The funnel's sums in the window: money in the currency's unit."""
    cube, span = _span(past, test)
    return {
        "impressions": float(cube.impressions[node, span].sum()),
        "clicks": float(cube.clicks[node, span].sum()),
        "spend": float(cube.spend[node, span].sum()) / MICROS,
        "conversions": float(cube.conversions[node, span].sum()),
        "revenue": float(cube.revenue[node, span].sum()) / MICROS,
    }


def _sibling(one: _Judged, metric: str, test: Test) -> Test | None:
    """Another metric's test in the same window."""
    return next((each for each in one.tests if each.metric == metric and each.window == test.window), None)


def _expected_conversions(one: _Judged, node: int, test: Test) -> float:
    beside = _sibling(one, "cpa", test)
    return float(beside.volume[node]) if beside is not None else 0.0


def _parts(one: _Judged, node: int, test: Test, now: dict[str, float]) -> list[Part]:
    """The funnel's split of the change; empty where a metric has no funnel below it."""
    if now["impressions"] <= 0 or now["spend"] <= 0:
        return []
    found = Funnel(
        now["impressions"], max(now["clicks"], 0.5), now["spend"], max(now["conversions"], 0.5), now["revenue"]
    )
    if test.metric == "cpc":
        usual = _usual_prices(one, node, test)
        return explain.split_cpc(found, usual) if usual else []
    if FAMILY[test.metric] != "conversion":
        return []
    usual = _usual_results(one, node, test)
    if usual is None:
        return []
    if test.metric == "roas" and found.revenue > 0 and usual.revenue > 0:
        return explain.split_roas(found, usual)
    return explain.split_cpa(found, usual)


def _usual_prices(one: _Judged, node: int, test: Test) -> Funnel | None:
    """What one click usually takes, by the tests of CPC and CTR."""
    ctr = _sibling(one, "ctr", test)
    if ctr is None or not ctr.expected[node] > 0:
        return None
    return Funnel(1.0 / float(ctr.expected[node]), 1.0, float(test.expected[node]) / MICROS, 1.0)


def _usual_results(one: _Judged, node: int, test: Test) -> Funnel | None:
    """What one click usually costs and brings, by the tests of CPA, CVR and ROAS: the split fits the finding."""
    cpa, cvr, roas = (_sibling(one, name, test) for name in ("cpa", "cvr", "roas"))
    usual_ctr = _usual_ctr(one.past, node)
    if cpa is None or cvr is None or not (usual_ctr > 0 and cpa.expected[node] > 0 and cvr.expected[node] > 0):
        return None
    usual_cvr = float(cvr.expected[node])
    usual_cpc = float(cpa.expected[node]) / MICROS * usual_cvr
    usual_roas = float(np.nan_to_num(roas.expected[node])) if roas is not None else 0.0
    return Funnel(1.0 / usual_ctr, 1.0, usual_cpc, usual_cvr, usual_roas * usual_cpc)


def _usual_ctr(past: History, node: int) -> float:
    before = slice(max(0, past.daily.steps - 32), past.daily.steps - 1 - RECENT_DAYS)
    clicks, shown = past.daily.clicks[node, before], past.daily.impressions[node, before]
    ratio = np.divide(clicks, shown, out=np.zeros_like(clicks), where=shown > 0)
    return float(np.nan_to_num(median(ratio, shown > 0)))


def _promotion(parts: list[Part]) -> bool:
    """Cheaper orders, but clearly more of them per click: the advertiser lowered the prices."""
    by_step = {part.step: part for part in parts}
    return "aov" in by_step and by_step["aov"].share >= 0.5 and by_step["cvr"].change > 0.05


def _children(one: _Judged, node: int, test: Test, most: int = 5) -> list[dict[str, Any]]:
    """Which children the excess sits in, the largest first."""
    tree = one.past.tree
    total = float(test.excess[node])
    if total <= 0:
        return []
    order = sorted(tree.children(node), key=lambda child: -float(test.excess[child]))[:most]
    return [
        {
            "entity_id": int(tree.entity_id[child]),
            "name": tree.name[child],
            "share": round(float(test.excess[child]) / total, 4),
        }
        for child in order
        if test.excess[child] > 0
    ]


def _mix(one: _Judged, node: int, test: Test) -> tuple[float, float] | None:
    """(mix, rate): relative changes of conversions per spend because money moved, and because children changed."""
    children = one.past.tree.children(node)
    cpa = _sibling(one, "cpa", test)
    if len(children) < 2 or cpa is None or test.days is None:
        return None
    daily = one.past.daily
    before = slice(max(0, daily.steps - 32), daily.steps - 1 - RECENT_DAYS)
    spend, usual_spend = (
        daily.spend_told[children, test.days].sum(axis=1),
        daily.spend_told[children, before].sum(axis=1),
    )
    if spend.sum() <= 0 or usual_spend.sum() <= 0:
        return None

    def per_spend(amount: Floats) -> Floats:
        return np.asarray(np.divide(amount, spend, out=np.zeros_like(spend), where=spend > 0))

    usual_rates = per_spend(cpa.volume[children])
    usual = float((usual_rates * usual_spend).sum() / usual_spend.sum())
    mix, rate = explain.mix_and_rate(
        spend / spend.sum(),
        per_spend(daily.conversions[children, test.days].sum(axis=1)),
        usual_spend / usual_spend.sum(),
        usual_rates,
    )
    return (round(mix / usual, 6), round(rate / usual, 6)) if usual > 0 else None


# Tracking: the same collapse everywhere


def _tracking(judged: list[_Judged]) -> list[Finding]:
    """At most one finding: conversions vanished on several campaigns while people went on clicking."""
    hit = [found for one in judged if (found := _collapsed(one)) is not None]
    campaigns = sum(len(nodes) for _, _, nodes in hit)
    if campaigns < 2:
        return []
    expected = sum(float(test.volume[nodes].sum()) for _, test, nodes in hit)
    current = expected - sum(float(test.excess[nodes].sum()) for _, test, nodes in hit)
    deviation = current / expected - 1.0
    accounts = [one.account for one, _, _ in hit]
    currencies = {account.currency for account in accounts}
    stake = sum(float(test.stake[nodes].sum()) for _, test, nodes in hit)
    platforms = sorted({str(account.platform) for account in accounts})
    single = accounts[0] if len(accounts) == 1 else None
    first = hit[0][1]
    names = ", ".join(account.name for account in accounts)
    finding = Finding(
        user_id=accounts[0].user_id,
        account_id=single.id if single else None,
        entity_id=None,
        level="user",
        entity_name=names,
        platform=platforms[0] if len(platforms) == 1 else None,
        metric="tracking",
        window=first.window,
        since=first.since.isoformat(),
        until=first.until.isoformat(),
        current=current,
        expected=expected,
        deviation=deviation,
        severity="critical",
        p_value=max(float(test.p_value[nodes].min()) for _, test, nodes in hit),
        currency=currencies.pop() if len(currencies) == 1 else None,
        # Money in different currencies is never added up.
        stake_micros=round(stake) if len({account.currency for account in accounts}) == 1 else 0,
        cause=f"Conversions fell {explain.percent(deviation)} on {campaigns} campaigns at once ({names}) while clicks "
        "held: conversion tracking or the site is broken.",
        recommendation=explain.recommendation("tracking", names),
        data={
            "family": "conversion",
            "path": [],
            "accounts": [account.id for account in accounts],
            "platforms": platforms,
            "children": [
                {
                    "entity_id": int(one.past.tree.entity_id[node]),
                    "name": one.past.tree.name[node],
                    "share": round(float(test.excess[node]) / max(expected - current, 1e-9), 4),
                }
                for one, test, nodes in hit
                for node in nodes
            ],
            "stakes": {str(one.account.id): round(float(test.stake[nodes].sum())) for one, test, nodes in hit},
        },
    )
    return [finding]


def _collapsed(one: _Judged) -> tuple[_Judged, Test, list[int]] | None:
    """The campaigns of an account whose CVR collapsed while clicks held, if they are most of it."""
    tree = one.past.tree
    marked = one.best["conversion"]
    campaign = np.array([level == "campaign" for level in tree.level])
    for test in sorted(
        (each for each in one.tests if each.metric == "cvr"), key=lambda each: _RECENCY.index(each.window)
    ):
        testable = np.flatnonzero(campaign & test.judged)
        nodes = [
            int(node)
            for node in testable
            if node in marked and test.adverse[node] >= _COLLAPSE and _clicks_hold(one.past, int(node), test)
        ]
        if nodes and float(test.volume[nodes].sum()) >= 0.6 * float(test.volume[testable].sum()):
            return one, test, nodes
    return None


def _clicks_hold(past: History, node: int, test: Test) -> bool:
    days = test.days or slice(0, 0)
    before = slice(max(0, days.start - 28), days.start)
    usual = float(np.median(past.daily.clicks[node, before])) if before.stop > before.start else 0.0
    length = (test.until - test.since) / timedelta(days=1)
    # Of a day still running a smooth share is asked for at half strictness: nights are quiet.
    strict = _CLICKS_HOLD if test.window != "today so far" else _CLICKS_HOLD / 2
    return float(past.daily.clicks[node, days].sum()) >= strict * usual * length
