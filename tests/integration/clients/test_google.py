"""Google's own libraries read the sandbox: its messages know every field, and its client raises Google's codes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from aae.model import Granularity, Platform, Slice, to_micros
from aae.sandbox.faults import CATALOGUE, Stage
from aae.sandbox.google import _RESOURCES
from tests.integration.clients.support import NOW, Client, Ours, Sandbox, client

YESTERDAY = str((NOW - timedelta(days=1)).date())
METRICS = ["impressions", "clicks", "cost_micros", "conversions", "conversions_value"]
MESSAGE = {"search": "SearchGoogleAdsResponse", "searchStream": "SearchGoogleAdsStreamResponse"}


@pytest.fixture(scope="module")
def _program() -> Iterator[Client]:
    with client("google_client.py") as program:
        yield program


@pytest.fixture
def account(served: Sandbox) -> dict[str, Any]:
    return served.account(Platform.GOOGLE)


@pytest.fixture
def ask(_program: Client, served: Sandbox, account: dict[str, Any]) -> Client:
    """The clients, logged in as the account's owner, through its manager."""
    _program(
        "login",
        url=served.url,
        token=account["access_token"],
        developer_token=served.settings["AAE_GOOGLE__DEVELOPER_TOKEN"],
        login_customer_id=account["login_customer_id"],
    )
    return _program


@pytest.fixture
def ours(served: Sandbox, account: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Ours:
    return served.connector(account, monkeypatch)


def call(served: Sandbox, account: dict[str, Any], path: str, body: Any = None) -> tuple[int, Any]:
    """One call over REST, as our connector makes it."""
    headers = {
        "authorization": f"Bearer {account['access_token']}",
        "developer-token": served.settings["AAE_GOOGLE__DEVELOPER_TOKEN"],
        "login-customer-id": account["login_customer_id"],
    }
    method = "GET" if body is None else "POST"
    answer = served.http.request(method, f"{served.url}/v26/{path}", headers=headers, json=body)
    return answer.status_code, answer.json()


def query(served: Sandbox, account: dict[str, Any], text: str, *, method: str = "search", customer: str = "") -> Any:
    path = f"customers/{customer or account['external_id']}/googleAds:{method}"
    return call(served, account, path, {"query": text})[1]


def whole(resource: str) -> str:
    """A query for all that the sandbox has of a resource."""
    fields = [name for name in _RESOURCES[resource][1] if name != "segments.hour"]
    where = f" WHERE segments.date = '{YESTERDAY}'" if "segments.date" in fields else ""
    return f"SELECT {', '.join(fields)} FROM {resource}{where}"


@pytest.mark.parametrize("method", MESSAGE)
@pytest.mark.parametrize("resource", _RESOURCES)
def test_every_field_of_every_resource_is_as_google_writes_it(
    ask: Client, served: Sandbox, account: dict[str, Any], resource: str, method: str
) -> None:
    """Google's serializer gives the same JSON again: names, types, enums, int64 as text."""
    customer = account["login_customer_id"] if resource == "customer_client" else ""
    answer = query(served, account, whole(resource), method=method, customer=customer)
    for one in [answer] if method == "search" else answer:
        assert one["results"]
        assert ask("parsed", kind=MESSAGE[method], value=one) == one


@pytest.mark.parametrize(
    "fault",
    [
        *("google_removed", "google_large_ids", "google_shared_budgets", "google_zeros_absent"),
        *("google_period_budgets", "google_unnamed_ads", "restated", "clock_change"),
    ],
)
def test_odd_answers_are_as_google_writes_them(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str
) -> None:
    calm = query(served, account, whole("ad_group_ad"))
    served.break_(fault)
    odd = query(served, account, whole("ad_group_ad"))
    assert (odd == calm) == (fault == "clock_change")  # which shows by the hour alone
    assert ask("parsed", kind="SearchGoogleAdsResponse", value=odd) == odd
    if fault == "google_large_ids":
        assert all(int(row["adGroupAd"]["ad"]["id"]) > 2**53 for row in odd["results"])


def test_a_stream_that_ends_in_an_error_has_good_batches_and_a_known_failure(
    ask: Client, served: Sandbox, account: dict[str, Any]
) -> None:
    served.break_("google_stream_error")
    path = f"customers/{account['external_id']}/googleAds:searchStream"
    status, (batch, last) = call(served, account, path, {"query": "SELECT campaign.id FROM campaign"})
    assert status == 200
    assert ask("parsed", kind="SearchGoogleAdsStreamResponse", value=batch) == batch
    failed(ask, last)


@pytest.mark.parametrize("method", MESSAGE)
def test_hours_no_rows_and_totals_are_as_google_writes_them(
    ask: Client, served: Sandbox, account: dict[str, Any], method: str
) -> None:
    hours = f"SELECT segments.date, segments.hour, campaign.id FROM campaign WHERE segments.date = '{YESTERDAY}'"
    none = "SELECT campaign.id FROM campaign WHERE campaign.name = 'nobody'"
    for text in (hours, none):
        answer = query(served, account, text, method=method)
        for one in [answer] if method == "search" else answer:
            assert ("results" in one) == (text == hours)
            assert ask("parsed", kind=MESSAGE[method], value=one) == one
    settings = {"returnTotalResultsCount": True, "omitResults": True}
    path = f"customers/{account['external_id']}/googleAds:search"
    counted = call(served, account, path, {"query": hours, "searchSettings": settings})[1]
    assert int(counted["totalResultsCount"]) > 0
    assert ask("parsed", kind="SearchGoogleAdsResponse", value=counted) == counted


def test_accessible_customers_are_as_google_writes_them(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    status, answer = call(served, account, "customers:listAccessibleCustomers")
    assert status == 200
    assert ask("parsed", kind="ListAccessibleCustomersResponse", value=answer) == answer
    assert ask("accessible") == answer["resourceNames"] == [f"customers/{account['login_customer_id']}"]


FAILURES = [name for name, kind in CATALOGUE.items() if name.startswith("google") and kind.stage is Stage.ANSWER]


@pytest.mark.parametrize("fault", [name for name in FAILURES if name not in {"google_invalid_grant"}])
def test_every_failure_is_one_that_google_knows_alone_and_in_an_array(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str
) -> None:
    served.break_(fault)
    for method in MESSAGE:
        answer = query(served, account, "SELECT campaign.id FROM campaign", method=method)
        assert isinstance(answer, list) == (method == "searchStream")
        failed(ask, answer, bare=fault == "google_plain_401")


def failed(ask: Client, answer: Any, *, bare: bool = False) -> None:
    error = (answer[0] if isinstance(answer, list) else answer)["error"]
    assert set(error) - {"details"} == {"code", "message", "status"}
    assert ("details" not in error) == bare
    for detail in error.get("details", []):
        assert detail.pop("@type") == "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure"
        assert ask("parsed", kind="GoogleAdsFailure", value=detail) == detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT campaign.gremlins FROM campaign",
        "SELECT campaign.id FROM gremlins",
        "SELECT campaign.id, segments.date FROM campaign",
        "SELECT campaign.id FROM campaign ORDER BY metrics.clicks",
        "SELECT campaign.id, segments.date FROM campaign WHERE segments.date = '2019-01-01'",
        "SELECT campaign.id, segments.date FROM campaign WHERE segments.date BETWEEN '2026-11-20' AND '2026-11-19'",
    ],
)
@pytest.mark.parametrize("method", MESSAGE)
def test_what_the_sandbox_itself_refuses_it_refuses_in_googles_codes(
    ask: Client, served: Sandbox, account: dict[str, Any], text: str, method: str
) -> None:
    failed(ask, query(served, account, text, method=method))


