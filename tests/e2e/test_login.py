"""A Prefect server that asks to log in, behind TLS: with the login everything works, without it nothing.

Server, worker and watch are started as ``docs/running.md`` says, by somebody whose new files are open to all, with an
end for TLS in front of the server as a proxy would be. What stays open to everybody, and whether the login is found
anywhere, is looked at on the same server.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from aae.local.stack import MARK, _marked
from aae.operate.prefect_api import PrefectApi
from aae.storage import attempts
from aae.storage.engine import reading
from tests.authority import Authority, tls_in_front_of
from tests.e2e.conftest import ROOT, clean_environment
from tests.e2e.test_canary import forms
from tests.e2e.test_several import Cluster, fill, until
from tests.listening import for_others
from tests.quick import QUICK
from tests.servers import connected, free_port, redis_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc"),
]

FETCH = "fetch-ad-data/six-hourly"
PASSWORD = f"{token_hex(10)}:{token_hex(10)}"
USER = f"user-{token_hex(4)}"
LOGIN = f"{USER}:{PASSWORD}"
DAY = datetime.now(UTC).date() - timedelta(days=2)
PATIENCE = 600
"""Seconds; on a busy machine a server takes minutes to start."""
AAE = str(Path(sys.executable).with_name("aae"))

COMMANDS = (
    "deploy",
    "run detect_anomalies",
    "inspect active",
    "inspect scheduled",
    "inspect registered",
    "inspect stats",
    "drain",
    "drain --here",
    "resume",
    f"backfill --since {DAY} --until {DAY}",
    "metrics --once",
    "metrics --listen 127.0.0.1:0",
    "worker --name stranger",
    "watch",
)
OPEN = {("get", "/health"), ("get", "/ready")}
SOCKETS = (
    "events/in",
    "events/out",
    "logs/out",
    "task_runs/subscriptions/scheduled",
    "work_pools/aae/workers/connect",
)


@dataclass
class House:
    """The running parts, and every command line that was seen of them."""

    cluster: Cluster
    # The server's own port, without TLS, and Prefect's API as everybody uses it.
    port: int
    url: str
    ca: Path
    command_lines: set[bytes] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        return self.cluster.folder

    @property
    def environment(self) -> dict[str, str]:
        return self.cluster.environment

    @property
    def api(self) -> PrefectApi:
        return PrefectApi(self.url, auth_string=LOGIN, ca_file=str(self.ca), timeout=150)

    def aae(self, *words: str, login: str | None = LOGIN) -> subprocess.CompletedProcess[str]:
        """One command, with this login or without any."""
        environment = dict(self.environment)
        del environment["PREFECT_API_AUTH_STRING"]
        return subprocess.run(
            [AAE, *words],
            cwd=ROOT,
            env=environment | ({} if login is None else {"PREFECT_API_AUTH_STRING": login}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            umask=0,
        )

    def works(self, *words: str) -> str:
        done = self.aae(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def log(self, part: str) -> str:
        return (self.folder / f"{part}.log").read_text()

    def at_work(self) -> list[int]:
        return [pid for pid in _marked(self.folder) if b"tasks.launch" in command_line(pid)]


def command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def watching(house: House) -> Iterator[None]:
    """Keep every command line that a process of the house has while the block runs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            house.command_lines |= {command_line(pid) for pid in _marked(house.folder)}

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("login")
    authority = Authority(folder / "ca", "ours")
    port, sandbox = free_port(), free_port()
    with redis_server() as redis, tls_in_front_of(port, authority.certify("127.0.0.1")) as secure:
        plain = clean_environment(
            folder / "state",
            **QUICK,
            **{MARK: str(folder)},
            AAE_PROJECT_DIR=str(ROOT),
            AAE_DATABASE_URL=f"sqlite:///{folder}/state/aae.db",
            AAE_REDIS_URL=redis,
            AAE_ENCRYPTION_KEYS="test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            AAE_FETCH__FIRST_DAYS="6",
            AAE_FETCH__FIRST_HOURLY_DAYS="2",
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            PREFECT_HOME=str(folder / "prefect"),
        )
        cluster = Cluster(folder, plain)
        made = House(cluster, port, f"https://127.0.0.1:{secure}/api", authority.ca)
        try:
            python = (sys.executable, "-m")
            own = {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_API_AUTH_STRING": LOGIN}
            cluster.start("server", *with_env("server"), "prefect", "server", "start", **own)
            cluster.start("sandbox", *python, "aae.sandbox", "--port", str(sandbox), "--users", "1", "--days", "8")
            until(lambda: answers(f"http://127.0.0.1:{sandbox}/_sandbox/health"), PATIENCE)
            until(lambda: answers(f"http://127.0.0.1:{port}/api/health"), PATIENCE)
            world = httpx.get(f"http://127.0.0.1:{sandbox}/_sandbox/settings", trust_env=False)
            cluster.environment = {
                **plain,
                **world.raise_for_status().json(),
                "PREFECT_API_URL": made.url,
                "PREFECT_API_SSL_CERT_FILE": str(authority.ca),
                "PREFECT_API_AUTH_STRING": LOGIN,
            }
            made.works("db", "upgrade")
            fill(cluster.environment, f"http://127.0.0.1:{sandbox}")
            with watching(made):
                made.works("deploy")
                cluster.start("worker", *with_env("worker"), "aae", "worker", "--name", "ours")
                cluster.start("watch", *with_env(), "aae", "watch")
                until(lambda: any(one.online for one in made.api.workers("aae")), PATIENCE)
                yield made
        finally:
            cluster.stop()


def with_env(*parts: str) -> tuple[str, ...]:
    """The beginning of a command that has the project's own settings for Prefect."""
    folder = ROOT / "deployments"
    return ("/bin/sh", str(folder / "with-env"), *(str(folder / f"{part}.env") for part in parts), "--")


def answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2, trust_env=False).is_success
    return False


