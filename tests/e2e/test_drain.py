"""Before a deploy: what runs finishes or hands over, what is due waits, and afterwards everything goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.e2e.conftest import Product
from tests.e2e.test_recovery import (
    at_work,
    backfill,
    engine,
    finished,
    is_running,
    names,
    processes,
    slow_platforms,
    start,
    tries,
    until,
)

__all__ = ["engine"]  # a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _resumed(product: Product) -> Iterator[None]:
    yield
    product.prefect.set_pool_paused("aae", paused=False)
    until(lambda: processes(product, "worker", "start"))


FETCH = "fetch-ad-data/six-hourly"


def command(product: Product, *words: str) -> str:
    done = product.run("aae", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_runs_may_finish_and_what_comes_waits(product: Product, engine: Engine) -> None:
    with slow_platforms(product, 3):  # longer than the command takes to start on a busy machine
        running = start(product, FETCH, **backfill())
        until(lambda: is_running(product, running))
        said = command(product, "drain")
    assert "1 runs finished, 0 handed over, 1 workers stopped" in said
    assert product.prefect.run(running.id).state_type == "COMPLETED"
    assert len(tries(engine, running)) == 1
    assert not processes(product, "worker", "start"), "a drained worker is not started again"

    waiting = start(product)
    assert "0 runs finished, 0 handed over, 0 workers stopped" in command(product, "drain"), "again does no harm"
    assert product.prefect.run(waiting.id).state_type == "SCHEDULED"
    command(product, "resume")
    assert finished(product, waiting).state_type == "COMPLETED"


def test_what_does_not_finish_in_time_is_handed_over_and_goes_on_as_the_same_run(
    product: Product, engine: Engine
) -> None:
    with slow_platforms(product, 3):
        run = start(product, FETCH, **backfill())
        until(lambda: is_running(product, run))
        said = command(product, "drain", "--within", "0")
        assert "1 handed over" in said
        assert not at_work(product)
    assert product.prefect.run(run.id).state_name == "AwaitingRetry"
    command(product, "resume")
    assert finished(product, run).state_type == "COMPLETED"
    assert [one.outcome for one in tries(engine, run)] == ["handed_over", "ended"]
    assert names(product, run).count("Running") == 2


def test_one_machine_is_drained_while_the_pool_stays_open(product: Product, engine: Engine) -> None:
    [worker] = processes(product, "worker", "start")
    with slow_platforms(product, 3):  # longer than the command takes to start on a busy machine
        running = start(product, FETCH, **backfill())
        until(lambda: is_running(product, running))
        said = command(product, "drain", "--here")
    assert "1 runs finished, 0 handed over, 1 workers stopped" in said
    assert worker not in processes(product, "worker", "start")
    assert product.prefect.run(running.id).state_type == "COMPLETED"
    assert len(tries(engine, running)) == 1
    until(lambda: processes(product, "worker", "start"))
    assert finished(product, start(product)).state_type == "COMPLETED", "the next worker goes on, without a resume"


def test_what_one_machine_does_not_finish_in_time_goes_on_elsewhere_at_once(product: Product, engine: Engine) -> None:
    with slow_platforms(product, 3):
        run = start(product, FETCH, **backfill())
        until(lambda: is_running(product, run))
        assert "1 handed over, 1 workers stopped" in command(product, "drain", "--here", "--within", "0")
    assert finished(product, run).state_type == "COMPLETED"
    assert [one.outcome for one in tries(engine, run)] == ["handed_over", "ended"]
    assert names(product, run).count("Running") == 2


def test_here_and_keeping_the_worker_exclude_each_other(product: Product) -> None:
    done = product.run("aae", "drain", "--here", "--keep-worker")
    assert done.returncode == 2
    assert "--keep-worker" in done.stderr
    assert processes(product, "worker", "start")


def test_the_worker_may_be_kept(product: Product) -> None:
    assert "0 workers stopped" in command(product, "drain", "--keep-worker")
    assert processes(product, "worker", "start")
    command(product, "resume")


def test_the_doctor_says_how_to_resume(product: Product) -> None:
    command(product, "drain", "--keep-worker")
    try:
        done = product.run("aae", "doctor")
        assert done.returncode == 1
        assert "aae resume" in done.stdout
    finally:
        command(product, "resume")
