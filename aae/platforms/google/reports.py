"""Google's metrics: ads by day or hour, campaigns where there are no ads, and the customer's own totals.

Performance Max campaigns have no ads, so their rows come from the campaign itself; all other campaigns' rows come from
their ads. The two queries exclude each other by channel type, so nothing is counted twice.

``conversions`` are dated to the click, and fractions are normal (data-driven attribution).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from aae.errors import Reduce
from aae.model import Account, Level, Slice, Token, Totals
from aae.platforms.columns import hourly, metrics_frames, metrics_page
from aae.platforms.google.wire import Ads, read
from aae.platforms.reading import Integers
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
    async for frame in metrics_frames(_pages(ads, Caller.of(account, token), piece)):
        yield frame


async def fetch_totals(ads: Ads, account: Account, token: Token, piece: Slice) -> Totals:
    """The customer's own sums over the slice."""
    query = f"SELECT {_METRICS} FROM customer WHERE {_between(piece.days)}"
    found = [row for rows in await ads.search(query, Caller.of(account, token), Purpose.TOTALS) for row in rows]
    if len(found) > 1:
        raise read.bug("more than one row of account totals")
    return Totals(**{name: int(values[0]) for name, values in _measures(found or [{}]).items()})


async def _pages(ads: Ads, caller: Caller, piece: Slice) -> AsyncIterator[pa.RecordBatch]:
    time = "segments.date, segments.hour" if hourly(piece.granularity) else "segments.date"
    for level, ids, source in _QUERIES:
        async for rows in _batches(ads, caller, f"SELECT {time}, {ids}, {_METRICS} {source}", piece.days):
            yield _page(rows, level, piece)


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


def _page(rows: Rows, level: Level, piece: Slice) -> pa.RecordBatch:
    segments, campaigns = (_parts(rows, name) for name in ("segments", "campaign"))
    columns = {
        "campaign_external_id": read.ids([campaign.get("id") for campaign in campaigns], "campaign.id"),
        "local_date": read.days([segment.get("date") for segment in segments], "segments.date", piece.days),
        **_measures(rows),
    }
    if hourly(piece.granularity):
        columns["local_hour"] = read.hours([segment.get("hour", 0) for segment in segments], "segments.hour")
    if level is Level.CAMPAIGN:
        return metrics_page(level, len(rows), **columns, external_id=columns["campaign_external_id"])
    ads, groups = _parts(_parts(rows, "adGroupAd"), "ad"), _parts(rows, "adGroup")
    return metrics_page(
        level,
        len(rows),
        **columns,
        external_id=read.ids([ad.get("id") for ad in ads], "adGroupAd.ad.id"),
        ad_set_external_id=read.ids([group.get("id") for group in groups], "adGroup.id"),
    )


def _parts(rows: Rows, name: str) -> Rows:
    """One resource of every result row."""
    return read.objects([row.get(name) for row in rows], name)


def _measures(rows: Rows) -> dict[str, Integers]:
    """Impressions, clicks, spend, conversions and revenue; in proto3's JSON what is zero may be absent."""
    metrics = read.objects([row.get("metrics", {}) for row in rows], "metrics")
    return {
        "impressions": read.counts([each.get("impressions", "0") for each in metrics], "impressions"),
        "clicks": read.counts([each.get("clicks", "0") for each in metrics], "clicks"),
        "spend_micros": read.micros_of([each.get("costMicros", "0") for each in metrics], "costMicros"),
        "conversions_micros": read.roundeds([each.get("conversions", 0) for each in metrics], "conversions"),
        "revenue_micros": read.roundeds([each.get("conversionsValue", 0) for each in metrics], "conversionsValue"),
    }
