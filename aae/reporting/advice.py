"""Recommendations: what to pause, what to give more or less money, which creative to renew.

Every rule compares like with like in age, because conversions go on arriving for days: an ad set or campaign is held
against the *rest of its own account over the same days*, never young days against old ones; a creative is judged by
clicks, which arrive at once.

- ``pause_adset`` (7 days): active, spend on 3 days or more, and enough of it to expect ``PAUSE_EXPECTED``
  conversions at the rest's CPA; got half of them or fewer; ROAS, where told, below 0.6 of the rest's.
- ``increase_budget`` (7 days): active campaign or ad set with a daily budget of its own, 90 % used up on 5 days or
  more; at least ``INCREASE_CONVERSIONS``; CPA at most 0.8 of the rest's; ROAS, where told, not below the rest's.
- ``decrease_budget`` (7 days): active, with a daily budget of its own and spend to expect ``DECREASE_EXPECTED``
  conversions; CPA at least 1.3 of the rest's; ROAS, where told, at most 0.8; nothing below it is to be paused.
- ``refresh_creative`` (7 days against the 21 before): active ad with ``CREATIVE_IMPRESSIONS`` in each; CTR at most
  0.75 of its own past, also after taking out what the rest of the account did meanwhile.

The rest of the account must have ``PEER_CONVERSIONS`` and spend no less than the target itself: one half is no
yardstick for the other. Each finding is tested against chance (negative binomial for
conversions, normal for the log of CTR; both over-dispersed), and within a rule only those stand that hold a
false-discovery rate of ``FDR`` (Benjamini-Hochberg). Budgets move by a fifth: larger steps restart the platforms'
learning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, erfc, exp, floor, lgamma, log, sqrt
from typing import Final, Literal

import pandas as pd

from aae.display import money, number, percent, ratio
from aae.frames import AccountFrames
from aae.model import MICROS, Account, Level
from aae.reporting.numbers import HISTORY_DAYS, NOTHING, WEEK_DAYS, Sums, ages, sums_by, total

Kind = Literal["pause_adset", "increase_budget", "decrease_budget", "refresh_creative"]

FDR: Final = 0.05
PEER_CONVERSIONS: Final = 20
PAUSE_EXPECTED: Final = 6
INCREASE_CONVERSIONS: Final = 15
DECREASE_EXPECTED: Final = 10
CREATIVE_IMPRESSIONS: Final = 10_000
DISPERSION: Final = (2.0, 16.0)
"""Between these lies the variance over mean of conversions given spend, which each account's own days tell."""
USUAL_DISPERSION: Final = 4.0
"""For an account with too few days to tell."""
CLICK_DISPERSION: Final = 4.0
"""Variance over mean of clicks given impressions, from day to day."""
STEP: Final = Decimal("0.2")
"""How much a budget is moved at once."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One thing to do.

    ``target_id`` and ``target_name`` are the platform's, ``campaign_name`` that of the campaign above (or itself);
    ``impact_micros`` is the money a week that it is about, in ``currency``; ``confidence`` (0..1) is the chance
    that the finding is not an accident; ``change`` the proposed relative change of a budget.
    """

    kind: Kind
    account_id: int
    platform: str
    account_name: str
    currency: str
    level: str
    target_id: str
    target_name: str
    campaign_name: str
    reason: str
    expected_impact: str
    impact_micros: int
    confidence: float
    change: Decimal | None = None

    @property
    def sureness(self) -> str:
        """The confidence in a word."""
        return "high" if self.confidence >= 0.99 else "medium"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A target that a rule could judge; ``p`` says how easily chance would make what was seen.

    ``advice`` is None where what was seen is too small to act on: tested, and counted as a test.
    """

    p: float
    entity_id: int
    advice: Recommendation | None = None


@dataclass(frozen=True, slots=True)
class _Target:
    """One entity beside the rest of its account, over the same days."""

    account: Account
    level: str
    entity_id: int
    external_id: str
    name: str
    campaign: int
    campaign_name: str
    budget_micros: int | None
    own: Sums
    rest: Sums
    dispersion: float

    @property
    def expected(self) -> float:
        """Conversions that its spend buys at the rest's CPA."""
        return self.own.spend_micros * self.rest.conversions_micros / self.rest.conversions_spend_micros / MICROS

    @property
    def got(self) -> float:
        """Its conversions."""
        return self.own.conversions_micros / MICROS

    @property
    def relative_cpa(self) -> float:
        """Its CPA over the rest's; infinite without conversions."""
        return self.expected / self.got if self.got else float("inf")

    @property
    def relative_roas(self) -> float | None:
        """Its ROAS over the rest's; None where either is not fully told."""
        own, rest = self.own, self.rest
        if own.revenue_missing or rest.revenue_missing or not rest.roas or own.roas is None:
            return None
        return float(own.roas / rest.roas)

    @property
    def enough_peers(self) -> bool:
        """Whether the comparison stands on something."""
        return (
            not self.own.conversions_missing
            and self.rest.conversions_micros >= PEER_CONVERSIONS * MICROS
            and self.rest.conversions_spend_micros >= self.own.spend_micros > 0
        )

    def advise(
        self, kind: Kind, p: float, *, reason: str, impact: str, micros: int, change: Decimal | None = None
    ) -> _Candidate:
        """The candidate for this target."""
        account = self.account
        return _Candidate(
            p,
            self.entity_id,
            Recommendation(
                kind=kind,
                account_id=account.id,
                platform=str(account.platform),
                account_name=account.name,
                currency=account.currency,
                level=self.level,
                target_id=self.external_id,
                target_name=self.name,
                campaign_name=self.campaign_name,
                reason=reason,
                expected_impact=impact,
                impact_micros=micros,
                confidence=floor(min(0.99, 1 - p) * 100) / 100,
                change=change,
            ),
        )


