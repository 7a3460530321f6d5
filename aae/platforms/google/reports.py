"""Google's metrics: ads by day or hour, campaigns where there are no ads, and the customer's own totals.

Performance Max campaigns have no ads, so their rows come from the campaign itself; all other campaigns' rows come from
their ads. The two queries exclude each other by channel type, so nothing is counted twice.

``conversions`` are dated to the click, and fractions are normal (data-driven attribution).

Google has no word for too much data. A stream may be cut in the middle or not be there in time; what stays so is asked
for by ever fewer days.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any, Final

import msgspec
import pandas as pd
import pyarrow as pa

from aae.errors import Reduce, Retry
from aae.model import Account, Level, Slice, Token, Totals
from aae.platforms.columns import hourly, metrics_frames, metrics_page
from aae.platforms.google.wire import Ads, read
from aae.platforms.reading import Integers
from aae.platforms.shapes import Shape
from aae.platforms.transport import TIMED_OUT, Caller, Purpose

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

_MAYBE_TOO_MUCH: Final = frozenset({"connection", "not-json", TIMED_OUT, "DEADLINE_EXCEEDED"})


class _Entity(Shape):
    id: Any = None


class _AdGroupAd(Shape):
    ad: _Entity = msgspec.field(default_factory=_Entity)


class _Segments(Shape):
    date: Any = None
    hour: Any = 0


class _Metrics(Shape, rename="camel"):
    """In proto3's JSON what is zero may be absent."""

    impressions: Any = "0"
    clicks: Any = "0"
    cost_micros: Any = "0"
    conversions: Any = 0
    conversions_value: Any = 0


class _Row(Shape, rename="camel"):
    """What was not asked for is absent."""

    segments: _Segments = msgspec.field(default_factory=_Segments)
    campaign: _Entity = msgspec.field(default_factory=_Entity)
    ad_group: _Entity = msgspec.field(default_factory=_Entity)
    ad_group_ad: _AdGroupAd = msgspec.field(default_factory=_AdGroupAd)
    metrics: _Metrics = msgspec.field(default_factory=_Metrics)


Rows = list[_Row]


async def fetch_metrics(ads: Ads, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
    """The slice's rows in the columns of ``METRIC_COLUMNS``: ads, and campaigns that have none."""
    async for frame in metrics_frames(_pages(ads, Caller.of(account, token), piece)):
        yield frame


async def fetch_totals(ads: Ads, account: Account, token: Token, piece: Slice) -> Totals:
    """The customer's own sums over the slice."""
    query, caller = f"SELECT {_METRICS} FROM customer WHERE {_between(piece.days)}", Caller.of(account, token)
    found = [row for rows in await ads.search(query, caller, Purpose.TOTALS, row=_Row) for row in rows]
    if len(found) > 1:
        raise read.bug("more than one row of account totals")
    return Totals(**{name: int(values[0]) for name, values in _measures(found or [_Row()]).items()})


async def _pages(ads: Ads, caller: Caller, piece: Slice) -> AsyncIterator[pa.RecordBatch]:
    time = "segments.date, segments.hour" if hourly(piece.granularity) else "segments.date"
    for level, ids, source in _QUERIES:
        async for rows in _batches(ads, caller, f"SELECT {time}, {ids}, {_METRICS} {source}", piece.days):
            yield _page(rows, level, piece)


async def _batches(ads: Ads, caller: Caller, query: str, days: list[date]) -> AsyncIterator[Rows]:
    """Raw rows over ``days``, which are halved as long as the answer is too large, or does not arrive whole."""
    try:
        batches = await ads.search(f"{query} {_between(days)}", caller, Purpose.METRICS, row=_Row)
    except Retry as trouble:
        too_much = isinstance(trouble, Reduce) or trouble.code in _MAYBE_TOO_MUCH
        if len(days) == 1 or not too_much:
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
    campaigns = read.ids([row.campaign.id for row in rows], "campaign.id")
    columns = {
        "campaign_external_id": campaigns,
        "local_date": read.days([row.segments.date for row in rows], "segments.date", piece.days),
        **_measures(rows),
    }
    if hourly(piece.granularity):
        columns["local_hour"] = read.hours([row.segments.hour for row in rows], "segments.hour")
    if level is Level.CAMPAIGN:
        return metrics_page(level, len(rows), **columns, external_id=campaigns)
    return metrics_page(
        level,
        len(rows),
        **columns,
        external_id=read.ids([row.ad_group_ad.ad.id for row in rows], "adGroupAd.ad.id"),
        ad_set_external_id=read.ids([row.ad_group.id for row in rows], "adGroup.id"),
    )


def _measures(rows: Rows) -> dict[str, Integers]:
    """Impressions, clicks, spend, conversions and revenue."""
    return {
        "impressions": read.counts([row.metrics.impressions for row in rows], "impressions"),
        "clicks": read.counts([row.metrics.clicks for row in rows], "clicks"),
        "spend_micros": read.micros_of([row.metrics.cost_micros for row in rows], "costMicros"),
        "conversions_micros": read.roundeds([row.metrics.conversions for row in rows], "conversions"),
        "revenue_micros": read.roundeds([row.metrics.conversions_value for row in rows], "conversionsValue"),
    }
