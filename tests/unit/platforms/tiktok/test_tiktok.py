"""TikTok's envelope, pages, listings and reports are read as its documentation says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import httpx
import pandas as pd
import pytest
from pydantic import SecretStr

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Granularity, Platform, Slice, Totals
from aae.platforms import connectors
from aae.platforms.base import TokenState
from aae.platforms.tiktok.wire import judge
from aae.platforms.transport import Answer, Blip, Caller, TimedOut
from tests.unit.platforms.support import (
    DAY,
    NOW,
    SECRETS,
    SETTINGS,
    TOKEN,
    Clock,
    Network,
    Script,
    account,
    door,
    gather,
    keeping,
    ok,
    piece,
    token,
    use,
)

STRANGE: list[Any] = ["0", None, True, [0], {}]
CALLER = Caller(SecretStr(TOKEN), "1001")
TIKTOK = account(Platform.TIKTOK)


def envelope(data: Any, code: Any = 0) -> httpx.Response:
    return ok({"code": code, "message": "OK" if code == 0 else "No.", "request_id": "R", "data": data})


def listing(*rows: Any, page: int = 1, pages: int = 1, total: int | None = None) -> httpx.Response:
    info = {"page": page, "page_size": 1000, "total_number": len(rows) if total is None else total, "total_page": pages}
    return envelope({"list": list(rows), "page_info": info})


def row(
    ad: str = "11", stamp: str = "2026-11-21 00:00:00", by: str = "stat_time_day", **metrics: Any
) -> dict[str, Any]:
    usual = {"spend": "12.34", "impressions": "1000", "clicks": "17", "complete_payment": "1"}
    more = {"total_complete_payment_rate": "49.90", "campaign_id": "1", "adgroup_id": "2"}
    return {"dimensions": {"ad_id": ad, by: stamp}, "metrics": {**usual, **more, **metrics}}


def fetch(script: Script, what: Slice | None = None) -> tuple[pd.DataFrame, Network]:
    frame, network, _ = use(
        Platform.TIKTOK, script, lambda tiktok: gather(tiktok.fetch_metrics(TIKTOK, token(), what or piece()))
    )
    return frame, network


OUR_APPS = (40101, 40108, 40113, 40117, 40118, 40119, 40124, 40125, 41000)
REFUSALS: list[tuple[int, type[AaeError]]] = [
    *[(code, Reauthorize) for code in (40102, 40103, 40104, 40105, 40106, 40107, 40110, 40114)],
    *[(code, Throttled) for code in (40100, 40016, 40132, 40133, 61000)],
    *[(code, Skip) for code in (40001, 40003, 40130, 40300, 40301, 40302)],
    *[(code, Blip) for code in (40200, 40201, 40202, 40700, 50000, 50002, 59999, 60001)],
    (51010, TimedOut),
    *[(code, Bug) for code in (40000, 40002, 40006, 40007, 40010, 40011, 40051, 40400, 41001, 41002)],
    *[(code, Bug) for code in OUR_APPS],
    (20001, Bug),
]
"""What TikTok's codes mean for whoever calls."""


@pytest.mark.parametrize(("code", "kind"), [*REFUSALS, *[(code, Bug) for code in (-1, 10**30, *STRANGE)]])
def test_an_envelope_is_what_its_code_says_whatever_the_http_status(code: Any, kind: type[AaeError]) -> None:
    for status in (200,) if kind is Bug else (200, 400, 500):
        with pytest.raises(AaeError) as caught:
            judge(CALLER, Answer(status, {}, {"code": code, "message": "No.", "data": {}}, True, NOW))
        assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("code", "setting"),
    [
        *[(code, "AAE_TIKTOK__APP_ID") for code in OUR_APPS],
        *[(code, "AAE_TIKTOK__VERSION") for code in (40006, 40051)],
    ],
)
def test_a_refusal_of_our_app_or_version_names_the_setting(code: int, setting: str) -> None:
    with pytest.raises(Bug, match=setting):
        judge(CALLER, Answer(200, {}, {"code": code, "message": "No.", "data": {}}, True, NOW))


def test_patience_grows_from_a_second_to_five_minutes() -> None:
    waits = []
    for before in range(6):
        with pytest.raises(Throttled) as caught:
            judge(CALLER, Answer(200, {}, {"code": 40100}, True, NOW, before))
        waits.append((caught.value.until - NOW).total_seconds())
        assert caught.value.scope == "tiktok:app"
    assert waits == [1, 5, 60, 300, 300, 300]
    with pytest.raises(Throttled) as own:
        judge(CALLER, Answer(200, {}, {"code": 40133}, True, NOW))
    assert own.value.scope == "tiktok:account:1001"