def recommend(frames: AccountFrames, rows: pd.DataFrame) -> list[Recommendation]:
    """Everything worth doing in one account, the most money first.

    ``rows`` is :func:`aae.reporting.numbers.facts` of the account for the reported day.
    """
    week = ages(rows, 0, WEEK_DAYS - 1)
    spread = dispersion(rows)
    ad_sets = _targets(frames, sums_by(week, "ad_set_id"), Level.AD_SET, spread)
    campaigns = _targets(frames, sums_by(week, "campaign_id"), Level.CAMPAIGN, spread)
    busy_days = week[week["spend_micros"] > 0].groupby("ad_set_id")["age"].nunique().to_dict()

    paused = _significant(_pause(target, busy_days.get(target.entity_id, 0)) for target in ad_sets)
    ids = {found.entity_id for found in paused}
    parents = {target.campaign for target in ad_sets if target.entity_id in ids}
    budgeted = [t for t in campaigns + ad_sets if t.budget_micros and t.entity_id not in ids | parents]
    decreased = _significant(map(_decrease, budgeted))
    increased = _significant(_increase(target, _full_days(week, target)) for target in budgeted)
    renewed = _significant(_refreshable(frames, rows))
    found = [candidate.advice for candidate in (*paused, *decreased, *increased, *renewed)]
    return sorted((advice for advice in found if advice), key=lambda advice: (-advice.impact_micros, advice.target_id))


def _targets(frames: AccountFrames, sums: dict[int, Sums], level: Level, spread: float) -> list[_Target]:
    whole = total(sums.values())
    entities = frames.entities
    names = dict(zip(entities["entity_id"], entities["name"], strict=True))
    chosen = entities[
        (entities["level"] == level) & (entities["status"] == "active") & entities["entity_id"].isin(list(sums))
    ]
    return [
        _Target(
            account=frames.account,
            level=str(level),
            entity_id=row["entity_id"],
            external_id=row["external_id"],
            name=row["name"],
            campaign=row["campaign_id"],
            campaign_name=names.get(row["campaign_id"], row["name"]),
            budget_micros=None if pd.isna(row["daily_budget_micros"]) else int(row["daily_budget_micros"]),
            own=sums[row["entity_id"]],
            rest=whole - sums[row["entity_id"]],
            dispersion=spread,
        )
        for row in chosen.to_dict("records")
    ]


