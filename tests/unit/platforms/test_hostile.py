"""Any answer at all ends in one of this project's errors or in a frame of the contract, and no secret is told."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aae.errors import AaeError, Bug
from aae.model import ENTITY_COLUMNS, METRIC_COLUMNS, Granularity, Platform
from aae.platforms.base import Connector
from tests.unit.platforms.google.test_google import client as google_client
from tests.unit.platforms.google.test_google import failure as google_failure
from tests.unit.platforms.google.test_google import row as google_row
from tests.unit.platforms.meta.test_reports import entry
from tests.unit.platforms.meta.test_reports import row as meta_row
from tests.unit.platforms.support import NOW, SECRETS, TOKEN, account, gather, ok, piece, token, use
from tests.unit.platforms.tiktok.test_tiktok import row as tiktok_row

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, -1, 2**63, 10**40, 1.5, 1e300, "", "-", "NaN", "1e999999999", "\ud800", "\x00", "٣"),
        *([], {}, [[]], [None], {"": None}, "x" * 5000, "2026-W47-6", "../../etc", "1" * 4400, TOKEN),
    ]
)
JSON = st.recursive(
    ODD | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(
            ['{"call_count": 99}', "[", "{}", "[[]]", '{"1001": [5, {"call_count": NaN}]}', "9" * 5000]
        )
        for name in ("x-app-usage", "x-business-use-case-usage", "x-ad-account-usage", "x-tt-ads-throttle")
    },
)
STATUS = st.sampled_from([200, 200, 200, 204, 301, 400, 401, 403, 404, 429, 500, 503])

PAGE = {"page": 1, "page_size": 1000, "total_number": 1, "total_page": 1}
GOOD: dict[Platform, list[Any]] = {
    Platform.META: [
        {
            "data": [meta_row(actions=[entry("purchase", "1")])],
            "paging": {"cursors": {"after": "A"}, "next": "http://x"},
        },
        {"data": [{"id": "1", "name": "C", "effective_status": "ACTIVE", "daily_budget": "5"}]},
        {"account_id": "1001", "name": "S", "currency": "USD", "timezone_name": "Asia/Tokyo", "id": "1"},
        {"access_token": "NEW", "expires_in": 5, "report_run_id": "6", "async_status": "Job Completed"},
        {"error": {"code": 190, "error_subcode": 463, "message": "No.", "is_transient": False}},
    ],
    Platform.TIKTOK: [
        {"code": 0, "message": "OK", "data": {"list": [tiktok_row()], "page_info": PAGE}},
        {"code": 0, "data": {"list": [{"campaign_id": "1", "adgroup_id": "2", "ad_id": "3"}], "page_info": PAGE}},
        {"code": 0, "data": {"list": [{"advertiser_id": "1001", "currency": "USD", "display_timezone": "Asia/Tokyo"}]}},
        {"code": 40100, "message": "No.", "data": {}},
    ],
    Platform.GOOGLE: [
        [{"results": [google_row()]}],
        [{"results": [google_client("1001")]}],
        [{"results": [{"campaign": {"id": "1"}, "adGroup": {"id": "2"}, "adGroupAd": {"ad": {"id": "3"}}}]}],
        {"resourceNames": ["customers/1001"], "access_token": "NEW", "expires_in": 5},
        [google_failure("quotaError", "X", quotaErrorDetails={"rateScope": "ACCOUNT", "retryDelay": "1s"})],
    ],
}

Action = Callable[[Connector], Coroutine[Any, Any, Any]]


def actions(platform: Platform) -> dict[str, Action]:
    mine = account(platform)
    return {
        "daily": lambda one: gather(one.fetch_metrics(mine, token(), piece())),
        "hourly": lambda one: gather(one.fetch_metrics(mine, token(), piece(Granularity.HOURLY))),
        "totals": lambda one: one.fetch_totals(mine, token(), piece()),
        "entities": lambda one: one.list_entities(mine, token()),
        "accounts": lambda one: one.accounts(token()),
        "describe": lambda one: one.describe("1001", token(), None),
        "probe": lambda one: one.check_token(mine, token(), NOW, within_hours=24),
        "refresh": lambda one: one.check_token(mine, token(expires_at=NOW), NOW, within_hours=24),
    }


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key of a JSON value."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def damaged(draw: st.DrawFn, good: list[Any]) -> Any:
    """A good answer with up to three of its parts replaced or gone."""
    answer = copy.deepcopy(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 3))):
        where, key = draw(st.sampled_from(list(places(answer)) or [({"x": 1}, "x")]))
        if isinstance(where, dict) and draw(st.booleans()):
            where.pop(key, None)
        elif not isinstance(where, list) or key < len(where):
            where[key] = copy.deepcopy(draw(JSON))  # drawn values are shared
    return answer


def check_promises(found: Any) -> None:
    if isinstance(found, pd.DataFrame) and list(found):
        kinds = METRIC_COLUMNS if "spend_micros" in found else ENTITY_COLUMNS
        assert {name: found[name].dtype for name in found} == {
            name: pd.Series(dtype=kind).dtype for name, kind in kinds.items()
        }


@pytest.mark.parametrize("platform", Platform)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_answer_ends_in_an_error_of_ours_or_a_frame(
    platform: Platform, data: st.DataObject, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    name = data.draw(st.sampled_from(sorted(actions(platform))))
    answers = data.draw(st.lists(damaged(GOOD[platform]) | JSON, min_size=1, max_size=3))
    status, headers = data.draw(STATUS), data.draw(HEADERS)
    asked = 0

    def script(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        content = json.dumps(answers[min(asked, len(answers)) - 1])
        return httpx.Response(status, content=content, headers=headers)

    said = ""
    try:
        found, _, _ = use(platform, script, actions(platform)[name])
        check_promises(found)
    except AaeError as error:
        said = f"{error!r} {error} {error.code} {error.__cause__!r} {error.__context__!r}"
    for secret in SECRETS.values():
        assert secret not in said + caplog.text
    assert len(said) < 2000


ELSEWHERE = "http://elsewhere.test/x?after=B&access_token=1"
OURS = {"meta.test", "tiktok.test", "google.test", "oauth.test"}


def planted(value: Any) -> Any:
    """The same with an address of somebody else's wherever one might be looked for."""
    if isinstance(value, dict):
        names = ("next", "previous", "url", "file_url", "download_url", "next_page", "nextPageToken", "redirect")
        return {name: planted(one) for name, one in value.items()} | dict.fromkeys(names, ELSEWHERE)
    return [planted(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("status", [200, 301, 302, 303, 307, 308])
def test_no_address_in_an_answer_is_ever_followed(platform: Platform, status: int) -> None:
    for action in actions(platform).values():
        for good in GOOD[platform]:
            asked: list[httpx.Request] = []

            def script(request: httpx.Request) -> httpx.Response | Exception:
                asked.append(request)  # noqa: B023 - used within the round
                headers = {"Location": ELSEWHERE, "Link": f'<{ELSEWHERE}>; rel="next"'}
                answer = httpx.Response(status, json=planted(good), headers=headers)  # noqa: B023
                return answer if len(asked) < 5 else httpx.ConnectError("enough")  # noqa: B023

            with suppress(AaeError):
                use(platform, script, action)
            assert asked
            assert {one.url.host for one in asked} <= OURS


@pytest.mark.parametrize("platform", Platform)
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200), status=STATUS)
def test_any_bytes_end_in_an_error_of_ours(platform: Platform, content: bytes, status: int) -> None:
    for action in (actions(platform)["daily"], actions(platform)["refresh"]):
        try:
            found, _, _ = use(platform, lambda _: httpx.Response(status, content=content), action)
            check_promises(found)
        except AaeError as error:
            assert len(str(error)) < 2000  # noqa: PT017 - either end is right


def test_pages_without_an_end_come_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aae.platforms.meta.wire.MOST_PAGES", 5)
    asked = 0

    def script(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return ok({"data": [], "paging": {"cursors": {"after": f"A{asked}"}, "next": "http://x"}})

    with pytest.raises(Bug, match="more rows or pages than can be"):
        use(Platform.META, script, actions(Platform.META)["daily"])
    assert asked == 6


@pytest.mark.parametrize("platform", [Platform.META, Platform.TIKTOK])
def test_more_rows_than_there_can_be_are_refused(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"aae.platforms.{platform}.wire.MOST_ROWS", 0)
    with pytest.raises(Bug, match="more rows"):
        use(platform, lambda _: ok(GOOD[platform][0]), actions(platform)["daily"])
