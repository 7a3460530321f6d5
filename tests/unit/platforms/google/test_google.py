"""Google's failures, streams, tokens, listings and metrics are read as its documentation says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pandas as pd
import pytest
from pydantic import SecretStr

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Granularity, Platform, Slice, Totals
from aae.platforms import transport
from aae.platforms.base import TokenCheck, TokenState
from aae.platforms.google.wire import judge
from aae.platforms.transport import Answer, Blip, Caller
from tests.unit.platforms.support import (
    DAY,
    NOW,
    REFRESH,
    SECRETS,
    TOKEN,
    Network,
    Script,
    account,
    body,
    gather,
    ok,
    piece,
    token,
    use,
)

CALLER = Caller(SecretStr(TOKEN), "1001")
GOOGLE = account(Platform.GOOGLE, login_customer_id="999")


def failure(kind: str, name: str, status: int = 400, **details: Any) -> dict[str, Any]:
    one = {"errorCode": {kind: name}, "message": "No.", **({"details": details} if details else {})}
    inner = {"@type": "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure", "errors": [one]}
    return {"error": {"code": status, "message": "No.", "status": "X", "details": [inner]}}


def judged(data: Any, status: int = 400, before: int = 0) -> AaeError:
    with pytest.raises(AaeError) as caught:
        judge(CALLER, Answer(status, {}, data, True, NOW, before))
    return caught.value


DEAD = [
    *("OAUTH_TOKEN_REVOKED", "OAUTH_TOKEN_DISABLED", "NOT_ADS_USER", "GOOGLE_ACCOUNT_DELETED"),
    *("TWO_STEP_VERIFICATION_NOT_ENROLLED", "ADVANCED_PROTECTION_NOT_ENROLLED"),
]
OPERATORS = [
    *[("authenticationError", name, 401) for name in ("DEVELOPER_TOKEN_INVALID", "ORGANIZATION_NOT_RECOGNIZED")],
    *[("authorizationError", f"DEVELOPER_TOKEN_{name}", 403) for name in ("NOT_APPROVED", "PROHIBITED")],
    *[("authorizationError", name, 403) for name in ("DEVELOPER_TOKEN_NOT_ON_ALLOWLIST", "PROJECT_DISABLED")],
    *[("authorizationError", name, 403) for name in ("CLOUD_PROJECT_NOT_UNDER_ORGANIZATION", "MISSING_TOS")],
    ("requestError", "DEVELOPER_TOKEN_PARAMETER_MISSING", 400),
]
NOT_THIS_ACCOUNT = [
    *("USER_PERMISSION_DENIED", "CUSTOMER_NOT_ENABLED", "CUSTOMER_NOT_FOUND", "METRIC_ACCESS_DENIED"),
    *("INVALID_LOGIN_CUSTOMER_ID_SERVING_CUSTOMER_ID_COMBINATION", "ACTION_NOT_PERMITTED_FOR_SUSPENDED_ACCOUNT"),
]
QUOTAS = [
    *("RESOURCE_EXHAUSTED", "RESOURCE_TEMPORARILY_EXHAUSTED", "ACCESS_PROHIBITED"),
    *[f"EXCESSIVE_{term}_TERM_QUERY_RESOURCE_CONSUMPTION" for term in ("SHORT", "LONG")],
]
WRONG_QUERIES = [
    *("UNRECOGNIZED_FIELD", "PROHIBITED_SEGMENT_WITH_METRIC_IN_SELECT_OR_WHERE_CLAUSE"),
    "EXPECTED_REFERENCED_FIELD_IN_SELECT_CLAUSE",
]


FAILURES: list[tuple[str, str, int, type[AaeError]]] = [
    ("authenticationError", "OAUTH_TOKEN_EXPIRED", 401, Retry),
    ("authenticationError", "OAUTH_TOKEN_INVALID", 401, Retry),
    *[("authenticationError", name, 401, Reauthorize) for name in DEAD],
    *[(kind, name, status, Bug) for kind, name, status in OPERATORS],
    *[("authorizationError", name, 403, Skip) for name in NOT_THIS_ACCOUNT],
    ("queryError", "REQUESTED_METRICS_FOR_MANAGER", 400, Skip),
    ("internalError", "INTERNAL_ERROR", 500, Blip),
    ("internalError", "TRANSIENT_ERROR", 503, Blip),
    ("internalError", "DEADLINE_EXCEEDED", 504, Blip),
    ("requestError", "EXPIRED_PAGE_TOKEN", 400, Blip),
    *[("quotaError", name, 429, Throttled) for name in QUOTAS],
    *[("queryError", name, 400, Bug) for name in WRONG_QUERIES],
    *[("requestError", name, 400, Bug) for name in ("PAGE_SIZE_NOT_SUPPORTED", "INVALID_PAGE_TOKEN")],
    ("requestError", "UNSUPPORTED_VERSION", 400, Bug),
    ("dateRangeError", "REQUESTED_DATE_GRANULARITY_NOT_SUPPORTED", 400, Bug),
]
"""What Google's errors mean for whoever calls: kind, name and HTTP status of each."""


