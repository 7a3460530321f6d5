"""What becomes of a running job when things are killed: Celery, bare Prefect and AAE, the same job of five steps.

Each step takes a second and writes a line when it is done; from these lines is read whether the job was finished, how
long after the kill it was taken up again, and how many steps were done twice. This program starts a killed worker again
after a second, as systemd would. Nothing is waited for longer than 90 s.

    .venv/bin/python -m benchmarks.lost_work [--only celery-default ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import httpx
from rich.console import Console
from rich.table import Table

from tests import servers

LONGEST_SECONDS: Final = 90.0
STEPS: Final = 5
PROJECT: Final = Path(__file__).parents[1]

_JOB = """
import os, time
def step(folder, number):
    time.sleep(1)
    with open(folder + "/steps", "a") as log:
        log.write(f"{number} {os.getpid()} {time.time()}\\n")
def begin(folder):
    with open(folder + "/begun", "a") as log:
        log.write(f"{os.getpid()} {time.time()}\\n")
"""

_CELERY = (
    _JOB
    + """
from celery import Celery
app = Celery("app", broker=os.environ["BROKER"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
if os.environ["LATE"] == "1":
    app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True,
                    broker_transport_options={"visibility_timeout": 30})
@app.task(name="job")
def job(folder):
    begin(folder)
    for number in range(5):
        step(folder, number)
"""
)

_PREFECT = (
    _JOB
    + """
from prefect import flow, task
@task(persist_result=True)
def one(folder: str, number: int) -> int:
    step(folder, number)
    return number
@flow(name="job", persist_result=True)
def job(folder: str) -> None:
    begin(folder)
    for number in range(5):
        one(folder, number)
"""
)


class System(Protocol):
    """Something that runs jobs."""

    name: str

    def submit(self, folder: Path) -> None:
        """Have the job done."""

    def worker(self) -> int:
        """The worker's process id, started if there is none."""


@dataclass
class Outcome:
    """Seconds from the kill until the job was taken up again (None: it was not), and steps done more than once."""

    finished: bool
    again: float | None
    repeated: int

    def __str__(self) -> str:
        if not self.finished:
            return "lost"
        if self.again is None:
            return "finished, undisturbed"
        return f"again after {self.again:.0f} s, {self.repeated} steps repeated"


Kill = Callable[[int, int], None]

KILLS: Final[dict[str, Kill]] = {
    "the job's process (-9)": lambda worker, job: _kill(signal.SIGKILL, job),
    "the worker alone (-9)": lambda worker, job: _kill(signal.SIGKILL, worker),
    "worker and job (-9)": lambda worker, job: _kill(signal.SIGKILL, worker, job),
    "a deploy: SIGTERM to the worker": lambda worker, job: _kill(signal.SIGTERM, worker),
    "SIGTERM to worker and job": lambda worker, job: _kill(signal.SIGTERM, worker, job),
}


def main() -> None:
    """Measure, print a table and a line of JSON."""
    systems = {
        "celery-default": lambda folder: celery(folder, late=False),
        "celery-late": lambda folder: celery(folder, late=True),
        "prefect": lambda folder: prefect(folder, ours=False),
        "aae": lambda folder: prefect(folder, ours=True),
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="*", choices=list(systems), default=list(systems))
    chosen = parser.parse_args().only
    console = Console(width=180)
    console.print(f"A job of {STEPS} steps of 1 s, killed after the second; workers are started again after 1 s.")
    results: dict[str, dict[str, Outcome]] = {}
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="aae-lost-") as folder, systems[name](Path(folder)) as system:
            results[name] = {}
            for number, (what, kill) in enumerate(KILLS.items()):
                results[name][what] = outcome = measure(system, Path(folder) / f"job-{number}", kill)
                console.print(f"  {system.name}: {what}: {outcome}")
    table = Table("killed", *results, box=None)
    for what in KILLS:
        table.add_row(what, *(str(results[name][what]) for name in results))
    console.print(table)
    print(json.dumps({name: {what: str(one) for what, one in rows.items()} for name, rows in results.items()}))