def begun_runs(house: House) -> set[str]:
    with house.api as api:
        return {run.id for run in api.runs_in("aae", {"RUNNING", "PENDING", "COMPLETED", "FAILED", "CRASHED"})}


def test_a_job_runs_through_the_worker_to_its_end_and_everything_about_it_is_told(house: House) -> None:
    said = json.loads(house.works("run", "fetch_ad_data", "--param", "accounts=[1]", "--wait", "500", "--json"))
    assert said["state"] == "Completed", said
    assert "1 accounts (1 stored)" in said["message"]
    assert FETCH in house.works("inspect", "registered")
    assert FETCH in house.works("inspect", "scheduled")
    assert FETCH in house.works("inspect", "stats")
    assert "Nothing runs" in house.works("inspect", "active")


def test_a_killed_job_is_run_again_by_the_watch(house: House) -> None:
    with subprocess.Popen(
        [AAE, "run", "detect_anomalies", "--wait", "500", "--json"],
        cwd=ROOT,
        env=house.environment,
        stdout=subprocess.PIPE,
    ) as waiting:
        until(lambda: waiting.poll() is not None or house.at_work(), PATIENCE)
        for pid in house.at_work():
            os.kill(pid, signal.SIGKILL)
        said = json.loads(waiting.communicate(timeout=PATIENCE)[0])
    assert (waiting.returncode, said["state"]) == (0, "Completed")
    with house.api as api:
        assert "AwaitingRetry" in [name for name, _ in api.states(said["id"])]
    with connected(house.environment["AAE_DATABASE_URL"]) as engine, reading(engine) as connection:
        assert len(attempts.of_runs(connection, [said["id"]])) >= 1


def test_it_can_be_drained_and_resumed(house: House) -> None:
    assert "Drained" in house.works("drain", "--keep-worker")
    assert "Resumed" in house.works("resume")


def test_the_doctor_and_the_metrics_see_the_server(house: House) -> None:
    told = {
        one["check"]: one
        for group in json.loads(house.aae("doctor", "--json").stdout)["groups"]
        for one in group["checks"]
    }
    for check in ("Prefect API", "work pool", "worker", "watch", "exposure"):
        assert told[check]["ok"], told[check]
    assert 'aae_source_up{source="prefect"} 1.0' in house.works("metrics", "--once")
    address = house.log("watch").partition("metrics at ")[2].split()[0].removesuffix("/metrics")
    # A server that is busy for a moment is told as it is then.
    until(lambda: httpx.get(f"{address}/readyz", timeout=60, trust_env=False).json()["prefect"], PATIENCE)
    up = 'aae_source_up{source="prefect"} 1.0'
    until(lambda: up in httpx.get(f"{address}/metrics", timeout=60, trust_env=False).text, PATIENCE)


@pytest.mark.parametrize("login", [None, f"{USER}:wrong"], ids=["none", "wrong"])
def test_without_the_login_every_command_says_so_in_a_sentence_and_nothing_runs(
    house: House, login: str | None
) -> None:
    before = begun_runs(house)
    remedy = "set PREFECT_API_AUTH_STRING (" if login is None else "set PREFECT_API_AUTH_STRING to what the server has"
    with ThreadPoolExecutor(4) as at_once:
        tried = list(at_once.map(lambda command: house.aae(*command.split(), login=login), COMMANDS))
    for command, done in zip(COMMANDS, tried, strict=True):
        said = (done.stdout + done.stderr).strip()
        # What a backfill would do needs no server; it is shown before.
        line = said.splitlines()[-1]
        assert done.returncode == 1, (command, said)
        assert len(said.splitlines()) == 1 or command.startswith("backfill"), (command, said)
        assert f"{house.url} does not let us in: {remedy}" in line, (command, said)
        assert "Traceback" not in said
        assert PASSWORD not in said
    doctor = house.aae("doctor", login=login)
    assert doctor.returncode == 1
    assert "does not let us in" in doctor.stdout
    assert "→ export PREFECT_API_AUTH_STRING=user:password" in doctor.stdout
    assert begun_runs(house) == before
    with house.api as api:
        assert "stranger" not in {worker.name for worker in api.workers("aae")}


