"""What goes wrong in the world, and what only looks like it: labelled, with its size and its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from aae.model import Platform


class IncidentKind(StrEnum):
    """What a detector should find."""

    CPA_SPIKE = "cpa_spike"
    ROAS_DROP = "roas_drop"
    TRACKING_OUTAGE = "tracking_outage"
    CTR_COLLAPSE = "ctr_collapse"
    CPC_RISE = "cpc_rise"
    DELIVERY_STOPPED = "delivery_stopped"
    BUDGET_RUNAWAY = "budget_runaway"


class TrapKind(StrEnum):
    """What a detector should not call an incident."""

    WEEKEND_DIP = "weekend_dip"
    LOW_VOLUME = "low_volume"
    NEW_CAMPAIGN = "new_campaign"
    LATE_CONVERSIONS = "late_conversions"


@dataclass(frozen=True, slots=True)
class Effect:
    """Factors on an entity's nature while an incident lasts; ``lost``: conversions that arrive then never count."""

    impressions: float = 1.0
    ctr: float = 1.0
    price: float = 1.0
    cvr: float = 1.0
    order_value: float = 1.0
    lost: bool = False


EFFECTS: Final = {
    IncidentKind.CPA_SPIKE: ("cpa", Effect(cvr=0.35)),
    IncidentKind.ROAS_DROP: ("roas", Effect(order_value=0.42)),
    IncidentKind.TRACKING_OUTAGE: ("cvr", Effect(lost=True)),
    IncidentKind.CTR_COLLAPSE: ("ctr", Effect(ctr=0.35)),
    IncidentKind.CPC_RISE: ("cpc", Effect(price=2.2)),
    IncidentKind.DELIVERY_STOPPED: ("delivery", Effect(impressions=0.0)),
    IncidentKind.BUDGET_RUNAWAY: ("spend", Effect(impressions=3.5)),
}
"""The metric that shows each kind, and what it does."""

SIZES: Final = {
    IncidentKind.CPA_SPIKE: 1 / 0.35,
    IncidentKind.ROAS_DROP: 0.42,
    IncidentKind.TRACKING_OUTAGE: 0.0,
    IncidentKind.CTR_COLLAPSE: 0.35,
    IncidentKind.CPC_RISE: 2.2,
    IncidentKind.DELIVERY_STOPPED: 0.0,
    IncidentKind.BUDGET_RUNAWAY: 3.5,
}
"""The factor on the metric while the incident lasts."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A planted incident. ``level`` is ``account`` or a model Level; moments are aware UTC, ``until`` exclusive.

    ``group`` is shared by the incidents of one cause (an outage over several platforms).
    """

    kind: IncidentKind
    user: str
    platform: Platform
    account: str
    level: str
    entity: str
    metric: str
    since: datetime
    until: datetime
    size: float
    group: str


@dataclass(frozen=True, slots=True)
class Trap:
    """Something ordinary that looks like an incident; the same fields where they apply."""

    kind: TrapKind
    user: str
    platform: Platform
    account: str
    level: str
    entity: str
    since: datetime
    until: datetime
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """An incident before it has an account: begins ``since`` after the anchor (negative: before it).

    ``campaign`` is the index among the account's big campaigns; None means the whole account.
    """

    kind: IncidentKind
    since: timedelta
    lasts: timedelta
    campaign: int | None = 0


def _hours(value: float) -> timedelta:
    return timedelta(hours=value)


TEMPLATES: Final[dict[tuple[int, Platform], Plan]] = {
    (0, Platform.META): Plan(IncidentKind.TRACKING_OUTAGE, _hours(-20), _hours(26), None),
    (0, Platform.TIKTOK): Plan(IncidentKind.TRACKING_OUTAGE, _hours(-20), _hours(26), None),
    (0, Platform.GOOGLE): Plan(IncidentKind.TRACKING_OUTAGE, _hours(-20), _hours(26), None),
    (1, Platform.META): Plan(IncidentKind.CPA_SPIKE, _hours(-42), _hours(54)),
    (1, Platform.GOOGLE): Plan(IncidentKind.CPC_RISE, _hours(-18), _hours(30)),
    (2, Platform.TIKTOK): Plan(IncidentKind.CTR_COLLAPSE, _hours(-14), _hours(26)),
    (2, Platform.GOOGLE): Plan(IncidentKind.BUDGET_RUNAWAY, _hours(-12), _hours(24)),
    (3, Platform.META): Plan(IncidentKind.ROAS_DROP, _hours(-42), _hours(54)),
    (3, Platform.TIKTOK): Plan(IncidentKind.DELIVERY_STOPPED, _hours(-10), _hours(22)),
}
"""What is going on at the anchor, by the user's template and the platform."""

_CYCLE: Final = (
    IncidentKind.CPA_SPIKE,
    IncidentKind.CTR_COLLAPSE,
    IncidentKind.BUDGET_RUNAWAY,
    IncidentKind.ROAS_DROP,
    IncidentKind.CPC_RISE,
    IncidentKind.DELIVERY_STOPPED,
)


def plans(template: int, platform: Platform, number: int, ahead_days: int) -> list[Plan]:
    """The incidents of the account with this running ``number``: one old and over, those of now, some to come."""
    old = Plan(_CYCLE[number % 6], timedelta(days=-13 - number % 5), _hours(30), campaign=1)
    current = TEMPLATES.get((template, platform))
    later = [
        Plan(_CYCLE[(number + week) % 6], timedelta(days=day), _hours(30), campaign=week % 2)
        for week, day in enumerate(range(4 + number % 3, ahead_days, 7))
    ]
    return [old, *([current] if current else []), *later]