def _pause(target: _Target, busy_days: int) -> _Candidate | None:
    if busy_days < 3 or not target.enough_peers or target.expected < PAUSE_EXPECTED:
        return None
    p, roas = at_most(target.got, target.expected, target.dispersion), target.relative_roas
    if target.relative_cpa < 2 or (roas is not None and roas >= 0.6):
        return _Candidate(p, target.entity_id)
    currency, own = target.account.currency, target.own
    got = number(own.conversions, decimals=1)
    reason = (
        f"In 7 days {money(own.spend, currency)} brought {got} conversions"
        f"{f' at {money(own.cpa, currency)} each' if own.cpa else ''}; the rest of the account pays "
        f"{money(target.rest.cpa, currency)} each."
    )
    gained = target.expected - target.got
    impact = (
        f"Frees about {money(own.spend / WEEK_DAYS, currency)} a day; at the rest's CPA that buys about "
        f"{gained:.0f} more conversions a week."
    )
    return target.advise("pause_adset", p, reason=reason, impact=impact, micros=own.spend_micros)


def _increase(target: _Target, full_days: int) -> _Candidate | None:
    if full_days < 5 or not target.enough_peers or target.got < INCREASE_CONVERSIONS or not target.budget_micros:
        return None
    p, roas = at_least(target.got, target.expected, target.dispersion), target.relative_roas
    if target.relative_cpa > 0.8 or (roas is not None and roas < 1):
        return _Candidate(p, target.entity_id)
    currency, own = target.account.currency, target.own
    more = int(target.budget_micros * STEP)
    valued = f" and ROAS {ratio(own.roas)}" if roas is not None else ""
    reason = (
        f"It used up its budget on {full_days} of 7 days, at a CPA of {money(own.cpa, currency)}{valued}; the rest of "
        f"the account pays {money(target.rest.cpa, currency)}."
    )
    extra = more * WEEK_DAYS / (own.spend_micros / target.got)
    impact = (
        f"{percent(STEP, signed=True)} is {money(more, currency)} a day more: up to {extra:.0f} more conversions "
        "a week if they cost what they cost now."
    )
    micros = more * WEEK_DAYS
    return target.advise("increase_budget", p, reason=reason, impact=impact, micros=micros, change=STEP)


def _decrease(target: _Target) -> _Candidate | None:
    if not target.enough_peers or target.expected < DECREASE_EXPECTED or not target.budget_micros:
        return None
    p, roas = at_most(target.got, target.expected, target.dispersion), target.relative_roas
    if target.relative_cpa < 1.3 or (roas is not None and roas > 0.8):
        return _Candidate(p, target.entity_id)
    currency, own = target.account.currency, target.own
    less = int(target.budget_micros * STEP)
    cost = f"a CPA of {money(own.cpa, currency)}" if own.cpa else "no conversions"
    reason = (
        f"{money(own.spend, currency)} in 7 days at {cost}; the rest of the account pays "
        f"{money(target.rest.cpa, currency)}."
    )
    gained = less * WEEK_DAYS / MICROS * (target.expected - target.got) / float(own.spend)
    impact = (
        f"{percent(-STEP, signed=True)} frees {money(less, currency)} a day; spent at the rest's CPA that is about "
        f"{gained:.0f} more conversions a week."
    )
    micros = less * WEEK_DAYS
    return target.advise("decrease_budget", p, reason=reason, impact=impact, micros=micros, change=-STEP)


def _refreshable(frames: AccountFrames, rows: pd.DataFrame) -> Iterable[_Candidate | None]:
    week, past = ages(rows, 0, WEEK_DAYS - 1), ages(rows, WEEK_DAYS, HISTORY_DAYS - 1)
    then = sums_by(past, "entity_id")
    now = sums_by(week, "entity_id")
    before = total(then.values())
    for target in _targets(frames, now, Level.AD, CLICK_DISPERSION):
        yield _refresh(target, then.get(target.entity_id, NOTHING), before)


