"""A small world of ad accounts, made from a seed: what the tests of detection look at.

Delivery has a daily and a weekly rhythm, prices wander, conversions are over-dispersed and arrive late. ``Shock``
changes what happens to some ads from a moment on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from aae.detection.baseline import share_known
from aae.frames import DAILY, ENTITIES, HOURLY, AccountFrames
from aae.model import Account, Platform

NOW = datetime(2026, 3, 12, 14, 5, tzinfo=UTC)  # a Thursday

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Shock:
    """From ``hours_ago`` until ``until_ago`` the ads for which ``ads`` holds have their rates multiplied."""

    hours_ago: float
    until_ago: float = -1e9
    ads: Callable[[int], bool] = lambda _: True
    accounts: tuple[int, ...] | None = None
    volume: float = 1.0
    cpm: float = 1.0
    ctr: float = 1.0
    cvr: float = 1.0
    aov: float = 1.0
    drift: bool = False  # grow towards the factors instead of jumping


@dataclass(frozen=True)
class World:
    seed: int = 0
    accounts: int = 1
    campaigns: int = 3
    ad_sets: int = 2
    ads: int = 2
    days: int = 42
    hourly_days: int = 29
    now: datetime = NOW
    zone: str = "Europe/Berlin"
    currency: str = "EUR"
    unit: float = 1.0
    impressions: float = 900.0  # an ad's, in an average hour
    cvr: float = 0.06
    weekend: float = 1.0  # conversion rate on weekends
    weekend_volume: float = 0.8
    late: bool = True
    shocks: Sequence[Shock] = ()
    data_age: timedelta = timedelta(minutes=20)
    born: dict[int, int] | None = None  # ad -> hours of life so far
    hourly_conversions: bool = False
    status: dict[int, str] | None = None

    def __call__(self) -> list[AccountFrames]:
        return [self._account(number) for number in range(1, self.accounts + 1)]

    def _account(self, number: int) -> AccountFrames:
        platform = list(Platform)[(number - 1) % 3]
        account = Account(
            id=number,
            user_id=7,
            platform=platform,
            external_id=str(1000 + number),
            name=f"Account {number}",
            currency=self.currency,
            timezone=self.zone,
        )
        random = np.random.default_rng([self.seed, number])
        through = self.now - self.data_age
        local_end = through.astimezone(account.zone)
        first = pd.Timestamp(local_end.date()) - pd.Timedelta(days=self.days)
        begin = first.tz_localize(account.zone).tz_convert("UTC")
        hours = pd.date_range(begin, pd.Timestamp(through).floor("h"), freq="h")
        local = hours.tz_convert(account.zone)
        ads = self.campaigns * self.ad_sets * self.ads
        made = self._hours(random, number, platform, hours, local, through, ads)
        ids = number * 10_000 + 500 + np.arange(ads)
        rows = pd.DataFrame(
            {
                "utc_start": np.repeat(hours.tz_localize(None).to_numpy(), ads),
                "local_date": np.repeat(local.tz_localize(None).normalize().to_numpy(), ads),
                "local_hour": np.repeat(np.asarray(local.hour), ads),
                "entity_id": np.tile(ids, len(hours)),
            }
            | {name: values.ravel() for name, values in made.items()}
        )
        rows = rows[rows["impressions"] > 0]
        daily = rows.groupby(["local_date", "entity_id"], as_index=False)[list(made)].sum()
        cut = pd.Timestamp(local_end.date()) - pd.Timedelta(days=self.hourly_days - 1)
        hourly = rows[rows["local_date"] >= cut].copy()
        if not self.hourly_conversions:
            hourly[["conversions_micros", "revenue_micros"]] = pd.NA
        return AccountFrames(
            account=account,
            version=1,
            data_through=through,
            entities=self._entities(number, ids),
            daily=shaped(daily, DAILY),
            hourly=shaped(hourly, HOURLY),
        )

    def _entities(self, number: int, ids: np.ndarray) -> pd.DataFrame:
        base = number * 10_000
        rows = []
        for campaign in range(self.campaigns):
            campaign_id = base + 1 + campaign
            rows.append((campaign_id, "campaign", f"Campaign {campaign}", campaign_id, None))
            for ad_set in range(self.ad_sets):
                ad_set_id = base + 100 + campaign * self.ad_sets + ad_set
                rows.append((ad_set_id, "ad_set", f"Ad set {campaign}.{ad_set}", campaign_id, ad_set_id))
                for ad in range(self.ads):
                    place = (campaign * self.ad_sets + ad_set) * self.ads + ad
                    rows.append((int(ids[place]), "ad", f"Ad {place}", campaign_id, ad_set_id))
        table = pd.DataFrame(rows, columns=["entity_id", "level", "name", "campaign_id", "ad_set_id"])
        status = {int(ids[ad]): state for ad, state in (self.status or {}).items()}
        table["external_id"] = "x" + table["entity_id"].astype(str)
        table["status"] = [status.get(int(each), "active") for each in table["entity_id"]]
        table["daily_budget_micros"] = pd.NA
        table["channel"] = None
        return shaped(table, ENTITIES)

    def _hours(self, random, number, platform, hours, local, through, ads) -> Arrays:
        count = len(hours)
        hour, weekday = np.asarray(local.hour), np.asarray(local.day_of_week)
        day = np.asarray((local.tz_localize(None).normalize() - local[0].tz_localize(None).normalize()).days)
        age = np.asarray((pd.Timestamp(through) - hours) / pd.Timedelta(hours=1), dtype=float) - 0.5
        rhythm = 1 + 0.6 * np.sin(2 * np.pi * (hour - 9) / 24)
        end_of_week = weekday >= 5
        volume = self.impressions * rhythm * np.where(end_of_week, self.weekend_volume, 1.0)
        volume = volume[:, None] * random.lognormal(0, 0.5, ads) * random.lognormal(0, 0.15, (count, ads))
        cpm = 8e-3 * (1 + 0.15 * np.sin(2 * np.pi * (hour - 18) / 24))[:, None] * random.lognormal(0, 0.2, ads)
        wander = random.lognormal(0, 0.06, (day.max() + 1, ads))[day]
        cpm = cpm * wander * random.lognormal(0, 0.1, (count, ads))
        ctr = 0.02 * random.lognormal(0, 0.2, ads) * random.lognormal(0, 0.05, (day.max() + 1, ads))[day]
        days_noise = random.lognormal(0, 0.06, (day.max() + 1, 1)) * random.lognormal(0, 0.1, (day.max() + 1, ads))
        cvr = self.cvr * random.lognormal(0, 0.25, ads) * days_noise[day]
        cvr = cvr * np.where(end_of_week, self.weekend, 1.0)[:, None]
        aov = np.full((count, ads), 60.0)
        for shock in self.shocks:
            if shock.accounts is not None and number not in shock.accounts:
                continue
            when = (age <= shock.hours_ago) & (age > shock.until_ago)
            part = np.clip((shock.hours_ago - age) / shock.hours_ago, 0, 1) if shock.drift else np.ones(count)
            who = np.array([shock.ads(ad) for ad in range(ads)])

            def factor(full: float, when=when, who=who, part=part) -> np.ndarray:
                return np.where(when[:, None] & who[None, :], 1 + (full - 1) * part[:, None], 1.0)

            volume, cpm, ctr = volume * factor(shock.volume), cpm * factor(shock.cpm), ctr * factor(shock.ctr)
            cvr, aov = cvr * factor(shock.cvr), aov * factor(shock.aov)
        alive = np.ones((count, ads), dtype=bool)
        for ad, life in (self.born or {}).items():
            alive[:, ad] = age <= life
        impressions = random.poisson(volume) * alive
        clicks = random.binomial(impressions, np.clip(ctr, 0, 0.5))
        known = share_known(platform, np.maximum(age, 0.0)) if self.late else np.ones(count)
        # The true delay is never quite the prior.
        known = np.clip(known**1.1, 0, 1)
        conversions = random.binomial(clicks, np.clip(cvr * known[:, None], 0, 1))
        revenue = conversions * aov * np.where(conversions > 0, random.gamma(4, 0.25, (count, ads)), 0)
        return {
            "impressions": impressions,
            "clicks": clicks,
            "spend_micros": np.round(impressions * cpm * 1e6 * self.unit).astype(np.int64),
            "conversions_micros": conversions * 1_000_000,
            "revenue_micros": np.round(revenue * 1e6 * self.unit).astype(np.int64),
        }


def shaped(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Exactly the columns of a contract, in its order and types."""
    return table[list(columns)].astype(columns).reset_index(drop=True)


def with_daily(frame: AccountFrames, daily: pd.DataFrame) -> AccountFrames:
    return replace(frame, daily=daily)
