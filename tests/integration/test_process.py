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
from tasks.process import _is_full, _take

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


def at_share(engine: Engine, share: str, process: Process) -> int:
    with engine.begin() as connection:
        token = attempts.take(connection, "job", share=share, run_id=share, process=process)
    assert token is not None
    return token


def test_a_machine_that_has_its_shares_leaves_the_others_to_other_machines(engine: Engine) -> None:
    own = this_process()
    at_share(engine, "1/4", ELSEWHERE)
    at_share(engine, "2/4", Process(own.place, own.pid, own.born + 1))
    assert not _is_full(engine, SETTINGS, "job"), "what is elsewhere, or has died here, takes no place"
    first = at_share(engine, "3/4", own)
    assert _is_full(engine, SETTINGS, "job")
    assert not _is_full(engine, SETTINGS, "another job")
    assert not _is_full(engine, SETTINGS, "job", before=first), "of those that began together the first stays"
    assert _is_full(engine, SETTINGS, "job", before=at_share(engine, "4/4", own))
    three = SETTINGS.model_copy(update={"fetch": SETTINGS.fetch.model_copy(update={"shares_at_once": 3})})
    assert not _is_full(engine, three, "job")
