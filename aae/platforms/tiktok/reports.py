"""TikTok's integrated report: ads by day or hour, and the advertiser's own totals.

A conversion is a completed payment on the web, its value ``total_complete_payment_rate`` (a value despite its name);
``"-"`` means that TikTok does not tell, which is not zero. One request spans at most 30 days, or one day by the hour.
A report over too many ids is cut by TikTok; it is then asked for in groups of campaigns. One that timed out is not
asked for again as it is, which TikTok punishes, but by halves of its days, then by ever smaller groups of campaigns.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from aae.errors import Reduce, Retry
from aae.model import Account, Granularity, Level, Slice, Token, Totals
from aae.platforms.columns import hourly, metrics_frames, metrics_page
from aae.platforms.reading import distinct
from aae.platforms.shapes import Shape
from aae.platforms.tiktok.listing import list_entities
from aae.platforms.tiktok.wire import Business, groups, read
from aae.platforms.transport import TIMED_OUT, Caller, Purpose

SLICE_DAYS: Final = {Granularity.DAILY: 30, Granularity.HOURLY: 1}
"""The longest range of one request."""

_CAMPAIGNS_AT_ONCE: Final = 30
"""TikTok takes 100 ids and advises 30."""

_METRICS: Final = ("spend", "impressions", "clicks", "complete_payment", "total_complete_payment_rate")
_PARENTS: Final = ("campaign_id", "adgroup_id")
_NOT_TOLD: Final = "-"

T = TypeVar("T")


class _Dimensions(Shape):
    ad_id: Any = None
    stat_time_day: Any = None
    stat_time_hour: Any = None


class _Metrics(Shape):
    spend: Any = None
    impressions: Any = None
    clicks: Any = None
    complete_payment: Any = None
    total_complete_payment_rate: Any = None
    campaign_id: Any = None
    adgroup_id: Any = None


class _Row(Shape):
    dimensions: _Dimensions
    metrics: _Metrics


Rows = list[_Row]
Parents = dict[str, tuple[str, str]]
"""Campaign and ad group of each ad."""


async def fetch_metrics(
    business: Business, account: Account, token: Token, piece: Slice
) -> AsyncIterator[pd.DataFrame]:
    """The slice's rows by ad, in the columns of ``METRIC_COLUMNS``."""
    async for frame in metrics_frames(_pages(business, account, token, piece)):
        yield frame


async def fetch_totals(business: Business, account: Account, token: Token, piece: Slice) -> Totals:
    """The advertiser's own sums over the slice."""
    return await _totals(business, Caller.of(account, token), piece.days)


async def _totals(business: Business, caller: Caller, days: list[date]) -> Totals:
    params = {
        **_report(caller, "AUCTION_ADVERTISER", days),
        "dimensions": ["advertiser_id"],
        "metrics": _METRICS,
    }
    pages = business.pages("report/integrated/get", params, caller, Purpose.TOTALS, row=_Row)
    try:
        found = [row async for rows in pages for row in rows]
    except Reduce as reduce:
        if reduce.code != TIMED_OUT or len(days) == 1:
            raise
        first, second = [await _totals(business, caller, half) for half in _halves(days)]
        return _sum(first, second)
    if len(found) > 1:
        raise read.bug("more than one row of account totals")
    if not found:
        return Totals(conversions_micros=0, revenue_micros=0)
    sums = {name: pa.array(values)[0].as_py() for name, values in _measures(found).items()}
    return Totals(**sums)


async def _pages(business: Business, account: Account, token: Token, piece: Slice) -> AsyncIterator[pa.RecordBatch]:
    parents = _ParentsOf(business, account, token)
    days, step = piece.days, SLICE_DAYS[piece.granularity]
    for first in range(0, len(days), step):
        part = days[first : first + step]
        async for rows in _rows(business, account, token, piece.granularity, part):
            yield await _page(rows, part, piece.granularity, parents)


