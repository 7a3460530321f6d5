"""Who gets the job when a run's process begins."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, update

from aae.model import Process
from aae.operate.processes import this_process
from aae.settings import Settings
from aae.storage import attempts
from aae.storage.engine import database_clock, reading
from aae.storage.schema import attempt_beats
from tasks.process import _take

ELSEWHERE = Process("another machine", 1, 1)
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def held_by(engine: Engine, process: Process, *, silent_for: float = 0) -> int:
    with engine.begin() as connection:
        token = attempts.take(connection, "job", run_id="other", process=process)
        moment = database_clock(connection) - timedelta(seconds=silent_for)
        connection.execute(update(attempt_beats).values(beat_at=moment))
    assert token is not None
    return token


def outcomes(engine: Engine) -> list[str | None]:
    with reading(engine) as connection:
        return [one.outcome for one in attempts.of_runs(connection, ["other", "mine"])]


def test_a_free_job_is_taken(engine: Engine) -> None:
    assert _take(engine, SETTINGS, "job", "mine") is not None


def test_a_job_that_somebody_works_on_is_not(engine: Engine) -> None:
    held_by(engine, ELSEWHERE)
    assert _take(engine, SETTINGS, "job", "mine") is None
    assert outcomes(engine) == [None]


def test_one_whose_process_has_gone_from_this_machine_is_no_obstacle(engine: Engine) -> None:
    own = this_process()
    held_by(engine, Process(own.place, own.pid, own.born + 1))
    assert _take(engine, SETTINGS, "job", "mine") is not None
    assert outcomes(engine) == ["lost", None]


@pytest.mark.parametrize(("silent_for", "taken"), [(100, False), (400, True)])
def test_even_without_a_watch_a_dead_machine_does_not_hold_the_job_for_ever(
    engine: Engine, silent_for: float, taken: bool
) -> None:
    held_by(engine, ELSEWHERE, silent_for=silent_for)
    assert (_take(engine, SETTINGS, "job", "mine") is not None) is taken
