"""What is killed is run again by itself, what hangs is ended and run again, and never are two runs of a job at work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine

from aae.errors import Retry
from aae.local.stack import _marked
from aae.operate.prefect_api import FlowRun
from aae.storage import attempts
from aae.storage.engine import reading
from tests import quick
from tests.e2e.conftest import Product
from tests.servers import connected

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

JOB = "detect-anomalies/hourly"
FETCH = "fetch-ad-data/six-hourly"
SECONDS = 180
"""What takes a third of this on a quiet machine may take all of it on a busy one."""


@pytest.fixture
def engine(product: Product) -> Iterator[Engine]:
    with connected(product.stack.variables()["AAE_DATABASE_URL"]) as found:
        yield found


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(Retry):  # a server that is busy is asked again
            if condition():
                return
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def processes(product: Product, *words: str) -> list[int]:
    return quick.processes(product.stack, *words)


def at_work(product: Product) -> list[int]:
    return processes(product, "tasks.launch")


def start(product: Product, name: str = JOB, **parameters: object) -> FlowRun:
    created: list[FlowRun] = []
    key = uuid4().hex  # one run, however often it is asked for: a server that is just starting is busy

    def create() -> bool:
        deployment = product.prefect.deployment(name)
        assert deployment is not None
        created.append(product.prefect.create_run(deployment.id, parameters, idempotency_key=key))
        return True

    until(create)
    return created[0]


def finished(product: Product, run: FlowRun) -> FlowRun:
    """The run when it has ended for good: a crash is not an end."""

    def has_ended() -> bool:
        with suppress(Retry):
            now = product.prefect.run(run.id)
            return now.is_final and now.state_type != "CRASHED" and not at_work(product)
        return False

    until(has_ended)
    return product.prefect.run(run.id)


@contextmanager
def slow_platforms(product: Product, seconds: float = 2.0) -> Iterator[None]:
    """Every answer of the platforms takes this long, so that a fetch does."""
    faults = f"{product.stack.sandbox_url}/_sandbox/faults"

    def forgiven() -> bool:
        with suppress(httpx.TransportError):  # it may have been killed with everything else
            return httpx.delete(faults, timeout=60).is_success
        return False

    httpx.post(faults, json={"name": "slow", "value": seconds}, timeout=60).raise_for_status()
    try:
        yield
    finally:
        until(forgiven)


_days = count()


def backfill() -> dict[str, object]:
    """Parameters of a fetch that no other test has made: an answer of the platforms may be used again for minutes."""
    first = date(2026, 1, 1) + timedelta(days=3 * next(_days))
    return {"since": f"{first}", "until": f"{first + timedelta(days=2)}", "accounts": [1, 2]}


@contextmanager
def under_way(product: Product, seconds: float = 2.0) -> Iterator[FlowRun]:
    """A fetch alone at work, slow enough for the block to find it there however busy the machine is."""
    until(lambda: not at_work(product))  # on another run, such as one that the schedule has begun
    with slow_platforms(product, seconds):
        run = start(product, FETCH, **backfill())
        until(lambda: is_running(product, run))
        yield run


def tries(engine: Engine, run: FlowRun) -> list[attempts.Attempt]:
    with reading(engine) as connection:
        return attempts.of_runs(connection, [run.id])


def names(product: Product, run: FlowRun) -> list[str]:
    return [name for name, _ in product.prefect.states(run.id)]


def is_running(product: Product, run: FlowRun) -> bool:
    return product.prefect.run(run.id).state_type == "RUNNING"


def kill(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_killed_process_is_replaced_by_another_that_finishes_the_same_run(
    product: Product, engine: Engine, number: signal.Signals
) -> None:
    with under_way(product) as run:
        killed = at_work(product)
        kill(number, *killed)
    is_replaced(product, engine, run, killed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_process_killed_before_it_has_loaded_prefect_is_replaced_too(
    product: Product, engine: Engine, number: signal.Signals
) -> None:
    until(lambda: not at_work(product))
    run = start(product)
    until(lambda: at_work(product))
    killed = at_work(product)
    kill(number, *killed)
    is_replaced(product, engine, run, killed)


def is_replaced(product: Product, engine: Engine, run: FlowRun, killed: list[int]) -> None:
    assert killed
    ended = finished(product, run)
    assert ended.state_type == "COMPLETED"
    assert "AwaitingRetry" in names(product, run)
    last = tries(engine, run)[-1]
    assert last.outcome == "ended"
    assert last.pid not in killed


def test_a_killed_worker_takes_its_run_along_and_the_next_worker_finishes_it(product: Product, engine: Engine) -> None:
    with under_way(product) as run:
        kill(signal.SIGKILL, *processes(product, "worker", "start"))
        until(lambda: not at_work(product), 30)
    assert finished(product, run).state_type == "COMPLETED"
    assert len(tries(engine, run)) == 2


def test_sigterm_to_the_worker_as_at_a_deploy_loses_nothing(product: Product) -> None:
    with under_way(product) as run:
        kill(signal.SIGTERM, *processes(product, "worker", "start"))
    assert finished(product, run).state_type == "COMPLETED"


def test_everything_killed_at_once_comes_back_and_finishes(product: Product) -> None:
    with under_way(product) as run:
        kill(signal.SIGKILL, *_marked(product.stack.state_dir))

    def answers() -> bool:
        with suppress(Exception):
            return product.prefect.health()
        return False

    until(answers)
    assert finished(product, run).state_type == "COMPLETED"


def test_a_run_that_its_worker_took_and_never_began_is_begun_by_another(product: Product) -> None:
    until(lambda: not at_work(product))
    run = start(product)
    until(lambda: at_work(product) or product.prefect.run(run.id).state_type == "PENDING")
    kill(signal.SIGKILL, *processes(product, "worker", "start"), *at_work(product))
    assert finished(product, run).state_type == "COMPLETED"


def test_a_frozen_process_is_replaced_and_ends_itself_when_it_wakes(product: Product, engine: Engine) -> None:
    with under_way(product) as run:
        (frozen,) = at_work(product)
        kill(signal.SIGSTOP, frozen)
    try:
        until(lambda: len(tries(engine, run)) == 2)
        until(lambda: at_work(product) == [frozen])
        assert product.prefect.run(run.id).state_type == "COMPLETED"
    finally:
        kill(signal.SIGCONT, frozen)
    until(lambda: not at_work(product), 60)
    assert product.prefect.run(run.id).state_type == "COMPLETED"


def test_a_healthy_run_that_is_called_crashed_is_left_alone_and_set_right(product: Product, engine: Engine) -> None:
    with under_way(product) as run:
        product.prefect.set_state(run.id, "CRASHED", "Crashed", "The server thought so.")
        until(lambda: is_running(product, run))
    assert finished(product, run).state_type == "COMPLETED"
    assert len(tries(engine, run)) == 1


def test_a_second_process_for_a_living_run_finds_the_first_and_leaves(product: Product, engine: Engine) -> None:
    with under_way(product, 5) as run:
        due = run.scheduled_for
        product.prefect.set_state(run.id, "SCHEDULED", "AwaitingRetry", "Somebody's mistake.", scheduled_for=due)
        until(lambda: len(at_work(product)) == 2)
        until(lambda: len(at_work(product)) == 1)
        assert is_running(product, run)
    assert finished(product, run).state_type == "COMPLETED"
    assert len(tries(engine, run)) == 1


def test_a_run_that_is_lost_again_and_again_fails_loudly_after_three_recoveries(
    product: Product, engine: Engine
) -> None:
    run = start(product)
    for number in range(4):
        until(lambda number=number: len(tries(engine, run)) == number + 1 and at_work(product))  # type: ignore[misc]
        kill(signal.SIGKILL, *at_work(product))
    ended = finished(product, run)
    assert ended.state_type == "FAILED"
    assert "given up" in (ended.message or "")
    # A worker may report one crash twice, and each time the run is put back; what counts is how often it was begun.
    assert [one.outcome for one in tries(engine, run)] == ["lost"] * 4


def test_a_second_run_of_a_job_waits_for_its_turn(product: Product, engine: Engine) -> None:
    first, second = (start(product, FETCH, **backfill()) for _ in range(2))
    assert {finished(product, run).state_type for run in (first, second)} == {"COMPLETED"}
    (one,), (other,) = tries(engine, first), tries(engine, second)
    early, late = sorted((one, other), key=lambda attempt: attempt.started_at)
    assert early.ended_at is not None
    assert early.ended_at <= late.started_at


@pytest.fixture(scope="module")
def stuck(product: Product) -> str:
    """The deployment of a job with a hard limit of three seconds."""
    environment = {
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": "redis-database/aae-results",
        "AAE_LIMITS__SOFT_SECONDS": "2",
        "AAE_LIMITS__HARD_SECONDS": "3",
        "AAE_LIMITS__GRACE_SECONDS": "1",
    }
    done = product.run(
        *("prefect", "--no-prompt", "deploy", "tests/e2e/stuck_flow.py:stuck", "--name", "test", "--pool", "aae"),
        *("--job-variable", json.dumps({"env": environment})),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return "stuck/test"


@pytest.mark.parametrize(
    ("how", "place"),
    [
        pytest.param("socket", "wait_on_a_socket_that_says_nothing", id="blocking socket"),
        pytest.param("query", "run_a_long_query", id="long MySQL query", marks=pytest.mark.mysql),
        pytest.param("numpy", "multiply_for_ever", id="numpy in a thread"),
        pytest.param("loop", "multiply_for_ever", id="numpy that never awaits"),
        pytest.param("c", "call_c_that_never_returns", id="C that holds the interpreter"),
    ],
)
def test_what_cannot_be_cancelled_is_ended_with_its_process_and_run_again(
    product: Product, stuck: str, tmp_path: Path, request: pytest.FixtureRequest, how: str, place: str
) -> None:
    database = request.getfixturevalue("mysql_url") if how == "query" else None
    run = start(product, stuck, how=how, mark=str(tmp_path / "mark"), database=database)
    ended = finished(product, run)
    assert ended.state_type == "COMPLETED"
    log = (product.stack.logs_dir / "worker.log").read_text()
    assert re.search(rf'File ".*stuck_flow.py", line \d+ in {place}', log), "the stuck stack is in the log"
    again = [message for name, message in product.prefect.states(run.id) if name == "AwaitingRetry"]
    if again:  # a thread left behind does not stop the next try, only the process that it lives in
        assert f"stuck in {how}" in again[0]


def test_a_waiting_step_is_cut_at_its_hard_limit_and_tried_again_in_the_same_process(
    product: Product, engine: Engine, stuck: str, tmp_path: Path
) -> None:
    run = start(product, stuck, how="await", mark=str(tmp_path / "mark"))
    assert finished(product, run).state_type == "COMPLETED"
    assert len(tries(engine, run)) == 1
    assert "timed out after 3.0 second" in json.dumps(
        product.api("POST", "/logs/filter", logs={"flow_run_id": {"any_": [run.id]}})
    )


def test_at_the_soft_limit_a_step_keeps_what_is_done(product: Product, stuck: str, tmp_path: Path) -> None:
    run = start(product, stuck, how="soft", mark=str(tmp_path / "mark"))
    assert finished(product, run).state_type == "COMPLETED"


def test_of_runs_that_piled_up_in_downtime_only_the_last_is_made(
    product: Product, engine: Engine, stuck: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    deployment = product.prefect.deployment(stuck)
    assert deployment is not None
    schedules = f"deployments/{deployment.id}/schedules"
    product.prefect.set_pool_paused("aae", paused=True)
    made: list[dict[str, str]] = []
    try:

        def due(until: datetime) -> list[FlowRun]:
            return [run for run in product.prefect.due_between(deployment.id, started, until) if run.auto_scheduled]

        started = datetime.now(UTC)
        # For a minute: a schedule that went on would bring runs faster than a busy machine can make them.
        rule = f"DTSTART:{started + timedelta(seconds=5):%Y%m%dT%H%M%SZ}\nRRULE:FREQ=SECONDLY;INTERVAL=3;COUNT=20"
        every = {"schedule": {"rrule": rule}, "active": True, "parameters": {"how": "await", "mark": str(mark)}}
        made += product.prefect.call("POST", schedules, [every])
        until(lambda: len(due(datetime.now(UTC))) >= 5)
        fifth = datetime.now(UTC)
        until(lambda: all(run.state_name != "Scheduled" for run in due(fifth)))  # but late, or skipped already
        piled = [run.id for run in due(fifth)]
        product.prefect.set_pool_paused("aae", paused=False)
        until(lambda: all(product.prefect.run(run).is_final for run in piled))
    finally:
        product.prefect.set_pool_paused("aae", paused=False)
        for one in made:
            product.prefect.call("DELETE", f"{schedules}/{one['id']}")
    ends = [product.prefect.run(run).state_name for run in piled]
    assert set(ends) <= {"Skipped", "Completed"}
    assert ends.count("Completed") <= 1
    assert ends.count("Skipped") >= 4


def test_the_watch_itself_is_no_weak_point_another_takes_over(product: Product) -> None:
    second = subprocess.Popen(
        [sys.executable, "-m", "aae", "watch"],
        env={**product.environment, **product.stack.variables()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with under_way(product) as run:
            watches = [pid for pid in processes(product, "aae", "watch") if pid != second.pid]
            kill(signal.SIGKILL, *at_work(product), *watches)
        assert finished(product, run).state_type == "COMPLETED"
    finally:
        second.kill()
        second.wait()
