"""TikTok's habits: the envelope, the trailing slash, small default pages, deleted entities, two kinds of token."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from aae.model import Platform
from aae.sandbox import APP, World
from aae.sandbox.entities import AdAccount
from aae.sandbox.tokens import Grant, Kind
from tests.unit.sandbox.wires import NOW, Wire, first

REPORT = "/open_api/v1.3/report/integrated/get/"


@pytest.fixture
def wire(world: World) -> Wire:
    return Wire(world, Platform.TIKTOK)


@pytest.fixture
def account(world: World) -> AdAccount:
    return first(world, Platform.TIKTOK, timezone="America/Los_Angeles")


def report(wire: Wire, account: AdAccount, **changes: Any) -> dict[str, Any]:
    query = {
        "advertiser_id": account.external_id,
        "report_type": "BASIC",
        "data_level": "AUCTION_CAMPAIGN",
        "dimensions": ["campaign_id", "stat_time_day"],
        "start_date": "2026-11-01",
        "end_date": "2026-11-03",
    }
    body: dict[str, Any] = wire.get(account, REPORT, **(query | changes))
    return body


def test_a_path_without_its_slash_does_not_exist(wire: Wire, account: AdAccount) -> None:
    answer = wire.ask("GET", REPORT.rstrip("/"), {}, wire.headers(account))
    assert (answer.status, answer.body, answer.media_type) == (404, b"404 page not found\n", "text/plain")
    assert wire.ask("POST", REPORT, {}, wire.headers(account)).status == 405


def test_a_report_asked_with_the_least_has_ten_rows_and_two_metrics(wire: Wire, account: AdAccount) -> None:
    body = report(wire, account)
    assert (body["code"], body["message"]) == (0, "OK")
    assert body["request_id"]
    assert len(body["data"]["list"]) == body["data"]["page_info"]["page_size"] == 10
    assert body["data"]["page_info"]["total_number"] > 10
    row = body["data"]["list"][0]
    assert set(row["metrics"]) == {"spend", "impressions"}
    assert row["dimensions"]["stat_time_day"] == "2026-11-01 00:00:00"
    assert all(isinstance(value, str) for value in row["metrics"].values())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dimensions": ["campaign_id", "stat_time_hour"]}, 40002),
        ({"start_date": "2026-10-04"}, 40002),
        ({"start_date": "2026-10-05"}, 0),
        ({"start_date": "2025-12-01", "dimensions": ["campaign_id"]}, 0),
        ({"start_date": "2025-11-01", "dimensions": ["campaign_id"]}, 40002),
        ({"dimensions": ["ad_id", "stat_time_day"]}, 40002),
        ({"dimensions": "{"}, 40002),
        ({"metrics": ["spend", "nonsense"]}, 40002),
        ({"data_level": "PLANET"}, 40002),
        ({"page_size": "1001"}, 40002),
        ({"page_size": "x"}, 40002),
        ({"advertiser_id": "7"}, 40001),
    ],
)
def test_limits_of_a_report(wire: Wire, account: AdAccount, changes: dict[str, Any], code: int) -> None:
    assert report(wire, account, **changes)["code"] == code


def test_deleted_entities_are_told_only_when_the_filter_has_the_levels_name(wire: Wire, account: AdAccount) -> None:
    def seen(name: str | None) -> int:
        condition = {"field_name": name, "filter_type": "IN", "filter_value": '["STATUS_ALL"]'}
        filtering = {"filtering": [condition]} if name else {}
        span = {"start_date": "2026-10-10", "end_date": "2026-10-15", "page_size": "1000"}
        return len(report(wire, account, **span, **filtering)["data"]["list"])

    assert seen("campaign_status") > seen(None) == seen("ad_status")


def test_asked_for_several_advertisers_at_once_amounts_lose_their_decimals(wire: Wire, account: AdAccount) -> None:
    asked: dict[str, Any] = {"metrics": ["spend", "clicks"], "page_size": "1000"}
    (one, *_), (many, *_) = (
        report(wire, account, **asked, **more)["data"]["list"]
        for more in ({}, {"advertiser_ids": [account.external_id]})
    )
    assert one["metrics"]["spend"].partition(".")[2]
    assert many["dimensions"] == one["dimensions"]
    assert many["metrics"] == {
        "spend": one["metrics"]["spend"].partition(".")[0],
        "clicks": one["metrics"]["clicks"],
        "currency": account.currency,
        "timezone": account.timezone,
    }
    assert report(wire, account, advertiser_ids=[account.external_id] * 6)["code"] == 40002
    assert report(wire, account, advertiser_ids=["7"])["code"] == 40001


def test_filters_by_campaign_narrow_a_report(wire: Wire, account: AdAccount) -> None:
    campaign = account.campaigns[0].external_id
    condition = {"field_name": "campaign_ids", "filter_type": "IN", "filter_value": f'["{campaign}"]'}
    rows = report(wire, account, filtering=[condition], metrics=["campaign_name", "spend"])["data"]["list"]
    assert {row["dimensions"]["campaign_id"] for row in rows} == {campaign}
    assert rows[0]["metrics"]["campaign_name"] == account.campaigns[0].name


def test_what_tells_no_conversions_says_a_dash(wire: Wire, account: AdAccount) -> None:
    reach = next(one for one in account.campaigns if one.channel == "REACH")
    rows = report(wire, account, metrics=["spend", "complete_payment"], page_size="100")["data"]["list"]
    said = {row["dimensions"]["campaign_id"]: row["metrics"]["complete_payment"] for row in rows}
    assert said[reach.external_id] == "-"
    assert said[account.campaigns[0].external_id].isdigit()


def test_a_report_without_a_time_dimension_adds_up_its_days(wire: Wire, account: AdAccount) -> None:
    def impressions(**changes: Any) -> int:
        rows = report(wire, account, page_size="1000", **changes)["data"]["list"]
        return sum(int(row["metrics"]["impressions"]) for row in rows)

    assert impressions() == impressions(dimensions=["campaign_id"]) > 0


def test_listing_pages_and_statuses(wire: Wire, account: AdAccount) -> None:
    path, base = "/open_api/v1.3/ad/get/", {"advertiser_id": account.external_id}
    usual = wire.get(account, path, **base, page_size="1000")["data"]
    everything = wire.get(account, path, **base, page_size="1000", filtering={"primary_status": "STATUS_ALL"})["data"]
    assert len(everything["list"]) == len(account.ads) > len(usual["list"])
    assert not any(row["secondary_status"].endswith("_DELETE") for row in usual["list"])
    assert any(row["secondary_status"] == "AD_STATUS_DELETE" for row in everything["list"])
    assert len(wire.get(account, path, **base)["data"]["list"]) == 10
    last = wire.get(account, path, **base, page="9")["data"]
    assert last["list"] == []


def test_budgets_are_numbers_in_major_units(wire: Wire, account: AdAccount) -> None:
    rows = wire.get(account, "/open_api/v1.3/campaign/get/", advertiser_id=account.external_id)["data"]["list"]
    modes = {row["budget_mode"]: row["budget"] for row in rows}
    assert modes["BUDGET_MODE_INFINITE"] == 0
    assert modes["BUDGET_MODE_DAY"] > 0
    day = next(row for row in rows if row["budget_mode"] == "BUDGET_MODE_DAY")
    assert round(day["budget"] * 1_000_000) == account.by_id[day["campaign_id"]].daily_budget_micros


@pytest.mark.parametrize(
    ("timezone", "posix"),
    [("America/Los_Angeles", "Etc/GMT+8"), ("Asia/Kolkata", "Etc/GMT-6"), ("Europe/London", "Etc/GMT")],
)
def test_the_zone_to_use_is_the_one_for_display(wire: Wire, world: World, timezone: str, posix: str) -> None:
    account = first(world, Platform.TIKTOK, timezone=timezone)
    row = wire.get(account, "/open_api/v1.3/advertiser/info/", advertiser_ids=[account.external_id])["data"]["list"][0]
    assert (row["display_timezone"], row["timezone"]) == (timezone, posix)


def test_a_marketing_token_is_probed_and_revoked(wire: Wire, account: AdAccount) -> None:
    path, app = "/open_api/v1.3/oauth2/advertiser/get/", {"app_id": APP.tiktok_app_id, "secret": APP.tiktok_secret}
    found = wire.get(account, path, **app)
    assert found["data"]["list"] == [{"advertiser_id": account.external_id, "advertiser_name": account.name}]
    assert wire.get(account, path, **{**app, "secret": "wrong"})["code"] == 40101
    assert orjson.loads(wire.ask("GET", path, app).body)["code"] == 40104
    assert orjson.loads(wire.ask("GET", path, app, {"access-token": "wrong"}).body)["code"] == 40105
    body = orjson.dumps({**app, "access_token": wire.world.credentials(account)[0]})
    assert orjson.loads(wire.ask("POST", "/open_api/v1.3/oauth2/revoke_token/", {}, {}, body).body)["code"] == 0
    assert wire.get(account, path, **app)["code"] == 40105


def test_a_creators_refresh_token_rotates_and_a_used_one_is_dead(wire: Wire, account: AdAccount) -> None:
    def refresh(token: str) -> dict[str, Any]:
        form = {"client_id": APP.tiktok_app_id, "client_secret": APP.tiktok_secret, "grant_type": "refresh_token"}
        body = orjson.dumps({**form, "refresh_token": token})
        found: dict[str, Any] = orjson.loads(
            wire.ask("POST", "/open_api/v1.3/tt_user/oauth2/refresh_token/", {}, {}, body).body
        )
        return found

    ends = int(NOW.timestamp()) + 1000
    token = wire.world.mint.issue(Grant(Kind.TIKTOK_USER_REFRESH, account.user, ends))
    once = refresh(token)
    assert (once["code"], once["data"]["expires_in"]) == (0, 86_400)
    assert refresh(token)["code"] == 40107
    assert refresh(once["data"]["refresh_token"])["code"] == 0
    assert refresh(wire.world.credentials(account)[0])["code"] == 40107
    wire.now = NOW.replace(year=2028)
    assert refresh(wire.world.mint.issue(Grant(Kind.TIKTOK_USER_REFRESH, 99, ends)))["code"] == 40103


def test_an_unknown_version_is_refused(wire: Wire, account: AdAccount) -> None:
    assert wire.get(account, REPORT.replace("v1.3", "v1.2"))["code"] == 40006
