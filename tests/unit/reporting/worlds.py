"""Small worlds to report on: accounts with campaigns, ad sets and ads, and days of numbers chosen by each test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from aae.frames import DAILY, ENTITIES, HOURLY, AccountFrames
from aae.model import MICROS, Account, AccountStatus, Platform
from aae.reporting.report import IncidentNote

DAY = date(2026, 3, 10)
NOW = datetime(2026, 3, 11, 9, 0, tzinfo=UTC)


@dataclass
class Ad:
    """One leaf. Numbers per day: a constant, or a function of the age in days (0 is the reported day)."""

    name: str = "Ad"
    spend: float | Callable[[int], float] = 100.0
    impressions: int | Callable[[int], int] = 10_000
    clicks: int | Callable[[int], int] = 200
    conversions: float | Callable[[int], float | None] | None = 10.0
    revenue: float | Callable[[int], float | None] | None = 300.0
    days: int = 28
    status: str = "active"


@dataclass
class AdSet:
    name: str = "Ad set"
    ads: Sequence[Ad] = field(default_factory=lambda: [Ad()])
    budget: float | None = None
    status: str = "active"


@dataclass
class Campaign:
    name: str = "Campaign"
    ad_sets: Sequence[AdSet] = field(default_factory=lambda: [AdSet()])
    budget: float | None = None
    status: str = "active"


def account(number: int = 1, **changes: object) -> Account:
    values: dict[str, object] = {
        "id": number,
        "user_id": 1,
        "platform": Platform.META,
        "external_id": f"{1000 + number}",
        "name": f"Shop {number}",
        "currency": "EUR",
        "timezone": "Europe/Berlin",
        "status": AccountStatus.ACTIVE,
    }
    return Account(**(values | changes))  # type: ignore[arg-type]


def _at(value: object, age: int) -> object:
    return value(age) if callable(value) else value


def _micros(value: object) -> object:
    return None if value is None else round(float(value) * MICROS)  # type: ignore[arg-type]


def frames(
    of: Account | None = None,
    campaigns: Sequence[Campaign] = (),
    *,
    day: date = DAY,
    through: datetime | None = NOW,
) -> AccountFrames:
    """The hot window of an account in which the campaigns ran up to ``day``."""
    of = of or account()
    entities: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    following = of.id * 10_000

    def fresh() -> int:
        nonlocal following
        following += 1
        return following

    for campaign in campaigns:
        c = fresh()
        entities.append(
            (c, "campaign", f"c{c}", campaign.name, campaign.status, c, None, _micros(campaign.budget), "x")
        )
        for ad_set in campaign.ad_sets:
            s = fresh()
            entities.append((s, "ad_set", f"s{s}", ad_set.name, ad_set.status, c, s, _micros(ad_set.budget), None))
            for ad in ad_set.ads:
                a = fresh()
                entities.append((a, "ad", f"a{a}", ad.name, ad.status, c, s, None, None))
                rows.extend(
                    (
                        day - timedelta(days=age),
                        a,
                        _at(ad.impressions, age),
                        _at(ad.clicks, age),
                        _micros(_at(ad.spend, age)),
                        _micros(_at(ad.conversions, age)),
                        _micros(_at(ad.revenue, age)),
                    )
                    for age in range(ad.days)
                )
    rows.sort(key=lambda row: (row[0], row[1]))  # type: ignore[arg-type, return-value]
    return AccountFrames(
        account=of,
        version=1,
        data_through=through,
        entities=pd.DataFrame(entities, columns=list(ENTITIES)).astype(ENTITIES),
        daily=pd.DataFrame(rows, columns=list(DAILY)).astype(DAILY),
        hourly=pd.DataFrame([], columns=list(HOURLY)).astype(HOURLY),
    )


def incident(**changes: object) -> IncidentNote:
    values: dict[str, object] = {
        "metric": "roas",
        "level": "campaign",
        "entity_name": "Winter Sale",
        "platform": "meta",
        "severity": "critical",
        "state": "opened",
        "opened_at": NOW - timedelta(hours=5),
        "cause": "Conversion rate fell to half on mobile.",
        "recommendation": "Check the landing page.",
        "currency": "EUR",
        "stake_micros": 340_500_000,
    }
    return IncidentNote(**(values | changes))  # type: ignore[arg-type]


def noisy(seed: int, base: float, spread: float = 0.08) -> Callable[[int], float]:
    """A repeatable wobble around ``base`` with a weekly shape, by age."""

    def value(age: int) -> float:
        generator = np.random.default_rng(seed * 1000 + age)
        return round(base * (1 + spread * generator.standard_normal()) * (1 + 0.08 * np.sin(age)), 2)

    return value