def test_what_it_refuses_of_callers_it_refuses_in_googles_codes(
    ask: Client, served: Sandbox, account: dict[str, Any]
) -> None:
    path, body = f"customers/{account['external_id']}/googleAds:search", {"query": "SELECT campaign.id FROM campaign"}
    strangers = [
        {**account, "access_token": "nonsense"},
        {**account, "login_customer_id": "1"},
        {**account, "login_customer_id": "1-2"},
    ]
    wrong = [call(served, one, path, body) for one in strangers]
    wrong.append(call(served, account, path, {**body, "pageSize": 10}))
    wrong.append(call(served, account, path, {**body, "pageToken": "nonsense"}))
    manager = f"customers/{account['login_customer_id']}/googleAds:search"
    wrong.append(call(served, account, manager, {"query": "SELECT metrics.clicks FROM customer"}))
    assert [status for status, _ in wrong] == [401, 403, 400, 400, 400, 400]
    for _, answer in wrong:
        failed(ask, answer)


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("order", ["search", "stream"])
def test_the_real_client_reads_the_world_and_what_we_read(
    ask: Client, served: Sandbox, ours: Ours, account: dict[str, Any], granularity: Granularity, order: str
) -> None:
    piece = ours.piece(granularity, 2)
    hour = ", segments.hour" if granularity is Granularity.HOURLY else ""
    metrics = ", ".join(f"metrics.{name}" for name in METRICS)
    text = (
        f"SELECT segments.date{hour}, ad_group_ad.ad.id, {metrics} FROM ad_group_ad "
        f"WHERE segments.date BETWEEN '{piece.since}' AND '{piece.until}'"
    )
    found = ask(order, customer=account["external_id"], query=text)["rows"]
    told = {key(row): numbers(row["metrics"]) for row in found}
    ledger = [row for row in served.ledger(account, piece) if row["level"] == "ad"]
    truth = {
        (row["external_id"], row["local_date"], row["local_hour"]): tuple(row[name] for name in NUMBERS)
        for row in ledger
    }
    assert told == truth
    assert len(found) == len(truth) > 30
    frame = ours.rows(piece).query("level == 'ad'")
    assert tuple(int(frame[name].sum()) for name in NUMBERS) == tuple(
        sum(row[column] for row in told.values()) for column in range(5)
    )


