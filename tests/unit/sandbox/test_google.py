"""Google's habits: managers, queries, int64 as text, pages and streams, and its token endpoint."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from aae.model import Level, Platform
from aae.sandbox import APP, World, google
from aae.sandbox.entities import AdAccount, Status
from aae.sandbox.gaql import Condition, QueryError, parse
from tests.unit.sandbox.wires import NOW, Wire, first

SPAN = "segments.date BETWEEN '2026-11-01' AND '2026-11-02'"


@pytest.fixture
def wire(world: World) -> Wire:
    return Wire(world, Platform.GOOGLE)


@pytest.fixture
def account(world: World) -> AdAccount:
    return first(world, Platform.GOOGLE, currency="USD")


def failure(body: Any) -> dict[str, str]:
    error = body[0]["error"] if isinstance(body, list) else body["error"]
    code: dict[str, str] = error["details"][0]["errors"][0]["errorCode"]
    return code


def token(wire: Wire, refresh: str, **changes: str) -> tuple[int, dict[str, Any]]:
    form = {
        "grant_type": "refresh_token",
        "client_id": APP.google_client_id,
        "client_secret": APP.google_client_secret,
        "refresh_token": refresh,
    }
    answer = wire.ask("POST", "/token", {}, {}, urlencode({**form, **changes}).encode())
    return answer.status, orjson.loads(answer.body)


def test_an_access_token_lives_an_hour_and_is_refreshed(world: World, account: AdAccount) -> None:
    _, refresh, expires = world.credentials(account)
    assert refresh
    assert expires == NOW + timedelta(seconds=3599)
    later = Wire(world, Platform.GOOGLE, expires)
    query = "SELECT customer.id FROM customer"
    assert failure(later.gaql(account, query)) == {"authenticationError": "OAUTH_TOKEN_EXPIRED"}
    status, body = token(later, refresh)
    assert (status, body["expires_in"]) == (200, 3599)
    assert "refresh_token" not in body
    headers = {**later.headers(account), "authorization": f"Bearer {body['access_token']}"}
    path = f"/v26/customers/{account.external_id}/googleAds:search"
    assert later.ask("POST", path, {}, headers, orjson.dumps({"query": query})).status == 200


def test_refreshing_fails_as_it_does_at_google(wire: Wire, account: AdAccount) -> None:
    refresh = str(wire.world.credentials(account)[1])
    assert token(wire, refresh, client_secret="wrong")[0] == 401
    assert token(wire, "nonsense") == (400, {"error": "invalid_grant", "error_description": "Bad Request"})
    dead = next(one for one in wire.world.connected if (one.user, one.platform) in wire.world.revoked)
    status, body = token(wire, str(wire.world.credentials(dead)[1]))
    assert (status, body["error"]) == (400, "invalid_grant")


def test_managers_are_listed_instead_of_their_clients_and_list_them(wire: Wire, account: AdAccount) -> None:
    assert wire.get(account, "/v26/customers:listAccessibleCustomers") == {
        "resourceNames": [f"customers/{account.manager}"]
    }
    fields = [
        "id",
        "descriptive_name",
        "currency_code",
        "time_zone",
        "manager",
        "status",
        "level",
        "test_account",
        "hidden",
    ]
    query = f"SELECT {', '.join(f'customer_client.{name}' for name in fields)} FROM customer_client"
    path = f"/v26/customers/{account.manager}/googleAds:search"
    answer = wire.ask("POST", path, {}, wire.headers(account), orjson.dumps({"query": query}))
    rows = [row["customerClient"] for row in orjson.loads(answer.body)["results"]]
    assert [(row["level"], row["manager"], row["status"]) for row in rows] == [
        ("0", True, "ENABLED"),
        ("1", False, "ENABLED"),
        ("1", False, "CANCELED"),
    ]
    assert rows[1]["id"] == account.external_id
    assert (rows[1]["currencyCode"], rows[1]["timeZone"]) == ("USD", "America/New_York")


def test_metrics_of_a_manager_are_refused(wire: Wire, account: AdAccount) -> None:
    path = f"/v26/customers/{account.manager}/googleAds:search"
    body = orjson.dumps({"query": f"SELECT metrics.clicks FROM customer WHERE {SPAN}"})
    answer = wire.ask("POST", path, {}, wire.headers(account), body)
    assert failure(orjson.loads(answer.body)) == {"queryError": "REQUESTED_METRICS_FOR_MANAGER"}


def test_a_client_is_reached_only_through_its_manager_and_a_cancelled_one_not_at_all(
    wire: Wire, world: World, account: AdAccount
) -> None:
    def ask(target: AdAccount, **changes: str | None) -> dict[str, str]:
        headers = {k: v for k, v in {**wire.headers(account), **changes}.items() if v is not None}
        path = f"/v26/customers/{target.external_id}/googleAds:search"
        answer = wire.ask("POST", path, {}, headers, b'{"query": "SELECT customer.id FROM customer"}')
        return {} if answer.status == 200 else failure(orjson.loads(answer.body))

    denied = {"authorizationError": "USER_PERMISSION_DENIED"}
    assert ask(account) == {}
    assert ask(account, **{"login-customer-id": None}) == denied
    assert ask(account, **{"login-customer-id": "1112223334"}) == denied
    assert ask(first(world, Platform.GOOGLE, currency="JPY")) == denied
    cancelled = next(one for one in world.accounts if not one.enabled and one.user == account.user)
    assert ask(cancelled) == {"authorizationError": "CUSTOMER_NOT_ENABLED"}
    assert ask(account, **{"developer-token": None}) == {"requestError": "DEVELOPER_TOKEN_PARAMETER_MISSING"}
    assert ask(account, **{"developer-token": "wrong"}) == {"authenticationError": "DEVELOPER_TOKEN_INVALID"}
    assert ask(account, authorization="Bearer wrong") == {"authenticationError": "OAUTH_TOKEN_INVALID"}


def test_rows_have_int64_as_text_doubles_as_numbers_and_resource_names(wire: Wire, account: AdAccount) -> None:
    fields = "segments.date, segments.hour, campaign.id, campaign.name, campaign.status, metrics.cost_micros"
    body = wire.gaql(account, f"SELECT {fields}, metrics.conversions FROM campaign WHERE {SPAN}")
    row = body["results"][0]
    assert row["segments"] == {"date": "2026-11-01", "hour": 0}
    assert row["campaign"] == {
        "id": account.campaigns[0].external_id,
        "name": account.campaigns[0].name,
        "status": "ENABLED",
        "resourceName": f"customers/{account.external_id}/campaigns/{account.campaigns[0].external_id}",
    }
    assert isinstance(row["metrics"]["costMicros"], str)
    assert isinstance(row["metrics"]["conversions"], float)
    assert body["fieldMask"].endswith("metrics.costMicros,metrics.conversions")


def test_conversions_come_in_fractions(wire: Wire, account: AdAccount) -> None:
    body = wire.gaql(account, "SELECT segments.date, campaign.id, metrics.conversions FROM campaign WHERE "
                     "segments.date BETWEEN '2026-10-10' AND '2026-10-20'")  # fmt: skip
    assert any(row["metrics"]["conversions"] % 1 for row in body["results"])


def test_removed_entities_are_returned_unless_filtered(wire: Wire, account: AdAccount) -> None:
    everything = wire.gaql(account, "SELECT campaign.status FROM campaign")["results"]
    kept = wire.gaql(account, "SELECT campaign.id FROM campaign WHERE campaign.status != 'REMOVED'")["results"]
    gone = [one for one in account.campaigns if one.status is Status.DELETED]
    assert len(everything) == len(account.campaigns) == len(kept) + len(gone)
    chosen = (
        "SELECT campaign.id FROM campaign WHERE campaign.status IN ('ENABLED', 'PAUSED') "
        "ORDER BY campaign.id DESC LIMIT 2"
    )
    ids = [int(row["campaign"]["id"]) for row in wire.gaql(account, chosen)["results"]]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 2


def test_performance_max_has_numbers_only_at_campaign_level(wire: Wire, account: AdAccount) -> None:
    pmax = next(one for one in account.campaigns if one.channel == "PERFORMANCE_MAX")
    where = f"WHERE segments.date = '2026-11-02' AND campaign.id = {pmax.external_id}"
    assert len(wire.gaql(account, f"SELECT campaign.id, metrics.clicks FROM campaign {where}")["results"]) == 1
    assert "results" not in wire.gaql(account, f"SELECT ad_group_ad.ad.id, metrics.clicks FROM ad_group_ad {where}")


def test_without_segments_the_days_add_up_and_idle_entities_have_zeros(wire: Wire, account: AdAccount) -> None:
    rows = wire.gaql(account, f"SELECT campaign.id, metrics.impressions FROM campaign WHERE {SPAN}")["results"]
    assert len(rows) == len(account.campaigns)
    assert any(row["metrics"]["impressions"] == "0" for row in rows)
    facts = account.facts(Level.CAMPAIGN, date(2026, 11, 1), date(2026, 11, 2), NOW, hourly=False)
    assert sum(int(row["metrics"]["impressions"]) for row in rows) == facts.impressions.sum()


@pytest.mark.parametrize(
    ("where", "days"),
    [
        ("segments.date = '2026-11-01'", 1),
        ("segments.date IN ('2026-10-01', '2026-10-03')", 2),
        ("segments.date >= '2026-10-30' AND segments.date < '2026-11-02'", 3),
        ("segments.date DURING LAST_7_DAYS", 7),
        ("segments.date DURING YESTERDAY", 1),
    ],
)
def test_ways_to_say_which_days(wire: Wire, account: AdAccount, where: str, days: int) -> None:
    rows = wire.gaql(account, f"SELECT segments.date, metrics.clicks FROM customer WHERE {where}")["results"]
    assert len(rows) == days


def test_pages_and_batches_hold_the_same_rows(wire: Wire, account: AdAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    query = f"SELECT segments.date, segments.hour, ad_group_ad.ad.id, metrics.clicks FROM ad_group_ad WHERE {SPAN}"
    whole = wire.gaql(account, query)["results"]
    monkeypatch.setattr(google, "PAGE_ROWS", 100)
    paged, page = [], wire.gaql(account, query)
    while "nextPageToken" in page:
        paged += page["results"]
        page = wire.gaql(account, query, pageToken=page["nextPageToken"])
    assert paged + page["results"] == whole
    batches = wire.gaql(account, query, method="searchStream")
    assert len(batches) == -(-len(whole) // 100)
    assert [row for batch in batches for row in batch["results"]] == whole
    empty = wire.gaql(account, "SELECT campaign.id FROM campaign WHERE campaign.id = 1", method="searchStream")
    assert "results" not in empty[0]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT campaign.nonsense FROM campaign", "UNRECOGNIZED_FIELD"),
        ("SELECT ad_group.id FROM campaign", "UNRECOGNIZED_FIELD"),
        ("SELECT campaign.id FROM planet", "BAD_RESOURCE_TYPE_IN_FROM_CLAUSE"),
        ("SELECT segments.date, metrics.clicks FROM campaign", "EXPECTED_FILTERS_ON_DATE_RANGE"),
        ("SELECT metrics.clicks FROM campaign WHERE segments.date > '2026-01-01'", "EXPECTED_FILTERS_ON_DATE_RANGE"),
        ("SELECT metrics.clicks FROM campaign WHERE segments.date = 'soon'", "INVALID_DATE_FORMAT"),
        ("SELECT campaign.id", "EXPECTED_FROM"),
        ("campaign.id FROM campaign", "EXPECTED_SELECT"),
        ("SELECT campaign.id FROM campaign WHERE", "UNEXPECTED_END_OF_QUERY"),
        ("SELECT campaign.id FROM campaign nonsense", "UNEXPECTED_INPUT"),
        ("SELECT campaign.id FROM campaign WHERE campaign.id ~ 3", "BAD_SYMBOL"),
        ("SELECT campaign.id FROM campaign LIMIT 0", "BAD_LIMIT_VALUE"),
        ("SELECT campaign.id FROM campaign WHERE campaign.id = x", "BAD_NUMBER"),
    ],
)
def test_wrong_queries_are_refused_alone_or_in_an_array(wire: Wire, account: AdAccount, query: str, code: str) -> None:
    assert failure(wire.gaql(account, query)) == {"queryError": code}
    streamed = wire.gaql(account, query, method="searchStream")
    assert isinstance(streamed, list)
    assert failure(streamed) == {"queryError": code}


def test_page_size_and_page_token_are_checked(wire: Wire, account: AdAccount) -> None:
    query = "SELECT campaign.id FROM campaign"
    assert failure(wire.gaql(account, query, pageSize=10)) == {"requestError": "PAGE_SIZE_NOT_SUPPORTED"}
    assert failure(wire.gaql(account, query, pageToken="x")) == {"requestError": "INVALID_PAGE_TOKEN"}
    for name in ("pageSize", "pageToken"):
        ((answer,)) = wire.gaql(account, query, method="searchStream", **{name: "10"})
        assert answer["error"]["status"] == "INVALID_ARGUMENT"
        assert f'Unknown name "{name}"' in answer["error"]["message"]
    old = "SELECT metrics.clicks FROM campaign WHERE segments.date BETWEEN '2022-01-01' AND '2022-01-02'"
    assert failure(wire.gaql(account, old)) == {"dateRangeError": "REQUESTED_DATE_GRANULARITY_NOT_SUPPORTED"}


@pytest.mark.parametrize(("version", "status"), [("v26", 200), ("v25", 200), ("v21", 400), ("v99", 404)])
def test_versions(wire: Wire, account: AdAccount, version: str, status: int) -> None:
    path = f"/{version}/customers:listAccessibleCustomers"
    assert wire.ask("GET", path, {}, wire.headers(account)).status == status


def test_the_parser_reads_what_it_should() -> None:
    text = r"SELECT a.b, c.d FROM r WHERE a.b NOT IN ('it\'s', 'x') AND c.d BETWEEN 1 AND 2 ORDER BY c.d DESC LIMIT 5"
    query = parse(text)
    assert query.fields == ("a.b", "c.d")
    assert query.conditions[0] == Condition("a.b", "NOT IN", ("it's", "x"))
    assert query.conditions[1].holds(1.5)
    assert not query.conditions[1].holds(3)
    assert (query.order, query.limit) == ((("c.d", True),), 5)
    with pytest.raises(QueryError):
        parse("")