@pytest.mark.parametrize(("kind", "name", "status", "expected"), FAILURES)
def test_a_failure_is_what_its_error_code_says_alone_or_in_a_streams_array(
    kind: str, name: str, status: int, expected: type[AaeError]
) -> None:
    wrong = failure(kind, name, status)
    for data in (wrong, [wrong], [{"results": []}, wrong]):
        error = judged(data, status)
        assert type(error) is expected
        assert error.code == name


@pytest.mark.parametrize(("kind", "name", "status"), OPERATORS)
def test_a_refusal_of_our_developer_token_names_the_setting(kind: str, name: str, status: int) -> None:
    assert "check AAE_GOOGLE__DEVELOPER_TOKEN" in str(judged(failure(kind, name, status), status))


def test_a_version_that_is_over_names_the_setting() -> None:
    for error in (judged(failure("requestError", "UNSUPPORTED_VERSION")), judged(None, 404)):
        assert type(error) is Bug
        assert "AAE_GOOGLE__VERSION" in str(error)


@pytest.mark.parametrize("data", [{"error": {"code": 401, "status": "UNAUTHENTICATED"}}, [{"error": {}}], None, {}, []])
def test_a_bare_401_means_that_the_access_token_has_ended(data: Any) -> None:
    error = judged(data, 401)
    assert type(error) is Retry
    assert error.code == "OAUTH_TOKEN_EXPIRED"


@pytest.mark.parametrize(
    ("details", "seconds", "scope"),
    [
        ({"rateScope": "DEVELOPER", "retryDelay": "41732s"}, 41_733, "google:developer"),
        ({"rateScope": "ACCOUNT", "retryDelay": "30.5s"}, 31, "google:account:1001"),
        ({"rateScope": "ACCOUNT", "retryDelay": "999999999s"}, 48 * 3600, "google:account:1001"),
        ({"rateScope": 5, "retryDelay": ["1s"]}, 5, "google:account:1001"),
        ({"rateScope": "DEVELOPER", "retryDelay": "soon"}, 5, "google:developer"),
    ],
)
def test_a_throttle_lasts_as_long_as_google_says(details: dict[str, Any], seconds: int, scope: str) -> None:
    error = judged(failure("quotaError", "RESOURCE_EXHAUSTED", 429, quotaErrorDetails=details), 429)
    assert isinstance(error, Throttled)
    assert ((error.until - NOW).total_seconds(), error.scope) == (seconds, scope)


