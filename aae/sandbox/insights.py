"""Meta insights: one query's parameters, its rows, and how Meta writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from aae.model import Level
from aae.sandbox.days import told
from aae.sandbox.entities import GONE, AdAccount, Entity
from aae.sandbox.graph import GraphError, as_json, as_list, asked_fields
from aae.sandbox.ledger import Facts
from aae.sandbox.wire import Call, plain_decimal, ratio

_HOURLY: Final = "hourly_stats_aggregated_by_advertiser_time_zone"
_LEVELS: Final[dict[str, Level | None]] = {
    "account": None,
    "campaign": Level.CAMPAIGN,
    "adset": Level.AD_SET,
    "ad": Level.AD,
}
_PURCHASES: Final = ("omni_purchase", "purchase", "offsite_conversion.fb_pixel_purchase", "onsite_web_purchase")
"""Action types that all count the same purchases: never to be added up."""
_WINDOWS: Final = frozenset({"1d_click", "7d_click", "28d_click", "1d_view", "1d_ev", "default", "incrementality"})
_GONE_WINDOWS: Final = frozenset({"7d_view", "28d_view"})
_MONTHS_KEPT: Final = 37


class InsightsQuery:
    """One insights query: checks its parameters, finds its rows, renders a page of them."""

    def __init__(self, account: AdAccount, params: Mapping[str, str], call: Call) -> None:
        self.account, self.call = account, call
        self.fields = asked_fields(params) or ["account_id", "impressions", "spend"]
        unknown = [name for name in self.fields if name not in _METRICS and name not in _LABELS]
        if unknown:
            raise GraphError(100, f"(#100) {unknown[0]} is not valid for fields param. please check the documentation")
        level = params.get("level", "account")
        if level not in _LEVELS:
            raise GraphError(100, "(#100) level must be one of the following values: ad, adset, campaign, account")
        self.level_name, self.level = level, _LEVELS[level]
        self.hourly: bool = self._breakdown(params)
        self.windows = self._windows(params)
        today = call.now.astimezone(ZoneInfo(account.timezone)).date()
        self.since, self.until = _range(params, today)
        self.daily = params.get("time_increment") == "1"
        self.period = _period(params.get("time_increment", "all_days"), self.since, self.until)
        self.filters = _filters(params)
        self.above = params.get("_above")

    def _breakdown(self, params: Mapping[str, str]) -> bool:
        names = as_list(params.get("breakdowns", ""))
        if not set(names) <= {_HOURLY}:
            raise GraphError(100, f"(#100) Tried accessing breakdowns {', '.join(names)}", subcode=1504041)
        return _HOURLY in names

    def _windows(self, params: Mapping[str, str]) -> list[str]:
        windows = as_list(params.get("action_attribution_windows", ""))
        unknown = set(windows) - _WINDOWS - _GONE_WINDOWS
        if unknown:
            raise GraphError(100, "(#100) Invalid action_attribution_windows")
        return [window for window in windows if window not in _GONE_WINDOWS]

    @property
    def withholds(self) -> bool:
        """Whether there are no actions: ad sets that are counted differently are added up, and no windows are named."""
        mixed = "meta_mixed_attribution" in self.call.troubles
        return mixed and self.level in (None, Level.CAMPAIGN) and not self.windows

    def facts(self) -> Facts:
        """The rows of the query, added up over its periods, in time order; ``day`` is the first of the period."""
        account, level = self.account, self.level
        if level is None and not self.filters and self.above is None:
            facts = told(account, None, self.since, self.until, self.call, hourly=self.hourly)
        else:
            facts = told(account, Level.AD, self.since, self.until, self.call, hourly=self.hourly)
            facts = facts.take(self._wanted()[facts.group])
            if level is not Level.AD:
                group = np.zeros_like(facts.group) if level is None else account.above_ads[level][facts.group]
                facts = replace(facts, group=group).merged(facts.day)
        if self.daily:
            return facts
        periods = [self.period(date.fromordinal(day)).toordinal() for day in facts.day.tolist()]
        return facts.merged(np.array(periods, np.int64))

    def _wanted(self) -> npt.NDArray[np.bool_]:
        """The ads whose numbers count. What is gone has no row of its own unless it, or a status, is named."""
        account = self.account
        wanted = np.ones(len(account.ads), np.bool_)
        for level, part, among in self.filters:
            values = account.effective_statuses if part == "effective_status" else {}
            fits = [values.get(one.external_id, one.external_id) in among for one in account.entities(level)]
            wanted &= np.array(fits, np.bool_)[account.above_ads[level]]
        if self.above is not None:
            level = account.by_id[self.above].level
            inside = [one.external_id == self.above for one in account.entities(level)]
            wanted &= np.array(inside, np.bool_)[account.above_ads[level]]
        if self.level and all(part != "effective_status" for _, part, _ in self.filters):
            known = account.entities(self.level)
            status = account.effective_statuses
            shown = [status[one.external_id] not in GONE or one.external_id == self.above for one in known]
            wanted &= np.array(shown, np.bool_)[account.above_ads[self.level]]
        return wanted

    def render(self, facts: Facts) -> list[dict[str, Any]]:
        """Rows as Meta writes them: text for every number, lists of actions only where there are any."""
        return [self._one(InsightsRow(*row)) for row in facts.rows()]

    def _one(self, row: InsightsRow) -> dict[str, Any]:
        labels = self._labels(row.group)
        out: dict[str, Any] = {}
        for name in self.fields:
            value = labels.get(name) if name in _LABELS else _METRICS[name](row, self)
            if value is not None:
                out[name] = value
        start = date.fromordinal(row.day)
        out["date_start"] = start.isoformat()
        out["date_stop"] = out["date_start"] if self.daily else self._stop(start).isoformat()
        if self.hourly:
            out[_HOURLY] = f"{row.hour:02}:00:00 - {row.hour:02}:59:59"
        return out

    def _stop(self, start: date) -> date:
        stop = start
        while stop < self.until and self.period(stop + timedelta(days=1)) == start:
            stop += timedelta(days=1)
        return stop

    def _labels(self, group: int) -> dict[str, str]:
        account = self.account
        labels = {
            "account_id": account.external_id,
            "account_name": account.name,
            "account_currency": account.currency,
        }
        if self.level is None:
            return labels
        entity: Entity | None = account.entities(self.level)[group]
        while entity is not None:
            name = {Level.CAMPAIGN: "campaign", Level.AD_SET: "adset", Level.AD: "ad"}[entity.level]
            labels |= {f"{name}_id": entity.external_id, f"{name}_name": entity.name}
            if entity.channel:
                labels["objective"] = entity.channel
            entity = account.by_id[entity.parent] if entity.parent else None
        return labels


@dataclass(frozen=True, slots=True)
class InsightsRow:
    """One row: its entity's index, the first day of its period, its hour (-1 for none), and its numbers."""

    group: int
    day: int
    hour: int
    impressions: int
    clicks: int
    spend: int
    conversions: int
    revenue: int


