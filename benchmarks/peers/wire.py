"""What every peer asks of the platforms and how an answer is read, so that they differ only in what carries it.

They ask for the same days of the same accounts, by day and by hour. They know no listings, no totals to reconcile
with, no restatements, no limits of calls and no second run; they keep money as floats and trust every answer.
Standard library only: the peers' environments have nothing of the product.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

from benchmarks.cost import measured

HOUR = "hourly_stats_aggregated_by_advertiser_time_zone"
TABLES = ("daily", "hourly")
TEXTS = ("platform", "account", "date", "campaign", "ad_set", "ad")
NUMBERS = ("hour", "impressions", "clicks", "spend", "conversions", "revenue")

Row = dict[str, Any]
"""Text or nothing under each of :data:`TEXTS`, a float or nothing under each of :data:`NUMBERS`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer is to do: the accounts as a sandbox lists them, both days inclusive, an empty database."""

    accounts: list[dict[str, Any]]
    url: str
    developer_token: str
    since: str
    until: str
    database: str

    def questions(self) -> Iterator[Question]:
        """Everything to be asked, an account after the other."""
        since, until = date.fromisoformat(self.since), date.fromisoformat(self.until)
        for account in self.accounts:
            for table, step in (("daily", 7), ("hourly", 1)):
                for first, last in _ranges(since, until, step):
                    yield from _QUESTIONS[account["platform"]](self, account, table, first, last)


@dataclass(frozen=True, slots=True)
class Question:
    """One request, of whose answer there may be further pages."""

    platform: str
    account: str
    table: str
    method: str
    path: str
    headers: dict[str, str]
    params: dict[str, str]
    body: dict[str, Any] | None = None

    def rows(self, page: Any) -> list[Row]:
        """The rows of a page of the answer that tell of any delivery."""
        found = _ROWS[self.platform](page, self.table == "hourly")
        named = ({"platform": self.platform, "account": self.account, **row} for row in found)
        return [row for row in named if row["impressions"] or row["clicks"] or row["spend"]]


def main(fetch: Callable[[Job], int]) -> None:
    """Do the job on standard input with ``fetch``, which returns the number of rows; say what it took."""
    done = measured(fetch, Job(**json.load(sys.stdin)))
    print(json.dumps({"rows": done.value, **asdict(done.cost)}))


def _ranges(since: date, until: date, step: int) -> Iterator[tuple[date, date]]:
    while since <= until:
        yield since, min(since + timedelta(days=step - 1), until)
        since += timedelta(days=step)


def _number(value: Any) -> float | None:
    return None if value in (None, "-") else float(value)


# Meta: pages linked by a whole address


def _ask_meta(job: Job, account: Mapping[str, Any], table: str, since: date, until: date) -> Iterator[Question]:
    by_hour = table == "hourly"
    gone_too = {
        "field": "ad.effective_status",
        "operator": "IN",
        "value": ["ACTIVE", "PAUSED", "CAMPAIGN_PAUSED", "ADSET_PAUSED", "ARCHIVED", "DELETED"],
    }
    params = {
        "level": "ad",
        "filtering": json.dumps([gone_too]),
        "time_increment": "1",
        "time_range": json.dumps({"since": str(since), "until": str(until)}),
        "fields": "ad_id,adset_id,campaign_id,impressions,clicks,spend" + ("" if by_hour else ",actions,action_values"),
        "limit": "500",
        **({"breakdowns": json.dumps([HOUR])} if by_hour else {}),
    }
    number, headers = account["external_id"], {"Authorization": f"Bearer {account['access_token']}"}
    yield Question("meta", number, table, "GET", f"/v26.0/act_{number}/insights", headers, params)


def _meta_rows(page: Any, by_hour: bool) -> Iterator[Row]:
    for row in page["data"]:
        conversions, revenue = (
            next((one["value"] for one in row.get(name, []) if one["action_type"] == "omni_purchase"), None)
            for name in ("actions", "action_values")
        )
        yield {
            "date": row["date_start"],
            "campaign": row["campaign_id"],
            "ad_set": row["adset_id"],
            "ad": row["ad_id"],
            "hour": float(row[HOUR][:2]) if by_hour else None,
            "impressions": float(row["impressions"]),
            "clicks": float(row["clicks"]),
            "spend": float(row["spend"]),
            "conversions": _number(conversions),
            "revenue": _number(revenue),
        }


# TikTok: numbered pages


def _ask_tiktok(job: Job, account: Mapping[str, Any], table: str, since: date, until: date) -> Iterator[Question]:
    everything = {"field_name": "ad_status", "filter_type": "IN", "filter_value": json.dumps(["STATUS_ALL"])}
    metrics = ["impressions", "clicks", "spend", "complete_payment", "total_complete_payment_rate"]
    params = {
        "advertiser_id": account["external_id"],
        "report_type": "BASIC",
        "service_type": "AUCTION",
        "data_level": "AUCTION_AD",
        "dimensions": json.dumps(["ad_id", "stat_time_hour" if table == "hourly" else "stat_time_day"]),
        "metrics": json.dumps([*metrics, "campaign_id", "adgroup_id"]),
        "filtering": json.dumps([everything]),
        "start_date": str(since),
        "end_date": str(until),
        "page_size": "1000",
    }
    path, headers = "/open_api/v1.3/report/integrated/get/", {"Access-Token": account["access_token"]}
    yield Question("tiktok", account["external_id"], table, "GET", path, headers, params)


def _tiktok_rows(page: Any, by_hour: bool) -> Iterator[Row]:
    for row in page["data"]["list"]:
        told, named = row["metrics"], row["dimensions"]
        when = named["stat_time_hour" if by_hour else "stat_time_day"]
        yield {
            "date": when[:10],
            "campaign": told["campaign_id"],
            "ad_set": told["adgroup_id"],
            "ad": named["ad_id"],
            "hour": float(when[11:13]) if by_hour else None,
            **{name: float(told[name]) for name in ("impressions", "clicks", "spend")},
            "conversions": _number(told["complete_payment"]),
            "revenue": _number(told["total_complete_payment_rate"]),
        }


# Google: all in one answer, by ad, and by campaign where there are no ads


def _ask_google(job: Job, account: Mapping[str, Any], table: str, since: date, until: date) -> Iterator[Question]:
    time = "segments.date, segments.hour" if table == "hourly" else "segments.date"
    what = "metrics.impressions, metrics.clicks, metrics.cost_micros, metrics.conversions, metrics.conversions_value"
    headers = {"Authorization": f"Bearer {account['access_token']}", "developer-token": job.developer_token}
    if account["login_customer_id"]:
        headers["login-customer-id"] = account["login_customer_id"]
    for ids, source in (
        ("ad_group_ad.ad.id, ad_group.id, campaign.id", "ad_group_ad WHERE campaign.advertising_channel_type !="),
        ("campaign.id", "campaign WHERE campaign.advertising_channel_type ="),
    ):
        between = f"segments.date BETWEEN '{since}' AND '{until}'"
        query = f"SELECT {time}, {ids}, {what} FROM {source} 'PERFORMANCE_MAX' AND {between}"
        path = f"/v26/customers/{account['external_id']}/googleAds:searchStream"
        yield Question("google", account["external_id"], table, "POST", path, headers, {}, {"query": query})


def _google_rows(page: Any, by_hour: bool) -> Iterator[Row]:
    for row in (row for batch in page for row in batch.get("results", [])):
        told, when = row["metrics"], row["segments"]
        yield {
            "date": when["date"],
            "campaign": row["campaign"]["id"],
            "ad_set": row.get("adGroup", {}).get("id"),
            "ad": row.get("adGroupAd", {}).get("ad", {}).get("id"),
            "hour": float(when.get("hour", 0)) if by_hour else None,
            "impressions": float(told.get("impressions", 0)),
            "clicks": float(told.get("clicks", 0)),
            "spend": float(told.get("costMicros", 0)) / 1e6,
            "conversions": float(told.get("conversions", 0)),
            "revenue": float(told.get("conversionsValue", 0)),
        }


_QUESTIONS = {"meta": _ask_meta, "tiktok": _ask_tiktok, "google": _ask_google}
_ROWS = {"meta": _meta_rows, "tiktok": _tiktok_rows, "google": _google_rows}
