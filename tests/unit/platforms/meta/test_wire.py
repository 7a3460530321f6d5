"""Meta's refusals, usage headers and pages are understood as its documentation says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Platform
from aae.platforms.meta.wire import judge
from aae.platforms.transport import Answer, Blip
from tests.unit.platforms.support import NOW, SECRETS, TOKEN, Clock, account, gather, ok, piece, token, use

META = account(Platform.META)


def answer(data: Any, status: int = 400, *, before: int = 0, **headers: Any) -> Answer:
    named = {name.replace("_", "-"): json.dumps(value) for name, value in headers.items()}
    return Answer(status, named, data, True, NOW, before)


def refusal(code: Any, subcode: Any = None, message: str = "No.", **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "error_subcode": subcode, "message": message, **more}}


REFUSALS = [
    (190, None, Reauthorize),
    (190, 458, Reauthorize),
    (190, 463, Reauthorize),
    (102, None, Reauthorize),
    (3, None, Skip),
    (10, None, Skip),
    (200, None, Skip),
    (299, None, Skip),
    (100, 33, Skip),
    (1, None, Blip),
    (1, 99, Blip),
    (2, None, Blip),
    (2, 1504043, Blip),
    (2, 1504044, Blip),
    (-2, 2490547, Blip),
    (960, None, Blip),
    (4, None, Throttled),
    (17, 2446079, Throttled),
    (613, 1487742, Throttled),
    (80000, 2446079, Throttled),
    (80004, 2446079, Throttled),
    (80014, None, Throttled),
    (368, None, Throttled),
    (100, 1487534, Reduce),
    (100, 1504018, Reduce),
    (2, 1504038, Reduce),
    (2, 1504041, Bug),
    (2, 1504042, Bug),
    (100, None, Bug),
    (2635, None, Bug),
    (None, None, Bug),
    ("190", "463", Reauthorize),
    ({"x": 1}, [2], Bug),
]


@pytest.mark.parametrize(("code", "subcode", "kind"), REFUSALS)
def test_a_refusal_is_what_its_code_says(code: Any, subcode: Any, kind: type[AaeError]) -> None:
    with pytest.raises(AaeError) as caught:
        judge("1001", answer(refusal(code, subcode)))
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [200, 400, 500])
def test_reduce_is_known_by_its_words_where_it_has_no_code(status: int) -> None:
    words = "Please reduce the amount of data you're asking for, then retry your request"
    with pytest.raises(Reduce):
        judge("1001", answer(refusal(1, None, words), status))


def test_a_transient_flag_or_a_servers_status_makes_an_unknown_code_a_blip() -> None:
    for refused in [answer(refusal(999, is_transient=True)), answer(refusal(999), 503)]:
        with pytest.raises(Blip):
            judge("1001", refused)
    with pytest.raises(Skip):
        judge("1001", answer(refusal(100, None, "Missing permissions for this")))


@pytest.mark.parametrize(
    ("code", "words"), [(101, "Error validating application."), (1, "Error validating client secret.")]
)
def test_a_wrong_app_names_the_settings_to_check(code: int, words: str) -> None:
    with pytest.raises(Bug, match="AAE_META__APP_SECRET"):
        judge("1001", answer(refusal(code, None, words)))


def test_the_code_travels_with_the_error() -> None:
    with pytest.raises(Reauthorize) as caught:
        judge("1001", answer(refusal(190, 463, "Session has expired")))
    assert caught.value.code == "190/463"
    assert str(caught.value) == "Meta no longer accepts this token: Session has expired (190/463)"


def test_a_throttle_lasts_as_long_as_the_headers_say_else_longer_each_time() -> None:
    def until(code: int, **more: Any) -> Throttled:
        with pytest.raises(Throttled) as caught:
            judge("1001", answer(refusal(code), **more))
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
    assert until(4).scope == "meta:app"


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
    found = judge("1001", answer({"data": []}, 200, **headers))
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
    found = judge("1001", answer({"data": []}, 200, **headers))
    assert {name: one.total_seconds() if isinstance(one, timedelta) else None for name, one in found.items()} == paces


def test_a_good_answer_that_says_when_there_is_room_again_is_believed() -> None:
    told = {"1001": [{"call_count": 100, "estimated_time_to_regain_access": 45}]}
    found = judge("1001", answer({"data": []}, 200, x_business_use_case_usage=told))
    assert found == {"meta:account:1001": NOW + timedelta(minutes=45)}
    used_up = {"acc_id_util_pct": 100, "reset_time_duration": 1800}
    found = judge("1001", answer({"data": []}, 200, x_ad_account_usage=used_up))
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
    assert len(network.asked()["appsecret_proof"]) == 64
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


def test_plain_text_with_status_200_is_a_retry() -> None:
    with pytest.raises(Retry):
        use(Platform.META, [httpx.Response(200, text="Service Unavailable")] * 3, lambda meta: meta.accounts(token()))
