"""Meta's insights: ads by day or hour, and the account's own totals.

**Which number is a conversion.** Meta's purchase counters overlap, so one is chosen per row and never summed:
``omni_purchase``, else ``purchase``, else the pixel's; revenue is the same counter's value. Of an entry we take
``value``, which Meta counts by the ad set's own attribution setting and shows in Ads Manager. The windows of the
settings are always asked for by name, because Meta otherwise withholds action numbers where ad sets differ in their
settings; they are not added up, since click windows contain each other.

**By the hour there are no conversions.** Since 2021 Meta gives no off-Meta conversion by the hour; those columns are
missing, which is not zero. On a daily row the opposite holds: ``actions`` is absent when there were none.

**Deleted and archived ads** are in the account's totals but not among its rows by ad, unless the question names their
statuses; what Meta does by default also differs from edge to edge. So every question names all of them.

**How a slice is asked for.** Up to a week by one paged call; longer, or when Meta asks for less data at the smallest
page, by a report run that Meta computes in the background. When that is too much as well, in parts: single days, then
the campaigns of a day by halves, then the ad sets of one campaign, then the ads of one ad set.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from aae.errors import Reduce, Retry, Skip
from aae.model import Account, Level, Slice, Token, Totals
from aae.platforms.columns import hourly, metrics_frames, metrics_page
from aae.platforms.meta.listing import AD_STATUSES
from aae.platforms.meta.wire import Graph, read
from aae.platforms.reading import Integers, distinct
from aae.platforms.shapes import Shape
from aae.platforms.transport import Caller, Purpose

_PURCHASES: Final = ("omni_purchase", "purchase", "offsite_conversion.fb_pixel_purchase")
_HOUR: Final = "hourly_stats_aggregated_by_advertiser_time_zone"
_SYNC_DAYS: Final = 7
_POLL_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 40)
"""Waits between looks at a report run: about twenty minutes, after which it is given up."""

_RACE_LOOKS: Final = 3
"""A run that was made a moment ago may not be found at once (100/33)."""


class _Action(Shape):
    """``value`` is absent where only windows beside the ad set's own setting counted."""

    action_type: Any = None
    value: Any = "0"


class _Row(Shape):
    """What is zero may be absent, and so is what was not asked for."""

    campaign_id: Any = None
    adset_id: Any = None
    ad_id: Any = None
    date_start: Any = None
    hour: Any = msgspec.field(name=_HOUR, default=None)
    impressions: Any = "0"
    clicks: Any = "0"
    spend: Any = "0"
    actions: list[_Action] | None = None
    action_values: list[_Action] | None = None


Rows = list[_Row]
Way = Callable[[Graph, "_Question", Caller, Purpose], AsyncIterator[Rows]]


