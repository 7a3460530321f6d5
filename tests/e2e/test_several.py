"""Several of everything on one machine: two server replicas on PostgreSQL and Redis, three workers, two watches.

Jobs run once; then a replica, a worker and the leading watch die, and nothing is lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from aae.errors import AaeError, Retry
from aae.local import demo
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.settings import Settings
from aae.storage import attempts
from aae.storage import engine as database
from aae.storage.engine import reading
from tests.e2e.conftest import ROOT, clean_environment
from tests.quick import QUICK
from tests.servers import DIE_WITH_PARENT, connected, free_port
from tests.sockets import LEAVES_SOCKETS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.mysql,
    pytest.mark.timeout(1200),
    # The balancer's threads end with their connections, whenever that is.
    *LEAVES_SOCKETS,
]

JOBS = (
    "check-token-expiry/daily",
    "detect-anomalies/hourly",
    "fetch-ad-data/six-hourly",
    "generate-daily-report/daily",
)


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, if they are installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


class Cluster:
    """The processes, by name, and how to end them."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, **more: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", DIE_WITH_PARENT, *command],
                cwd=ROOT,
                env=self.environment | more,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0,  # what they write must be private all the same
            )

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Balancer:
    """One address in front of several servers: each connection goes to the next one that answers."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turn = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._turn += 1
            order = [self._ports[(self._turn + n) % len(self._ports)] for n in range(len(self._ports))]
            threading.Thread(target=self._connect, args=(client, order), daemon=True).start()

    def _connect(self, client: socket.socket, order: list[int]) -> None:
        with client:
            for port in order:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as server:
                    server.settimeout(None)
                    back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                    back.start()
                    self._pump(client, server)
                    back.join()
                    return

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """The URL of a private PostgreSQL server, which refuses to run as root."""
    owner = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="aae-pg-") as name:
        folder = Path(name)
        if owner:
            shutil.chown(folder, **owner)
        port = free_port()
        clean = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": name}
        made = subprocess.run(
            [str(programs / "initdb"), "-D", f"{name}/data", "-U", "prefect", "-A", "trust", "-E", "UTF8", "--no-sync"],
            env=clean,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            **owner,  # type: ignore[call-overload]
        )
        assert made.returncode == 0, made.stdout + made.stderr
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", name, "-c", "fsync=off", "-c", "max_connections=200"]
        server = subprocess.Popen(
            [str(programs / "postgres"), "-D", f"{name}/data", *options],
            env=clean,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **owner,
        )
        try:
            until(lambda: subprocess.run([str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)],
                                         capture_output=True, check=False).returncode == 0, 60)  # fmt: skip
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait(30)


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(Retry):  # a server that is busy, or a replica that was just killed, is asked again
            if condition():
                return
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def cluster(mysql_url: str, redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here; to run this test: apt-get install postgresql")
    with ExitStack() as stack:
        prefect_database = stack.enter_context(postgres(programs))
        replicas = [free_port(), free_port()]
        balancer = Balancer(replicas)
        stack.callback(balancer.close)
        sandbox = free_port()
        messaging = redis_url.replace("/0", "/2")
        environment = clean_environment(
            tmp_path / "state",
            **QUICK,
            AAE_PROJECT_DIR=str(ROOT),
            AAE_DATABASE_URL=mysql_url,
            AAE_REDIS_URL=redis_url,
            AAE_ENCRYPTION_KEYS="test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            AAE_FETCH__FIRST_HOURLY_DAYS="3",
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            PREFECT_HOME=str(tmp_path / "prefect"),
            PREFECT_API_URL=f"http://127.0.0.1:{balancer.port}/api",
            PREFECT_API_DATABASE_CONNECTION_URL=prefect_database,
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            DO_NOT_TRACK="1",
            PREFECT_CLI_PROMPT="false",
            PREFECT_WORKER_QUERY_SECONDS="2",
            PREFECT_SERVER_EVENTS_MESSAGING_BROKER="prefect_redis.messaging",
            PREFECT_SERVER_EVENTS_MESSAGING_CACHE="prefect_redis.messaging",
            PREFECT_SERVER_EVENTS_CAUSAL_ORDERING="prefect_redis.ordering",
            PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect_redis.lease_storage",
            PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE="prefect_redis.cleanup_queue",
            PREFECT_REDIS_MESSAGING_URL=messaging,
            PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL=messaging,
            PREFECT_SERVER_DOCKET_URL=messaging,
        )
        made = Cluster(tmp_path, environment)
        stack.callback(made.stop)
        python, prefect = (sys.executable, "-m"), (sys.executable, "-m", "prefect")
        made.start("sandbox", *python, "aae.sandbox", "--port", str(sandbox), "--seed", "7")
        made.run(*prefect, "server", "database", "upgrade", "-y")
        for number, port in enumerate(replicas, 1):
            made.start(f"server-{number}", *prefect, "server", "start", "--no-services", "--port", str(port))
            # One after the other: on an empty database two that start at once both register Prefect's own blocks.
            until(lambda port=port: _answers(f"http://127.0.0.1:{port}/api/health"))  # type: ignore[misc]
        made.start("services", *prefect, "server", "services", "start")
        url = f"http://127.0.0.1:{sandbox}"
        until(lambda: _answers(f"{url}/_sandbox/health"))
        environment |= httpx.get(f"{url}/_sandbox/settings").raise_for_status().json()
        fill(environment, url)
        made.run(*python, "deployments.apply")
        for number in (1, 2, 3):
            made.start(f"worker-{number}", *prefect, "worker", "start", "--pool", "aae", "--name", f"worker-{number}")
        for number in (1, 2):
            made.start(f"watch-{number}", *python, "aae", "watch")
        yield made


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).is_success
    return False


def fill(environment: dict[str, str], sandbox: str) -> None:
    """The tables, and in them the sandbox's accounts."""
    with pytest.MonkeyPatch.context() as patch, connected(environment["AAE_DATABASE_URL"]) as engine:
        for name, value in environment.items():
            if name.startswith("AAE_") and name != "AAE_PROJECT_DIR":
                patch.setenv(name, value)
        database.upgrade(engine)
        demo._fill(demo.sandbox_accounts(sandbox), Settings(), lambda: datetime.now(UTC))


