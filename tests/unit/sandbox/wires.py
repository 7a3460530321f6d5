"""Reads a world through each platform's wire format, the way a careful client would, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import orjson

from aae.model import Level, Platform, to_micros
from aae.sandbox import APP, World
from aae.sandbox.entities import AdAccount
from aae.sandbox.google import GoogleApi
from aae.sandbox.meta import MetaApi
from aae.sandbox.tiktok import TikTokApi
from aae.sandbox.wire import Answer, Api, Call

# US clocks changed on 1 November, European ones on 25 October: both lie within the window.
NOW = datetime(2026, 11, 4, 15, 20, tzinfo=UTC)

Numbers = tuple[int, int, int, int | None, int | None]
Rows = dict[tuple[str, str, int | None], Numbers]

APIS: dict[Platform, type[MetaApi | TikTokApi | GoogleApi]] = {
    Platform.META: MetaApi,
    Platform.TIKTOK: TikTokApi,
    Platform.GOOGLE: GoogleApi,
}


@dataclass
class Wire:
    """One platform's API of a world at a moment, without a socket in between."""

    world: World
    platform: Platform
    now: datetime = NOW
    troubles: dict[str, float | None] = field(default_factory=dict)
    page: int = 37

    def __post_init__(self) -> None:
        self.api: Api = APIS[self.platform](self.world)

    def ask(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (query or {}).items()}
        call = Call(method, path, texts, headers or {}, body, "http://sandbox", self.now, self.troubles)
        return self.api.answer(call)

    def headers(self, account: AdAccount) -> dict[str, str]:
        access = self.world.credentials(account)[0]
        if account.platform is Platform.TIKTOK:
            return {"access-token": access}
        headers = {"authorization": f"Bearer {access}"}
        if account.platform is Platform.GOOGLE:
            headers["developer-token"] = APP.google_developer_token
            if account.manager:
                headers["login-customer-id"] = account.manager
        return headers

    def get(self, account: AdAccount, path: str, **query: Any) -> Any:
        return orjson.loads(self.ask("GET", path, query, self.headers(account)).body)

    def post_form(self, account: AdAccount, path: str, **form: Any) -> Any:
        return orjson.loads(self.ask("POST", path, {}, self.headers(account), urlencode(form).encode()).body)

    def gaql(self, account: AdAccount, query: str, *, method: str = "search", **body: Any) -> Any:
        path = f"/v26/customers/{account.external_id}/googleAds:{method}"
        answer = self.ask("POST", path, {}, self.headers(account), orjson.dumps({"query": query, **body}))
        return orjson.loads(answer.body)


def first(world: World, platform: Platform, **wanted: str) -> AdAccount:
    """The first connected account of a platform with these attributes."""
    return next(
        account
        for account in world.connected
        if account.platform is platform and all(getattr(account, name) == value for name, value in wanted.items())
    )


def truth(account: AdAccount, level: Level | None, since: date, until: date, now: datetime, *, hourly: bool) -> Rows:
    """The ledger's rows in the same shape as the wires'."""
    rows: Rows = {}
    for group, day, hour, *numbers in account.facts(level, since, until, now, hourly=hourly).rows():
        entity = None if level is None else account.entities(level)[group]
        key = account.external_id if entity is None else entity.external_id
        known = entity is None or entity.tells_conversions
        impressions, clicks, spend, conversions, revenue = numbers
        rows[key, date.fromordinal(day).isoformat(), hour if hourly else None] = (
            impressions,
            clicks,
            spend,
            conversions if known else None,
            revenue if known else None,
        )
    return rows


def read(wire: Wire, account: AdAccount, level: Level | None, since: date, until: date, *, hourly: bool) -> Rows:
    """The rows as the account's platform tells them."""
    reader = {Platform.META: _meta, Platform.TIKTOK: _tiktok, Platform.GOOGLE: _google}[account.platform]
    rows: Rows = {}
    for key, numbers in reader(wire, account, level, since, until, hourly):
        assert key not in rows, f"told twice: {key}"
        rows[key] = numbers
    return rows


Found = Iterator[tuple[tuple[str, str, int | None], Numbers]]


def _meta(wire: Wire, account: AdAccount, level: Level | None, since: date, until: date, hourly: bool) -> Found:
    name = {None: "account", Level.CAMPAIGN: "campaign", Level.AD_SET: "adset", Level.AD: "ad"}[level]
    query: dict[str, Any] = {
        "level": name,
        "fields": f"{name}_id,impressions,clicks,spend,actions,action_values",
        "time_range": {"since": since.isoformat(), "until": until.isoformat()},
        "time_increment": "1",
        "limit": str(wire.page),
        "action_attribution_windows": ["7d_click", "1d_view"],
    }
    if level is not None:
        query["filtering"] = [every_status()]
    if hourly:
        query["breakdowns"] = ["hourly_stats_aggregated_by_advertiser_time_zone"]
    while True:
        body = wire.get(account, f"/v26.0/act_{account.external_id}/insights", **query)
        for row in body["data"]:
            hour = int(row["hourly_stats_aggregated_by_advertiser_time_zone"][:2]) if hourly else None
            numbers = (int(row["impressions"]), int(row["clicks"]), to_micros(row["spend"]))
            bought, value = _purchases(row.get("actions", [])), _purchases(row.get("action_values", []))
            yield (row[f"{name}_id"], row["date_start"], hour), (*numbers, bought, value)
        if "next" not in body.get("paging", {}):
            return
        query["after"] = body["paging"]["cursors"]["after"]