def test_of_the_api_only_two_questions_of_health_are_answered_to_everybody(house: House) -> None:
    paths: Mapping[str, Mapping[str, Any]] = httpx.get(
        f"http://127.0.0.1:{house.port}/openapi.json", timeout=60, trust_env=False
    ).json()["paths"]
    assert len(paths) > 100
    wrong = (USER, "wrong")
    opened = set()
    with httpx.Client(base_url=f"http://127.0.0.1:{house.port}/api", timeout=60, trust_env=False) as client:
        for path, methods in paths.items():
            for method in methods:
                for auth in (None, wrong):
                    answer = client.request(method, path.replace("{", "").replace("}", ""), auth=auth)
                    if answer.status_code != 401:
                        opened.add((method, path))
        # Nor by another spelling of what is open.
        for path in ("/health/", "/ready/x", "//health", "/health/../admin/version", "/variables/name/health"):
            answer = client.get(path)
            assert answer.status_code in {401, 404}, path
    assert opened == OPEN


def test_what_is_open_holds_nothing_of_ours(house: House) -> None:
    base = f"http://127.0.0.1:{house.port}"
    ours = ("detect-anomalies", "fetch-ad-data", "aae-results", str(house.folder), USER, PASSWORD)
    known = (*ours, house.environment["AAE_REDIS_URL"], house.environment["AAE_DATABASE_URL"])
    for path in ("/", "/v2/", "/ui-settings", "/docs", "/redoc", "/openapi.json", "/api/health", "/api/ready"):
        answer = httpx.get(f"{base}{path}", headers={"Sec-Fetch-Mode": "navigate"}, timeout=60, trust_env=False)
        assert answer.status_code in {200, 307}, path
        assert [word for word in known if word in answer.text] == [], path
    assert httpx.get(f"{base}/ui-settings", timeout=60, trust_env=False).json()["auth"] == "BASIC"


@pytest.mark.parametrize("path", SOCKETS)
def test_nobody_listens_to_events_or_logs_or_joins_as_a_worker_without_the_login(house: House, path: str) -> None:
    async def is_closed(token: str | None, protocols: list[Subprotocol] | None) -> bool:
        """Whether the server closes it at once."""
        try:
            async with connect(f"ws://127.0.0.1:{house.port}/api/{path}", subprotocols=protocols, proxy=None) as socket:
                await socket.send(json.dumps({"type": "auth", "token": token}))
                answer = json.loads(await asyncio.wait_for(socket.recv(), 10))
                return bool(answer["type"] != "auth_success")
        except (ConnectionClosed, InvalidStatus):
            return True

    ours = [Subprotocol("prefect")]
    assert asyncio.run(is_closed(None, None))
    assert asyncio.run(is_closed(LOGIN, None))
    assert asyncio.run(is_closed(None, ours))
    assert asyncio.run(is_closed(PASSWORD, ours))
    assert not asyncio.run(is_closed(LOGIN, ours))


def test_the_server_shows_its_login_not_even_to_who_has_it(house: House) -> None:
    with house.api as api:
        assert PASSWORD not in json.dumps(api.call("GET", "admin/settings"))


def test_a_stopped_worker_drains_and_ends(house: House) -> None:
    worker = house.cluster.running["worker"]
    worker.terminate()
    assert worker.wait(120) == 0
    assert "drained: 0 runs finished" in house.log("worker")


def test_what_they_keep_is_for_their_user_alone(house: House) -> None:
    # The server's folder, and what worker, watch, jobs and commands have written.
    assert for_others(house.folder / "prefect") == {}
    assert for_others(house.folder / "state") == {}


def test_the_login_is_in_no_argument_no_log_and_no_file(house: House) -> None:
    """The last one: it looks at what all the others have left."""
    needles = {*forms(PASSWORD), *forms(LOGIN)}
    assert any(b"tasks.launch" in line for line in house.command_lines)
    assert any(b"worker\0start" in line for line in house.command_lines)
    assert [line for line in house.command_lines if any(one in line for one in needles)] == []
    files = [path for path in house.folder.rglob("*") if path.is_file()]
    assert {"prefect.db", "server.log", "worker.log", "watch.log", "aae.db"} <= {path.name for path in files}
    assert [path for path in files if any(one in path.read_bytes() for one in needles)] == []
