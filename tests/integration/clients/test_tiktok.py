"""TikTok's own SDK reads the sandbox: what it reads is the world, and what it raises has TikTok's codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aae.model import Granularity, Platform, to_micros
from tests.integration.clients.support import Client, Ours, Sandbox, client

METRICS = ["impressions", "clicks", "spend", "complete_payment", "total_complete_payment_rate"]
EVERY_AD = [{"field_name": "ad_status", "filter_type": "IN", "filter_value": '["STATUS_ALL"]'}]


@pytest.fixture(scope="module")
def _program() -> Iterator[Client]:
    with client("tiktok_client.py") as program:
        yield program


@pytest.fixture
def account(served: Sandbox) -> dict[str, Any]:
    return served.account(Platform.TIKTOK)


@pytest.fixture
def ask(_program: Client, served: Sandbox, account: dict[str, Any]) -> Client:
    """The SDK, logged in as the account's owner."""
    login(_program, served, account["access_token"])
    return _program


@pytest.fixture
def ours(served: Sandbox, account: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Ours:
    return served.connector(account, monkeypatch)


def login(program: Client, served: Sandbox, token: str, **changed: Any) -> None:
    app = {"app_id": served.settings["AAE_TIKTOK__APP_ID"], "secret": served.settings["AAE_TIKTOK__SECRET"]}
    program("login", **{"url": served.url, "token": token, **app, **changed})


def test_advertisers_are_listed_and_described(ask: Client, account: dict[str, Any]) -> None:
    answer = ask("advertisers")
    assert answer["request_id"]
    named = {"advertiser_id": account["external_id"], "advertiser_name": account["name"]}
    assert named in answer["data"]["list"]
    fields = ["advertiser_id", "name", "currency", "timezone", "display_timezone", "balance"]
    (told,) = ask("info", ids=[account["external_id"]], fields=fields)["data"]["list"]
    assert set(told) == set(fields)
    assert (told["name"], told["currency"], told["display_timezone"]) == (
        account["name"],
        account["currency"],
        account["timezone"],
    )


@pytest.mark.parametrize(("level", "name"), [("campaign", "campaign"), ("ad_set", "adgroup"), ("ad", "ad")])
@pytest.mark.parametrize("size", [3, 1000])
def test_entities_are_ours_however_long_a_page_is(
    ask: Client, ours: Ours, account: dict[str, Any], level: str, name: str, size: int
) -> None:
    every = {"primary_status": "STATUS_ALL"}
    found = ask("listing", level=name, advertiser=account["external_id"], page_size=size, filtering=every)
    known = ours.entities().query("level == @level")
    told = {one[f"{name}_id"]: one[f"{name}_name"] for one in found["rows"]}
    assert told == dict(zip(known.external_id, known.name, strict=True))
    assert found["pages"] == -(-len(known) // size)


@pytest.mark.parametrize("granularity", Granularity)
def test_reports_are_the_worlds_and_ours(
    ask: Client, served: Sandbox, ours: Ours, account: dict[str, Any], granularity: Granularity
) -> None:
    piece = ours.piece(granularity, 1 if granularity is Granularity.HOURLY else 3)
    found = ask("report", **report(account, granularity, piece))
    assert found["pages"] > 1
    told = {key(row["dimensions"]): numbers(row["metrics"]) for row in found["rows"]}
    truth = {
        (row["external_id"], row["local_date"], row["local_hour"]): tuple(row[name] for name in NUMBERS)
        for row in served.ledger(account, piece)
    }
    assert told == truth
    assert len(found["rows"]) == len(truth)
    frame = ours.rows(piece)
    assert (frame.impressions.sum(), frame.clicks.sum(), frame.spend_micros.sum()) == tuple(
        sum(row[column] or 0 for row in told.values()) for column in range(3)
    )


NUMBERS = ("impressions", "clicks", "spend_micros", "conversions_micros", "revenue_micros")


def report(account: dict[str, Any], granularity: Granularity, piece: Any) -> dict[str, Any]:
    time = "stat_time_hour" if granularity is Granularity.HOURLY else "stat_time_day"
    return {
        "advertiser_id": account["external_id"],
        "service_type": "AUCTION",
        "data_level": "AUCTION_AD",
        "dimensions": ["ad_id", time],
        "metrics": METRICS,
        "start_date": str(piece.since),
        "end_date": str(piece.until),
        "page_size": 50,
        "filtering": EVERY_AD,
    }


def key(dimensions: dict[str, str]) -> tuple[str, str, int | None]:
    hour = dimensions.get("stat_time_hour")
    day, clock = (hour or dimensions["stat_time_day"]).split()
    return dimensions["ad_id"], day, int(clock[:2]) if hour else None


def numbers(metrics: dict[str, str]) -> tuple[int | None, ...]:
    counts = int(metrics["impressions"]), int(metrics["clicks"]), to_micros(metrics["spend"])
    return (*counts, *(None if metrics[name] == "-" else to_micros(metrics[name]) for name in METRICS[3:]))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("tiktok_throttled", 40100),
        ("tiktok_advertiser_throttled", 40133),
        ("tiktok_token_expired", 40102),
        ("tiktok_token_revoked", 40105),
        ("tiktok_no_permission", 40001),
        ("tiktok_system_error", 50000),
        ("tiktok_busy", 50002),
        ("tiktok_internal_timeout", 51010),
        ("tiktok_maintenance", 60001),
    ],
)
def test_errors_in_http_200_are_raised_with_tiktoks_codes(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str, code: int
) -> None:
    served.break_(fault, times=1)
    told = ask.refused("listing", level="campaign", advertiser=account["external_id"])
    assert (told["raised"], told["code"]) == ("TiktokSDKError", code)
    assert ask("listing", level="campaign", advertiser=account["external_id"])["rows"], "the next call is answered"


def test_more_than_a_day_by_the_hour_is_40002(ask: Client, ours: Ours, account: dict[str, Any]) -> None:
    query = report(account, Granularity.HOURLY, ours.piece(Granularity.HOURLY, 2))
    assert ask.refused("report", **query)["code"] == 40002


def test_a_token_and_an_app_of_nobody_are_refused(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    login(ask, served, "8f3cnonsense")
    assert ask.refused("listing", level="ad", advertiser=account["external_id"])["code"] == 40105
    login(ask, served, account["access_token"], secret="another-secret")
    assert ask.refused("advertisers")["code"] == 40101


def test_a_dash_is_what_the_sdk_reads_too(ask: Client, served: Sandbox, ours: Ours, account: dict[str, Any]) -> None:
    served.break_("tiktok_dash_metrics")
    found = ask("report", **report(account, Granularity.DAILY, ours.piece(Granularity.DAILY, 1)))
    assert {row["metrics"]["complete_payment"] for row in found["rows"]} == {"-"}


@pytest.mark.parametrize(("fault", "status"), [("http_502", 502), ("tiktok_not_found", 404)])
def test_other_http_statuses_are_its_other_exception(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str, status: int
) -> None:
    served.break_(fault)
    told = ask.refused("listing", level="ad", advertiser=account["external_id"])
    assert (told["raised"], told["status"]) == ("ApiException", status)