def tries(engine: Engine, run: FlowRun) -> list[attempts.Attempt]:
    with reading(engine) as connection:
        return attempts.of_runs(connection, [run.id])


def test_jobs_run_once_and_survive_the_death_of_a_replica_a_worker_and_a_watch(
    cluster: Cluster, mysql_url: str
) -> None:
    with PrefectApi(cluster.environment["PREFECT_API_URL"], timeout=150) as api, connected(mysql_url) as engine:

        def start(name: str) -> FlowRun:
            deployment = api.deployment(name)
            assert deployment is not None
            return api.create_run(deployment.id, {})

        def ended(run: FlowRun) -> bool:
            with suppress(AaeError):
                now = api.run(run.id)
                return now.is_final and now.state_type != "CRASHED"
            return False

        until(lambda: sum(worker.online for worker in api.workers("aae")) == 3)
        fetch = start("fetch-ad-data/six-hourly")
        until(lambda: ended(fetch))
        runs = [start(name) for name in JOBS]
        until(lambda: any(tries(engine, run) for run in runs))
        busy = {int(line) for line in _parents_of_launchers()}
        victim = next(name for name, one in cluster.running.items() if name.startswith("worker") and one.pid in busy)
        with reading(engine) as connection:
            leader = attempts.holder(connection, "watch")
        assert leader is not None
        for name in ("server-1", victim, next(n for n, one in cluster.running.items() if one.pid == leader.pid)):
            cluster.kill(name)
        for run in runs:
            until(lambda run=run: ended(run))  # type: ignore[misc]

        for run in (fetch, *runs):
            assert api.run(run.id).state_type == "COMPLETED", api.run(run.id).message
            # Prefect knows of the end a moment before the process has put it on record.
            until(lambda run=run: tries(engine, run)[-1].outcome == "ended")  # type: ignore[misc]
        assert len(tries(engine, fetch)) == 1
        _assert_one_at_a_time(engine, [*runs, fetch])


def _parents_of_launchers() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"tasks.launch" in (entry / "cmdline").read_bytes():
                found.append((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _assert_one_at_a_time(engine: Engine, runs: list[FlowRun]) -> None:
    """No two attempts of a job overlap."""
    with reading(engine) as connection:
        made = attempts.of_runs(connection, [run.id for run in runs])
    for one in made:
        for other in made:
            if one.job == other.job and one.id < other.id:
                assert one.ended_at is not None
                assert one.ended_at <= other.started_at + timedelta(milliseconds=1)