def test_short_throttles_are_waited_for_and_a_long_one_is_raised() -> None:
    clock = Clock()
    with pytest.raises(Throttled) as caught:
        use(
            Platform.TIKTOK,
            lambda _: envelope({}, 40100),
            lambda tiktok: tiktok.list_entities(TIKTOK, token()),
            clock=clock,
        )
    assert [seconds for seconds in clock.slept if seconds >= 1] == [1.0, 5.0]
    assert caught.value.until - clock.now == timedelta(seconds=60)


def test_a_daily_row_is_exact_and_a_dash_is_missing() -> None:
    frame, network = fetch([listing(row(), row("12", complete_payment="-", total_complete_payment_rate="-"))])
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["external_id"], first["ad_set_external_id"], first["campaign_external_id"]) == ("11", "2", "1")
    assert (first["impressions"], first["clicks"], first["spend_micros"]) == (1000, 17, 12_340_000)
    assert (first["conversions_micros"], first["revenue_micros"]) == (1_000_000, 49_900_000)
    assert first["local_date"] == pd.Timestamp(DAY)
    assert second["conversions_micros"] is pd.NA
    assert second["revenue_micros"] is pd.NA
    assert second["spend_micros"] == 12_340_000
    request = network.requests[0]
    assert request.url.path == "/open_api/v1.3/report/integrated/get/"
    assert request.headers["access-token"] == TOKEN
    asked = network.asked()
    assert (asked["data_level"], asked["page_size"]) == ("AUCTION_AD", "1000")
    assert (asked["advertiser_id"], asked["report_type"], asked["service_type"]) == ("1001", "BASIC", "AUCTION")
    assert json.loads(asked["metrics"]) == [
        *("spend", "impressions", "clicks", "complete_payment", "total_complete_payment_rate"),
        *("campaign_id", "adgroup_id"),
    ]
    assert json.loads(asked["dimensions"]) == ["ad_id", "stat_time_day"]
    assert json.loads(asked["filtering"]) == [
        {"field_name": "ad_status", "filter_type": "IN", "filter_value": '["STATUS_ALL"]'}
    ]


def test_hours_are_asked_for_a_day_at_a_time_and_days_thirty_at_a_time() -> None:
    def hours(request: httpx.Request) -> httpx.Response:
        asked = dict(request.url.params)
        assert asked["start_date"] == asked["end_date"]
        return listing(row(stamp=f"{asked['start_date']} 13:00:00", by="stat_time_hour"))

    frame, _ = fetch(hours, piece(Granularity.HOURLY, since=DAY - timedelta(days=2)))
    assert frame["local_hour"].tolist() == [13, 13, 13]
    assert frame["local_date"].is_unique

    _, network = fetch(lambda _: listing(), piece(since=DAY - timedelta(days=60)))
    spans = [(network.asked(n)["start_date"], network.asked(n)["end_date"]) for n in range(len(network.requests))]
    assert spans == [("2026-09-22", "2026-10-21"), ("2026-10-22", "2026-11-20"), ("2026-11-21", "2026-11-21")]


def test_rows_that_hold_nothing_are_dropped() -> None:
    zeros = dict.fromkeys(("spend", "impressions", "clicks", "complete_payment", "total_complete_payment_rate"), "0")
    frame, _ = fetch([listing(row("11"), row("12", **zeros))])
    assert frame["external_id"].tolist() == ["11"]


def test_pages_are_read_to_the_last_and_repeated_rows_given_once() -> None:
    frame, network = fetch(
        [listing(row("11"), pages=2, total=2), listing(row("11"), row("12"), page=2, pages=2, total=2)]
    )
    assert frame["external_id"].tolist() == ["11", "12"]
    assert [network.asked(n)["page"] for n in range(2)] == ["1", "2"]


@pytest.mark.parametrize(
    "pages",
    [
        [listing(row(), total=5)],
        [listing(row(), pages=3, total=3), listing(page=2, pages=3, total=3)],
    ],
)
def test_a_listing_that_tiktok_cuts_short_is_read_again_later(pages: list[httpx.Response]) -> None:
    with pytest.raises(Retry):
        fetch(pages)