NUMBERS = ("impressions", "clicks", "spend_micros", "conversions_micros", "revenue_micros")


def key(row: dict[str, Any]) -> tuple[str, str, int | None]:
    return row["adGroupAd"]["ad"]["id"], row["segments"]["date"], row["segments"].get("hour")


def numbers(metrics: dict[str, Any]) -> tuple[int, ...]:
    counts = (int(metrics[name]) for name in ("impressions", "clicks", "costMicros"))
    return (*counts, *(to_micros(str(metrics[name])) for name in ("conversions", "conversionsValue")))


def test_the_real_client_turns_pages(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    piece = Slice(1, Granularity.DAILY, (NOW - timedelta(days=26)).date(), (NOW - timedelta(days=1)).date())
    text = (
        "SELECT segments.date, segments.hour, ad_group_ad.ad.id, metrics.clicks FROM ad_group_ad "
        f"WHERE segments.date BETWEEN '{piece.since}' AND '{piece.until}'"
    )
    pages = ask("clicks", customer=account["external_id"], query=text)
    assert [len(page) for page in pages] == [10_000, len(pages[1])]
    ledger = served.ledger(account, piece)
    assert sum(map(sum, pages)) == sum(row["clicks"] for row in ledger if row["level"] == "ad")


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("google_token_expired", "UNAUTHENTICATED", {"authenticationError": "OAUTH_TOKEN_EXPIRED"}),
        ("google_customer_not_enabled", "PERMISSION_DENIED", {"authorizationError": "CUSTOMER_NOT_ENABLED"}),
        ("google_no_permission", "PERMISSION_DENIED", {"authorizationError": "USER_PERMISSION_DENIED"}),
        ("google_manager_metrics", "INVALID_ARGUMENT", {"queryError": "REQUESTED_METRICS_FOR_MANAGER"}),
        ("google_transient", "UNAVAILABLE", {"internalError": "TRANSIENT_ERROR"}),
        ("google_expired_page_token", "INVALID_ARGUMENT", {"requestError": "EXPIRED_PAGE_TOKEN"}),
    ],
)
@pytest.mark.parametrize("order", ["search", "stream"])
def test_the_real_client_raises_googles_codes(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str, status: str, code: dict[str, str], order: str
) -> None:
    served.break_(fault)
    told = ask.refused(order, customer=account["external_id"], query="SELECT campaign.id FROM campaign")
    assert (told["raised"], told["status"], told["codes"]) == ("GoogleAdsException", status, [code])
    assert told["request_id"]


@pytest.mark.parametrize(
    ("fault", "status"), [("google_internal", "INTERNAL"), ("google_throttled", "RESOURCE_EXHAUSTED")]
)
def test_the_real_client_leaves_to_its_caller_what_may_be_tried_again(
    ask: Client, served: Sandbox, account: dict[str, Any], fault: str, status: str
) -> None:
    about = {"customer": account["external_id"], "query": "SELECT campaign.id FROM campaign"}
    served.break_(fault, times=1)
    assert ask.refused("search", **about)["status"] == status
    assert ask("search", **about)["rows"]


def test_google_auth_refreshes_and_hears_when_it_is_over(ask: Client, served: Sandbox, account: dict[str, Any]) -> None:
    about = {
        "token_uri": served.settings["AAE_GOOGLE__TOKEN_URL"],
        "client_id": served.settings["AAE_GOOGLE__CLIENT_ID"],
        "client_secret": served.settings["AAE_GOOGLE__CLIENT_SECRET"],
        "refresh_token": account["refresh_token"],
    }
    fresh = ask("refresh", **about)
    assert call(served, {**account, "access_token": fresh["token"]}, "customers:listAccessibleCustomers")[0] == 200
    assert fresh["refresh"] == account["refresh_token"]
    served.break_("google_invalid_grant")
    over = ask.refused("refresh", **about)
    assert over["raised"] == "RefreshError"
    assert "invalid_grant" in over["message"]