async def _rows(
    business: Business, account: Account, token: Token, granularity: Granularity, days: list[date]
) -> AsyncIterator[Rows]:
    """Raw rows over ``days``: all at once, or in parts where that is too much. Parts may repeat rows."""
    caller = Caller.of(account, token)
    params = {
        **_report(caller, "AUCTION_AD", days),
        "dimensions": ["ad_id", _time(granularity)],
        "metrics": [*_METRICS, *_PARENTS],
    }
    asked = {**params, "filtering": _EVERYTHING}
    try:
        async for rows in business.pages("report/integrated/get", asked, caller, Purpose.METRICS, row=_Row):
            yield rows
    except Reduce as reduce:
        timed_out = reduce.code == TIMED_OUT
    else:
        return
    if timed_out and len(days) > 1:
        for half in _halves(days):
            async for rows in _rows(business, account, token, granularity, half):
                yield rows
        return
    entities = await list_entities(business, account, token)
    campaigns = entities.loc[entities["level"] == Level.CAMPAIGN, "external_id"]
    for some in groups(campaigns.tolist(), _CAMPAIGNS_AT_ONCE):
        async for rows in _among_campaigns(business, params, caller, some):
            yield rows


async def _among_campaigns(
    business: Business, params: Mapping[str, Any], caller: Caller, campaigns: list[str]
) -> AsyncIterator[Rows]:
    """The rows of these campaigns, which are halved as long as they are too many."""
    asked = {**params, "filtering": [*_EVERYTHING, _among("campaign_ids", campaigns)]}
    try:
        async for rows in business.pages("report/integrated/get", asked, caller, Purpose.METRICS, row=_Row):
            yield rows
    except Reduce:
        if len(campaigns) == 1:
            raise
    else:
        return
    for half in _halves(campaigns):
        async for rows in _among_campaigns(business, params, caller, half):
            yield rows


def _report(caller: Caller, level: str, days: list[date]) -> dict[str, Any]:
    return {
        "advertiser_id": caller.account,
        "report_type": "BASIC",
        "service_type": "AUCTION",
        "data_level": level,
        "start_date": days[0].isoformat(),
        "end_date": days[-1].isoformat(),
    }


def _halves(items: list[T]) -> tuple[list[T], list[T]]:
    middle = len(items) // 2
    return items[:middle], items[middle:]


def _sum(one: Totals, other: Totals) -> Totals:
    return Totals(
        one.impressions + other.impressions,
        one.clicks + other.clicks,
        one.spend_micros + other.spend_micros,
        _plus(one.conversions_micros, other.conversions_micros),
        _plus(one.revenue_micros, other.revenue_micros),
    )


def _plus(one: int | None, other: int | None) -> int | None:
    """Unknown if a part of it is."""
    return None if one is None or other is None else one + other


def _among(name: str, values: list[str]) -> dict[str, str]:
    return {"field_name": name, "filter_type": "IN", "filter_value": json.dumps(values)}


_EVERYTHING: Final = [_among("ad_status", ["STATUS_ALL"])]
"""Deleted ones too; the filter's name must be that of the level."""


def _time(granularity: Granularity) -> str:
    return "stat_time_hour" if hourly(granularity) else "stat_time_day"