def _purchases(row: InsightsRow, total: int, query: InsightsQuery) -> list[dict[str, str]]:
    """The purchases (or their value) of a row under each of their names.

    A fifth of them, in whole purchases, count as seen rather than clicked; the windows of the default setting,
    7d_click and 1d_view, add up to the total.
    """
    if query.hourly or query.withholds or not total:
        return []
    seen = row.conversions // 5_000_000
    view = total * seen * 1_000_000 // row.conversions // 10_000 * 10_000 if seen else 0
    click = total - view
    late = click // 4 // 1_000_000 * 1_000_000
    parts = {"1d_click": click - late, "7d_click": click, "28d_click": click, "1d_view": view, "default": total}
    windows = {window: plain_decimal(parts[window]) for window in query.windows if parts.get(window)}
    own = {} if "meta_windows_without_value" in query.call.troubles else {"value": plain_decimal(total)}
    return [{"action_type": name, **own, **windows} for name in _PURCHASES]


def _actions(row: InsightsRow, query: InsightsQuery) -> list[dict[str, str]] | None:
    links = 0 if query.withholds else row.clicks * 5 // 6
    windows = {window: str(links) for window in query.windows if window.endswith("_click")}
    actions = [{"action_type": "link_click", "value": str(links), **windows}] if links else []
    return actions + _purchases(row, row.conversions, query) or None


