"""TikTok's integrated report: ads by day or hour, and the advertiser's own totals.

A conversion is a completed payment on the web, its value ``total_complete_payment_rate`` (a value despite its name);
``"-"`` means that TikTok does not tell, which is not zero. One request spans at most 30 days, or one day by the hour.
A report over too many ids is cut by TikTok; it is then asked for in groups of campaigns.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, Final

import pandas as pd

from aae.errors import Reduce, Retry
from aae.model import Account, Granularity, Level, Slice, Token, Totals
from aae.platforms.columns import MetricColumns, Once, has_delivery, hourly
from aae.platforms.tiktok.listing import list_entities
from aae.platforms.tiktok.wire import Business, groups, read
from aae.platforms.transport import Caller, Purpose

SLICE_DAYS: Final = {Granularity.DAILY: 30, Granularity.HOURLY: 1}
"""The longest range of one request."""

_CAMPAIGNS_AT_ONCE: Final = 30
"""TikTok takes 100 ids and advises 30."""

_METRICS: Final = ("spend", "impressions", "clicks", "complete_payment", "total_complete_payment_rate")
_PARENTS: Final = ("campaign_id", "adgroup_id")
_NOT_TOLD: Final = "-"

Rows = list[dict[str, Any]]
Parents = dict[str, tuple[str, str]]
"""Campaign and ad group of each ad."""


async def fetch_metrics(
    business: Business, account: Account, token: Token, piece: Slice
) -> AsyncIterator[pd.DataFrame]:
    """The slice's rows by ad, in the columns of ``METRIC_COLUMNS``."""
    once, parents = Once(), _ParentsOf(business, account, token)
    days, step = piece.days, SLICE_DAYS[piece.granularity]
    for first in range(0, len(days), step):
        part = days[first : first + step]
        async for rows in _pages(business, account, token, piece.granularity, part):
            await parents.learn(rows)
            page = once(has_delivery(_frame(rows, part, piece.granularity, parents.known)))
            if len(page):
                yield page


async def fetch_totals(business: Business, account: Account, token: Token, piece: Slice) -> Totals:
    """The advertiser's own sums over the slice."""
    params = {
        "advertiser_id": account.external_id,
        "report_type": "BASIC",
        "service_type": "AUCTION",
        "data_level": "AUCTION_ADVERTISER",
        "dimensions": ["advertiser_id"],
        "metrics": _METRICS,
        "start_date": piece.since.isoformat(),
        "end_date": piece.until.isoformat(),
    }
    found = [
        _measures(row)
        async for rows in business.pages("report/integrated/get", params, Caller.of(account, token), Purpose.TOTALS)
        for row in rows
    ]
    if len(found) > 1:
        raise read.bug("more than one row of account totals")
    return Totals(*found[0]) if found else Totals(conversions_micros=0, revenue_micros=0)


async def _pages(
    business: Business, account: Account, token: Token, granularity: Granularity, days: list[date]
) -> AsyncIterator[Rows]:
    """Raw rows over ``days``: all at once, or by groups of campaigns where that is too much."""
    caller = Caller.of(account, token)
    params = {
        "advertiser_id": account.external_id,
        "report_type": "BASIC",
        "service_type": "AUCTION",
        "data_level": "AUCTION_AD",
        "dimensions": ["ad_id", _time(granularity)],
        "metrics": [*_METRICS, *_PARENTS],
        "start_date": days[0].isoformat(),
        "end_date": days[-1].isoformat(),
    }
    everything = [_among("ad_status", ["STATUS_ALL"])]  # the filter's name must be that of the level
    try:
        async for rows in business.pages(
            "report/integrated/get", {**params, "filtering": everything}, caller, Purpose.METRICS
        ):
            yield rows
    except Reduce:
        pass
    else:
        return
    entities = await list_entities(business, account, token)
    campaigns = entities.loc[entities["level"] == Level.CAMPAIGN, "external_id"]
    for some in groups(campaigns.tolist(), _CAMPAIGNS_AT_ONCE):
        narrow = {**params, "filtering": [*everything, _among("campaign_ids", some)]}
        async for rows in business.pages("report/integrated/get", narrow, caller, Purpose.METRICS):
            yield rows


