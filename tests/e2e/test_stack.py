"""The real stack: everything starts, the server plans and a worker waits, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from aae import logs
from aae.local.stack import POOL, PROJECT, WORKER, Stack, _lives, _marked
from aae.operate.prefect_api import PrefectApi
from aae.operate.schedule import read_jobs
from aae.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with the project's deployments; its processes must be gone when it is left."""
    folder = tmp_path_factory.mktemp("stack")
    settings = Settings(_env_file=None, state_dir=folder, log_format="json")
    made = Stack(settings, folder / "up", seed=7, now=datetime.now(UTC))
    with made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AAE_LOG_FORMAT", "json")
        made.start()
        made.wait("cache", "sandbox", "server")
        python(made, "-m", "aae", "db", "upgrade")
        python(made, "-m", "deployments.apply")
        made.start_worker()
        made.wait("worker", "watch")
        pids = made.pids()
        yield made
    assert not [name for name, pid in pids.items() if _lives(pid)]
    assert not _marked(made.state_dir)


def python(stack: Stack, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, env=stack.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_part_answers(stack: Stack) -> None:
    api = PrefectApi(stack.api_url, timeout=150)
    assert api.health()
    assert httpx.get(f"{stack.sandbox_url}/_sandbox/health", trust_env=False).json()["seed"] == 7
    assert set(stack.pids()) == {"server", "cache", "sandbox", "worker", "watch"}
    stack.check()


def test_the_client_understands_the_real_api(stack: Stack) -> None:
    api = PrefectApi(stack.api_url, timeout=150)
    pool = api.work_pool(POOL)
    assert pool is not None
    assert (pool.type, pool.paused) == ("process", False)
    assert [worker.name for worker in api.workers(POOL) if worker.online] == [WORKER]
    assert api.work_pool("nowhere") is None
    assert api.deployment("no/where") is None
    for job in read_jobs(PROJECT):
        deployment = api.deployment(job.name)
        assert deployment is not None
        assert deployment.work_pool == POOL
        assert [(one.cron, one.active) for one in deployment.schedules] == [(job.cron, True)]
        assert api.last_run(deployment.id) is None


def test_pausing_and_resuming_a_deployment(stack: Stack) -> None:
    api = PrefectApi(stack.api_url, timeout=150)
    deployment = api.deployment("check-token-expiry/daily")
    assert deployment is not None
    for paused in (True, False):
        api.set_paused(deployment.id, paused=paused)
        again = api.deployment("check-token-expiry/daily")
        assert again is not None
        assert again.paused == paused


def test_the_server_plans_the_runs_of_every_schedule(stack: Stack) -> None:
    """Prefect 3.8 with SQLAlchemy 2.1 does not: its scheduler fails every time, and no schedule ever fires."""
    api = PrefectApi(stack.api_url, timeout=150)
    for job in read_jobs(PROJECT):
        deployment = api.deployment(job.name)
        assert deployment is not None
        deadline = time.monotonic() + 90
        while (run := api.next_run(deployment.id)) is None and time.monotonic() < deadline:
            time.sleep(1)
        assert run is not None, (stack.logs_dir / "server.log").read_text()[-2000:]
        assert run.scheduled_for is not None


def test_a_run_asked_for_by_rest_goes_through_the_worker_to_its_end(stack: Stack) -> None:
    api = PrefectApi(stack.api_url, timeout=150)
    deployment = api.deployment("check-token-expiry/daily")
    assert deployment is not None
    *_, last = api.watch(api.create_run(deployment.id, {}).id)
    assert last.run.succeeded, (last.run.message, api.error_logs(last.run.id))
    assert last.run.seconds is not None
    assert api.last_run(deployment.id) == last.run


def test_every_line_of_a_run_is_json_and_says_which_run_attempt_and_account(stack: Stack) -> None:
    api = PrefectApi(stack.api_url, timeout=150)
    deployment = api.deployment("check-token-expiry/daily")
    assert deployment is not None
    run = api.last_run(deployment.id)
    assert run is not None
    text = (stack.logs_dir / "worker.log").read_text().splitlines()
    lines = [json.loads(line) for line in text if line.startswith("{")]
    of_the_run = [line for line in lines if line.get("run_id") == run.id]
    assert {"Finished in state Completed()"} <= {line["message"] for line in of_the_run if "task" in line}
    # The worker's own lines on it come before there is an attempt.
    assert {line["job"] for line in of_the_run if isinstance(line.get("attempt"), int)} == {"check-token-expiry"}
    # What the worker's command itself prints is not a log.
    assert not [line for line in text if not line.startswith("{") and "Worker" not in line]
    assert json.loads((stack.logs_dir / "watch.log").read_text().splitlines()[0])["logger"] == "aae"


def test_the_doctor_sees_the_stack_from_a_second_terminal(stack: Stack) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AAE_", "PREFECT_"))}
    done = subprocess.run(
        [sys.executable, "-m", "aae", "doctor"],
        env={**environment, "AAE_STATE_DIR": str(stack.state_dir.parent)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "✓ worker" in done.stdout
    assert "✓ tables" in done.stdout
    assert "has never run" not in done.stdout
    assert "Jobs not executing?" in done.stdout


def test_every_prefect_variable_we_set_exists(stack: Stack) -> None:
    code = (
        "from prefect.settings import Settings\n"
        "from prefect.settings.legacy import _get_valid_setting_names as names\n"
        "print(*names(Settings))"
    )
    known = set(python(stack, "-c", code).split())
    # Those that change single entries of Prefect's logging.yml are no settings.
    entries = set(logs.prefect_variables(stack.settings))
    # Read straight from the environment (prefect/server/utilities/encryption.py).
    entries.add("PREFECT_SERVER_ENCRYPTION_KEY")
    ours = {name for name in stack.environment() if name.startswith("PREFECT_")} - entries
    assert ours <= known


@pytest.mark.parametrize("name", ["sandbox", "cache", "watch"])
def test_a_part_that_is_killed_is_started_again(stack: Stack, name: str) -> None:
    before = stack.pids()[name]
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not (told := stack.tend()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told == [f"The {name} was killed by SIGKILL; it is started again."]
    stack.wait(name)
    assert stack.pids()[name] != before
    assert not stack.tend()


def test_a_second_stack_in_the_folder_is_refused_in_one_line(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aae", "up"],
        env={**os.environ, "AAE_STATE_DIR": str(stack.state_dir.parent)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "already running" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert Path(stack.state_dir / "stack.json").exists()