def measure(system: System, folder: Path, kill: Kill) -> Outcome:
    """One job, one kill."""
    folder.mkdir()
    worker = system.worker()
    system.submit(folder)
    _until(lambda: len(_steps(folder)) >= 2)
    kill(worker, _steps(folder)[-1][1])
    killed = time.time()
    _until(lambda: not _lives(worker), 1.0)
    restart_at = time.monotonic() + 1.0
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end and {number for number, _, _ in _steps(folder)} != set(range(STEPS)):
        if time.monotonic() > restart_at:
            system.worker()
        time.sleep(0.1)
    done = _steps(folder)
    numbers = [number for number, _, _ in done]
    begun = [float(line.split()[1]) for line in (folder / "begun").read_text().splitlines()]
    again = next((moment - killed for moment in begun if moment > killed), None)
    # An orphan that is still at it, or a second attempt, must not reach into the next scenario.
    time.sleep(3)
    return Outcome(set(numbers) == set(range(STEPS)), again, len(numbers) - len(set(numbers)))


@contextmanager
def celery(folder: Path, *, late: bool) -> Iterator[System]:
    """The newest Celery in an environment of its own, Valkey as its broker."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-qq", "celery[redis]"], check=True, stderr=subprocess.DEVNULL)
    (folder / "app.py").write_text(_CELERY)
    with servers.redis_server() as broker:
        environment = {**os.environ, "BROKER": broker, "LATE": "1" if late else "0"}
        with _Workers(
            [str(python), "-m", "celery", "-A", "app", "worker", "--concurrency", "1", "-l", "warning"],
            folder,
            environment,
        ) as workers:

            class Celery:
                name = "Celery, acks_late + reject_on_worker_lost" if late else "Celery"
                worker = staticmethod(workers.pid)

                @staticmethod
                def submit(job: Path) -> None:
                    code = f"import app; app.job.delay({str(job)!r})"
                    subprocess.run([str(python), "-c", code], cwd=folder, env=environment, check=True)

            yield Celery()


@contextmanager
def prefect(folder: Path, *, ours: bool) -> Iterator[System]:
    """A Prefect server and a process worker with default settings; ``ours``: with our launcher and our watch."""
    (folder / "jobs.py").write_text(_PREFECT)
    port = servers.free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AAE_", "PREFECT_"))} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "AAE_STATE_DIR": str(folder / "aae"),
    }
    run = [sys.executable, "-m", "prefect", "--no-prompt"]
    setup = _SETUP.format(command="python -m tasks.launch" if ours else "", source=str(folder))
    with _Workers([*run, "server", "start", "--port", str(port)], folder, environment) as server:
        server.pid()
        _until(lambda: _answers(f"{api}/health"), 120)
        subprocess.run([sys.executable, "-c", setup], cwd=folder, env=environment, check=True, capture_output=True)
        if ours:
            aae = [sys.executable, "-m", "aae"]
            subprocess.run([*aae, "db", "upgrade"], env=environment, check=True, capture_output=True)
        with (
            _Workers([*run, "worker", "start", "--pool", "aae"], folder, environment) as workers,
            _Workers([sys.executable, "-m", "aae", "watch"], folder, environment) as watch,
        ):
            if ours:
                watch.pid()

            class Prefect:
                name = "AAE" if ours else "Prefect"
                worker = staticmethod(workers.pid)

                @staticmethod
                def submit(job: Path) -> None:
                    found = httpx.get(f"{api}/deployments/name/job/lost").raise_for_status().json()
                    body = {"parameters": {"folder": str(job)}, "state": {"type": "SCHEDULED"}}
                    url = f"{api}/deployments/{found['id']}/create_flow_run"
                    httpx.post(url, json=body, timeout=30).raise_for_status()

            yield Prefect()


_SETUP = """
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessWorker
from prefect import flow
template = ProcessWorker.get_default_base_job_template()
if {command!r}:
    template["variables"]["properties"]["command"]["default"] = {command!r}
with get_client(sync_client=True) as client:
    client.create_work_pool(WorkPoolCreate(name="aae", type="process", base_job_template=template))
flow.from_source(source={source!r}, entrypoint="jobs.py:job").deploy("lost", work_pool_name="aae")
"""


class _Workers:
    """One process that is started when it is asked for and not there; ended with everything it started."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._command, self._folder, self._environment = command, folder, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._leaders: list[int] = []

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for leader in self._leaders:
            with suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)

    def pid(self) -> int:
        if self._process is None or self._process.poll() is not None:
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", servers.DIE_WITH_PARENT, *self._command],
                    cwd=self._folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._leaders.append(self._process.pid)
        return self._process.pid


def _steps(folder: Path) -> list[tuple[int, int, float]]:
    try:
        lines = (folder / "steps").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(number), int(pid), float(moment)) for number, pid, moment in map(str.split, lines)]


def _kill(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).is_success
    return False


def _until(condition: Callable[[], object], seconds: float = LONGEST_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
