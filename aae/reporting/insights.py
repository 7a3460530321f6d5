"""What changed, and why: the exact split of a change over the funnel and over the campaigns, said in a sentence.

- Funnel: ``log CPA = log CPM - log CTR - log CVR + constant`` and ``log ROAS = log AOV + log CVR - log CPC``; the steps
  add up to the whole change.
- Mix or rate: a total's conversions (or revenue) per unit of money is the mean of the campaigns' own, weighted by their
  share of spend. It moves because money moved between campaigns (mix) or because campaigns got better or worse (rate);
  with midpoint weights the two add up exactly.

A change of CPA or ROAS is called real only when chance would rarely make it; see :func:`is_firm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import exp, log, sqrt
from typing import Final, Literal

from aae.display import clean, money, number, percent, ratio
from aae.model import MICROS
from aae.reporting.numbers import NOTHING, Compared, Metric, Sums

Ratio = Literal["cpa", "roas"]

STEADY: Final = Decimal("0.03")
"""Relative changes smaller than this are called steady."""
DISPERSION: Final = 2.0
"""Variance over mean of daily conversions; 2 to 16 in the field, the low end among campaigns that matter."""
FIRM_Z: Final = 1.645
"""Two-sided ten percent: a report may be a little bolder than an alert."""
MIN_CONVERSIONS: Final = 5
"""Below this, on either side, a CPA or ROAS says little."""
_GOOD: Final = {"cpa": -1, "roas": 1}
_STEP_NAMES: Final = {"cpm": "CPM", "ctr": "CTR", "cvr": "CVR", "aov": "order value", "cpc": "CPC"}


@dataclass(frozen=True, slots=True)
class Split:
    """Why a ratio moved. ``change`` is the relative change; ``steps``, ``mix`` and ``rate`` are natural logs.

    The steps add up to ``log(1 + change)``, and so do ``mix`` and ``rate`` (both None within a single campaign).
    """

    metric: Ratio
    change: float
    steps: Mapping[str, float]
    mix: float | None = None
    rate: float | None = None

    @property
    def worse(self) -> bool:
        """Whether the change is for the worse."""
        return self.change * _GOOD[self.metric] < 0

    @property
    def main_step(self) -> str:
        """The step that did most in the direction of the change."""
        sign = 1 if self.change > 0 else -1
        return max(self.steps, key=lambda step: self.steps[step] * sign)


@dataclass(frozen=True, slots=True)
class Change:
    """One campaign's part in what changed against the average of the week before.

    ``share`` is its part of the section's total movement of spend, 0..1; ``split`` is None unless its CPA (or else its
    ROAS) moved by more than chance.
    """

    account_id: int
    campaign_id: str
    name: str
    currency: str
    spend_change: Decimal
    conversions_change: Decimal | None
    share: float
    split: Split | None
    sentence: str


def split(metric: Ratio, base: Sums, day: Sums) -> Split | None:
    """The change of a ratio from ``base`` to ``day`` over its funnel; None unless every step is known on both sides."""
    both = base + day
    if both.conversions_missing or (metric == "roas" and both.revenue_missing):
        return None
    old, new = _funnel(metric, base), _funnel(metric, day)
    if old is None or new is None:
        return None
    steps = {step: new[step] - old[step] for step in new}
    return Split(metric, exp(sum(steps.values())) - 1, steps)


def split_total(metric: Ratio, parts: Sequence[Compared]) -> Split | None:
    """The same for the sum of campaigns, with its mix and rate."""
    base = sum((part.week or NOTHING for part in parts), NOTHING)
    day = sum((part.day for part in parts), NOTHING)
    whole = split(metric, base, day)
    if whole is None:
        return None
    rate_change, mix_change = 0.0, 0.0
    for part in parts:
        old, new = part.week or NOTHING, part.day
        old_share, new_share = _over(old.spend_micros, base.spend_micros), _over(new.spend_micros, day.spend_micros)
        if not old_share and not new_share:
            continue
        old_yield, new_yield = _yield(metric, old), _yield(metric, new)
        # A campaign that ran on one side only has no rate to change: all of it is mix.
        old_yield, new_yield = (old_yield if old_share else new_yield), (new_yield if new_share else old_yield)
        rate_change += (old_share + new_share) / 2 * (new_yield - old_yield)
        mix_change += (old_yield + new_yield) / 2 * (new_share - old_share)
    logarithm = sum(whole.steps.values())  # not from the change, which is -1 where hardly anything is left
    moved = rate_change + mix_change
    mix = logarithm * mix_change / moved if moved else 0.0
    return Split(metric, whole.change, whole.steps, mix=mix, rate=logarithm - mix)


def is_firm(metric: Ratio, base: Sums, day: Sums) -> bool:
    """Whether a change of CPA or ROAS is more than chance.

    Both rest on counts of conversions: with ``a`` and ``b`` of them, and variance ``DISPERSION`` times the mean, the
    log of the ratio has a standard error of ``sqrt(DISPERSION * (1/a + 1/b))``.
    """
    old, new = base.value(metric), day.value(metric)
    a, b = base.conversions_micros / MICROS, day.conversions_micros / MICROS
    # What is paid back may make a day negative, and then there is no ratio to speak of.
    if not old or not new or min(old, new) < 0 or min(a, b) < MIN_CONVERSIONS:
        return False
    moved = abs(log(new / old))
    return moved >= float(STEADY) and moved > FIRM_Z * sqrt(DISPERSION * (1 / a + 1 / b))


def explain(compared: Compared) -> Split | None:
    """Why one campaign's CPA (or else its ROAS) moved, if it did by more than chance."""
    if compared.week is None:
        return None
    for metric in ("cpa", "roas"):
        if is_firm(metric, compared.week, compared.day):
            found = split(metric, compared.week, compared.day)
            if found:
                return found
    return None


