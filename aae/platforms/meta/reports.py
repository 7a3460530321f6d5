"""Meta's insights: ads by day or hour, and the account's own totals.

**Which number is a conversion.** Meta's purchase counters overlap, so one is chosen per row and never summed:
``omni_purchase``, else ``purchase``, else the pixel's; revenue is the same counter's value. Of an entry we take
``value``, which Meta counts by the ad set's own attribution setting and shows in Ads Manager. The windows of the
settings are always asked for by name, because Meta otherwise withholds action numbers where ad sets differ in their
settings; they are not added up, since click windows contain each other.

**By the hour there are no conversions.** Since 2021 Meta gives no off-Meta conversion by the hour; those columns are
missing, which is not zero. On a daily row the opposite holds: ``actions`` is absent when there were none.

**How a slice is asked for.** Up to a week by one paged call; longer, or when Meta asks for less data at the smallest
page, by a report run that Meta computes in the background; when that is too much as well, day by day.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from aae.errors import Reduce, Retry, Skip
from aae.model import Account, Granularity, Level, Slice, Token, Totals
from aae.platforms.columns import hourly, metrics_frames, metrics_page
from aae.platforms.meta.wire import Graph, read
from aae.platforms.reading import Integers, distinct
from aae.platforms.transport import Caller, Purpose

_PURCHASES: Final = ("omni_purchase", "purchase", "offsite_conversion.fb_pixel_purchase")
_HOUR: Final = "hourly_stats_aggregated_by_advertiser_time_zone"
_SYNC_DAYS: Final = 7
_POLL_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 40)
"""Waits between looks at a report run: about twenty minutes, after which it is given up."""

_RACE_LOOKS: Final = 3
"""A run that was made a moment ago may not be found at once (100/33)."""

Rows = list[dict[str, Any]]


async def fetch_metrics(graph: Graph, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
    """The slice's rows by ad, in the columns of ``METRIC_COLUMNS``."""
    found = _pages(graph, Caller.of(account, token), piece.granularity, piece.days)
    async for frame in metrics_frames(_page(rows, piece) async for rows in found):
        yield frame


async def fetch_totals(graph: Graph, account: Account, token: Token, piece: Slice) -> Totals:
    """The account's own sums over the slice; by the hour without conversions, like the rows."""
    params = {
        "level": "account",
        "fields": "impressions,clicks,spend,actions,action_values",
        "time_increment": "all_days",
        **_asked(graph, piece.days),
    }
    path, by_hour = f"act_{account.external_id}/insights", hourly(piece.granularity)
    found = [row async for rows in graph.pages(path, params, Caller.of(account, token), Purpose.TOTALS) for row in rows]
    if len(found) > 1:
        raise read.bug("more than one row of account totals")
    found = found or [{}]
    sums = {**_delivery(found), **({} if by_hour else _purchases(found))}
    return Totals(**{name: int(values[0]) for name, values in sums.items()})


def _asked(graph: Graph, days: list[date]) -> dict[str, str]:
    return {
        "time_range": json.dumps({"since": days[0].isoformat(), "until": days[-1].isoformat()}),
        "action_attribution_windows": json.dumps(graph.settings.attribution_windows),
    }


async def _pages(graph: Graph, caller: Caller, granularity: Granularity, days: list[date]) -> AsyncIterator[Rows]:
    """Raw rows over ``days``, by the cheapest way that Meta agrees to. Pages may repeat rows after a change of way."""
    question, code = _question(graph, granularity, days), None
    for way in (_at_once, _by_run) if len(days) <= _SYNC_DAYS else (_by_run,):
        try:
            async for rows in way(graph, question, caller):
                yield rows
        except Reduce as reduce:
            code = reduce.code
        else:
            return
    if len(days) == 1:
        advice = "fetch it by campaign, or archive ads that no longer deliver"
        raise Reduce(f"Meta cannot give {days[0]} of account {caller.account} in one report: {advice}.", code=code)
    for day in days:
        async for rows in _pages(graph, caller, granularity, [day]):
            yield rows


def _question(graph: Graph, granularity: Granularity, days: list[date]) -> dict[str, str]:
    fields = "campaign_id,adset_id,ad_id,impressions,clicks,spend"
    by = {"level": "ad", "time_increment": "1", **_asked(graph, days)}
    if hourly(granularity):
        return {**by, "fields": fields, "breakdowns": json.dumps([_HOUR])}  # the breakdown must not be in the fields
    return {**by, "fields": f"{fields},actions,action_values"}