def _refresh(target: _Target, then: Sums, account_then: Sums) -> _Candidate | None:
    own, rest, rest_then = target.own, target.rest, account_then - then
    if min(own.impressions, then.impressions) < CREATIVE_IMPRESSIONS or not own.clicks or not then.ctr or not own.ctr:
        return None
    trend = Decimal(1)
    if rest.ctr and rest_then.ctr and min(rest.clicks, rest_then.clicks) >= 100:
        trend = rest.ctr / rest_then.ctr
    usual = then.ctr * trend
    kept = own.ctr / usual
    p = _tail(-log(kept) / sqrt(target.dispersion * (1 / own.clicks + 1 / then.clicks)))
    # Also against its own past as it was: an ad that only did not share in a general rise is not worn out.
    if kept > Decimal("0.75") or own.ctr / then.ctr > Decimal("0.75"):
        return _Candidate(p, target.entity_id)
    lost = int(own.impressions * usual) - own.clicks
    currency = target.account.currency
    reason = (
        f"Its CTR fell from {_ctr(then)} (the three weeks before) to {_ctr(own)} in 7 days, over "
        f"{number(own.impressions)} impressions; the rest of the account did not fall with it."
    )
    worth = int(lost * own.spend_micros / own.clicks)
    impact = f"About {number(lost)} more clicks a week for the same money ({money(worth, currency)} at its CPC)."
    return target.advise("refresh_creative", p, reason=reason, impact=impact, micros=worth)


def _full_days(week: pd.DataFrame, target: _Target) -> int:
    """Days on which at least 90 % of the budget was spent (platforms overspend some days and make up for it)."""
    key = "campaign_id" if target.level == Level.CAMPAIGN else "ad_set_id"
    spent = week[week[key] == target.entity_id].groupby("age")["spend_micros"].sum()
    # Python's integers: ten times the largest amount is too much for numpy's.
    return int((spent.astype(object) * 10 >= (target.budget_micros or 0) * 9).sum())


def _significant(candidates: Iterable[_Candidate | None]) -> list[_Candidate]:
    """Those that hold the false-discovery rate (Benjamini and Hochberg, 1995) among all tests, and are large."""
    ranked = sorted((c for c in candidates if c), key=lambda candidate: candidate.p)
    last = max((n for n, c in enumerate(ranked, 1) if c.p <= FDR * n / len(ranked)), default=0)
    return [candidate for candidate in ranked[:last] if candidate.advice]


def dispersion(rows: pd.DataFrame) -> float:
    """How much more than chance an account's daily conversions wobble: Pearson's chi-squared over degrees of freedom.

    Each campaign's conversions of a day are held against its own 28 days' rate times that day's spend.
    """
    told = rows[rows["conversions_missing"] == 0]
    days = told.groupby(["campaign_id", "age"])[["conversions_micros", "spend_micros"]].sum() / MICROS
    sums = days.groupby(level=0).transform("sum")
    days["expected"] = sums["conversions_micros"] * days["spend_micros"] / sums["spend_micros"]
    days = days[days["expected"] >= 1]
    freedom = len(days) - days.index.get_level_values(0).nunique()
    if freedom < WEEK_DAYS:
        return USUAL_DISPERSION
    squared = ((days["conversions_micros"] - days["expected"]) ** 2 / days["expected"]).sum()
    return float(min(max(squared / freedom, DISPERSION[0]), DISPERSION[1]))


def at_most(count: float, mean: float, dispersion: float) -> float:
    """The chance of ``count`` or fewer where ``mean`` are expected: negative binomial, variance dispersion x mean."""
    if mean > 1000:
        return _tail((mean - count) / sqrt(dispersion * mean))
    if mean <= 0:
        return 1.0
    if count > mean + 100 * sqrt(dispersion * mean) + 1000:
        return 1.0  # and adding up a million million terms would never end
    size, odds = mean / (dispersion - 1), log(1 / dispersion)
    other = log(1 - 1 / dispersion)
    terms = (lgamma(k + size) - lgamma(size) - lgamma(k + 1) + size * odds + k * other for k in range(ceil(count) + 1))
    return min(1.0, sum(map(exp, terms)))


def at_least(count: float, mean: float, dispersion: float) -> float:
    """The chance of ``count`` or more where ``mean`` are expected."""
    if mean > 1000:
        return _tail((count - mean) / sqrt(dispersion * mean))
    whole = floor(count)
    return 1.0 if whole <= 0 else max(0.0, 1 - at_most(whole - 1, mean, dispersion))


def _tail(z: float) -> float:
    return 0.5 * erfc(z / sqrt(2))


def _ctr(sums: Sums) -> str:
    return f"{(sums.ctr or Decimal(0)) * 100:.2f}\N{NO-BREAK SPACE}%"
