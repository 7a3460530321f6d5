"""The supervisor configuration under a real supervisord: everything is killed, restarted, drained and stopped.

Server, worker and watch run as `deployments/supervisor/aae.conf` says, with its three folders moved to a private one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from aae.errors import AaeError
from aae.local.stack import MARK, _marked
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.operate.processes import parent
from aae.storage import attempts
from aae.storage.engine import reading
from tests.e2e.conftest import ROOT, clean_environment
from tests.quick import QUICK
from tests.servers import connected, free_port, redis_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DRAIN_SECONDS = 20

HEADER = """
[unix_http_server]
file={folder}/s
[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/s
"""

# As from a script's `nohup supervisord &`, whose children would never hear an interrupt; and it ends with the tests.
LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "prctl = getattr(ctypes.CDLL(None), 'prctl', None)\n"
    "prctl and prctl(1, 15)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@dataclass
class Supervised:
    """What supervisord runs in ``folder``, and how it is asked."""

    folder: Path
    prefect: PrefectApi
    engine: Engine

    def control(self, *words: str) -> str:
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", f"{self.folder}/supervisord.conf", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert "ERROR" not in done.stdout, done.stdout
        return done.stdout

    def run(self, *command: str, files: tuple[str, ...] = ("opt/deployments/worker.env", "etc/aae.env")) -> str:
        """A command as a person would give it there."""
        done = subprocess.run(
            [f"{self.folder}/opt/deployments/with-env", *(f"{self.folder}/{file}" for file in files), "--", *command],
            env=environment(self.folder),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pid(self, program: str) -> int:
        """Of a running program; 0 if it does not run at this moment."""
        said = self.control("status", f"aae:aae-{program}").split()
        return int(said[said.index("pid") + 1].rstrip(",")) if "RUNNING" in said else 0

    def log(self, program: str) -> str:
        return (self.folder / "log" / f"aae-{program}.log").read_text()

    def restarted(self, program: str, before: int) -> None:
        until(lambda: self.pid(program) not in {0, before})

    def start(self, how: str, mark: str) -> FlowRun:
        deployment = self.prefect.deployment("stuck/test")
        assert deployment is not None
        return self.prefect.create_run(deployment.id, {"how": how, "mark": f"{self.folder}/{mark}"})

    def is_stuck(self, mark: str) -> bool:
        return (self.folder / mark).exists()

    def ended(self, run: FlowRun) -> bool:
        with suppress(AaeError):
            now = self.prefect.run(run.id)
            # Its process says that it is over a moment after Prefect does.
            return now.is_final and now.state_type != "CRASHED" and None not in self.outcomes(run)
        return False

    def outcomes(self, run: FlowRun) -> list[str | None]:
        with reading(self.engine) as connection:
            return [one.outcome for one in attempts.of_runs(connection, [run.id])]


def environment(folder: Path) -> dict[str, str]:
    return clean_environment(folder / "state", PREFECT_HOME=f"{folder}/state/prefect", **{MARK: str(folder)})


def lay_out(folder: Path, redis: str) -> None:
    """What docs/running.md has people put in place."""
    for name in ("opt", "etc", "state", "log"):
        (folder / name).mkdir(exist_ok=True)
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):
            (folder / "opt" / entry.name).symlink_to(entry)
    (folder / "opt" / ".venv").symlink_to(sys.prefix)
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    key = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    ours = {"AAE_REDIS_URL": redis, "AAE_ENCRYPTION_KEYS": key, "PREFECT_API_URL": api, **QUICK}
    ours["AAE_RECOVERY__DRAIN_SECONDS"] = str(DRAIN_SECONDS)
    (folder / "etc" / "server.env").write_text(f"PREFECT_SERVER_API_HOST=127.0.0.1\nPREFECT_SERVER_API_PORT={port}\n")
    (folder / "etc" / "aae.env").write_text("".join(f"{name}={value}\n" for name, value in ours.items()))
    programs = (ROOT / "deployments" / "supervisor" / "aae.conf").read_text()
    moved = {
        "/opt/aae": f"{folder}/opt",
        "/etc/aae": f"{folder}/etc",
        "/var/lib/aae": f"{folder}/state",
        "/var/log/aae": f"{folder}/log",
        "user=aae\n": "",
    }
    for old, new in moved.items():
        assert old in programs
        programs = programs.replace(old, new)
    (folder / "supervisord.conf").write_text(HEADER.format(folder=folder) + programs)


@contextmanager
def supervisord(folder: Path) -> Iterator[None]:
    with (folder / "supervisord.out").open("ab") as out:
        command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "supervisor.supervisord"]
        process = subprocess.Popen(
            [*command, "-c", f"{folder}/supervisord.conf"],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(DRAIN_SECONDS + 60)
        finally:
            process.kill()
            process.wait()
            for pid in _marked(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def supervised() -> Iterator[Supervised]:
    # The address of a Unix socket may have 107 characters only.
    folder = Path(tempfile.mkdtemp(prefix="aae-sv-"))
    try:
        with redis_server() as redis, connected(f"sqlite:///{folder}/state/aae.db") as engine:
            lay_out(folder, redis)
            variables = dict(line.split("=", 1) for line in (folder / "etc" / "aae.env").read_text().splitlines())
            with closing(PrefectApi(variables["PREFECT_API_URL"], timeout=150)) as prefect:
                made = Supervised(folder, prefect, engine)
                made.run("aae", "db", "upgrade")
                with supervisord(folder):
                    until(lambda: is_well(prefect))
                    made.run("python", "-m", "deployments.apply")
                    flow = ("tests/e2e/stuck_flow.py:stuck", "--name", "test", "--pool", "aae")
                    limits = json.dumps({"env": {"AAE_LIMITS__SOFT_SECONDS": "6", "AAE_LIMITS__HARD_SECONDS": "600"}})
                    made.run("prefect", "--no-prompt", "deploy", *flow, "--job-variable", limits)
                    until(lambda: any(worker.online for worker in prefect.workers("aae")))
                    yield made
    finally:
        shutil.rmtree(folder)


def is_well(prefect: PrefectApi) -> bool:
    with suppress(AaeError):
        return prefect.health()
    return False


@pytest.mark.parametrize("what", ["aae worker", "prefect worker"])
def test_a_killed_worker_is_started_again_and_the_run_it_had_finishes(supervised: Supervised, what: str) -> None:
    mark = f"killed {what}"
    run = supervised.start("await", mark)
    until(lambda: supervised.is_stuck(mark))
    before = supervised.pid("worker")
    os.kill(before if what == "aae worker" else child(before), signal.SIGKILL)
    supervised.restarted("worker", before)
    until(lambda: supervised.ended(run))
    assert supervised.prefect.run(run.id).state_type == "COMPLETED"
    assert supervised.outcomes(run) == ["lost", "ended"]


def child(pid: int) -> int:
    [found] = [one for one in Path("/proc").glob("[0-9]*") if parent(int(one.name)) == pid]
    return int(found.name)


def test_a_worker_that_is_restarted_lets_its_run_finish(supervised: Supervised) -> None:
    run = supervised.start("soft", "restarted")
    until(lambda: supervised.is_stuck("restarted"))
    before = supervised.pid("worker")
    supervised.control("restart", "aae:aae-worker")
    assert supervised.pid("worker") not in {0, before}
    assert "drained: 1 runs finished, 0 handed over" in supervised.log("worker")
    assert supervised.prefect.run(run.id).state_type == "COMPLETED"
    assert supervised.outcomes(run) == ["ended"]


def test_a_stopping_worker_takes_no_new_run_and_hands_over_what_does_not_finish_in_time(
    supervised: Supervised,
) -> None:
    run = supervised.start("await", "handed over")
    until(lambda: supervised.is_stuck("handed over"))
    before, told = supervised.pid("worker"), supervised.log("worker").count("told to stop")
    os.kill(before, signal.SIGTERM)
    until(lambda: supervised.log("worker").count("told to stop") > told)
    other = supervised.start("soft", "put off")
    until(lambda: any("about to stop" in message for _, message in supervised.prefect.states(other.id)))
    supervised.restarted("worker", before)
    assert "drained: 0 runs finished, 1 handed over" in supervised.log("worker")
    for one in (run, other):
        until(lambda one=one: supervised.ended(one))  # type: ignore[misc]
        assert supervised.prefect.run(one.id).state_type == "COMPLETED"
    assert supervised.outcomes(run) == ["handed_over", "ended"]
    assert supervised.outcomes(other) == ["ended"]


def test_a_deploy_with_all_workers_drained_goes_on_when_it_is_resumed(supervised: Supervised) -> None:
    supervised.run("aae", "drain", "--keep-worker")
    run = supervised.start("soft", "deployed")
    supervised.control("restart", "aae:aae-worker", "aae:aae-watch")
    assert supervised.prefect.run(run.id).state_type == "SCHEDULED"
    supervised.run("aae", "resume")
    until(lambda: supervised.ended(run))
    assert supervised.outcomes(run) == ["ended"]


def test_a_killed_server_and_a_killed_watch_are_started_again(supervised: Supervised) -> None:
    before = {program: supervised.pid(program) for program in ("server", "watch")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for program, pid in before.items():
        supervised.restarted(program, pid)
    until(lambda: is_well(supervised.prefect))


def test_everything_stops_with_a_job_at_work_and_no_process_is_left(supervised: Supervised) -> None:
    run = supervised.start("await", "stopped")
    until(lambda: supervised.is_stuck("stopped"))
    supervised.control("stop", "aae:*")
    assert supervised.outcomes(run) == ["handed_over"]
    until(lambda: len(_marked(supervised.folder)) == 1, 10)
    [left] = _marked(supervised.folder)
    assert b"supervisord" in Path(f"/proc/{left}/cmdline").read_bytes()
