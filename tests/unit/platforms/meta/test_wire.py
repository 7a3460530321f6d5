"""Meta's refusals, usage headers and pages are understood as its documentation says."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Platform
from aae.platforms.meta import wire
from aae.platforms.meta.wire import judge
from aae.platforms.transport import Answer, Blip, Caller
from tests.unit.platforms.support import NOW, SECRETS, TOKEN, Clock, account, gather, ok, piece, token, use

META = account(Platform.META)
CALLER = Caller(SecretStr(TOKEN), "1001")


def answer(data: Any, status: int = 400, *, before: int = 0, **headers: Any) -> Answer:
    named = {name.replace("_", "-"): json.dumps(value) for name, value in headers.items()}
    return Answer(status, named, data, True, NOW, before)


def refusal(code: Any, subcode: Any = None, message: str = "No.", **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "error_subcode": subcode, "message": message, **more}}


REFUSALS = [
    (190, None, Reauthorize),
    *[(190, subcode, Reauthorize) for subcode in (458, 459, 460, 463, 464, 467, 492)],
    (102, None, Reauthorize),
    *[(code, None, Skip) for code in (3, 10, *range(200, 300))],
    (100, 33, Skip),
    (1, None, Blip),
    (1, 99, Blip),
    (2, None, Blip),
    (2, 1504043, Blip),
    (2, 1504044, Blip),
    (-2, 2490547, Blip),
    (960, None, Blip),
    *[(4, subcode, Throttled) for subcode in (None, 1504022, 1504039)],
    *[(17, subcode, Throttled) for subcode in (None, 2446079)],
    *[(613, subcode, Throttled) for subcode in (None, 1487742, 1996)],
    *[(code, None, Throttled) for code in (32, 341, 368, *range(80000, 80007), 80008, 80009, 80014)],
    *[(code, 2446079, Throttled) for code in (80000, 80004)],
    (100, 1487534, Reduce),
    (100, 1504018, Reduce),
    (2, 1504038, Reduce),
    (2, 1504041, Bug),
    (2, 1504042, Bug),
    (100, None, Bug),
    (2635, None, Bug),
    (3018, None, Bug),
    (None, None, Bug),
    ("190", "463", Reauthorize),
    ({"x": 1}, [2], Bug),
]


@pytest.mark.parametrize(("code", "subcode", "kind"), REFUSALS)
def test_a_refusal_is_what_its_code_says(code: Any, subcode: Any, kind: type[AaeError]) -> None:
    with pytest.raises(AaeError) as caught:
        judge(CALLER, answer(refusal(code, subcode)))
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [200, 400, 500])
def test_reduce_is_known_by_its_words_where_it_has_no_code(status: int) -> None:
    words = "Please reduce the amount of data you're asking for, then retry your request"
    with pytest.raises(Reduce):
        judge(CALLER, answer(refusal(1, None, words), status))


def test_rows_that_a_report_run_does_not_have_yet_are_a_blip() -> None:
    words = "(#100) Cannot include spend in summary param because they weren't there while creating the report run."
    with pytest.raises(Blip):
        judge(CALLER, answer(refusal(100, None, words)))


@pytest.mark.parametrize("data", ["plain text", '{"blame": 1}', {"blame_field_specs": [["x"]]}, 5])
def test_what_meta_adds_to_a_refusal_is_no_part_of_it(data: Any) -> None:
    with pytest.raises(Reauthorize):
        judge(CALLER, answer(refusal(190, 463, error_data=data, error_user_title="x", error_user_msg=None)))


def test_a_version_that_is_over_names_the_setting() -> None:
    with pytest.raises(Bug, match="set AAE_META__VERSION to a later one"):
        judge(CALLER, answer(refusal(2635, None, "(#2635) You are calling a deprecated version of the Ads API.")))


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        ({"facebook-api-version": "v27.0"}, "v27.0"),
        ({"facebook-api-version": "v27.0", "X-Ad-Api-Version-Warning": "upgraded"}, "v27.0"),
        ({"X-Ad-Api-Version-Warning": "soon over"}, "v26.0"),
        ({"facebook-api-version": "v26.0"}, None),
        ({"facebook-api-version": "v27.0 or so"}, None),
        ({}, None),
    ],
)
def test_an_answer_in_another_version_is_said_once(
    headers: dict[str, str], served: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    wire._say_version.cache_clear()
    page = httpx.Response(200, json={"data": []}, headers=headers)
    use(Platform.META, [page] * 3, lambda meta: meta.list_entities(META, token()))
    told = [record.getMessage() for record in caplog.records if record.name == wire.__name__]
    assert told == ([f"AAE_META__VERSION=v26.0 is over, or nearly so: Meta answered in {served}"] if served else [])


def test_a_transient_flag_or_a_servers_status_makes_an_unknown_code_a_blip() -> None:
    for refused in [answer(refusal(999, is_transient=True)), answer(refusal(999), 503)]:
        with pytest.raises(Blip):
            judge(CALLER, refused)
    with pytest.raises(Skip):
        judge(CALLER, answer(refusal(100, None, "Missing permissions for this")))


@pytest.mark.parametrize(
    ("code", "words"), [(101, "Error validating application."), (1, "Error validating client secret.")]
)
def test_a_wrong_app_names_the_settings_to_check(code: int, words: str) -> None:
    with pytest.raises(Bug, match="AAE_META__APP_SECRET"):
        judge(CALLER, answer(refusal(code, None, words)))


def test_the_code_travels_with_the_error() -> None:
    with pytest.raises(Reauthorize) as caught:
        judge(CALLER, answer(refusal(190, 463, "Session has expired")))
    assert caught.value.code == "190/463"
    assert str(caught.value) == "Meta no longer accepts this token: Session has expired (190/463)"


def test_a_throttle_lasts_as_long_as_the_headers_say_else_longer_each_time() -> None:
    def until(code: int, subcode: int | None = None, **more: Any) -> Throttled:
        with pytest.raises(Throttled) as caught:
            judge(CALLER, answer(refusal(code, subcode), **more))
        return caught.value

    regain = {
        "1001": [{"call_count": 100, "estimated_time_to_regain_access": 7}],
        "9": [{"estimated_time_to_regain_access": 900}],
    }
    told = until(80000, x_business_use_case_usage=regain)
    assert (told.until - NOW, told.scope) == (timedelta(minutes=7), "meta:account:1001")
    reset = until(17, x_ad_account_usage={"acc_id_util_pct": 100, "reset_time_duration": 90})
    assert reset.until - NOW == timedelta(seconds=90)
    assert [(until(4, before=n).until - NOW).total_seconds() for n in range(6)] == [60, 120, 240, 480, 600, 600]
    unused = {"acc_id_util_pct": 40, "reset_time_duration": 3000}  # how long it takes to forget all usage
    assert until(17, x_ad_account_usage=unused).until - NOW == timedelta(minutes=1)
    assert {until(code).scope for code in (4, 32, 341)} == {"meta:app"}
    assert {until(code).scope for code in (368, 613, 80000, 80014)} == {"meta:account:1001"}
    assert {until(code, 2446079).scope for code in (17, 80000)} == {"meta:account:1001"}
    assert until(17).scope == f"meta:{CALLER.user}"


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        ({"x_app_usage": {"call_count": 74.9}}, {}),
        ({"x_app_usage": {"call_count": 10, "total_cputime": 85}}, {"meta:app": 2}),
        ({"x_app_usage": {"call_count": 99}}, {"meta:app": 10}),
        ({"x_ad_account_usage": {"acc_id_util_pct": 86.5}}, {"meta:account:1001": 2}),
        (
            {"x_fb_ads_insights_throttle": {"app_id_util_pct": 95, "acc_id_util_pct": 90.0}},
            {"meta:app": 10, "meta:account:1001": 2},
        ),
        ({"x_business_use_case_usage": {"1001": [{"total_time": 97}]}}, {"meta:account:1001": 10}),
        ({"x_business_use_case_usage": {"2002": [{"total_time": 97}]}}, {}),
        ({"x_app_usage": {"call_count": "99"}}, {}),
        ({"x_app_usage": [99]}, {}),
        ({"x_app_usage": {"call_count": True, "total_time": -5, "total_cputime": float("nan")}}, {}),
    ],
)
def test_nearly_used_up_means_leaving_that_scope_alone_for_a_while(
    headers: dict[str, Any], pauses: dict[str, int]
) -> None:
    found = judge(CALLER, answer({"data": []}, 200, **headers))
    ends = {scope: until for scope, until in found.items() if isinstance(until, datetime)}
    assert {scope: (until - NOW) / timedelta(minutes=1) for scope, until in ends.items()} == pauses
    assert ends == found


@pytest.mark.parametrize(
    ("headers", "paces"),
    [
        ({"x_app_usage": {"call_count": 75}}, {"meta:app": 1}),
        ({"x_app_usage": {"call_count": 10, "total_time": 84}}, {"meta:app": 10}),
        ({"x_ad_account_usage": {"acc_id_util_pct": 80.5, "reset_time_duration": 3000}}, {"meta:account:1001": 6.5}),
        (
            {"x_fb_ads_insights_throttle": {"app_id_util_pct": 76, "acc_id_util_pct": 90}},
            {"meta:app": 2, "meta:account:1001": None},
        ),
    ],
)
def test_from_three_quarters_on_calls_are_spaced_the_more_the_nearer_the_limit(
    headers: dict[str, Any], paces: dict[str, float | None]
) -> None:
    found = judge(CALLER, answer({"data": []}, 200, **headers))
    assert {name: one.total_seconds() if isinstance(one, timedelta) else None for name, one in found.items()} == paces


def test_a_good_answer_that_says_when_there_is_room_again_is_believed() -> None:
    told = {"1001": [{"call_count": 100, "estimated_time_to_regain_access": 45}]}
    found = judge(CALLER, answer({"data": []}, 200, x_business_use_case_usage=told))
    assert found == {"meta:account:1001": NOW + timedelta(minutes=45)}
    used_up = {"acc_id_util_pct": 100, "reset_time_duration": 1800}
    found = judge(CALLER, answer({"data": []}, 200, x_ad_account_usage=used_up))
    assert found == {"meta:account:1001": NOW + timedelta(minutes=30)}


def campaign(number: int) -> dict[str, Any]:
    return {"id": str(number), "name": f"C{number}", "effective_status": "ACTIVE"}


NEXT = f"http://meta.test/v26.0/act_1001/campaigns?access_token={TOKEN}"


def paged(pages: Sequence[Any]) -> Any:
    """Pages for the campaigns; nothing for ad sets and ads."""
    left = iter(pages)

    def script(request: httpx.Request) -> httpx.Response:
        return ok(next(left) if request.url.path.endswith("campaigns") else {"data": []})

    return script


def test_paging_goes_on_over_short_and_empty_pages_and_ends_where_next_is_missing() -> None:
    pages = [
        {"data": [campaign(1)], "paging": {"cursors": {"after": "A"}, "next": NEXT}},
        {"data": [], "paging": {"cursors": {"after": "B"}, "next": NEXT}},
        {"data": [campaign(2)], "paging": {"next": NEXT + "&after=C%3D"}},
        {"data": [campaign(3), campaign(3)], "paging": {"cursors": {"before": "x", "after": "D"}}},
    ]
    frame, network, _ = use(Platform.META, paged(pages), lambda meta: meta.list_entities(META, token()))
    assert frame["external_id"].tolist() == ["1", "2", "3"]
    assert [network.asked(n).get("after") for n in range(4)] == [None, "A", "B", "C="]
    assert all(TOKEN not in str(request.url) for request in network.requests)


@pytest.mark.parametrize(
    "paging",
    [
        {"next": NEXT},
        {"next": NEXT, "cursors": {"after": ""}},
        {"next": 5},
        {"next": "http://[", "cursors": []},
        {"next": NEXT, "cursors": {"after": "A"}},
        [],
    ],
)
def test_a_next_page_that_leads_nowhere_or_in_a_circle_is_a_bug(paging: Any) -> None:
    first: dict[str, Any] = {"data": [], "paging": {"next": NEXT, "cursors": {"after": "A"}}}
    pages = [first] + [{"data": [], "paging": paging}] * 3
    with pytest.raises(Bug):
        use(Platform.META, paged(pages), lambda meta: meta.list_entities(META, token()))


def test_too_much_data_halves_the_page_and_keeps_the_place() -> None:
    limits: list[tuple[str, str | None]] = []

    def script(request: httpx.Request) -> httpx.Response:
        asked = dict(request.url.params)
        limits.append((asked["limit"], asked.get("after")))
        if int(asked["limit"]) > 125:
            return httpx.Response(500, json=refusal(1, None, "Please reduce the amount of data"))
        if "after" in asked:
            return ok({"data": []})
        return ok({"data": [], "paging": {"next": NEXT, "cursors": {"after": "A"}}})

    use(Platform.META, script, lambda meta: gather(meta.fetch_metrics(META, token(), piece())))
    assert limits == [("500", None), ("250", None), ("125", None), ("125", "A")]


def test_the_token_goes_in_the_header_and_the_proof_of_the_secret_beside_it() -> None:
    _, network, _ = use(Platform.META, lambda _: ok({"data": []}), lambda meta: meta.accounts(token()))
    assert network.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    proof = hmac.new(SECRETS["meta app"].encode(), TOKEN.encode(), hashlib.sha256).hexdigest()
    assert network.asked()["appsecret_proof"] == proof == proof.lower()
    assert all(secret not in str(network.requests[0].url) for secret in SECRETS.values())


def test_high_usage_stops_the_next_call_without_sending_it() -> None:
    clock = Clock()
    page = {"data": [], "paging": {"next": NEXT, "cursors": {"after": "A"}}}
    with pytest.raises(Throttled) as caught:
        use(
            Platform.META,
            [ok(page, x_app_usage='{"call_count": 96}')],
            lambda meta: meta.list_entities(META, token()),
            clock=clock,
        )
    assert (caught.value.scope, caught.value.until) == ("meta:app", NOW + timedelta(minutes=10))


@pytest.mark.parametrize("status", [200, 400])
def test_an_error_beside_rows_is_an_error(status: int) -> None:
    both = httpx.Response(status, json={"data": [campaign(1)], **refusal(190, 463)})
    with pytest.raises(Reauthorize):
        use(Platform.META, [both], lambda meta: meta.list_entities(META, token()))


def test_plain_text_with_status_200_is_a_retry() -> None:
    with pytest.raises(Retry):
        use(Platform.META, [httpx.Response(200, text="Service Unavailable")] * 3, lambda meta: meta.accounts(token()))
