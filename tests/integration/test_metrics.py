"""The exporter over real HTTP: it answers whatever is away, those who may know, and as Prometheus reads it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from pydantic import SecretStr
from sqlalchemy import Engine, func, make_url, select

from aae.errors import UserError
from aae.local.summary import per_platform
from aae.operate.metrics import server, sources
from aae.operate.metrics.exposition import Sources
from aae.operate.metrics.server import Pulse, create_app, keep_serving, serving
from aae.sandbox import World
from aae.settings import MetricsSettings, Settings
from aae.storage.engine import reading, upgrade
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, api_calls
from tests import servers
from tests.integration.bench import bench
from tests.proxy import Proxy

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
PATIENT = 5.0
"""Two seconds are promised; this machine may be busy."""


def settings_for(url: str, **more: Any) -> Settings:
    return Settings(_env_file=None, database_url=url, **more)


@contextmanager
def exporter(settings: Settings, **more: Any) -> Iterator[httpx.Client]:
    with (
        closing(Sources(settings, "aae", clock=lambda: ANCHOR)) as read,
        serving(create_app(read, **more), "127.0.0.1", 0) as url,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        yield client


def values(client: httpx.Client) -> dict[tuple[str, ...], float]:
    text = client.get("/metrics").raise_for_status().text
    return {
        (one.name.removeprefix("aae_"), *(one.labels[key] for key in sorted(one.labels))): one.value
        for family in parse(text)
        for one in family.samples
    }


@contextmanager
def silent_server() -> Iterator[int]:
    """A port where somebody takes calls and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield int(listener.getsockname()[1])


@pytest.fixture
def url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def test_what_the_jobs_did_is_what_the_metrics_say(
    engine: Engine, url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.generate(11, ANCHOR, days=30, users=1, big_campaigns=1, ads_per_ad_set=1)
    with bench(world, engine, redis_url, monkeypatch, AAE_FETCH__FIRST_HOURLY_DAYS="2") as product:
        product.connect()
        product.fetch("run-1")
        accounts = product.accounts()
    with reading(engine) as connection:
        tables = (ad_metrics_daily, ad_metrics_hourly)
        stored = sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables)
        calls = connection.scalar(select(func.sum(api_calls.c.calls)))
        lines = per_platform(connection, since=ANCHOR)
    with exporter(settings_for(url)) as client:
        found = values(client)
    assert sum(value for key, value in found.items() if key[0] == "rows_stored_24h" and key[1] == "inserted") == stored
    assert sum(value for key, value in found.items() if key[0] == "api_calls_24h") == calls > 0
    assert sum(line.api_calls for line in lines) == calls
    assert sum(line.daily_rows + line.hourly_rows for line in lines) == stored
    for platform in {account.platform for account in accounts}:
        assert found["fetches_24h", "stored", platform] > 0
        assert 0 <= found["data_age_oldest_seconds", platform] < 3600
    assert sum(value for key, value in found.items() if key[0] == "accounts") == len(accounts)
    assert (found["source_up", "tables"], found["source_up", "prefect"], found["up",]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("accept", "reader"),
    [
        ("", parse),
        ("text/plain;version=1.0.0", parse),
        ("application/openmetrics-text;version=1.0.0", parse_openmetrics),
    ],
)
def test_every_format_that_prometheus_asks_for_can_be_read_by_its_own_parser(
    url: str, accept: str, reader: Callable[[str], Any]
) -> None:
    with exporter(settings_for(url)) as client:
        answer = client.get("/metrics", headers={"Accept": accept})
        families = {family.name: family for family in reader(answer.text)}
    assert answer.headers["content-type"].startswith((accept or "text/plain").split(";")[0])
    assert families["aae_source_errors"].type == "counter"
    assert families["aae_fetches_24h"].type == "gauge"


def test_with_everything_away_it_says_so(tmp_path: Path) -> None:
    away = f"mysql+pymysql://root:s3cret@127.0.0.1:{servers.free_port()}/aae"
    settings = settings_for(away, prefect_api_url=f"http://127.0.0.1:{servers.free_port()}/api")
    with exporter(settings) as client:
        began = time.monotonic()
        found = values(client)
        assert time.monotonic() - began < PATIENT
        assert (found["up",], found["source_up", "tables"], found["source_up", "prefect"]) == (0, 0, 0)
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            503,
            {"ok": False, "tables": False, "prefect": False, "watch": False},
        )
        for path in ("/jobs", "/worker"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "does not answer" in answer.json()["error"]
            assert "s3cret" not in answer.text


def test_a_prefect_server_that_hangs_holds_up_no_answer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'aae.db'}"
    with servers.connected(url) as engine:
        upgrade(engine)
    with silent_server() as port, exporter(settings_for(url, prefect_api_url=f"http://127.0.0.1:{port}/api")) as client:
        for path in ("/metrics", "/readyz", "/jobs", "/worker"):
            began = time.monotonic()
            client.get(path)
            assert time.monotonic() - began < PATIENT, path
        assert values(client)["source_up", "tables"] == 1


