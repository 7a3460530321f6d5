"""Google's metrics: ads by day or hour, campaigns where there are no ads, and the customer's own totals.

Performance Max campaigns have no ads, so their rows come from the campaign itself; all other campaigns' rows come from
their ads. The two queries exclude each other by channel type, so nothing is counted twice.

``conversions`` are dated to the click, and fractions are normal (data-driven attribution).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, Final

import pandas as pd

from aae.errors import Reduce
from aae.model import Account, Level, Slice, Token, Totals
from aae.platforms.columns import MetricColumns, Once, has_delivery, hourly
from aae.platforms.google.listing import part
from aae.platforms.google.wire import Ads, read
from aae.platforms.transport import Caller, Purpose

_METRICS: Final = (
    "metrics.impressions, metrics.clicks, metrics.cost_micros, metrics.conversions, metrics.conversions_value"
)
_QUERIES: Final = (
    (
        Level.AD,
        "ad_group_ad.ad.id, ad_group.id, campaign.id, campaign.advertising_channel_type",
        "FROM ad_group_ad WHERE campaign.advertising_channel_type != 'PERFORMANCE_MAX' AND",
    ),
    (
        Level.CAMPAIGN,
        "campaign.id, campaign.advertising_channel_type",
        "FROM campaign WHERE campaign.advertising_channel_type = 'PERFORMANCE_MAX' AND",
    ),
)

Rows = list[dict[str, Any]]


async def fetch_metrics(ads: Ads, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
    """The slice's rows in the columns of ``METRIC_COLUMNS``: ads, and campaigns that have none."""
    once, caller = Once(), Caller.of(account, token)
    time = "segments.date, segments.hour" if hourly(piece.granularity) else "segments.date"
    for level, ids, source in _QUERIES:
        async for rows in _batches(ads, caller, f"SELECT {time}, {ids}, {_METRICS} {source}", piece.days):
            page = once(has_delivery(_frame(rows, level, piece)))
            if len(page):
                yield page


async def fetch_totals(ads: Ads, account: Account, token: Token, piece: Slice) -> Totals:
    """The customer's own sums over the slice."""
    query = f"SELECT {_METRICS} FROM customer WHERE {_between(piece.days)}"
    found = [row for rows in await ads.search(query, Caller.of(account, token), Purpose.TOTALS) for row in rows]
    if len(found) > 1:
        raise read.bug("more than one row of account totals")
    return Totals(*_measures(found[0])) if found else Totals(conversions_micros=0, revenue_micros=0)


async def _batches(ads: Ads, caller: Caller, query: str, days: list[date]) -> AsyncIterator[Rows]:
    """Raw rows over ``days``, which are halved as long as the answer is too large."""
    try:
        batches = await ads.search(f"{query} {_between(days)}", caller, Purpose.METRICS)
    except Reduce:
        if len(days) == 1:
            raise
    else:
        for rows in batches:
            yield rows
        return
    middle = len(days) // 2
    for half in (days[:middle], days[middle:]):
        async for rows in _batches(ads, caller, query, half):
            yield rows


def _between(days: list[date]) -> str:
    return f"segments.date BETWEEN '{days[0]}' AND '{days[-1]}'"


def _frame(rows: Rows, level: Level, piece: Slice) -> pd.DataFrame:
    columns, days = MetricColumns(level), piece.days
    by_hour, by_ad = hourly(piece.granularity), level is Level.AD
    for row in rows:
        segments, campaign = part(row, "segments"), read.id(part(row, "campaign").get("id"), "campaign.id")
        impressions, clicks, spend, conversions, revenue = _measures(row)
        columns.external_id.append(_ad(row) if by_ad else campaign)
        columns.ad_set_external_id.append(read.id(part(row, "adGroup").get("id"), "adGroup.id") if by_ad else None)
        columns.campaign_external_id.append(campaign)
        columns.local_date.append(read.day(segments.get("date"), "segments.date", days))
        columns.local_hour.append(read.hour(segments.get("hour", 0), "segments.hour") if by_hour else None)
        columns.impressions.append(impressions)
        columns.clicks.append(clicks)
        columns.spend_micros.append(spend)
        columns.conversions_micros.append(conversions)
        columns.revenue_micros.append(revenue)
    return columns.frame()


def _ad(row: dict[str, Any]) -> str:
    return read.id(part(part(row, "adGroupAd"), "ad").get("id"), "adGroupAd.ad.id")


def _measures(row: Mapping[str, Any]) -> tuple[int, int, int, int, int]:
    """Impressions, clicks, spend, conversions and revenue of a row; in proto3's JSON what is zero may be absent."""
    metrics = read.record(row.get("metrics", {}), "metrics")
    return (
        read.count(metrics.get("impressions", "0"), "impressions"),
        read.count(metrics.get("clicks", "0"), "clicks"),
        read.micros(metrics.get("costMicros", "0"), "costMicros"),
        read.rounded(metrics.get("conversions", 0), "conversions"),
        read.rounded(metrics.get("conversionsValue", 0), "conversionsValue"),
    )