async def fetch_metrics(graph: Graph, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
    """The slice's rows by ad, in the columns of ``METRIC_COLUMNS``."""
    found = _rows(graph, _question(graph, piece), Caller.of(account, token))
    async for frame in metrics_frames(_page(rows, piece) async for rows in found):
        yield frame


async def fetch_totals(graph: Graph, account: Account, token: Token, piece: Slice) -> Totals:
    """The account's own sums over the slice; by the hour without conversions, like the rows."""
    form = {"level": "account", "fields": "impressions,clicks,spend,actions,action_values", **_windows(graph)}
    question = _Question({**form, "time_increment": "all_days"}, tuple(piece.days), below=())
    caller = Caller.of(account, token)
    found = [row async for rows in _rows(graph, question, caller, Purpose.TOTALS) for row in rows]
    if len({str(row.date_start) for row in found}) < len(found):
        raise read.bug("more than one row of account totals")
    # One row, or one of each day where Meta wanted less to do at a time; none means nothing.
    rows = found or [_Row()]
    columns = {**_delivery(rows), **({} if hourly(piece.granularity) else _purchases(rows))}
    return Totals(**{name: sum(values.tolist()) for name, values in columns.items()})


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of Meta: ``form`` over ``days``, of the whole account or of the entities ``ids`` of a level.

    ``below`` are the levels by which it can still be divided, from the top.
    """

    form: Mapping[str, str]
    days: tuple[date, ...]
    level: str = ""
    ids: tuple[str, ...] = ()
    below: tuple[str, ...] = ("campaign", "adset", "ad")

    @property
    def params(self) -> dict[str, str]:
        span = {"since": self.days[0].isoformat(), "until": self.days[-1].isoformat()}
        asked = {**self.form, "time_range": json.dumps(span)}
        if self.form["level"] == "account":  # which counts everything that there ever was
            return asked
        conditions = {"ad.effective_status": AD_STATUSES} | ({f"{self.level}.id": self.ids} if self.ids else {})
        filtering = [{"field": field, "operator": "IN", "value": among} for field, among in conditions.items()]
        return {**asked, "filtering": json.dumps(filtering)}


def _question(graph: Graph, piece: Slice) -> _Question:
    fields = "campaign_id,adset_id,ad_id,impressions,clicks,spend"
    form = {"level": "ad", "time_increment": "1", **_windows(graph)}
    if hourly(piece.granularity):  # the breakdown must not be among the fields
        return _Question({**form, "fields": fields, "breakdowns": json.dumps([_HOUR])}, tuple(piece.days))
    return _Question({**form, "fields": f"{fields},actions,action_values"}, tuple(piece.days))


def _windows(graph: Graph) -> dict[str, str]:
    return {"action_attribution_windows": json.dumps(graph.settings.attribution_windows)}


async def _rows(
    graph: Graph, question: _Question, caller: Caller, purpose: Purpose = Purpose.METRICS
) -> AsyncIterator[Rows]:
    """Raw rows, by the cheapest way that Meta agrees to. Pages may repeat rows after a change of way."""
    refusal: Reduce | None = None
    for way in _ways(question):
        try:
            async for rows in way(graph, question, caller, purpose):
                yield rows
        except Reduce as reduce:
            refusal = reduce
        else:
            return
    for part in await _parts(graph, question, caller, refusal):
        async for rows in _rows(graph, part, caller, purpose):
            yield rows


def _ways(question: _Question) -> tuple[Way, ...]:
    """Many entities are named only after the whole day was too much at once; their ids might not fit into a URL.

    The account's own sums are one row, however many days they are over.
    """
    small = (len(question.days) <= _SYNC_DAYS or question.form["level"] == "account") and len(question.ids) < 2
    return (_at_once, _by_run) if small else (_by_run,)


async def _parts(graph: Graph, question: _Question, caller: Caller, refusal: Reduce | None) -> list[_Question]:
    """The same question in at least two smaller ones.

    Raises:
        Reduce: it is about one day and one ad, or nothing that can be divided.
    """
    if len(question.days) > 1:
        return [replace(question, days=(day,)) for day in question.days]
    while len(question.ids) < 2:
        if not question.below:
            sentence = f"Meta cannot give {question.days[0]} of account {caller.account}, not even a part at a time."
            raise Reduce(sentence, code=refusal.code if refusal else None)
        level, *below = question.below
        ids = await _ids(graph, question, level, caller)
        question = replace(question, level=level, ids=ids, below=tuple(below))
    middle = len(question.ids) // 2
    return [replace(question, ids=ids) for ids in (question.ids[:middle], question.ids[middle:])]


async def _ids(graph: Graph, question: _Question, level: str, caller: Caller) -> tuple[str, ...]:
    """The entities of ``level`` that have anything to tell, by Meta's own word: listings may leave some out."""
    name = f"{level}_id"
    form = {"level": level, "fields": name, "time_increment": "all_days", **_windows(graph)}
    found = [row async for rows in _rows(graph, replace(question, form=form, below=()), caller) for row in rows]
    return tuple(dict.fromkeys(read.id(getattr(row, name), name) for row in found))


async def _at_once(graph: Graph, question: _Question, caller: Caller, purpose: Purpose) -> AsyncIterator[Rows]:
    async for rows in graph.pages(f"act_{caller.account}/insights", question.params, caller, purpose, row=_Row):
        yield rows


async def _by_run(graph: Graph, question: _Question, caller: Caller, purpose: Purpose) -> AsyncIterator[Rows]:
    run = await _run(graph, question.params, caller)
    async for rows in graph.pages(f"{run}/insights", {}, caller, purpose, row=_Row):
        yield rows


async def _run(graph: Graph, params: Mapping[str, str], caller: Caller) -> str:
    """Let Meta compute a report in the background; the id of the finished run.

    A run that had to be left (a long throttle, say) is never come back to: its numbers would be older than the moment
    for which they are recorded.

    Raises:
        Reduce: it failed or was skipped, for which Meta rarely gives a reason; its size is the usual one.
        Retry: it is lost, or not done in time.
    """
    made = await graph.post(f"act_{caller.account}/insights", params, caller, Purpose.POLL)
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
        "external_id": read.ids([row.ad_id for row in rows], "ad_id"),
        "ad_set_external_id": read.ids([row.adset_id for row in rows], "adset_id"),
        "campaign_external_id": read.ids([row.campaign_id for row in rows], "campaign_id"),
        "local_date": read.days([row.date_start for row in rows], "date_start", piece.days),
        **_delivery(rows),
    }
    if hourly(piece.granularity):
        codes, hours = distinct([row.hour for row in rows], _hour)
        return metrics_page(Level.AD, len(rows), **columns, local_hour=np.array(hours, np.int8)[codes])
    return metrics_page(Level.AD, len(rows), **columns, **_purchases(rows))


def _hour(value: object) -> int:
    """The hour of a label such as ``06:00:00 - 06:59:59``."""
    return read.hour(value[:2] if isinstance(value, str) else value, _HOUR)


def _delivery(rows: Rows) -> dict[str, Integers]:
    """Impressions, clicks and spend; what is zero may be absent."""
    return {
        "impressions": read.counts([row.impressions for row in rows], "impressions"),
        "clicks": read.counts([row.clicks for row in rows], "clicks"),
        "spend_micros": read.exacts([row.spend for row in rows], "spend"),
    }


def _purchases(rows: Rows) -> dict[str, Integers]:
    """Conversions and revenue in micros by one purchase counter of each row."""
    found = [_purchase(row) for row in rows]
    return {
        "conversions_micros": read.roundeds([count for count, _ in found], "a purchase count"),
        "revenue_micros": read.roundeds([value for _, value in found], "a purchase value"),
    }


def _purchase(row: _Row) -> tuple[object, object]:
    """Count and value of one purchase counter, as sent; no entry means none."""
    counts, values = _by_type(row.actions), _by_type(row.action_values)
    for counter in _PURCHASES:
        if counter in counts or counter in values:
            return counts.get(counter, "0"), values.get(counter, "0")
    return "0", "0"


def _by_type(entries: list[_Action] | None) -> dict[str, Any]:
    """The value of each action type."""
    return {entry.action_type: entry.value for entry in entries or () if isinstance(entry.action_type, str)}
