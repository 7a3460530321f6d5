"""Why, and what to do: the exact split of a change over the funnel, and the sentences made from it.

    log CPA  = log CPM - log CTR - log CVR + constant
    log ROAS = log AOV + log CVR - log CPC

Logarithms make the split exact: the parts add up to the whole whatever the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aae.detection.baseline import Floats

STEP_NAMES: Final = {
    "cpm": "the price of a thousand impressions (CPM)",
    "ctr": "the click-through rate (CTR)",
    "cvr": "the conversion rate (CVR)",
    "aov": "the value of an order (AOV)",
    "cpc": "the price of a click (CPC)",
}

_MARKS: Final = {"EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥"}
_NO_CENTS: Final = {"JPY", "KRW", "VND", "CLP", "ISK", "HUF", "TWD", "IDR"}


@dataclass(frozen=True, slots=True)
class Funnel:
    """Sums of one entity over one window. ``spend`` and ``revenue`` in the same unit."""

    impressions: float
    clicks: float
    spend: float
    conversions: float
    revenue: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """What one step of the funnel contributes: ``share`` of the logarithmic change, ``change`` of the step.

    ``effect`` is the logarithmic change of the metric due to this step; the effects of all parts add up to the total.
    """

    step: str
    change: float
    effect: float
    share: float


def split_cpa(now: Funnel, usual: Funnel) -> list[Part]:
    """The change of CPA as CPM, CTR and CVR, the largest adverse part first. All sums must be above zero."""
    return _split(
        {
            "cpm": (1, _log_change(now.spend, now.impressions, usual.spend, usual.impressions)),
            "ctr": (-1, _log_change(now.clicks, now.impressions, usual.clicks, usual.impressions)),
            "cvr": (-1, _log_change(now.conversions, now.clicks, usual.conversions, usual.clicks)),
        }
    )


def split_roas(now: Funnel, usual: Funnel) -> list[Part]:
    """The change of ROAS as AOV, CVR and CPC, the largest adverse part first. All sums must be above zero."""
    return _split(
        {
            "aov": (1, _log_change(now.revenue, now.conversions, usual.revenue, usual.conversions)),
            "cvr": (1, _log_change(now.conversions, now.clicks, usual.conversions, usual.clicks)),
            "cpc": (-1, _log_change(now.spend, now.clicks, usual.spend, usual.clicks)),
        }
    )


def split_cpc(now: Funnel, usual: Funnel) -> list[Part]:
    """The change of CPC as CPM and CTR."""
    return _split(
        {
            "cpm": (1, _log_change(now.spend, now.impressions, usual.spend, usual.impressions)),
            "ctr": (-1, _log_change(now.clicks, now.impressions, usual.clicks, usual.impressions)),
        }
    )


def _log_change(above: float, below: float, usual_above: float, usual_below: float) -> float:
    return float(np.log(above / below) - np.log(usual_above / usual_below))


def _split(steps: Mapping[str, tuple[int, float]]) -> list[Part]:
    total = sum(sign * change for sign, change in steps.values())
    parts = [
        Part(step, float(np.expm1(change)), sign * change, sign * change / total if total else 0.0)
        for step, (sign, change) in steps.items()
    ]
    return sorted(parts, key=lambda part: part.share, reverse=True)


def mix_and_rate(weights: Floats, rates: Floats, usual_weights: Floats, usual_rates: Floats) -> tuple[float, float]:
    """Split the change of a weighted mean: (mix) money moved between children, (rate) the children themselves changed.

    The weights of each side are shares that add up to 1. The two parts add up to the change exactly.
    """
    mix = float(((weights - usual_weights) * (rates + usual_rates)).sum() / 2)
    rate = float(((rates - usual_rates) * (weights + usual_weights)).sum() / 2)
    return mix, rate


def money(amount: float, currency: str | None) -> str:
    """An amount for people: ``€1,234.50``; the code follows where the currency has no well-known mark."""
    digits = 0 if currency in _NO_CENTS or abs(amount) >= 10_000 else 2
    text = f"{abs(amount):,.{digits}f}"
    sign = "-" if amount < 0 else ""
    mark = _MARKS.get(currency or "")
    return f"{sign}{mark}{text}" if mark else f"{sign}{text} {currency or ''}".rstrip()


def percent(change: float) -> str:
    """The size of a relative change: ``43 %``."""
    return f"{abs(change) * 100:,.0f} %"


def value(metric: str, amount: float, currency: str | None) -> str:
    """A metric's value for people. Money metrics are in the currency's unit."""
    match metric:
        case "cpa" | "cpc" | "cpm" | "spend":
            return money(amount, currency)
        case "roas":
            return f"{amount:.2f}"
        case "ctr" | "cvr":
            return f"{amount * 100:.2f} %"
        case _:
            return f"{amount:,.0f} impressions"


_ADVICE: Final = {
    "cvr": "Open the landing page and the checkout of {name} and try an order; if they work, check the conversion tag.",
    "aov": "Look at what {name} sells now: a discount or a cheaper product makes each order worth less.",
    "ctr": "Refresh the creative of {name}: fewer of the people who see it click on it.",
    "cpm": "Check the auction of {name}: widen its audience or lower its bid until prices settle.",
    "cpc": "Lower the bid or the budget of {name} until clicks cost what they used to.",
    "mix": "Move the budget of {name} back to the children that convert.",
    "spend": "Check the budget, bid and schedule of {name}, and cap its daily spend today.",
    "delivery": "Check {name} for a rejected ad, a billing problem, an ended schedule or a bid that is too low.",
    "tracking": "Check the conversion tag and the site before touching any campaign: all of them fell at once.",
}


def recommendation(step: str, name: str) -> str:
    """What to do about it, by the step of the funnel that moved."""
    return _ADVICE[step].format(name=name)


def cause_of_parts(metric: str, name: str, parts: Sequence[Part], *, conversions: float, spend: str) -> str:
    """One sentence: which step of the funnel explains how much of the change."""
    first = parts[0]
    moved = f"{STEP_NAMES[first.step]} is {'up' if first.change > 0 else 'down'} {percent(first.change)}"
    explains = (
        "which explains all of it" if first.share >= 0.95 else f"which explains {percent(first.share)} of the change"
    )
    worse = {"cpa": "costs more per conversion", "roas": "returns less per unit spent"}.get(
        metric, "converts fewer clicks"
    )
    if metric != "roas" and conversions == 0:
        return f"{name} spent {spend} without a single conversion: {moved}, {explains}."
    return f"{name} {worse}: {moved}, {explains}."