def test_a_throttle_without_details_lasts_longer_each_time() -> None:
    waits = []
    for before in range(4):
        error = judged({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, 429, before)
        assert isinstance(error, Throttled)
        waits.append((error.until - NOW).total_seconds())
    assert waits == [5, 10, 20, 40]


# -- metrics ----------------------------------------------------------------------------------------------------------


def row(ad: str | None = "5", hour: int | None = None, **metrics: Any) -> dict[str, Any]:
    usual = {
        "clicks": "7",
        "conversionsValue": 49.9,
        "conversions": 1.5,
        "costMicros": "12340000",
        "impressions": "100",
    }
    ids = {} if ad is None else {"adGroup": {"id": "3"}, "adGroupAd": {"ad": {"id": ad}}}
    segments = {"date": "2026-11-21", **({} if hour is None else {"hour": hour})}
    return {"campaign": {"id": "22"}, **ids, "metrics": {**usual, **metrics}, "segments": segments}


def stream(ads: list[Any], campaigns: list[Any] | None = None) -> Any:
    def script(request: httpx.Request) -> httpx.Response:
        rows = ads if "FROM ad_group_ad" in body(request)["query"] else campaigns or []
        return ok([{"results": [one], "fieldMask": "x"} for one in rows] + [{"fieldMask": "x"}])

    return script


def fetch(script: Script, what: Slice | None = None) -> tuple[pd.DataFrame, Network]:
    frame, network, _ = use(
        Platform.GOOGLE, script, lambda google: gather(google.fetch_metrics(GOOGLE, token(), what or piece()))
    )
    return frame, network


def test_a_row_is_exact_with_fractions_of_conversions() -> None:
    frame, network = fetch(stream([row()]))
    found = frame.iloc[0]
    assert (found["external_id"], found["ad_set_external_id"], found["campaign_external_id"]) == ("5", "3", "22")
    assert (found["impressions"], found["clicks"], found["spend_micros"]) == (100, 7, 12_340_000)
    assert (found["conversions_micros"], found["revenue_micros"]) == (1_500_000, 49_900_000)
    headers = network.requests[0].headers
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["developer-token"] == SECRETS["developer"]
    assert headers["login-customer-id"] == "999"
    assert network.requests[0].url.path == "/v26/customers/1001/googleAds:searchStream"
    assert "pageSize" not in body(network.requests[0])


def test_ids_of_customers_have_no_hyphens_on_the_wire() -> None:
    through = account(Platform.GOOGLE, login_customer_id="999-000-1111")
    _, network, _ = use(
        Platform.GOOGLE, stream([]), lambda google: gather(google.fetch_metrics(through, token(), piece()))
    )
    assert {request.headers["login-customer-id"] for request in network.requests} == {"9990001111"}


def test_performance_max_comes_from_the_campaign_and_nothing_else_does() -> None:
    frame, network = fetch(stream([row("5", 13)], [row(None, 14)]), piece(Granularity.HOURLY))
    assert frame["level"].tolist() == ["ad", "campaign"]
    assert frame["external_id"].tolist() == ["5", "22"]
    assert frame["local_hour"].tolist() == [13, 14]
    ads, campaigns = (body(request)["query"] for request in network.requests)
    assert "campaign.advertising_channel_type != 'PERFORMANCE_MAX'" in ads
    assert "campaign.advertising_channel_type = 'PERFORMANCE_MAX'" in campaigns
    assert "segments.hour" in ads
    assert "segments.hour" in campaigns


def test_zero_may_be_absent() -> None:
    bare = row()
    bare["metrics"] = {"costMicros": "1"}
    found = fetch(stream([bare]))[0].iloc[0]
    assert found[["impressions", "clicks", "spend_micros", "conversions_micros", "revenue_micros"]].tolist() == [
        *(0, 0, 1, 0, 0)
    ]


@pytest.mark.parametrize("answer", [[], [{}], [{"fieldMask": "x"}]])
def test_an_empty_stream_has_no_rows(answer: Any) -> None:
    assert fetch(lambda _: ok(answer))[0].empty


def test_a_cut_stream_is_a_retry() -> None:
    with pytest.raises(Retry):
        fetch(lambda _: httpx.Response(200, text='[{"results": [{"campaign"'))


LATE = httpx.Response(504, json=failure("internalError", "DEADLINE_EXCEEDED", 504))
CUT = httpx.Response(200, text='[{"results": [{"campaign"')


@pytest.mark.parametrize(
    ("trouble", "tries"), [(CUT, 3), (httpx.ReadError("cut"), 3), (httpx.ReadTimeout("slow"), 2), (LATE, 3)]
)
def test_a_stream_that_does_not_arrive_whole_is_asked_for_by_fewer_days(
    trouble: httpx.Response | Exception, tries: int
) -> None:
    spans: list[str] = []

    def script(request: httpx.Request) -> httpx.Response | Exception:
        query = body(request)["query"]
        span = query.partition("BETWEEN ")[2]
        if "FROM ad_group_ad" not in query:
            return ok([])
        spans.append(f"{span[9:11]}-{span[26:28]}")
        day = {"segments": {"date": span[1:11]}}
        return trouble if span[1:11] != span[18:28] else ok([{"results": [row() | day]}])

    frame, _ = fetch(script, piece(since=DAY - timedelta(days=2)))
    assert frame["local_date"].dt.day.tolist() == [19, 20, 21]
    assert spans == [*["19-21"] * tries, "19-19", *["20-21"] * tries, "20-20", "21-21"]


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (httpx.Response(503, text="busy"), Retry),
        (httpx.ConnectError("refused"), Retry),
        (httpx.Response(429, json=failure("quotaError", "RESOURCE_EXHAUSTED", 429)), Throttled),
        (httpx.Response(400, json=failure("queryError", "UNRECOGNIZED_FIELD")), Bug),
    ],
)
def test_what_is_not_about_its_size_is_not_asked_for_by_fewer_days(
    trouble: httpx.Response | Exception, kind: type[AaeError]
) -> None:
    spans: set[str] = set()

    def script(request: httpx.Request) -> httpx.Response | Exception:
        spans.add(body(request)["query"].partition("BETWEEN ")[2])
        return trouble

    with pytest.raises(kind):
        fetch(script, piece(since=DAY - timedelta(days=2)))
    assert spans == {"'2026-11-19' AND '2026-11-21'"}