def every_status() -> dict[str, Any]:
    """The condition without which Meta's insights leave out what is deleted or archived."""
    statuses = ["ACTIVE", "PAUSED", "CAMPAIGN_PAUSED", "ADSET_PAUSED", "ARCHIVED", "DELETED"]
    return {"field": "ad.effective_status", "operator": "IN", "value": statuses}


def _purchases(actions: list[dict[str, str]]) -> int:
    for action in actions:
        if action["action_type"] == "omni_purchase":
            windows = sum(to_micros(action[name]) for name in ("7d_click", "1d_view") if name in action)
            assert windows == to_micros(action["value"])
            return windows
    return 0


def _tiktok(wire: Wire, account: AdAccount, level: Level | None, since: date, until: date, hourly: bool) -> Found:
    name = {None: "advertiser", Level.CAMPAIGN: "campaign", Level.AD_SET: "adgroup", Level.AD: "ad"}[level]
    time = "stat_time_hour" if hourly else "stat_time_day"
    query: dict[str, Any] = {
        "advertiser_id": account.external_id,
        "report_type": "BASIC",
        "data_level": f"AUCTION_{name.upper()}",
        "dimensions": [f"{name}_id", time],
        "metrics": ["spend", "impressions", "clicks", "complete_payment", "total_complete_payment_rate"],
        "page_size": str(wire.page),
    }
    if level is not None:
        all_of_them = {"field_name": f"{name}_status", "filter_type": "IN", "filter_value": '["STATUS_ALL"]'}
        query["filtering"] = [all_of_them]
    step = 1 if hourly else 30
    for start in range(since.toordinal(), until.toordinal() + 1, step):
        end = min(start + step - 1, until.toordinal())
        page, pages = 1, 1
        while page <= pages:
            span = {"start_date": str(date.fromordinal(start)), "end_date": str(date.fromordinal(end))}
            body = wire.get(account, "/open_api/v1.3/report/integrated/get/", **query, **span, page=str(page))
            assert body["code"] == 0, body
            pages, page = body["data"]["page_info"]["total_page"], page + 1
            for row in body["data"]["list"]:
                day, clock = row["dimensions"][time].split()
                metrics = row["metrics"]
                counts = (int(metrics["impressions"]), int(metrics["clicks"]), to_micros(metrics["spend"]))
                bought, value = (
                    None if metrics[metric] == "-" else to_micros(metrics[metric])
                    for metric in ("complete_payment", "total_complete_payment_rate")
                )
                key = (row["dimensions"][f"{name}_id"], day, int(clock[:2]) if hourly else None)
                yield key, (*counts, bought, value)


def _google(wire: Wire, account: AdAccount, level: Level | None, since: date, until: date, hourly: bool) -> Found:
    resource, path = {
        None: ("customer", ("customer", "id")),
        Level.CAMPAIGN: ("campaign", ("campaign", "id")),
        Level.AD_SET: ("ad_group", ("adGroup", "id")),
        Level.AD: ("ad_group_ad", ("adGroupAd", "ad", "id")),
    }[level]
    identifier = {"ad_group_ad": "ad_group_ad.ad.id"}.get(resource, f"{resource}.id")
    hour_field = "segments.hour, " if hourly else ""
    query = (
        f"SELECT segments.date, {hour_field}{identifier}, metrics.impressions, metrics.clicks, metrics.cost_micros, "
        f"metrics.conversions, metrics.conversions_value FROM {resource} "
        f"WHERE segments.date BETWEEN '{since}' AND '{until}'"
    )
    token = ""
    while True:
        body = wire.gaql(account, query, **({"pageToken": token} if token else {}))
        for row in body.get("results", []):
            found: Any = row
            for part in path:
                found = found[part]
            metrics, segments = row["metrics"], row["segments"]
            yield (
                (found, segments["date"], segments["hour"] if hourly else None),
                (
                    int(metrics["impressions"]),
                    int(metrics["clicks"]),
                    int(metrics["costMicros"]),
                    to_micros(Decimal(str(metrics["conversions"]))),
                    to_micros(Decimal(str(metrics["conversionsValue"]))),
                ),
            )
        token = body.get("nextPageToken", "")
        if not token:
            return