class _ParentsOf:
    """Campaign and ad group of each ad: as the report tells them, else from one listing."""

    def __init__(self, business: Business, account: Account, token: Token) -> None:
        self._listing = (business, account, token)
        self._listed = False
        self._known: Parents = {}

    async def of(self, ads: pa.Array, rows: Rows) -> dict[str, pa.Array]:
        """The columns of campaign and ad group for ``ads``, which the ``rows`` are about.

        Raises:
            Retry: neither the report nor the listing knows them; the listing lags behind for new ads.
        """
        told = [[getattr(row.metrics, name) for row in rows] for name in _PARENTS]
        if not any(value in (None, _NOT_TOLD) for column in told for value in column):
            campaigns, groups = (read.ids(column, name) for column, name in zip(told, _PARENTS, strict=True))
            self._learn(ads.to_pylist(), campaigns.to_pylist(), groups.to_pylist())
        else:
            campaigns, groups = await self._look_up(ads.to_pylist(), *told)
        return {"campaign_external_id": campaigns, "ad_set_external_id": groups}

    async def _look_up(self, ads: list[str], campaigns: list[Any], groups: list[Any]) -> tuple[list[str], list[str]]:
        for ad, campaign, group in zip(ads, campaigns, groups, strict=True):
            if campaign not in (None, _NOT_TOLD) and group not in (None, _NOT_TOLD):
                self._known[ad] = (read.id(campaign, "campaign_id"), read.id(group, "adgroup_id"))
        if not self._listed and not self._known.keys() >= set(ads):
            self._listed = True
            self._known = _parents(await list_entities(*self._listing)) | self._known
        if not self._known.keys() >= set(ads):
            raise Retry("TikTok reports an ad that its own listing does not know yet.", code="unknown-ad")
        return [self._known[ad][0] for ad in ads], [self._known[ad][1] for ad in ads]

    def _learn(self, ads: list[str], campaigns: list[str], groups: list[str]) -> None:
        self._known.update(zip(ads, zip(campaigns, groups, strict=True), strict=True))


def _parents(entities: pd.DataFrame) -> Parents:
    """Campaign and ad group of each listed ad."""
    above: dict[str, str] = dict(zip(entities["external_id"], entities["parent_external_id"], strict=True))
    ads = entities.loc[entities["level"] == Level.AD, "external_id"]
    return {ad: (above[above[ad]], above[ad]) for ad in ads if above[ad] in above}


async def _page(rows: Rows, days: list[date], granularity: Granularity, parents: _ParentsOf) -> pa.RecordBatch:
    ads, time = read.ids([row.dimensions.ad_id for row in rows], "ad_id"), _time(granularity)
    stamps = [getattr(row.dimensions, time) for row in rows]
    codes, moments = distinct(stamps, lambda stamp: _moment(stamp, days, granularity))
    columns = {
        "external_id": ads,
        **await parents.of(ads, rows),
        "local_date": np.array([day for day, _ in moments], "datetime64[D]")[codes],
        **_measures(rows),
    }
    if hourly(granularity):
        columns["local_hour"] = np.array([hour for _, hour in moments], np.int8)[codes]
    return metrics_page(Level.AD, len(rows), **columns)


def _moment(stamp: object, days: list[date], granularity: Granularity) -> tuple[str, int]:
    """Day and hour of a stamp such as ``2026-11-21 13:00:00``; no hour (0) where it is of a day."""
    what, text = _time(granularity), stamp if isinstance(stamp, str) else None
    day = read.day(stamp if text is None else text[:10], what, days)
    return day, read.hour(stamp if text is None else text[11:13], what) if hourly(granularity) else 0


def _measures(rows: Rows) -> dict[str, Any]:
    """Impressions, clicks, spend, conversions and revenue; the last two missing where TikTok does not tell."""
    return {
        "impressions": read.counts([row.metrics.impressions for row in rows], "impressions"),
        "clicks": read.counts([row.metrics.clicks for row in rows], "clicks"),
        "spend_micros": read.exacts([row.metrics.spend for row in rows], "spend"),
        "conversions_micros": _if_told([row.metrics.complete_payment for row in rows], "complete_payment"),
        "revenue_micros": _if_told(
            [row.metrics.total_complete_payment_rate for row in rows], "total_complete_payment_rate"
        ),
    }


def _if_told(values: list[Any], name: str) -> pa.Array:
    untold = np.array([value in (None, _NOT_TOLD) for value in values], bool)
    if untold.any():
        values = ["0" if missing else value for value, missing in zip(values, untold, strict=True)]
    return pa.array(read.roundeds(values, name), mask=untold)