def describe_change(compared: Compared, why: Split | None, currency: str) -> str:
    """One campaign's change in a sentence."""
    spend, average = compared.day.spend, compared.average("spend") or Decimal(0)
    if not average:
        said = f"Started: spent {money(spend, currency)}, nothing in the days before"
    elif not compared.day.delivered:
        said = f"Stopped: nothing spent, {money(average, currency)} a day before"
    else:
        said = f"Spend {percent(compared.change('spend'), signed=True)} to {money(spend, currency)}"
    if why:
        return f"{said}; {describe_split(why)}"
    if compared.day.delivered and compared.day.conversions == 0 and compared.average("conversions"):
        return f"{said}; no conversions yet, {number(compared.average('conversions'), decimals=1)} a day before"
    return said


def describe_split(why: Split) -> str:
    """``CPA +18 %, mostly from CVR`` and how far CVR moved: the change and the step behind it."""
    step = why.main_step
    # CTR and CVR enter CPA (and CPC enters ROAS) with a minus: show the step's own change.
    own = exp(why.steps[step] * _sign(why.metric, step)) - 1
    moved = percent(why.change, signed=True)
    return f"{why.metric.upper()} {moved}, mostly from {_STEP_NAMES[step]} {percent(own, signed=True)}"


def describe_mix(why: Split) -> str:
    """Whether money moved between campaigns or the campaigns themselves changed; empty when there is nothing to say."""
    if why.mix is None or why.rate is None or abs(why.change) < float(STEADY):
        return ""
    if why.mix * why.rate >= 0:
        share = abs(why.mix) / (abs(why.mix) + abs(why.rate) or 1.0)
        return f"{percent(share)} of it because money moved between campaigns, the rest within campaigns"
    if abs(why.rate) > abs(why.mix):
        return "from within the campaigns; money moved between campaigns in the other direction"
    return "because money moved between campaigns; within campaigns it went the other way"


