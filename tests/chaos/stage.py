"""What chaos happens to: MariaDB behind a proxy, and the embedded stack around a sandbox that stands still."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pymysql
import redis

from aae.errors import AaeError
from aae.local import demo
from aae.local.stack import Stack
from aae.local.steps import Steps
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.settings import Settings
from aae.settings import load as load_settings
from tests import servers
from tests.proxy import Proxy
from tests.quick import QUICK, processes

START: Final = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
"""When every round begins, for the jobs and the platforms."""

SMALL: Final = {
    "AAE_FETCH__FIRST_DAYS": "32",
    "AAE_FETCH__FIRST_HOURLY_DAYS": "4",
    "AAE_FETCH__REQUEST_TIMEOUT_SECONDS": "8",
}
"""Little enough for many rounds."""

JOBS: Final = {
    "fetch": "fetch-ad-data/six-hourly",
    "detect": "detect-anomalies/hourly",
    "report": "generate-daily-report/daily",
    "tokens": "check-token-expiry/daily",
}


class Database:
    """A private MariaDB that can be killed and started again; what was committed survives that."""

    def __init__(self, folder: Path) -> None:
        daemon = servers.mysql_daemon()
        if daemon is None:
            raise SystemExit("chaos needs mariadbd: apt-get install mariadb-server")
        self._daemon, self._folder, self.port = daemon, folder, servers.free_port()
        servers._initialize(daemon, folder / "data")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.do("CREATE DATABASE aae CHARACTER SET utf8mb4", database=None)
        # So that little more fills it.
        self.fill("always", 128)
        # Without SUPER, so that a read-only server is read-only for the jobs.
        self.do("CREATE USER aae@'127.0.0.1' IDENTIFIED BY 'secret'", "GRANT ALL ON aae.* TO aae@'127.0.0.1'")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            *(str(self._daemon), "--no-defaults", *servers._as_root(), f"--datadir={self._folder}/data"),
            *(f"--tmpdir={self._folder}", f"--socket={self._folder}/s", f"--pid-file={self._folder}/pid"),
            *(f"--log-error={self._folder}/log", "--bind-address=127.0.0.1", f"--port={self.port}"),
            *("--skip-name-resolve", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=2"),
            *("--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=3"),
            # One file that cannot grow for ever, so that it can be full.
            *("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:224M"),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", servers.DIE_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers, 60)

    def stop(self, number: signal.Signals) -> None:
        """End it in one way or another."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def do(self, *statements: str, database: str | None = "aae") -> list[Any]:
        """Statements as root, past the proxy; the rows of the last."""
        with self.session(database) as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    @contextmanager
    def session(self, database: str | None = "aae") -> Iterator[Any]:
        """A cursor of a root session of its own."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True, charset="utf8mb4"
        )
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            with suppress(pymysql.Error):
                connection.close()

    def fill(self, table: str, megabytes: int | None = None) -> None:
        """Write a table ``ballast.<table>`` of that size; without a size, until nothing more can be written at all."""
        with self.session(None) as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS ballast")
            cursor.execute("USE ballast")
            cursor.execute(f"CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, load_ VARBINARY(8000))")
            insert = f"INSERT INTO {table} (load_) SELECT REPEAT('x', 7900) FROM seq_1_to_"
            for _ in range(megabytes or 0):
                cursor.execute(f"{insert}64")
            for rows in (1000, 100, 10, 1) if megabytes is None else ():
                with suppress(pymysql.err.OperationalError):  # 1114, the table is full
                    while True:
                        cursor.execute(f"{insert}{rows}")

    def _answers(self) -> bool:
        with suppress(pymysql.Error, OSError):
            self.do("SELECT 1", database=None)
            return True
        return False


class Stage:
    """The product with all its parts, and hands on each of them."""

    def __init__(self, stack: Stack, database: Database, proxy: Proxy, steps: Steps) -> None:
        self.stack, self.database, self.proxy = stack, database, proxy
        self.api = PrefectApi(stack.api_url, timeout=150)
        self.steps = steps
        self.tables: list[str] = []
        self.events: list[str] = []
        self.orders = stack.state_dir.with_name("orders")
        self.orders.mkdir(exist_ok=True)

    # Time

    def tend(self) -> None:
        """What systemd would do."""
        self.events += self.stack.tend()

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait, and go on tending."""
        end = time.monotonic() + seconds
        while True:
            self.tend()
            with suppress(AaeError, pymysql.Error):
                if condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
            time.sleep(0.1)

    def pause(self, seconds: float) -> None:
        """Let time pass, tending."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tend()
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    # Processes

    def pids(self, *words: str) -> list[int]:
        """Processes of the stack whose command line holds all these words."""
        return processes(self.stack, *words)

    def at_work(self) -> list[int]:
        """The processes of flow runs, as soon as there is one; none if the run is over before that."""
        with suppress(TimeoutError):
            self.until(lambda: self.flows, 20, "a process at work")
        return self.flows

    def part(self, *words: str) -> list[int]:
        """The processes of a part that is always there: a fault that strikes nobody would prove nothing."""
        self.until(lambda: self.pids(*words), 60, f"a process of {' '.join(words)} to strike")
        return self.pids(*words)

    @property
    def flows(self) -> list[int]:
        """The processes of flow runs."""
        return self.pids("tasks.launch")

    def signal(self, number: signal.Signals, *pids: int) -> None:
        """Send it to those that are still there."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    # State

    @property
    def redis(self) -> redis.Redis:
        """The stack's cache."""
        return redis.Redis.from_url(self.stack.variables()["AAE_REDIS_URL"])

    def sandbox(self, method: str, path: str, **body: Any) -> Any:
        """The sandbox's control API."""
        url = f"{self.stack.sandbox_url}/_sandbox/{path}"
        return httpx.request(method, url, json=body or None, timeout=30).raise_for_status().json()

    def keep(self, name: str) -> None:
        """Keep a copy of every table under this name."""
        rows = self.database.do("SELECT table_name FROM information_schema.tables WHERE table_schema = 'aae'")
        self.tables = [table for (table,) in rows]
        self.database.do(f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        for table in self.tables:
            self.database.do(
                f"CREATE TABLE {name}.{table} LIKE aae.{table}", f"INSERT INTO {name}.{table} SELECT * FROM aae.{table}"
            )

    def restore(self, name: str) -> None:
        """The tables as kept, an empty cache, an empty outbox, a sandbox without faults at the start of the round."""
        watch = "job = 'watch'"
        own = {"attempts": watch, "attempt_beats": f"attempt_id IN (SELECT id FROM aae.attempts WHERE {watch})"}
        with self.database.session() as cursor:
            cursor.execute("SET foreign_key_checks = 0")
            for table in sorted(self.tables, reverse=True):
                if table in own:
                    cursor.execute(f"DELETE FROM aae.{table} WHERE NOT ({own[table]})")
                elif table != "alembic_version":
                    cursor.execute(f"TRUNCATE aae.{table}")
                    cursor.execute(f"INSERT INTO aae.{table} SELECT * FROM {name}.{table}")
        self.redis.flushall()
        self.sandbox("DELETE", "faults")
        self.sandbox("POST", "clock", now=START.isoformat(), frozen=True)
        for folder in ("outbox", "reports"):
            shutil.rmtree(self.stack.state_dir / folder, ignore_errors=True)

    def start(self, job: str, *, injected: bool = False) -> FlowRun:
        """A run of the job whose clock begins at the start of all rounds; a report's later than what it reports on."""
        offset = START.timestamp() - time.time() + (300 if job == "report" else 0)
        for order in self.orders.iterdir():
            order.unlink()
        self.set_clock(0)
        body = {
            "state": {"type": "SCHEDULED"},
            "job_variables": {
                "env": {"AAE_CLOCK_OFFSET_SECONDS": str(offset), **(self._injected() if injected else {})},
            },
            "idempotency_key": uuid4().hex,
        }
        found: list[str] = []

        def create() -> bool:
            deployment = self.api.deployment(JOBS[job])
            assert deployment is not None
            answer = self.api._ask("POST", f"deployments/{deployment.id}/create_flow_run", body)
            found.append(answer["id"])
            return True

        self.until(create, 60, "a run")
        return self.api.run(found[0])

    def _injected(self) -> dict[str, str]:
        """Environment of a job that takes the orders of ``inject/sitecustomize.py`` and calls all servers by name."""
        urls = {name: value for name, value in self.stack.variables().items() if "://" in value}
        return {
            "PYTHONPATH": str(Path(__file__).with_name("inject")),
            "CHAOS_ORDERS": str(self.orders),
            **{name: url.replace("127.0.0.1", "localhost") for name, url in urls.items()},
        }

    def order(self, name: str) -> Path:
        """Give an order to the processes of a job that takes them; its file."""
        path = self.orders / name
        path.touch()
        return path

    def set_clock(self, seconds: int) -> None:
        """Move the clock of a job that takes orders away from the machine's."""
        draft = self.orders / "clock.new"
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self.orders / "clock")

    def attempts(self, run: FlowRun) -> list[tuple[Any, ...]]:
        """Id, end and beats of every attempt at the run."""
        return self.database.do(
            "SELECT a.id, a.ended_at, b.beats FROM attempts a JOIN attempt_beats b ON b.attempt_id = a.id "
            f"WHERE a.run_id = '{run.id}' ORDER BY a.id"
        )

    def is_quiet(self) -> bool:
        """Whether nobody works any more and Prefect knows it."""
        living = self.database.do("SELECT COUNT(*) FROM attempts WHERE holding IS NOT NULL AND job <> 'watch'")[0][0]
        open_runs = self.api.runs_in("aae", {"RUNNING", "PENDING", "CANCELLING", "SCHEDULED"})
        return not living and not open_runs and not self.flows

    def let_mail_out(self) -> None:
        """Minutes pass: leases of senders that died end, pauses are over, and the watch delivers."""
        if self._waiting():
            waits = "email_state IN ('sending', 'pending')"
            self.database.do(f"UPDATE notifications SET email_claimed_until = '2000-01-01' WHERE {waits}")
            self.until(lambda: not self._waiting(), 60, "the delivery of what waited in the outbox")

    def _waiting(self) -> int:
        rows = self.database.do("SELECT COUNT(*) FROM notifications WHERE email_state IN ('sending', 'pending')")
        return int(rows[0][0])


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.1)


@contextmanager
def raised(folder: Path, steps: Steps, seed: int) -> Iterator[Stage]:
    """The stage, with accounts connected (kept as ``connected``) and every job deployed but not scheduled."""
    for name in [name for name in os.environ if name.startswith(("AAE_", "PREFECT_"))]:
        del os.environ[name]
    with steps.step("Start MariaDB behind a proxy"):
        database = Database(folder)
    try:
        with Proxy(database.port) as proxy:
            os.environ |= (
                QUICK
                | SMALL
                | {
                    "AAE_STATE_DIR": str(folder / "state"),
                    "AAE_DATABASE_URL": f"mysql+pymysql://aae:secret@127.0.0.1:{proxy.port}/aae?charset=utf8mb4",
                }
            )
            Settings.model_config["env_file"] = None
            load_settings.cache_clear()
            with Stack(load_settings(), folder / "state" / "up", seed=seed, now=START) as stack:
                demo._bring_up(stack, steps, seed=seed, clock=lambda: START, schedules=False)
                stage = Stage(stack, database, proxy, steps)
                stage.sandbox("POST", "clock", now=START.isoformat(), frozen=True)
                stage.keep("connected")
                yield stage
    finally:
        database.stop(signal.SIGKILL)