def test_without_totals_a_short_page_is_the_end() -> None:
    frame, network = fetch(
        [
            envelope({"list": [row(str(n)) for n in range(1, 1001)], "page_info": {"page": 1}}),
            envelope({"list": [row("2000")]}),
        ]
    )
    assert len(frame) == 1001
    assert len(network.requests) == 2


def entities(request: httpx.Request) -> httpx.Response:
    rows: dict[str, list[dict[str, Any]]] = {
        "campaign": [
            {
                "campaign_id": "1",
                "campaign_name": "W",
                "operation_status": "ENABLE",
                "objective_type": "WEB_CONVERSIONS",
            },
            {"campaign_id": "9", "campaign_name": "D", "secondary_status": "CAMPAIGN_STATUS_DELETE"},
        ],
        "adgroup": [
            {
                **{"adgroup_id": "2", "campaign_id": "1", "adgroup_name": "G", "operation_status": "DISABLE"},
                **{"budget": 50.5, "budget_mode": "BUDGET_MODE_DAY"},
            }
        ],
        "ad": [
            {
                **{"ad_id": "11", "adgroup_id": "2", "ad_name": "A", "operation_status": "ENABLE"},
                **{"secondary_status": "AD_STATUS_ADGROUP_DISABLE"},
            }
        ],
    }
    assert json.loads(request.url.params["filtering"]) == {"primary_status": "STATUS_ALL"}
    return listing(*rows[request.url.path.split("/")[3]])


def test_entities_are_listed_with_deleted_ones_and_their_daily_budgets() -> None:
    frame, _, _ = use(Platform.TIKTOK, entities, lambda tiktok: tiktok.list_entities(TIKTOK, token()))
    assert frame["external_id"].tolist() == ["1", "9", "2", "11"]
    assert frame["status"].tolist() == ["active", "deleted", "paused", "paused"]
    assert frame["parent_external_id"].tolist()[2:] == ["1", "2"]
    assert frame["daily_budget_micros"].tolist()[2] == 50_500_000
    assert frame["channel"].tolist()[0] == "WEB_CONVERSIONS"


@pytest.mark.parametrize(
    ("budget", "mode"), [(0, "BUDGET_MODE_INFINITE"), (50, "BUDGET_MODE_TOTAL"), (0, "BUDGET_MODE_DAY"), (None, [])]
)
def test_a_budget_that_is_not_daily_is_missing(budget: Any, mode: Any) -> None:
    def script(request: httpx.Request) -> httpx.Response:
        campaign = {"campaign_id": "1", "campaign_name": "W", "budget": budget, "budget_mode": mode}
        return listing(*([campaign] if "campaign" in request.url.path else []))

    frame, _, _ = use(Platform.TIKTOK, script, lambda tiktok: tiktok.list_entities(TIKTOK, token()))
    assert frame["daily_budget_micros"].isna().all()


def reports(answer: Callable[[httpx.Request], httpx.Response]) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: answer(request) if "report" in request.url.path else entities(request)


def test_parents_that_the_report_does_not_tell_come_from_the_listing() -> None:
    bare = row("11", campaign_id="-", adgroup_id=None)
    frame, _ = fetch(reports(lambda _: listing(bare)))
    assert (frame.iloc[0]["ad_set_external_id"], frame.iloc[0]["campaign_external_id"]) == ("2", "1")
    with pytest.raises(Retry, match="does not know yet"):
        fetch(reports(lambda _: listing(row("12", campaign_id="-"))))


def test_a_report_cut_for_its_many_ids_is_asked_for_by_campaigns() -> None:
    def report(request: httpx.Request) -> httpx.Response:
        filters = {one["field_name"]: one["filter_value"] for one in json.loads(request.url.params["filtering"])}
        if "campaign_ids" not in filters:
            return httpx.Response(200, json={"code": 0, "data": {}}, headers={"X-Tt-Ads-Throttle": "1"})
        assert json.loads(filters["campaign_ids"]) == ["1", "9"]
        return listing(row())

    assert len(fetch(reports(report))[0]) == 1


SLOW = httpx.ReadTimeout("slow")
ANY = "any"
Asked = tuple[str, str, str]