def test_too_large_an_answer_halves_the_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LARGEST_ANSWER", 2000)
    spans: list[str] = []

    def script(request: httpx.Request) -> httpx.Response:
        query = body(request)["query"]
        span = query.partition("BETWEEN ")[2]
        if "FROM ad_group_ad" in query:
            spans.append(span)
        return httpx.Response(200, text="[]" if span[1:11] == span[18:28] else "[]" + " " * 3000)

    assert fetch(script, piece(since=DAY - timedelta(days=2)))[0].empty
    assert [(span[6:11], span[23:28]) for span in spans] == [
        *[("11-19", "11-21"), ("11-19", "11-19"), ("11-20", "11-21"), ("11-20", "11-20"), ("11-21", "11-21")]
    ]
    monkeypatch.setattr(transport, "LARGEST_ANSWER", 1)
    with pytest.raises(Reduce):
        fetch(script)


def test_totals_are_the_customers_own() -> None:
    found, network, _ = use(
        Platform.GOOGLE,
        [ok([{"results": [{"metrics": row()["metrics"]}]}])],
        lambda google: google.fetch_totals(GOOGLE, token(), piece()),
    )
    assert found == Totals(100, 7, 12_340_000, 1_500_000, 49_900_000)
    assert "FROM customer WHERE" in body(network.requests[0])["query"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"costMicros": "1.5"},
        {"costMicros": 12.5},
        {"impressions": "-1"},
        {"conversions": "NaN"},
        {"conversionsValue": True},
        {"conversionsValue": 1e300},
    ],
)
def test_a_malformed_row_is_a_bug(wrong: dict[str, Any]) -> None:
    with pytest.raises(Bug):
        fetch(stream([row(**wrong)]))


# -- listing ----------------------------------------------------------------------------------------------------------


def test_entities_are_listed_and_a_shared_budget_belongs_to_no_campaign() -> None:
    def campaign(number: str, **budget: Any) -> dict[str, Any]:
        told = {"id": number, "name": "C", "status": "ENABLED", "advertisingChannelType": "SEARCH"}
        return {"campaign": told, **({"campaignBudget": {"period": "DAILY", **budget}} if budget else {})}

    answers = {
        "FROM campaign": [
            campaign("1", amountMicros="5000000"),
            campaign("2", amountMicros="5000000", explicitlyShared=True),
            campaign("3", amountMicros="5000000", period="CUSTOM_PERIOD"),
            campaign("4"),
        ],
        "FROM ad_group": [{"adGroup": {"id": "5", "name": "G", "status": "PAUSED"}, "campaign": {"id": "1"}}],
        "FROM ad_group_ad": [{"adGroupAd": {"ad": {"id": "6"}, "status": "REMOVED"}, "adGroup": {"id": "5"}}],
    }

    def script(request: httpx.Request) -> httpx.Response:
        return ok([{"results": answers["FROM " + body(request)["query"].split("FROM ")[1].split()[0]]}])

    frame, _, _ = use(Platform.GOOGLE, script, lambda google: google.list_entities(GOOGLE, token()))
    assert frame["external_id"].tolist() == ["1", "2", "3", "4", "5", "6"]
    assert frame["daily_budget_micros"].tolist()[0] == 5_000_000
    assert frame["daily_budget_micros"].isna().tolist() == [False] + [True] * 5
    assert frame["status"].tolist() == ["active"] * 4 + ["paused", "deleted"]
    assert frame["parent_external_id"].tolist()[4:] == ["1", "5"]
    assert frame["name"].tolist()[5] == "ad 6"


