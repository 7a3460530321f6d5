"""Over a real socket: the three platforms side by side, the control API, and trouble of the connection."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import httpx
import pytest
from dotenv import dotenv_values
from starlette.responses import Response

from aae.model import Platform
from aae.sandbox import APP, Clock, Fault, Faults, World, create_app, running
from aae.sandbox.server import _drip
from aae.sandbox.wire import Answer
from tests.listening import addresses
from tests.unit.sandbox.wires import NOW, Wire, first


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with running(create_app(world, clock=Clock(NOW, frozen=True))) as base:
        yield base


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
        yield client
        client.delete("/_sandbox/faults")
        client.post("/_sandbox/clock", json={"now": NOW.isoformat(), "frozen": True})


def listing(client: httpx.Client, world: World, platform: Platform) -> httpx.Response:
    """Some listing of each platform, as its client would ask."""
    account = first(world, platform)
    headers = Wire(world, platform).headers(account)
    match platform:
        case Platform.META:
            return client.get("/v26.0/me/adaccounts", headers=headers)
        case Platform.TIKTOK:
            query = {"advertiser_id": account.external_id}
            return client.get("/open_api/v1.3/campaign/get/", params=query, headers=headers)
        case Platform.GOOGLE:
            return client.get("/v26/customers:listAccessibleCustomers", headers=headers)


@pytest.mark.parametrize("platform", list(Platform))
def test_one_address_serves_all_platforms(client: httpx.Client, world: World, platform: Platform) -> None:
    answer = listing(client, world, platform)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert any(answer.json().values())


def test_accounts_are_ready_to_be_imported(client: httpx.Client, world: World) -> None:
    rows = client.get("/_sandbox/accounts").json()
    assert len(rows) == len(world.connected)
    assert set(rows[0]) == {
        *("user_email", "user_name", "platform", "external_id", "name", "currency", "timezone"),
        *("access_token", "refresh_token", "expires_at", "login_customer_id"),
    }
    by_platform = {row["platform"]: row for row in rows}
    assert by_platform["tiktok"]["expires_at"] is None
    soon = [row for row in rows if row["expires_at"] and row["platform"] == "meta"]
    ends = [datetime.fromisoformat(row["expires_at"]) for row in soon]
    assert any(NOW < end < NOW + timedelta(hours=24) for end in ends)
    assert any(end > NOW + timedelta(days=30) for end in ends)
    assert any(row["login_customer_id"] for row in rows)
    assert all(row["refresh_token"] for row in rows if row["platform"] == "google")


def test_settings_point_the_project_here(client: httpx.Client, url: str) -> None:
    settings = client.get("/_sandbox/settings").json()
    assert settings["AAE_META__BASE_URL"] == url
    assert settings["AAE_GOOGLE__TOKEN_URL"] == f"{url}/token"
    assert settings["AAE_GOOGLE__CLIENT_ID"] == APP.google_client_id
    lines = client.get("/_sandbox/settings.env").text
    assert dotenv_values(stream=StringIO(lines)) == settings, "the same as lines for .env"


def test_the_clock_can_be_read_set_and_advanced(client: httpx.Client) -> None:
    assert datetime.fromisoformat(client.get("/_sandbox/clock").json()["now"]) == NOW
    moved = client.post("/_sandbox/clock", json={"advance_seconds": 3600}).json()
    assert datetime.fromisoformat(moved["now"]) == NOW + timedelta(hours=1)
    started = client.post("/_sandbox/clock", json={"now": "2026-11-05T00:00:00+00:00", "frozen": False}).json()
    assert started["frozen"] is False
    assert datetime.fromisoformat(client.get("/_sandbox/clock").json()["now"]) > datetime(2026, 11, 5, tzinfo=UTC)
    assert client.post("/_sandbox/clock", json={"now": "never"}).status_code == 400


def ledger(client: httpx.Client, world: World, **query: str) -> list[dict[str, Any]]:
    account = first(world, Platform.META)
    query = {"account": f"meta:{account.external_id}", "since": "2026-11-01", "until": "2026-11-04"} | query
    answer = client.get("/_sandbox/ledger", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows


def test_the_ledger_tells_the_truth_as_of_the_clock(client: httpx.Client, world: World) -> None:
    daily, hourly = ledger(client, world), ledger(client, world, granularity="hourly")
    assert {row["local_hour"] for row in daily} == {None}
    for name in ("impressions", "clicks", "spend_micros", "conversions_micros", "revenue_micros"):
        assert sum(row[name] for row in daily) == sum(row[name] for row in hourly) > 0
    client.post("/_sandbox/clock", json={"advance_seconds": 4 * 3600})
    later = ledger(client, world)
    assert sum(row["spend_micros"] for row in later) > sum(row["spend_micros"] for row in daily)


def test_the_ledger_refuses_what_it_does_not_know(client: httpx.Client) -> None:
    bad = {"account": "meta:1", "since": "2026-11-01", "until": "2026-11-04"}
    assert client.get("/_sandbox/ledger", params=bad).status_code == 400
    assert client.get("/_sandbox/ledger").status_code == 400


def test_labels_name_what_has_begun_and_traps_are_kept_apart(client: httpx.Client, world: World) -> None:
    begun = client.get("/_sandbox/incidents").json()
    everything = client.get("/_sandbox/incidents", params={"all": "1"}).json()
    assert len(begun) < len(everything) == len(world.incidents)
    assert all(datetime.fromisoformat(one["since"]) <= NOW for one in begun)
    kinds = {one["kind"] for one in client.get("/_sandbox/traps").json()}
    assert kinds == {"weekend_dip", "low_volume", "new_campaign", "late_conversions"}


def test_calls_are_counted_by_platform_purpose_and_path(client: httpx.Client, world: World) -> None:
    client.delete("/_sandbox/calls")
    listing(client, world, Platform.META)
    listing(client, world, Platform.META)
    assert client.get("/_sandbox/calls").json() == [
        {"platform": "meta", "purpose": "listing", "path": "/v26.0/me/adaccounts", "count": 2}
    ]


def test_a_user_who_connects_again_is_let_in(client: httpx.Client, world: World) -> None:
    account = next(one for one in world.connected if (one.user, one.platform) in world.revoked)
    refused = {**refresh_form(), "refresh_token": str(world.credentials(account)[1])}
    assert client.post("/token", data=refused).json()["error"] == "invalid_grant"
    again = client.post("/_sandbox/reauthorize", json={"account": f"google:{account.external_id}"}).json()
    assert client.post("/token", data={**refused, "refresh_token": again["refresh_token"]}).status_code == 200
    headers = {"authorization": f"Bearer {again['access_token']}", "developer-token": APP.google_developer_token}
    assert client.get("/v26/customers:listAccessibleCustomers", headers=headers).status_code == 200


def refresh_form() -> dict[str, str]:
    return {
        "grant_type": "refresh_token",
        "client_id": APP.google_client_id,
        "client_secret": APP.google_client_secret,
    }


@pytest.mark.parametrize("platform", list(Platform))
def test_dropped_connections(client: httpx.Client, world: World, platform: Platform) -> None:
    client.post("/_sandbox/faults", json=[{"name": "drop", "times": 1}, {"name": "drop_midway", "times": 2}])
    with pytest.raises(httpx.RemoteProtocolError):
        listing(client, world, platform)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        listing(client, world, platform)
    assert listing(client, world, platform).status_code == 200


def test_an_answer_may_be_lost_after_the_deed(client: httpx.Client, world: World) -> None:
    faults = [{"name": "google_rotates", "value": 0}, {"name": "drop_after", "path": "/token", "times": 1}]
    client.post("/_sandbox/faults", json=faults)
    refresh = world.credentials(first(world, Platform.GOOGLE))[1]
    form = refresh_form() | {"refresh_token": refresh}
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/token", data=form)
    client.post("/_sandbox/clock", json={"advance_seconds": 1})
    assert client.post("/token", data=form).json()["error"] == "invalid_grant"


def test_a_hanging_call_hangs_alone(client: httpx.Client, world: World) -> None:
    client.post("/_sandbox/faults", json={"name": "hang", "platform": "meta"})
    client.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        listing(client, world, Platform.META)
    assert listing(client, world, Platform.TIKTOK).status_code == 200


def test_a_slow_call_is_right_but_late(client: httpx.Client, world: World) -> None:
    client.post("/_sandbox/faults", json={"name": "slow", "value": 0.3})
    begin = time.monotonic()
    assert listing(client, world, Platform.GOOGLE).status_code == 200
    assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("platform", list(Platform))
def test_damaged_bodies_are_no_json(client: httpx.Client, world: World, platform: Platform) -> None:
    for name in ("truncated_json", "html", "empty_body"):
        client.post("/_sandbox/faults", json={"name": name, "times": 1})
        answer = listing(client, world, platform)
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"JSON|Expecting|Unterminated"):
            answer.json()


def test_an_unknown_fault_is_refused_with_a_hint(client: httpx.Client) -> None:
    answer = client.post("/_sandbox/faults", json={"name": "gremlins"})
    assert answer.status_code == 400
    assert "gremlins" in answer.json()["error"]
    known = client.get("/_sandbox/faults").json()["known"]
    assert known["meta_job_failed"]


def test_faults_may_be_given_before_the_start(world: World) -> None:
    app = create_app(world, clock=Clock(NOW, frozen=True), faults=Faults(1, (Fault("http_503", times=1),)))
    with running(app) as base, httpx.Client(base_url=base, trust_env=False) as client:
        assert [listing(client, world, Platform.META).status_code for _ in range(2)] == [503, 200]


def test_a_sandbox_that_is_started_again_honours_the_tokens_it_gave_out(world: World) -> None:
    form = {**refresh_form(), "refresh_token": str(world.credentials(first(world, Platform.GOOGLE))[1])}
    with running(create_app(world, clock=Clock(NOW, frozen=True))) as base:
        token = httpx.post(f"{base}/token", data=form, trust_env=False).json()["access_token"]
    again = World.generate(world.seed, world.anchor, days=3, ahead=1)
    headers = {"authorization": f"Bearer {token}", "developer-token": APP.google_developer_token}
    with running(create_app(again, clock=Clock(NOW + timedelta(minutes=30), frozen=True))) as base:
        url = f"{base}/v26/customers:listAccessibleCustomers"
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 200


def test_the_command_says_its_address_and_serves() -> None:
    arguments = ["--seed", "3", "--now", "2026-11-04T12:00", "--users", "1", "--days", "2", "--frozen"]
    command = [sys.executable, "-m", "aae.sandbox", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().strip()
            health = httpx.get(f"{url}/_sandbox/health", trust_env=False).json()
            assert (health["seed"], health["now"]) == (3, "2026-11-04T12:00:00+00:00")
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0


def test_a_body_that_drips_stops_when_nobody_listens_any_more() -> None:
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    asyncio.run(_drip(Answer(b"abc", 200), receive, send, 3600))
    assert sent == [b"", b"a"]


def test_small_answers_are_sent_at_once() -> None:
    """Otherwise each waits for the acknowledgement of its head, which the other side delays by 40 ms."""
    at_once = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = receive.__self__.transport.get_extra_info("socket")
        at_once.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await Response("x")(scope, receive, send)

    with running(app) as url:  # type: ignore[arg-type]
        httpx.get(url, trust_env=False)
    assert at_once == [1]


def test_it_listens_on_loopback_and_cannot_be_told_otherwise() -> None:
    """Whoever reaches it gets its users' tokens, and may break it at will."""
    command = [sys.executable, "-m", "aae.sandbox", "--users", "1", "--days", "2"]
    environment = os.environ | {"UVICORN_HOST": "0.0.0.0", "HOST": "0.0.0.0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            port = int(process.stdout.readline().rpartition(":")[2])
            assert [(str(address), where) for address, where in addresses([process.pid])] == [("127.0.0.1", port)]
        finally:
            process.send_signal(signal.SIGINT)
    for option in ("--host", "--bind", "--listen"):
        refused = subprocess.run([*command, option, "0.0.0.0"], capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert f"unrecognized arguments: {option} 0.0.0.0" in refused.stderr