def slow_if(slow: Callable[[Asked], bool], found: Callable[[Asked], list[Any]]) -> Callable[[httpx.Request], Any]:
    """A platform that answers no question (first day, last day, campaigns) of which ``slow`` is true in time."""

    def reply(request: httpx.Request) -> Any:
        query = Network.query_of(request)
        if "/campaign/get/" in request.url.path:
            return listing(*({"campaign_id": str(n), "campaign_name": "C"} for n in range(1, 4)))
        if "report" not in request.url.path:
            return listing()
        filters = {one["field_name"]: one["filter_value"] for one in json.loads(query.get("filtering", "[]"))}
        asked = (query["start_date"][8:], query["end_date"][8:], filters.get("campaign_ids", ANY))
        return SLOW if slow(asked) else listing(*found(asked))

    return reply


def asked_of(network: Network) -> list[Asked]:
    """The reports that were asked for, by days and campaigns."""
    found = []
    for request in network.requests:
        if "report" in request.url.path:
            query = network.query_of(request)
            filters = {one["field_name"]: one["filter_value"] for one in json.loads(query.get("filtering", "[]"))}
            found.append((query["start_date"][8:], query["end_date"][8:], filters.get("campaign_ids", ANY)))
    return found


def test_a_report_that_timed_out_is_asked_for_by_halves_of_its_days_and_never_again_as_it_was() -> None:
    three = piece(since=date(2026, 11, 19), until=date(2026, 11, 21))
    slow = slow_if(
        lambda asked: asked[0] != asked[1],
        lambda asked: [row(stamp=f"2026-11-{asked[0]} 00:00:00")],
    )
    frame, network = fetch(slow, three)
    assert frame["local_date"].dt.day.tolist() == [19, 20, 21]
    assert asked_of(network) == [
        ("19", "21", ANY),
        ("19", "19", ANY),
        ("20", "21", ANY),
        ("20", "20", ANY),
        ("21", "21", ANY),
    ]


def test_a_day_that_timed_out_is_asked_for_by_ever_smaller_groups_of_campaigns() -> None:
    slow = slow_if(
        lambda asked: asked[2] == ANY or len(json.loads(asked[2])) > 1,
        lambda asked: [row(ad=f"1{json.loads(asked[2])[0]}")],
    )
    frame, network = fetch(slow)
    assert frame["external_id"].tolist() == ["11", "12", "13"]
    assert [asked[2] for asked in asked_of(network)] == [
        ANY,
        '["1", "2", "3"]',
        '["1"]',
        '["2", "3"]',
        '["2"]',
        '["3"]',
    ]


def test_what_timed_out_at_its_narrowest_is_left_alone_for_ten_minutes_by_everybody() -> None:
    clock, slow = Clock(), slow_if(lambda _: True, lambda _: [])
    store = keeping(clock)

    def again() -> int:
        network = Network(slow)

        async def run() -> None:
            async with door(network, clock, store) as transport:
                await gather(connectors(SETTINGS, transport)[Platform.TIKTOK].fetch_metrics(TIKTOK, token(), piece()))

        with pytest.raises(Reduce, match="did not answer"):
            asyncio.run(run())
        return len(asked_of(network))

    first = again()
    clock.now += timedelta(minutes=5)
    within, clock.now = again(), clock.now + timedelta(minutes=6)
    assert (first, within, again()) == (3, 0, 3)


def test_totals_that_timed_out_are_added_up_from_halves() -> None:
    two = piece(since=date(2026, 11, 20), until=date(2026, 11, 21))

    def reply(request: httpx.Request) -> Any:
        query = Network.query_of(request)
        if query["start_date"] != query["end_date"]:
            return SLOW
        known = {"complete_payment": "1" if query["start_date"].endswith("20") else "-"}
        return listing({"metrics": row(**known)["metrics"], "dimensions": {"advertiser_id": "1001"}})

    totals, network, _ = use(Platform.TIKTOK, reply, lambda tiktok: tiktok.fetch_totals(TIKTOK, token(), two))
    assert totals == Totals(2000, 34, 24_680_000, None, 99_800_000)
    assert len(network.requests) == 3


