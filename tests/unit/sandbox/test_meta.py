"""Meta's habits: tokens, cursors, overlapping purchases, report runs, batches."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from aae.model import Platform
from aae.sandbox import APP, World
from aae.sandbox.entities import AdAccount, Status
from aae.sandbox.wire import Answer
from tests.unit.sandbox.wires import NOW, Wire, every_status, first

DAY = {"since": "2026-11-02", "until": "2026-11-02"}


@pytest.fixture
def wire(world: World) -> Wire:
    return Wire(world, Platform.META)


@pytest.fixture
def account(world: World) -> AdAccount:
    return first(world, Platform.META, currency="USD")


def error(answer: Answer) -> tuple[int, int | None]:
    found = orjson.loads(answer.body)["error"]
    return found["code"], found.get("error_subcode")


def insights(wire: Wire, account: AdAccount, **query: Any) -> list[dict[str, Any]]:
    query = {"time_range": DAY, "limit": "500", **query}
    rows: list[dict[str, Any]] = wire.get(account, f"/v26.0/act_{account.external_id}/insights", **query)["data"]
    return rows


def exchange(wire: Wire, token: str, **changes: str) -> Answer:
    query = {
        "grant_type": "fb_exchange_token",
        "client_id": APP.meta_app_id,
        "client_secret": APP.meta_app_secret,
        "fb_exchange_token": token,
    }
    return wire.ask("GET", "/v26.0/oauth/access_token", {**query, **changes})


def test_a_token_works_until_it_expires_and_can_be_exchanged_while_it_does(world: World, account: AdAccount) -> None:
    token, _, expires = world.credentials(account)
    assert expires == NOW + timedelta(hours=10)
    inside, outside = (Wire(world, Platform.META, expires + timedelta(seconds=step)) for step in (-1, 0))
    fresh = orjson.loads(exchange(inside, token).body)
    assert fresh["expires_in"] == 5_183_944
    assert fresh["access_token"] != token
    assert inside.ask("GET", "/v26.0/me", {"access_token": token}).status == 200
    assert error(outside.ask("GET", "/v26.0/me", {"access_token": token})) == (190, 463)
    assert error(exchange(outside, token)) == (190, 463)
    assert outside.ask("GET", "/v26.0/me", {"access_token": fresh["access_token"]}).status == 200


def test_exchange_and_calls_check_who_asks(wire: Wire, account: AdAccount) -> None:
    token = wire.world.credentials(account)[0]
    assert error(exchange(wire, token, client_secret="wrong"))[0] == 1
    assert error(exchange(wire, token, client_id="wrong"))[0] == 101
    assert error(wire.ask("GET", "/v26.0/me")) == (104, None)
    assert error(wire.ask("GET", "/v26.0/me", {"access_token": token[:-1]})) == (190, None)
    proof = hmac.new(APP.meta_app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()
    assert wire.ask("GET", "/v26.0/me", {"access_token": token, "appsecret_proof": proof}).status == 200
    assert error(wire.ask("GET", "/v26.0/me", {"access_token": token, "appsecret_proof": "0" * 64})) == (100, None)


def test_debug_token_tells_when_a_token_ends_and_why_it_is_dead(world: World, account: AdAccount) -> None:
    token, _, expires = world.credentials(account)
    assert isinstance(expires, datetime)
    query = {"input_token": token, "access_token": f"{APP.meta_app_id}|{APP.meta_app_secret}"}

    def debug(now: datetime) -> dict[str, Any]:
        data: dict[str, Any] = orjson.loads(
            Wire(world, Platform.META, now).ask("GET", "/v26.0/debug_token", query).body
        )["data"]
        return data

    assert debug(NOW)["is_valid"] is True
    assert debug(NOW)["expires_at"] == int(expires.timestamp())
    dead = debug(expires + timedelta(days=1))
    assert dead["is_valid"] is False
    assert (dead["error"]["code"], dead["error"]["subcode"]) == (190, 463)


def test_one_users_token_does_not_open_anothers_account(wire: Wire, world: World, account: AdAccount) -> None:
    other = first(world, Platform.META, currency="JPY")
    answer = wire.ask("GET", f"/v26.0/act_{other.external_id}/campaigns", {}, wire.headers(account))
    assert error(answer) == (100, 33)


def test_the_last_page_has_cursors_but_no_next(wire: Wire, account: AdAccount) -> None:
    path, query = f"/v26.0/act_{account.external_id}/ads", {"fields": "id", "limit": "5"}
    seen, pages = [], 0
    while True:
        body = wire.get(account, path, **query)
        pages += 1
        seen += [row["id"] for row in body["data"]]
        assert set(body["paging"]["cursors"]) == {"before", "after"}
        if "next" not in body["paging"]:
            break
        following = urlsplit(body["paging"]["next"])
        assert f"{following.scheme}://{following.netloc}{following.path}" == "http://sandbox" + path
        assert parse_qs(following.query) == {
            "access_token": [wire.world.credentials(account)[0]],
            **{"fields": ["id"], "limit": ["5"], "after": [body["paging"]["cursors"]["after"]]},
        }
        query["after"] = body["paging"]["cursors"]["after"]
    shown = [one for one in account.ads if one.status in (Status.ACTIVE, Status.PAUSED)]
    assert pages > 2
    assert len(seen) == len(set(seen)) < len(shown) + 1
    assert wire.get(account, path + "/", **query)["data"] == body["data"], "a trailing slash is tolerated"


def test_deleted_and_archived_are_listed_only_by_name(wire: Wire, account: AdAccount) -> None:
    path = f"/v26.0/act_{account.external_id}/campaigns"
    usual = wire.get(account, path, fields="effective_status", limit="100")["data"]
    assert {row["effective_status"] for row in usual} == {"ACTIVE", "PAUSED"}
    gone = wire.get(account, path, fields="name", effective_status=["DELETED", "ARCHIVED"])["data"]
    assert {row["name"] for row in gone} == {"Old promo", "Last summer"}
    ads = wire.get(account, f"/v26.0/act_{account.external_id}/ads", fields="effective_status", limit="100")["data"]
    assert {row["effective_status"] for row in ads} == {"ACTIVE", "PAUSED", "CAMPAIGN_PAUSED"}


@pytest.mark.parametrize(("currency", "unit"), [("USD", 10_000), ("JPY", 1_000_000)])
def test_budgets_travel_in_minor_units_by_metas_own_table(wire: Wire, world: World, currency: str, unit: int) -> None:
    account = first(world, Platform.META, currency=currency)
    rows = wire.get(account, f"/v26.0/act_{account.external_id}/campaigns", fields="daily_budget", limit="50")["data"]
    said = {row["id"]: int(row["daily_budget"]) * unit for row in rows if "daily_budget" in row}
    assert said
    assert all(account.by_id[key].daily_budget_micros == value for key, value in said.items())


def test_insights_numbers_are_text_and_purchases_overlap(wire: Wire, account: AdAccount) -> None:
    account = first(wire.world, Platform.META, currency="EUR")
    rows = insights(wire, account, level="campaign", fields="campaign_name,spend,impressions,actions,purchase_roas")
    assert all(isinstance(row["spend"], str) and isinstance(row["impressions"], str) for row in rows)
    bought = [action for action in rows[0]["actions"] if "purchase" in action["action_type"]]
    assert len(bought) > 2
    assert len({action["value"] for action in bought}) == 1
    assert all("7d_click" not in action for row in rows for action in row["actions"])
    with_windows = insights(wire, account, level="campaign", fields="actions", action_attribution_windows=["7d_click"])
    assert all("1d_view" not in action for row in with_windows for action in row.get("actions", []))
    assert "7d_click" in with_windows[0]["actions"][0]


def test_rows_without_purchases_have_no_empty_lists(wire: Wire, account: AdAccount) -> None:
    rows = insights(wire, account, level="ad", fields="clicks,actions,action_values", time_increment="1")
    values = [row.get("action_values") for row in rows]
    assert None in values
    assert [] not in values


def test_hourly_rows_have_a_label_and_no_purchases(wire: Wire, account: AdAccount) -> None:
    hour = "hourly_stats_aggregated_by_advertiser_time_zone"
    rows = insights(wire, account, fields="actions,action_values,spend", breakdowns=[hour])
    assert [row[hour] for row in rows] == [f"{n:02}:00:00 - {n:02}:59:59" for n in range(24)]
    assert {action["action_type"] for row in rows for action in row.get("actions", [])} == {"link_click"}
    assert not any("action_values" in row for row in rows)


def test_time_increments_add_up_and_name_their_days(wire: Wire, account: AdAccount) -> None:
    span = {"since": "2026-10-20", "until": "2026-10-26"}
    by = {
        increment: insights(wire, account, fields="impressions", time_range=span, time_increment=increment)
        for increment in ("1", "3", "all_days")
    }
    assert [len(rows) for rows in by.values()] == [7, 3, 1]
    assert len({sum(int(row["impressions"]) for row in rows) for rows in by.values()}) == 1
    assert [(row["date_start"], row["date_stop"]) for row in by["3"]] == [
        ("2026-10-20", "2026-10-22"),
        ("2026-10-23", "2026-10-25"),
        ("2026-10-26", "2026-10-26"),
    ]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"fields": "nonsense"}, 100),
        ({"level": "planet"}, 100),
        ({"time_range": {"since": "2026-11-02", "until": "2026-11-01"}}, 100),
        ({"time_range": {"since": "2022-01-01", "until": "2022-01-02"}}, 3018),
        ({"time_range": "{"}, 100),
        ({"breakdowns": ["age"]}, 100),
        ({"after": "???"}, 100),
        ({"limit": "0"}, 100),
        ({"time_increment": "91"}, 100),
        ({"action_attribution_windows": ["9d_click"]}, 100),
        ({"filtering": [{"field": "spend", "operator": "GREATER_THAN", "value": 1}]}, 100),
    ],
)
def test_wrong_questions_are_refused(wire: Wire, account: AdAccount, query: dict[str, Any], code: int) -> None:
    whole = {"time_range": DAY, **query}
    assert error(wire.ask("GET", f"/v26.0/act_{account.external_id}/insights", whole, wire.headers(account)))[0] == code


@pytest.mark.parametrize(("version", "code"), [("v24.0", 2635), ("v99.0", 2500), ("v25.0", None), ("nonsense", 2500)])
def test_versions(wire: Wire, account: AdAccount, version: str, code: int | None) -> None:
    answer = wire.ask("GET", f"/{version}/me", {}, wire.headers(account))
    assert (error(answer)[0] if answer.status != 200 else None) == code
    assert answer.headers["facebook-api-version"] == version


def test_filters_by_id_narrow_insights(wire: Wire, account: AdAccount) -> None:
    campaign = account.campaigns[0].external_id
    condition = [{"field": "campaign.id", "operator": "IN", "value": [campaign]}]
    narrowed = insights(wire, account, level="ad", fields="campaign_id,ad_id,spend", filtering=condition)
    assert {row["campaign_id"] for row in narrowed} == {campaign}
    direct = wire.get(
        account, f"/v26.0/{campaign}/insights", level="ad", fields="campaign_id,ad_id,spend", time_range=DAY
    )
    assert direct["data"] == narrowed


def test_what_is_gone_counts_in_what_is_above_it_but_has_a_row_of_its_own_only_if_it_is_named(
    wire: Wire, account: AdAccount
) -> None:
    month = {"since": "2026-10-24", "until": "2026-11-21"}
    asked: dict[str, Any] = {"level": "ad", "fields": "ad_id,impressions", "time_range": month, "limit": "500"}
    path = f"/v26.0/act_{account.external_id}/insights"

    def told(**more: Any) -> dict[str, int]:
        return {
            row.get("ad_id", ""): int(row["impressions"]) for row in wire.get(account, path, **asked | more)["data"]
        }

    silent, every = told(), told(filtering=[every_status()])
    gone = set(every) - set(silent)
    assert gone
    assert {account.effective_statuses[ad] for ad in gone} <= {"ARCHIVED", "DELETED"}
    assert all(account.effective_statuses[ad] not in {"ARCHIVED", "DELETED"} for ad in silent)
    assert told(level="account", fields="impressions") == {"": sum(every.values())}
    ad = min(gone)
    own = wire.get(account, f"/v26.0/{ad}/insights", fields="impressions", time_range=month)["data"]
    assert [int(row["impressions"]) for row in own] == [every[ad]]


def test_a_report_run_is_made_polled_and_read(wire: Wire, account: AdAccount, world: World) -> None:
    form = {"level": "ad", "fields": '["ad_id","spend"]', "time_range": json.dumps(DAY), "time_increment": "1"}
    run = wire.post_form(account, f"/v26.0/act_{account.external_id}/insights", **form)["report_run_id"]
    first_look = wire.get(account, f"/v26.0/{run}/")
    assert (first_look["async_status"], first_look["async_percent_completion"]) == ("Job Running", 40)
    second_look = wire.get(account, f"/v26.0/{run}")
    assert (second_look["async_status"], second_look["async_percent_completion"]) == ("Job Completed", 100)
    page = wire.get(account, f"/v26.0/{run}/insights", limit="500")["data"]
    assert page == insights(wire, account, level="ad", fields="ad_id,spend", time_increment="1")
    stranger = first(world, Platform.META, currency="EUR")
    assert wire.get(stranger, f"/v26.0/{run}")["error"]["code"] == 100


def test_a_batch_answers_each_call_as_if_alone(wire: Wire, account: AdAccount) -> None:
    items = [
        {"method": "GET", "relative_url": f"v26.0/act_{account.external_id}?fields=name,currency"},
        {"method": "GET", "relative_url": "act_1"},
    ]
    good, bad = wire.post_form(account, "/v26.0/", batch=json.dumps(items))
    assert (good["code"], json.loads(good["body"])["currency"]) == (200, "USD")
    assert (bad["code"], json.loads(bad["body"])["error"]["code"]) == (400, 100)
    assert {"name", "value"} == set(good["headers"][0])
    assert wire.post_form(account, "/v26.0/", batch=json.dumps(items * 26))["error"]["code"] == 100


def test_usage_headers_come_with_every_answer(wire: Wire, account: AdAccount) -> None:
    path = f"/v26.0/act_{account.external_id}/insights"
    headers = wire.ask("GET", path, {"time_range": DAY}, wire.headers(account)).headers
    assert set(headers) >= {"x-app-usage", "x-business-use-case-usage", "x-fb-ads-insights-throttle"}
    assert account.external_id in json.loads(headers["x-business-use-case-usage"])


def test_cursors_are_opaque_text(wire: Wire, account: AdAccount) -> None:
    body = wire.get(account, "/v26.0/me/adaccounts", fields="id")
    assert base64.urlsafe_b64decode(body["paging"]["cursors"]["after"] + "==")