def _among(name: str, values: list[str]) -> dict[str, str]:
    return {"field_name": name, "filter_type": "IN", "filter_value": json.dumps(values)}


def _time(granularity: Granularity) -> str:
    return "stat_time_hour" if hourly(granularity) else "stat_time_day"


class _ParentsOf:
    """Campaign and ad group of each ad: as the report tells them, else from one listing."""

    def __init__(self, business: Business, account: Account, token: Token) -> None:
        self._listing = (business, account, token)
        self._listed = False
        self.known: Parents = {}

    async def learn(self, rows: Rows) -> None:
        """Know the parents of every ad in ``rows``.

        Raises:
            Retry: neither the report nor the listing knows them; the listing lags behind for new ads.
        """
        for row in rows:
            ad, metrics = _ad(row), read.record(row.get("metrics"), "metrics")
            campaign, group = (metrics.get(name) for name in _PARENTS)
            if campaign not in (None, _NOT_TOLD) and group not in (None, _NOT_TOLD):
                self.known[ad] = (read.id(campaign, "campaign_id"), read.id(group, "adgroup_id"))
        if all(_ad(row) in self.known for row in rows):
            return
        if not self._listed:
            self._listed = True
            self.known = _parents(await list_entities(*self._listing)) | self.known
        if not all(_ad(row) in self.known for row in rows):
            raise Retry("TikTok reports an ad that its own listing does not know yet.", code="unknown-ad")


def _parents(entities: pd.DataFrame) -> Parents:
    """Campaign and ad group of each listed ad."""
    above: dict[str, str] = dict(zip(entities["external_id"], entities["parent_external_id"], strict=True))
    ads = entities.loc[entities["level"] == Level.AD, "external_id"]
    return {ad: (above[above[ad]], above[ad]) for ad in ads if above[ad] in above}


def _frame(rows: Rows, days: list[date], granularity: Granularity, parents: Parents) -> pd.DataFrame:
    columns = MetricColumns(Level.AD)
    for row in rows:
        ad = _ad(row)
        campaign, group = parents[ad]
        stamp = read.record(row.get("dimensions"), "dimensions").get(_time(granularity))
        impressions, clicks, spend, conversions, revenue = _measures(row)
        columns.external_id.append(ad)
        columns.ad_set_external_id.append(group)
        columns.campaign_external_id.append(campaign)
        columns.local_date.append(read.day(stamp[:10] if isinstance(stamp, str) else stamp, _time(granularity), days))
        columns.local_hour.append(_hour(stamp) if hourly(granularity) else None)
        columns.impressions.append(impressions)
        columns.clicks.append(clicks)
        columns.spend_micros.append(spend)
        columns.conversions_micros.append(conversions)
        columns.revenue_micros.append(revenue)
    return columns.frame()


def _ad(row: Mapping[str, Any]) -> str:
    return read.id(read.record(row.get("dimensions"), "dimensions").get("ad_id"), "ad_id")


def _hour(stamp: object) -> int:
    """The hour of a stamp such as ``2026-11-21 13:00:00``."""
    return read.hour(stamp[11:13] if isinstance(stamp, str) else stamp, "stat_time_hour")


def _measures(row: Mapping[str, Any]) -> tuple[int, int, int, int | None, int | None]:
    """Impressions, clicks, spend, conversions and revenue of a row; the last two None where TikTok does not tell."""
    metrics = read.record(row.get("metrics"), "metrics")
    conversions, revenue = metrics.get("complete_payment"), metrics.get("total_complete_payment_rate")
    return (
        read.count(metrics.get("impressions"), "impressions"),
        read.count(metrics.get("clicks"), "clicks"),
        read.exact(metrics.get("spend"), "spend"),
        None if conversions in (None, _NOT_TOLD) else read.rounded(conversions, "complete_payment"),
        None if revenue in (None, _NOT_TOLD) else read.rounded(revenue, "total_complete_payment_rate"),
    )