def test_a_page_of_a_listing_that_timed_out_is_read_in_halves_from_where_it_was() -> None:
    everything = [{"campaign_id": str(n), "campaign_name": "C"} for n in range(1, 1201)]

    def reply(request: httpx.Request) -> Any:
        query = Network.query_of(request)
        if "/campaign/get/" not in request.url.path:
            return listing()
        number, size = int(query["page"]), int(query["page_size"])
        if (number, size) == (2, 1000):
            return SLOW
        rows = everything[(number - 1) * size : number * size]
        return listing(*rows, page=number, pages=-(-1200 // size), total=1200)

    found, network, _ = use(Platform.TIKTOK, reply, lambda tiktok: tiktok.list_entities(TIKTOK, token()))
    assert found["external_id"].tolist() == [one["campaign_id"] for one in everything]
    sizes = [(q["page"], q["page_size"]) for q in map(network.query_of, network.requests[:3])]
    assert sizes == [("1", "1000"), ("2", "1000"), ("3", "500")]


def test_totals_are_the_advertisers_own() -> None:
    total = {"dimensions": {"advertiser_id": "1001"}, "metrics": row()["metrics"]}
    found, network, _ = use(
        Platform.TIKTOK, [listing(total)], lambda tiktok: tiktok.fetch_totals(TIKTOK, token(), piece())
    )
    assert found == Totals(1000, 17, 12_340_000, 1_000_000, 49_900_000)
    asked = network.asked()
    assert asked["data_level"] == "AUCTION_ADVERTISER"
    assert json.loads(asked["metrics"]) == [  # what is not of the level is refused as of no relation to it
        *("spend", "impressions", "clicks", "complete_payment", "total_complete_payment_rate")
    ]
    nothing, _, _ = use(Platform.TIKTOK, [listing()], lambda tiktok: tiktok.fetch_totals(TIKTOK, token(), piece()))
    assert nothing == Totals(0, 0, 0, 0, 0)


def test_a_token_is_valid_while_it_reaches_the_account() -> None:
    def check(*ids: str) -> tuple[Any, Network, Clock]:
        rows = [{"advertiser_id": one, "advertiser_name": "x"} for one in ids]
        return use(
            Platform.TIKTOK,
            [envelope({"list": rows})],
            lambda tiktok: tiktok.check_token(TIKTOK, token(), NOW, within_hours=24),
        )

    found, network, _ = check("5", "1001")
    assert found.state is TokenState.STILL_VALID
    assert network.asked() == {"app_id": "222", "secret": SECRETS["tiktok"]}
    with pytest.raises(Reauthorize):
        check("5")


def test_the_time_zone_is_the_one_with_daylight_saving() -> None:
    info = {"advertiser_id": "1001", "name": "Shop", "currency": "USD", "timezone": "Etc/GMT+8"}
    for told, zone in [({"display_timezone": "America/Los_Angeles"}, "America/Los_Angeles"), ({}, "Etc/GMT+8")]:
        found, _, _ = use(
            Platform.TIKTOK,
            [envelope({"list": [{**info, **told}]})],
            lambda tiktok: tiktok.describe("1001", token(), None),
        )
        assert found.timezone == zone


def test_accounts_are_described_a_hundred_at_a_time() -> None:
    def script(request: httpx.Request) -> httpx.Response:
        if "oauth2" in request.url.path:
            return envelope({"list": [{"advertiser_id": str(n)} for n in range(1, 251)]})
        ids = json.loads(request.url.params["advertiser_ids"])
        assert len(ids) <= 100
        usual = {"name": "Shop", "currency": "USD", "display_timezone": "Asia/Tokyo"}
        return envelope({"list": [{"advertiser_id": one, **usual} for one in ids]})

    found, network, _ = use(Platform.TIKTOK, script, lambda tiktok: tiktok.accounts(token()))
    assert [one.external_id for one in found] == [str(n) for n in range(1, 251)]
    assert len(network.requests) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"spend": "-"},
        {"spend": "1e400"},
        {"impressions": None},
        {"complete_payment": []},
        {"campaign_id": {}},
        {"total_complete_payment_rate": "NaN"},
    ],
)
def test_a_malformed_row_is_a_bug(wrong: dict[str, Any]) -> None:
    with pytest.raises(Bug):
        fetch([listing(row(**wrong))])


@pytest.mark.parametrize("stamp", [None, 5, "2026-11-20 00:00:00", "", "21.11.2026 00:00:00"])
def test_a_malformed_day_is_a_bug(stamp: Any) -> None:
    with pytest.raises(Bug):
        fetch([listing(row(stamp=stamp))])


@pytest.mark.parametrize("status", [404, 405])
def test_a_path_or_a_method_that_does_not_exist_is_a_bug(status: int) -> None:
    with pytest.raises(Bug):
        fetch([httpx.Response(status, text="404 page not found")])
