"""The peer of the fetch benchmark: what one would write in an afternoon with httpx, pandas and ``to_sql``.

It asks for the same days of the same accounts, page by page, one account after the other, and appends what it gets. It
knows no retries, no limits of calls, no listings, no totals to reconcile with, no restatements and no second run; it
keeps money as floats and trusts every answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import httpx
import pandas as pd
from sqlalchemy import create_engine

HOUR = "hourly_stats_aggregated_by_advertiser_time_zone"
COLUMNS = ["date", "hour", "campaign", "ad_set", "ad", "impressions", "clicks", "spend", "conversions", "revenue"]

Rows = list[tuple[Any, ...]]


def fetch_everything(
    accounts: list[dict[str, Any]], base_url: str, developer_token: str, since: date, until: date, database: str
) -> int:
    """Append every account's days, both inclusive, to two tables of ``database``; returns the number of rows."""
    count, engine = 0, create_engine(database)
    fetchers = {"meta": meta, "tiktok": tiktok, "google": google}
    with httpx.Client(base_url=base_url, timeout=60, headers={"developer-token": developer_token}) as client:
        for account in accounts:
            for table, step in (("daily", 7), ("hourly", 1)):
                for first, last in ranges(since, until, step):
                    rows = fetchers[account["platform"]](client, account, first, last, table == "hourly")
                    frame = pd.DataFrame(rows, columns=COLUMNS)
                    frame[COLUMNS[5:]] = frame[COLUMNS[5:]].apply(pd.to_numeric, errors="coerce")
                    frame = frame[frame["impressions"] + frame["clicks"] + frame["spend"] > 0]
                    frame = frame.assign(platform=account["platform"], account=account["external_id"])
                    frame.to_sql(table, engine, if_exists="append", index=False)
                    count += len(frame)
    engine.dispose()
    return count


def ranges(since: date, until: date, step: int) -> Iterator[tuple[date, date]]:
    while since <= until:
        yield since, min(since + timedelta(days=step - 1), until)
        since += timedelta(days=step)


def meta(client: httpx.Client, account: dict[str, Any], since: date, until: date, by_hour: bool) -> Rows:
    everything = {
        "field": "ad.effective_status",
        "operator": "IN",
        "value": ["ACTIVE", "PAUSED", "CAMPAIGN_PAUSED", "ADSET_PAUSED", "ARCHIVED", "DELETED"],
    }
    params: dict[str, Any] | None = {
        "level": "ad",
        "filtering": json.dumps([everything]),
        "time_increment": "1",
        "time_range": json.dumps({"since": str(since), "until": str(until)}),
        "fields": "ad_id,adset_id,campaign_id,impressions,clicks,spend" + ("" if by_hour else ",actions,action_values"),
        "limit": "500",
        **({"breakdowns": json.dumps([HOUR])} if by_hour else {}),
    }
    url, rows = f"/v26.0/act_{account['external_id']}/insights", []
    while url:
        headers = {"Authorization": f"Bearer {account['access_token']}"}
        page = client.get(url, params=params, headers=headers).raise_for_status().json()
        for row in page["data"]:
            bought = [
                next((each["value"] for each in row.get(name, []) if each["action_type"] == "omni_purchase"), None)
                for name in ("actions", "action_values")
            ]
            ids, hour = (row["campaign_id"], row["adset_id"], row["ad_id"]), row[HOUR][:2] if by_hour else None
            rows.append((row["date_start"], hour, *ids, row["impressions"], row["clicks"], row["spend"], *bought))
        url, params = page.get("paging", {}).get("next"), None
    return rows


def tiktok(client: httpx.Client, account: dict[str, Any], since: date, until: date, by_hour: bool) -> Rows:
    time = "stat_time_hour" if by_hour else "stat_time_day"
    metrics = ["impressions", "clicks", "spend", "complete_payment", "total_complete_payment_rate"]
    everything = {"field_name": "ad_status", "filter_type": "IN", "filter_value": json.dumps(["STATUS_ALL"])}
    params: dict[str, Any] = {
        "advertiser_id": account["external_id"],
        "report_type": "BASIC",
        "service_type": "AUCTION",
        "data_level": "AUCTION_AD",
        "dimensions": json.dumps(["ad_id", time]),
        "metrics": json.dumps([*metrics, "campaign_id", "adgroup_id"]),
        "filtering": json.dumps([everything]),
        "start_date": str(since),
        "end_date": str(until),
        "page_size": 1000,
    }
    rows, number, last = [], 1, 1
    while number <= last:
        headers = {"Access-Token": account["access_token"]}
        url, asked = "/open_api/v1.3/report/integrated/get/", {**params, "page": number}
        data = client.get(url, params=asked, headers=headers).raise_for_status().json()["data"]
        for row in data["list"]:
            told, when = row["metrics"], row["dimensions"][time]
            ids = (told["campaign_id"], told["adgroup_id"], row["dimensions"]["ad_id"])
            rows.append((when[:10], when[11:13] if by_hour else None, *ids, *(told[name] for name in metrics)))
        number, last = number + 1, data["page_info"]["total_page"]
    return rows


def google(client: httpx.Client, account: dict[str, Any], since: date, until: date, by_hour: bool) -> Rows:
    time = "segments.date, segments.hour" if by_hour else "segments.date"
    what = "metrics.impressions, metrics.clicks, metrics.cost_micros, metrics.conversions, metrics.conversions_value"
    headers = {"Authorization": f"Bearer {account['access_token']}"}
    if account["login_customer_id"]:
        headers["login-customer-id"] = account["login_customer_id"]
    rows = []
    for ids, source in (
        ("ad_group_ad.ad.id, ad_group.id, campaign.id", "ad_group_ad WHERE campaign.advertising_channel_type !="),
        ("campaign.id", "campaign WHERE campaign.advertising_channel_type ="),
    ):
        between = f"segments.date BETWEEN '{since}' AND '{until}'"
        query = f"SELECT {time}, {ids}, {what} FROM {source} 'PERFORMANCE_MAX' AND {between}"
        url = f"/v26/customers/{account['external_id']}/googleAds:searchStream"
        answer = client.post(url, json={"query": query}, headers=headers).raise_for_status().json()
        for row in (row for batch in answer for row in batch.get("results", [])):
            told, when = row["metrics"], row["segments"]
            above = (row["campaign"]["id"], row.get("adGroup", {}).get("id"))
            ad = row.get("adGroupAd", {}).get("ad", {}).get("id")
            numbers = [told.get(name, 0) for name in ("impressions", "clicks", "costMicros")]
            bought = [told.get(name, 0) for name in ("conversions", "conversionsValue")]
            rows.append((when["date"], when.get("hour", 0) if by_hour else None, *above, ad, *numbers, *bought))
    return rows
