"""How our client of Prefect's API logs in: with what its server compares, whatever is in it."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import Reauthorize
from aae.operate.prefect_api import PrefectApi

URL = "http://127.0.0.1:1/api"
MOMENT = "2026-11-26T00:00:00+00:00"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_the_login_arrives_as_it_is_set(login: str) -> None:
    """Prefect's server compares the whole, so a login without a colon, or with several, is one, too."""

    def serve(request: httpx.Request) -> httpx.Response:
        scheme, credentials = request.headers["authorization"].split()
        return httpx.Response(200, json=[scheme, base64.b64decode(credentials).decode()])

    with PrefectApi(URL, auth_string=login, api_key="key", transport=httpx.MockTransport(serve)) as api:
        assert api.call("GET", "health") == ["Basic", login]


@pytest.mark.parametrize(
    ("auth_string", "api_key", "remedy"),
    [
        (None, None, "set PREFECT_API_AUTH_STRING (user:password) or PREFECT_API_KEY"),
        ("o:wr0ng", None, "set PREFECT_API_AUTH_STRING to what the server has as PREFECT_SERVER_API_AUTH_STRING"),
        (None, "wr0ng", "PREFECT_API_KEY is not, or no longer, one of its keys"),
    ],
)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_what_to_set_and_not_what_was_set(
    auth_string: str | None, api_key: str | None, remedy: str, status: int
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status))
    with (
        PrefectApi(URL, auth_string=auth_string, api_key=api_key, transport=transport) as api,
        pytest.raises(Reauthorize) as caught,
    ):
        api.require_entry()
    assert str(caught.value) == f"Prefect's API at {URL} does not let us in: {remedy}."


@pytest.mark.parametrize("answer", [httpx.Response(500), httpx.Response(404), httpx.Response(200, text="hello")])
def test_a_server_that_is_not_well_is_no_reason_to_stay_out(answer: httpx.Response) -> None:
    with PrefectApi(URL, transport=httpx.MockTransport(lambda _: answer)) as api:
        api.require_entry()


@pytest.mark.parametrize("number", [0, 1, 200, 201, 400, 1003])
def test_a_pool_with_many_deployments_is_told_whole(number: int) -> None:
    there = {
        "/api/deployments/filter": [
            {"id": f"d{n}", "name": "daily", "flow_id": f"f{n}", "paused": False, "schedules": [], "created": MOMENT}
            for n in range(number)
        ],
        "/api/flows/filter": [{"id": f"f{n}", "name": f"flow-{n}"} for n in range(number)],
    }

    def serve(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        start = asked.get("offset", 0)
        # What Prefect gives at once, whatever is asked for.
        return httpx.Response(200, json=there[request.url.path][start : start + min(asked.get("limit", 200), 200)])

    with PrefectApi(URL, transport=httpx.MockTransport(serve)) as api:
        assert {one.name for one in api.deployments("aae")} == {f"flow-{n}/daily" for n in range(number)}


@pytest.mark.parametrize("there", [0, 3, 200, 230, 1003])
@pytest.mark.parametrize(
    ("wanted", "asked"), [(1, [1]), (50, [50]), (200, [200]), (201, [200, 1]), (450, [200, 200, 50])]
)
def test_of_the_last_runs_no_more_are_asked_for_than_are_wanted(there: int, wanted: int, asked: list[int]) -> None:
    limits = []

    def serve(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        limits.append(body["limit"])
        numbers = range(body["offset"], min(there, body["offset"] + body["limit"]))
        return httpx.Response(200, json=[{"id": f"r{number}", "name": "a run"} for number in numbers])

    with PrefectApi(URL, transport=httpx.MockTransport(serve)) as api:
        found = [one.id for one in api.last_runs("d1", wanted)]
    assert found == [f"r{number}" for number in range(min(there, wanted))]
    assert limits == asked[: there // 200 + 1]


def test_the_shares_of_a_deployment_are_in_their_order_however_the_server_gives_them() -> None:
    schedules = [
        {"schedule": {"cron": "0 * * * *"}, "active": True, "parameters": {"share": f"{place}/12"}}
        for place in (10, 2, 12, 1)
    ]
    answer = {"id": "d", "paused": False, "created": MOMENT, "schedules": schedules}
    with PrefectApi(URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=answer))) as api:
        found = api.deployment("a/b")
    assert found is not None
    assert [one.share for one in found.schedules] == ["1/12", "2/12", "10/12", "12/12"]