async def _at_once(graph: Graph, question: Mapping[str, str], caller: Caller) -> AsyncIterator[Rows]:
    async for rows in graph.pages(f"act_{caller.account}/insights", question, caller, Purpose.METRICS):
        yield rows


async def _by_run(graph: Graph, question: Mapping[str, str], caller: Caller) -> AsyncIterator[Rows]:
    run = await _run(graph, question, caller)
    async for rows in graph.pages(f"{run}/insights", {}, caller, Purpose.METRICS):
        yield rows


async def _run(graph: Graph, question: Mapping[str, str], caller: Caller) -> str:
    """Let Meta compute a report in the background; the id of the finished run.

    Raises:
        Reduce: it failed or was skipped, for which Meta rarely gives a reason; its size is the usual one.
        Retry: it is lost, or not done in time.
    """
    made = await graph.post(f"act_{caller.account}/insights", question, caller, Purpose.POLL)
    run = read.id(made.get("report_run_id"), "report_run_id")
    for look, wait in enumerate(_POLL_SECONDS):
        await graph.transport.sleep(wait)
        try:
            state = await graph.get(run, {}, caller, Purpose.POLL, fresh=True)
        except Skip as skip:
            if skip.code != "100/33":
                raise
            if look >= _RACE_LOOKS:
                raise Retry(f"Meta lost a report for account {caller.account}.", code=skip.code) from None
            continue
        status = state.get("async_status")
        if status == "Job Completed" and state.get("async_percent_completion") == 100:
            return run
        if status in ("Job Failed", "Job Skipped"):
            raise Reduce(f"Meta could not finish a report for account {caller.account}.", code="run-failed")
    raise Retry(f"Meta's report for account {caller.account} is not done after twenty minutes.", code="run-too-slow")


def _page(rows: Rows, piece: Slice) -> pa.RecordBatch:
    columns = {
        "external_id": read.ids([row.get("ad_id") for row in rows], "ad_id"),
        "ad_set_external_id": read.ids([row.get("adset_id") for row in rows], "adset_id"),
        "campaign_external_id": read.ids([row.get("campaign_id") for row in rows], "campaign_id"),
        "local_date": read.days([row.get("date_start") for row in rows], "date_start", piece.days),
        **_delivery(rows),
    }
    if hourly(piece.granularity):
        codes, hours = distinct([row.get(_HOUR) for row in rows], _hour)
        return metrics_page(Level.AD, len(rows), **columns, local_hour=np.array(hours, np.int8)[codes])
    return metrics_page(Level.AD, len(rows), **columns, **_purchases(rows))


def _hour(value: object) -> int:
    """The hour of a label such as ``06:00:00 - 06:59:59``."""
    return read.hour(value[:2] if isinstance(value, str) else value, _HOUR)


def _delivery(rows: Rows) -> dict[str, Integers]:
    """Impressions, clicks and spend; what is zero may be absent."""
    return {
        "impressions": read.counts([row.get("impressions", "0") for row in rows], "impressions"),
        "clicks": read.counts([row.get("clicks", "0") for row in rows], "clicks"),
        "spend_micros": read.exacts([row.get("spend", "0") for row in rows], "spend"),
    }


def _purchases(rows: Rows) -> dict[str, Integers]:
    """Conversions and revenue in micros by one purchase counter of each row."""
    found = [_purchase(row) for row in rows]
    return {
        "conversions_micros": read.roundeds([count for count, _ in found], "a purchase count"),
        "revenue_micros": read.roundeds([value for _, value in found], "a purchase value"),
    }


def _purchase(row: Mapping[str, Any]) -> tuple[object, object]:
    """Count and value of one purchase counter, as sent; no entry means none."""
    counts, values = _by_type(row, "actions"), _by_type(row, "action_values")
    for counter in _PURCHASES:
        if counter in counts or counter in values:
            return counts.get(counter, "0"), values.get(counter, "0")
    return "0", "0"


def _by_type(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The ``value`` of each action type; absent where only windows beside the ad set's own setting counted."""
    entries = row.get(what)
    if entries is None:
        return {}
    return {
        kind: entry.get("value", "0")
        for entry in read.records(entries, what)
        if isinstance(kind := entry.get("action_type"), str)
    }