def client(number: str, **more: Any) -> dict[str, Any]:
    usual = {"descriptiveName": f"N{number}", "currencyCode": "USD", "timeZone": "Asia/Tokyo", "status": "ENABLED"}
    return {"customerClient": {"id": number, "manager": False, **usual, **more}}


def test_accounts_are_reached_directly_where_they_can_be_and_trouble_with_one_hides_no_other() -> None:
    below: dict[str, Any] = {
        "10": [client("10", manager=True), client("1"), client("2"), client("3", status="CANCELED")],
        "1": [client("1")],
        "20": [client("20", manager=True), client("2")],
    }

    def script(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("listAccessibleCustomers"):
            return ok({"resourceNames": ["customers/10", "customers/66", "customers/1", "customers/20"]})
        customer = request.url.path.split("/")[3]
        assert request.headers["login-customer-id"] == customer
        if customer == "66":
            return httpx.Response(403, json=[failure("authorizationError", "CUSTOMER_NOT_ENABLED", 403)])
        return ok([{"results": below[customer]}])

    found, _, _ = use(Platform.GOOGLE, script, lambda google: google.accounts(token()))
    assert {one.external_id: one.login_customer_id for one in found} in ({"1": None, "2": "10"}, {"1": None, "2": "20"})


def test_a_manager_is_not_an_account() -> None:
    with pytest.raises(Skip):
        use(
            Platform.GOOGLE,
            [ok([{"results": [client("1001", manager=True)]}])],
            lambda google: google.describe("1001", token(), None),
        )


# -- tokens -----------------------------------------------------------------------------------------------------------


def check(script: Script, **more: Any) -> tuple[TokenCheck, Network]:
    found, network, _ = use(
        Platform.GOOGLE, script, lambda google: google.check_token(GOOGLE, token(**more), NOW, within_hours=24)
    )
    return found, network


FRESH = ok({"access_token": "ya29.new", "expires_in": 3599, "token_type": "Bearer"})
LATER = NOW + timedelta(days=2)


def test_a_token_that_ends_soon_is_refreshed_and_keeps_its_refresh_token() -> None:
    found, network = check([FRESH], expires_at=NOW + timedelta(hours=1))
    assert found.state is TokenState.REFRESHED
    assert found.token.access.get_secret_value() == "ya29.new"
    assert found.token.refresh is not None
    assert found.token.refresh.get_secret_value() == REFRESH
    assert found.token.expires_at == NOW + timedelta(seconds=3599)
    assert network.asked() == {
        **{"grant_type": "refresh_token", "client_id": "333"},
        **{"client_secret": SECRETS["google client"], "refresh_token": REFRESH},
    }
    assert network.requests[0].method == "POST"
    assert network.requests[0].url.query == b""


def test_a_token_with_time_left_is_probed_and_refreshed_if_it_has_ended_all_the_same() -> None:
    found, _ = check([ok({"resourceNames": []})], expires_at=LATER)
    assert found.state is TokenState.STILL_VALID
    ended = httpx.Response(401, json={"error": {"code": 401, "status": "UNAUTHENTICATED"}})
    found, network = check([ended, FRESH], expires_at=LATER)
    assert found.state is TokenState.REFRESHED
    assert len(network.requests) == 2


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, Reauthorize),
        (401, {"error": "invalid_client"}, Bug),
        (400, {"error": "unauthorized_client"}, Bug),
        (400, {"error": "invalid_request"}, Bug),
        (400, {"error": {"message": "?"}}, Bug),
        (503, {"error": "backend_error"}, Retry),
        (429, {"error": "rate_limit"}, Throttled),
        (200, {"access_token": 5, "expires_in": 3599}, Bug),
        (200, {"access_token": "x"}, Bug),
        (200, [], Bug),
    ],
)
def test_a_refresh_fails_for_good_only_on_invalid_grant(status: int, answer: Any, kind: type[AaeError]) -> None:
    with pytest.raises(kind) as caught:
        check(lambda _: httpx.Response(status, json=answer), expires_at=NOW)
    assert isinstance(caught.value, Reauthorize) == (kind is Reauthorize)


def test_without_a_refresh_token_an_ended_one_needs_its_owner() -> None:
    ended = httpx.Response(401, json={"error": {"code": 401}})
    with pytest.raises(Reauthorize):
        check([ended], refresh=None, expires_at=NOW)
    found, _ = check([ok({})], refresh=None, expires_at=NOW + timedelta(minutes=5))
    assert found.state is TokenState.STILL_VALID