def _roas(row: InsightsRow, query: InsightsQuery) -> list[dict[str, str]] | None:
    value = ratio(row.revenue, row.spend)
    if query.hourly or query.withholds or not value:
        return None
    return [{"action_type": "omni_purchase", "value": plain_decimal(value)}]


def _text(value: int | None) -> str | None:
    return None if value is None else plain_decimal(value)


_METRICS: Final[dict[str, Callable[[InsightsRow, InsightsQuery], Any]]] = {
    "impressions": lambda row, _: str(row.impressions),
    "clicks": lambda row, _: str(row.clicks),
    "spend": lambda row, _: plain_decimal(row.spend),
    "inline_link_clicks": lambda row, _: str(row.clicks * 5 // 6),
    "reach": lambda row, query: None if query.hourly else str(row.impressions * 3 // 4),
    "ctr": lambda row, _: _text(ratio(row.clicks, row.impressions, scale=100)),
    "cpc": lambda row, _: _text(ratio(row.spend, row.clicks * 1_000_000)),
    "cpm": lambda row, _: _text(ratio(row.spend, row.impressions * 1000)),
    "actions": _actions,
    "action_values": lambda row, query: _purchases(row, row.revenue, query) or None,
    "purchase_roas": _roas,
}
_LABELS: Final = frozenset(
    {"account_id", "account_name", "account_currency", "objective", "date_start", "date_stop"}
    | {f"{name}_{part}" for name in ("campaign", "adset", "ad") for part in ("id", "name")}
)


def _filters(params: Mapping[str, str]) -> list[tuple[Level, str, set[str]]]:
    """Conditions on ids and statuses in ``filtering``; Meta knows many more, refused here rather than ignored."""
    filters = []
    for condition in as_json(params, "filtering") if params.get("filtering") else []:
        name, _, part = str(condition.get("field", "")).partition(".")
        level, known = _LEVELS.get(name), part in {"id", "effective_status"}
        if level is None or not known or condition.get("operator") not in {"IN", "EQUAL"}:
            raise GraphError(100, f"(#100) Filtering field {condition.get('field')} is invalid")
        value = condition.get("value")
        filters.append((level, part, {str(item) for item in (value if isinstance(value, list) else [value])}))
    return filters


def _range(params: Mapping[str, str], today: date) -> tuple[date, date]:
    """The days asked for; the last 30 before today if none are."""
    if params.get("time_range"):
        span = as_json(params, "time_range")
        try:
            since, until = date.fromisoformat(span["since"]), date.fromisoformat(span["until"])
        except (KeyError, TypeError, ValueError):
            raise GraphError(100, "(#100) time_range must have since and until as YYYY-MM-DD") from None
    else:
        since, until = _preset(params.get("date_preset", "last_30d"), today)
    if until < since:
        raise GraphError(100, "(#100) time_range since must not be after until")
    if (today.year - since.year) * 12 + today.month - since.month > _MONTHS_KEPT:
        message = "(#3018) The start date of the time range cannot be beyond 37 months from the current date"
        raise GraphError(3018, message)
    return since, until


def _preset(name: str, today: date) -> tuple[date, date]:
    if name == "today":
        return today, today
    if name == "yesterday":
        return today - timedelta(days=1), today - timedelta(days=1)
    days = re.fullmatch(r"last_(3|7|14|28|30|90)d", name)
    if days is None:
        raise GraphError(100, f"(#100) date_preset {name} is not known")
    return today - timedelta(days=int(days[1])), today - timedelta(days=1)


def _period(increment: str, since: date, until: date) -> Callable[[date], date]:
    """The first day of the period that a day belongs to."""
    if increment == "all_days":
        return lambda _: since
    if increment == "monthly":
        return lambda day: max(since, day.replace(day=1))
    if not increment.isdigit() or not 1 <= int(increment) <= 90:
        raise GraphError(100, "(#100) time_increment must be 1 to 90, monthly or all_days")
    step = int(increment)
    return lambda day: since + timedelta(days=(day - since).days // step * step)