def describe_day(
    compared: Compared,
    currency: str,
    why: Split | None,
    cause: str | None,
    *,
    young: bool = False,
) -> str:
    """The day of one currency in a sentence.

    ``cause`` is the name of the campaign that did most; ``young`` says that conversions are still arriving.
    """
    day = compared.day
    if not day.delivered:
        earlier = compared.average("spend")
        tail = f" ({money(earlier, currency)} a day in the week before)" if earlier else ""
        return f"Nothing was delivered in {currency}{tail}"
    spent = money(day.spend, currency)
    change = compared.change("spend")
    if change is None:
        said = f"First numbers: {spent} spent"
    elif abs(change) < STEADY:
        said = f"Spend steady at {spent}"
    else:
        said = f"Spend {'up' if change > 0 else 'down'} {percent(abs(change))} to {spent}"
    return f"{said}; {_results(compared, currency, why, cause, young)}"


def _results(compared: Compared, currency: str, why: Split | None, cause: str | None, young: bool) -> str:
    day = compared.day
    if day.conversions is None:
        return "conversions not told by the platform"
    if not day.conversions:
        return "no conversions so far"
    metric: Metric = why.metric if why else "cpa"
    value = ratio(day.roas) if metric == "roas" else money(day.cpa, currency)
    if why:
        source = f", mostly {_STEP_NAMES[why.main_step]}" + (f" on {clean(cause, limit=60)}" if cause else "")
        verdict = f"{'worse' if why.worse else 'better'}{' so far' if young and why.worse else ''}"
        return f"{metric.upper()} {percent(abs(why.change))} {verdict} at {value}{source}"
    change = compared.change("cpa")
    if change is None:
        return f"CPA {value}"
    if abs(change) < STEADY:
        return f"CPA steady at {value}"
    return f"CPA {value} ({percent(change, signed=True)}, within its usual variation)"


def biggest(metric: Ratio, parts: Mapping[str, Compared]) -> str | None:
    """The key of the part that moved the total's ratio most in the direction in which it went; None if none did."""
    base = sum((part.week or NOTHING for part in parts.values()), NOTHING)
    day = sum((part.day for part in parts.values()), NOTHING)
    old_whole, new_whole = _yield(metric, base), _yield(metric, day)
    direction = 1 if new_whole > old_whole else -1
    middle = (old_whole + new_whole) / 2

    def contribution(part: Compared) -> float:
        old, new = part.week or NOTHING, part.day
        # Mix and rate of one part: its yield above the common one, weighted by its share, new minus old.
        new_part = _over(new.spend_micros, day.spend_micros) * (_yield(metric, new) - middle)
        old_part = _over(old.spend_micros, base.spend_micros) * (_yield(metric, old) - middle)
        return direction * (new_part - old_part)

    found = max(parts, key=lambda key: contribution(parts[key]), default=None)
    return found if found is not None and contribution(parts[found]) > 0 else None


def _funnel(metric: Ratio, sums: Sums) -> dict[str, float] | None:
    """Each step's logarithm with the sign it has in the ratio; None where one is zero."""
    counts = (sums.impressions, sums.clicks, sums.spend_micros, sums.conversions_micros)
    if min(counts) <= 0 or (metric == "roas" and sums.revenue_micros <= 0):
        return None
    impressions, clicks, spend, conversions = (log(count) for count in counts)
    cvr = conversions - clicks
    if metric == "cpa":
        return {"cpm": spend - impressions, "ctr": -(clicks - impressions), "cvr": -cvr}
    return {"aov": log(sums.revenue_micros) - conversions, "cvr": cvr, "cpc": -(spend - clicks)}


def _sign(metric: Ratio, step: str) -> int:
    return -1 if (metric, step) in {("cpa", "ctr"), ("cpa", "cvr"), ("roas", "cpc")} else 1


def _yield(metric: Ratio, sums: Sums) -> float:
    """Results per unit of money: what CPA is the inverse of, and ROAS itself."""
    return _over(sums.conversions_micros if metric == "cpa" else sums.revenue_micros, sums.spend_micros)


def _over(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
