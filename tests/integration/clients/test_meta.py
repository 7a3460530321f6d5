"""Meta's own SDK reads the sandbox: what it reads is the world, and what it raises has Meta's codes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from aae.model import Granularity, Platform, to_micros
from tests.integration.clients.support import NOW, Client, Ours, Sandbox, client

HOURLY = "hourly_stats_aggregated_by_advertiser_time_zone"
FIELDS = ["ad_id", "impressions", "clicks", "spend", "actions", "action_values"]


@pytest.fixture(scope="module")
def _program() -> Iterator[Client]:
    with client("meta_client.py") as program:
        yield program


@pytest.fixture
def account(served: Sandbox) -> dict[str, Any]:
    return served.account(Platform.META)


@pytest.fixture
def ask(_program: Client, served: Sandbox, account: dict[str, Any]) -> Client:
    """The SDK, logged in as the account's owner."""
    assert login(_program, served, account["access_token"]) == "v26.0"
    return _program


@pytest.fixture
def ours(served: Sandbox, account: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Ours:
    return served.connector(account, monkeypatch)


def login(program: Client, served: Sandbox, token: str, **changed: Any) -> Any:
    app = {"app_id": served.settings["AAE_META__APP_ID"], "app_secret": served.settings["AAE_META__APP_SECRET"]}
    return program("login", **{"url": served.url, "token": token, **app, **changed})


def node(account: dict[str, Any]) -> str:
    return f"act_{account['external_id']}"


def days(piece: Any) -> dict[str, str]:
    return {"since": str(piece.since), "until": str(piece.until)}


def test_accounts_are_listed_page_by_page(ask: Client, account: dict[str, Any]) -> None:
    found = ask("accounts", fields=["account_id", "name", "currency", "timezone_name", "account_status"])
    wanted = {name: account[ours] for name, ours in (("name", "name"), ("currency", "currency"))}
    wanted |= {"account_id": account["external_id"], "id": node(account), "timezone_name": account["timezone"]}
    assert [one for one in found if one["id"] == node(account)] == [{**wanted, "account_status": 1}]


@pytest.mark.parametrize(("edge", "level"), [("campaigns", "campaign"), ("adsets", "ad_set"), ("ads", "ad")])
@pytest.mark.parametrize("limit", [3, 500])
def test_entities_are_ours_however_long_a_page_is(
    ask: Client, ours: Ours, account: dict[str, Any], edge: str, level: str, limit: int
) -> None:
    every = ["ACTIVE", "PAUSED", "DELETED", "ARCHIVED", "CAMPAIGN_PAUSED", "ADSET_PAUSED"]
    found = ask("children", node=node(account), edge=edge, fields=["id", "name"], limit=limit, effective_status=every)
    known = ours.entities().query("level == @level")
    assert {one["id"]: one["name"] for one in found} == dict(zip(known.external_id, known.name, strict=True))
    assert len(found) == len(known) > 3


def test_a_campaign_tells_its_own_ads(ask: Client, account: dict[str, Any]) -> None:
    ads = ask("children", node=node(account), edge="ads", fields=["campaign_id"], limit=500)
    campaign = ads[0]["campaign_id"]
    inside = ask("children", node=campaign, edge="ads", fields=["campaign_id"], limit=500)
    assert {one["id"] for one in inside} == {one["id"] for one in ads if one["campaign_id"] == campaign}


@pytest.mark.parametrize("granularity", Granularity)
def test_insights_are_the_worlds_and_ours(
    ask: Client, served: Sandbox, ours: Ours, account: dict[str, Any], granularity: Granularity
) -> None:
    piece = ours.piece(granularity, 2)
    hourly = {"breakdowns": [HOURLY]} if granularity is Granularity.HOURLY else {}
    found = ask(
        "insights",
        node=node(account),
        fields=FIELDS,
        level="ad",
        time_range=days(piece),
        **asked(100 if hourly else 10),
        **hourly,
    )
    told = {key(row): numbers(row) for row in found}
    truth = {
        (row["external_id"], row["local_date"], row["local_hour"]): (
            *(row[name] for name in ("impressions", "clicks", "spend_micros")),
            *((0, 0) if hourly else (row["conversions_micros"] or 0, row["revenue_micros"] or 0)),
        )
        for row in served.ledger(account, piece)
    }
    assert told == truth
    assert len(found) == len(truth) > 30
    frame = ours.rows(piece)
    assert (frame.impressions.sum(), frame.clicks.sum(), frame.spend_micros.sum()) == tuple(
        sum(row[column] for row in told.values()) for column in range(3)
    )


def asked(limit: int) -> dict[str, Any]:
    statuses = ["ACTIVE", "PAUSED", "CAMPAIGN_PAUSED", "ADSET_PAUSED", "ARCHIVED", "DELETED"]
    everything = [{"field": "ad.effective_status", "operator": "IN", "value": statuses}]
    windows = ["7d_click", "1d_view"]
    return {"time_increment": 1, "limit": limit, "action_attribution_windows": windows, "filtering": everything}


def key(row: dict[str, Any]) -> tuple[str, str, int | None]:
    return row["ad_id"], row["date_start"], int(row[HOURLY][:2]) if HOURLY in row else None


def numbers(row: dict[str, Any]) -> tuple[int, ...]:
    def bought(name: str) -> int:
        told = [one for one in row.get(name, []) if one["action_type"] == "omni_purchase"]
        return to_micros(told[0]["value"]) if told else 0

    counts = int(row["impressions"]), int(row["clicks"]), to_micros(row["spend"])
    return (*counts, bought("actions"), bought("action_values"))


def test_a_report_run_is_looked_at_until_it_is_done_and_has_the_same_rows(
    ask: Client, ours: Ours, account: dict[str, Any]
) -> None:
    about: dict[str, Any] = {"node": node(account), "fields": FIELDS, "level": "ad", **asked(40)}
    about["time_range"] = days(ours.piece(Granularity.DAILY, 3))
    report = ask("report", **about)
    assert report["looks"] == [["Job Running", 40], ["Job Completed", 100]]
    assert {key(row): numbers(row) for row in report["rows"]} == {
        key(row): numbers(row) for row in ask("insights", **about)
    }


@pytest.mark.parametrize(
    ("fault", "last"), [("meta_job_failed", ["Job Failed", 70]), ("meta_job_skipped", ["Job Skipped", 0])]
)
def test_a_report_run_that_fails_says_so(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str, last: list[Any]
) -> None:
    served.break_(fault)
    yesterday = str((NOW - timedelta(days=1)).date())
    span = {"since": yesterday, "until": yesterday}
    report = ask("report", node=node(account), fields=FIELDS, level="ad", time_range=span, **asked(40))
    assert report["looks"] == [last]
    assert ("error_code" in report["run"]) == (fault == "meta_job_failed")


def test_completed_below_100_percent_is_not_done(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    served.break_("meta_job_incomplete", purpose="poll", times=2)
    yesterday = str((NOW - timedelta(days=1)).date())
    span = {"since": yesterday, "until": yesterday}
    report = ask("report", node=node(account), fields=FIELDS, level="ad", time_range=span, **asked(40))
    assert report["looks"] == [["Job Completed", 90], ["Job Completed", 90], ["Job Completed", 100]]


def test_a_batch_answers_each_call_as_if_it_had_come_alone(ask: Client, account: dict[str, Any]) -> None:
    named, campaigns, missing = ask("batch", node=node(account))
    assert named == {"id": node(account), "name": account["name"]}
    assert campaigns["data"]
    assert missing == 100


@pytest.mark.parametrize(
    ("fault", "status", "code", "subcode", "transient"),
    [
        ("meta_token_expired", 400, 190, 463, False),
        ("meta_token_revoked", 400, 190, 458, False),
        ("meta_throttled", 400, 80000, 2446079, False),
        ("meta_management_throttled", 400, 80004, 2446079, False),
        ("meta_app_throttled", 403, 4, 1504022, False),
        ("meta_user_throttled", 400, 17, 2446079, False),
        ("meta_custom_throttled", 400, 613, 1487742, False),
        ("meta_transient", 500, 2, None, True),
        ("meta_error_in_200", 200, 2, None, True),
        ("meta_no_permission", 403, 200, None, False),
        ("meta_deprecated_version", 400, 2635, None, False),
        ("meta_reduce_data", 500, 1, None, False),
        ("meta_summary_param", 400, 100, None, False),
    ],
)
def test_errors_are_raised_with_metas_codes(
    ask: Client,
    served: Sandbox,
    account: dict[str, Any],
    fault: str,
    status: int,
    code: int,
    subcode: int | None,
    transient: bool,
) -> None:
    served.break_(fault, times=1)
    about: dict[str, Any] = {"node": node(account), "fields": ["spend"], "level": "ad", "date_preset": "last_7d"}
    told = ask.refused("insights", **about)
    assert (told["raised"], told["status"], told["code"], told["subcode"], bool(told["transient"])) == (
        "FacebookRequestError",
        status,
        code,
        subcode,
        transient,
    )
    assert account["access_token"] not in told["message"]
    assert ask("insights", **about), "the next call is answered"


def test_a_throttled_account_is_told_in_its_header_how_long(
    ask: Client, served: Sandbox, account: dict[str, Any]
) -> None:
    served.break_("meta_management_throttled", value=17)
    told = ask.refused("children", node=node(account), edge="ads", fields=["id"])
    usage = told["headers"]["x-business-use-case-usage"]
    assert '"estimated_time_to_regain_access":17' in usage
    assert '"type":"ads_management"' in usage


def test_an_empty_first_page_with_a_next_hides_nothing(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    calm = ask("children", node=node(account), edge="campaigns", fields=["id"])
    served.break_("meta_empty_page")
    assert ask("children", node=node(account), edge="campaigns", fields=["id"]) == calm != []


def test_a_field_and_a_node_that_do_not_exist_are_100(ask: Client, account: dict[str, Any]) -> None:
    field = ask.refused("children", node=node(account), edge="ads", fields=["gremlins"])
    assert (field["code"], field["subcode"]) == (100, None)
    missing = ask.refused("insights", node="act_1", fields=["spend"])
    assert (missing["code"], missing["subcode"], missing["kind"]) == (100, 33, "GraphMethodException")


def test_an_invalid_token_is_190_and_a_wrong_proof_100(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    login(ask, served, "EAABnonsense")
    assert ask.refused("accounts", fields=["name"])["code"] == 190
    login(ask, served, account["access_token"], app_secret="another-secret")
    assert ask.refused("accounts", fields=["name"])["code"] == 100
    login(ask, served, account["access_token"], app_secret=None)
    assert ask("accounts", fields=["name"])