@pytest.mark.mysql
def test_a_database_that_hangs_holds_up_no_answer_and_is_seen_again_when_it_is_back(
    mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(sources, "KEEP_SECONDS", 0.2)
    with servers.connected(mysql_url) as engine:
        upgrade(engine)
    target = make_url(mysql_url)
    with Proxy(target.port or 3306) as proxy:
        through = target.set(port=proxy.port).render_as_string(hide_password=False)
        with exporter(settings_for(through)) as client:

            def sees() -> bool:
                began = time.monotonic()
                seen = values(client)["source_up", "tables"] == 1
                assert time.monotonic() - began < PATIENT
                return seen

            wait_for(sees)
            with proxy.held():
                wait_for(lambda: not sees())
            wait_for(sees)


def wait_for(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_watch_that_has_not_come_round_does_not_live(url: str) -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    with exporter(settings_for(url), lives=lambda: pulse.lives) as client:
        assert client.get("/healthz").json() == {"ok": True}
        now[0] = server.STUCK_SECONDS + 1
        assert client.get("/healthz").status_code == 503
        pulse.beat()
        assert client.get("/healthz").status_code == 200


TOKEN = "a-token-of-sixteen-or-more"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN}", 200),
    ],
)
def test_with_a_token_only_its_bearer_sees_more_than_well_or_not(tmp_path: Path, given: str | None, code: int) -> None:
    settings = settings_for(f"sqlite:///{tmp_path / 'x.db'}")
    with exporter(settings, token=TOKEN) as client:
        headers = {} if given is None else {"Authorization": given}
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == code
        if code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "aae_" not in answer.text
            assert {client.get(path, headers=headers).status_code for path in ("/jobs", "/worker")} == {401}
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json().keys() == {"ok", "tables", "prefect", "watch"}


def test_only_looking_is_possible(url: str) -> None:
    with exporter(settings_for(url)) as client:
        assert client.post("/metrics").status_code == 405
        assert client.head("/metrics").status_code == 200
        assert client.get("/").status_code == 404
        assert client.get("/metrics").headers["cache-control"] == "no-store"


def test_many_at_once_are_all_answered(url: str) -> None:
    with exporter(settings_for(url)) as client, ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: client.get("/metrics").status_code, range(64)))
    assert set(codes) == {200}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_listens_where_it_is_told(host: str, tmp_path: Path) -> None:
    if host == "::1":
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind((host, 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
    with (
        closing(Sources(settings_for(f"sqlite:///{tmp_path / 'x.db'}"), "aae")) as read,
        serving(create_app(read), host, 0) as url,
    ):
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_an_address_that_is_taken_is_said_once_and_had_as_soon_as_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_AGAIN_SECONDS", 0.1)
    said: list[str] = []
    stop = threading.Event()
    with closing(Sources(settings_for(f"sqlite:///{tmp_path / 'x.db'}"), "aae")) as read:
        app = create_app(read)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            thread = threading.Thread(
                target=keep_serving, args=(app, "127.0.0.1", port, stop), kwargs={"say": said.append}
            )
            thread.start()
            wait_for(lambda: bool(said))
            time.sleep(0.5)
            assert len(said) == 1
            assert "Address already in use" in said[0]
        wait_for(lambda: len(said) == 2)
        assert said[1] == f"metrics at http://127.0.0.1:{port}/metrics"
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).json() == {"ok": True}
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)


def aae(state: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AAE_", "PREFECT_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "aae", *arguments],
        env={**inherited, "AAE_STATE_DIR": str(state), "PYTHONUNBUFFERED": "1", **variables},
        cwd=state,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("command", ["metrics", "watch"])
def test_a_process_of_its_own_and_a_watch_serve_and_end_when_they_are_told(command: str, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{servers.free_port()}/api"
    process = aae(tmp_path, command, AAE_METRICS__LISTEN="127.0.0.1:0", PREFECT_API_URL=nobody)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "metrics at " in line:
                break
        address = said.rpartition("metrics at ")[2].strip()
        answer = httpx.get(address, timeout=30, trust_env=False)
        assert "aae_up 0.0" in answer.raise_for_status().text
        assert httpx.get(address.replace("/metrics", "/healthz"), timeout=30, trust_env=False).json() == {"ok": True}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        _, errors = process.communicate()
        assert "Traceback" not in errors


def test_printed_once_it_is_what_a_file_for_prometheus_holds(tmp_path: Path) -> None:
    with servers.connected(f"sqlite:///{tmp_path / 'aae.db'}") as engine:
        upgrade(engine)
    process = aae(tmp_path, "metrics", "--once")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    found = {one.name: one.value for family in parse(out) for one in family.samples if not one.labels}
    assert (found["aae_up"], found["aae_reports_24h"]) == (0, 0)
    assert err.strip() == "aae: No Prefect server is known: start one with aae up, or set PREFECT_API_URL."


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ("0.0.0.0:0", "AAE_METRICS__TOKEN must be set"),
        ("[::]:0", "AAE_METRICS__TOKEN must be set"),
        ("metrics.internal:0", "AAE_METRICS__TOKEN must be set"),
        ("9778", "must be host:port"),
        ("127.0.0.1:99999", "must be host:port"),
        ("127.0.0.1:", "must be host:port"),
    ],
)
def test_an_address_that_is_none_or_open_to_everybody_is_refused(listen: str, told: str) -> None:
    with pytest.raises(UserError, match=f"Cannot listen there: .*{told}"):
        MetricsSettings().at(listen)


@pytest.mark.parametrize("listen", ["0.0.0.0:9778", "metrics.internal:9778", "[2001:db8::1]:0"])
def test_with_a_token_it_may_listen_anywhere(listen: str) -> None:
    made = MetricsSettings(listen=listen, token=SecretStr(TOKEN))
    assert made.address == (listen.rpartition(":")[0].strip("[]"), int(listen.rpartition(":")[2]))
    assert TOKEN not in repr(made)
