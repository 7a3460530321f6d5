"""Attempts: one at a time per job, alive while they beat, and a fence that nobody gets through who lost his job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from aae.errors import Superseded
from aae.model import Process
from aae.storage import attempts
from aae.storage.attempts import Attempt, Outcome
from aae.storage.engine import database_clock, reading
from aae.storage.transact import transact, transact_unfenced

HERE = Process("here", 11, 1_000)
THERE = Process("there", 22, 2_000)


def take(
    engine: Engine, job: str = "job", *, share: str | None = None, run_id: str = "run", process: Process = HERE
) -> int | None:
    with engine.begin() as connection:
        return attempts.take(connection, job, share=share, run_id=run_id, process=process)


def taken(engine: Engine, job: str = "job", **more: Any) -> int:
    token = take(engine, job, **more)
    assert token is not None
    return token


def end(engine: Engine, token: int, outcome: Outcome = "ended", **more: Any) -> bool:
    with engine.begin() as connection:
        return attempts.end(connection, token, outcome, **more)


def beat(engine: Engine, token: int, doing: str = "working") -> bool:
    with engine.begin() as connection:
        return attempts.beat(connection, token, doing=doing)


def holder(engine: Engine, job: str = "job", share: str | None = None) -> Attempt | None:
    with reading(engine) as connection:
        return attempts.holder(connection, job, share)


def test_shares_of_a_job_are_held_beside_each_other_and_beside_the_whole_but_each_by_one(engine: Engine) -> None:
    tokens = {share: taken(engine, share=share) for share in ("1/2", "2/2", None)}
    assert len(set(tokens.values())) == 3
    assert [take(engine, share=share, run_id="another") for share in tokens] == [None, None, None]
    assert [take(engine, share=share) for share in tokens] == list(tokens.values()), "asked again it is the same"
    assert end(engine, tokens["1/2"])
    assert holder(engine, share="1/2") is None
    held = holder(engine, share="2/2")
    assert held is not None
    assert (held.id, held.job) == (tokens["2/2"], "job"), "in numbers and lists it is the job's"
    assert taken(engine, share="1/2", run_id="another") not in tokens.values()


def test_an_attempt_is_told_whole(engine: Engine) -> None:
    with reading(engine) as connection:
        before = database_clock(connection)
    token = taken(engine)
    held = holder(engine)
    assert held is not None
    assert (held.id, held.job, held.run_id, held.process) == (token, "job", "run", HERE)
    assert (held.ended_at, held.outcome, held.reason, held.beats) == (None, None, None, 0)
    assert before <= held.started_at == held.beat_at
    assert beat(engine, token, "x" * 400)
    beaten = holder(engine)
    assert beaten is not None
    assert (beaten.beats, len(beaten.doing)) == (1, 300)
    assert beaten.beat_at > held.beat_at


def test_a_job_is_held_by_one_attempt_until_that_has_ended(engine: Engine) -> None:
    token = taken(engine)
    assert take(engine, run_id="other run") is None
    assert take(engine, process=THERE) is None, "the same run, but another process"
    other = taken(engine, "other job", process=THERE)
    assert end(engine, token, reason="y" * 600)
    assert not end(engine, token, "lost"), "it is over already"
    again = taken(engine, process=THERE)
    with reading(engine) as connection:
        assert [one.id for one in attempts.live(connection)] == [other, again]
        first, second, third = attempts.of_runs(connection, ["run"])
        assert attempts.of_runs(connection, ["no such run"]) == []
    assert [first.id, second.id, third.id] == [token, other, again]
    assert (first.outcome, len(first.reason or ""), second.outcome) == ("ended", 500, None)
    assert first.ended_at is not None
    assert first.ended_at >= first.started_at


def test_a_process_that_did_not_hear_the_answer_gets_the_same_attempt_again(engine: Engine) -> None:
    assert taken(engine) == taken(engine)
    reborn = Process(HERE.place, HERE.pid, HERE.born + 1)
    assert take(engine, process=reborn) is None, "another process of the same number"
    with reading(engine) as connection:
        assert len(attempts.of_runs(connection, ["run"])) == 1


def test_of_many_who_want_a_job_at_once_one_gets_it(engine: Engine) -> None:
    start = threading.Barrier(8)

    def want(number: int) -> int | None:
        start.wait(20)
        return transact_unfenced(engine, attempts.take, "job", run_id=f"run-{number}", process=Process("x", number, 1))

    for _ in range(4):
        with ThreadPoolExecutor(8) as pool:
            (token,) = [token for token in pool.map(want, range(8)) if token is not None]
        held = holder(engine)
        assert held is not None
        assert held.id == token
        assert end(engine, token)
    assert holder(engine) is None


def test_an_attempt_that_gave_a_sign_of_life_since_is_not_declared_over(engine: Engine) -> None:
    token = taken(engine)
    beat(engine, token)
    assert not end(engine, token, "lost", seen_beats=0)
    assert beat(engine, token), "it goes on"
    assert end(engine, token, "lost", seen_beats=2)
    assert not beat(engine, token), "it is told that it is over"


def test_that_a_run_was_not_finished_with_an_attempt_that_ended_is_said_once(engine: Engine) -> None:
    ended = taken(engine)
    assert end(engine, ended)
    lost = taken(engine)
    assert end(engine, lost, "lost", reason="silent")
    with engine.begin() as connection:
        assert attempts.reclassify(connection, ended, "crashed", reason="its run was not finished")
        assert not attempts.reclassify(connection, ended, "crashed", reason="said before")
        assert not attempts.reclassify(connection, lost, "crashed", reason="it did not end by itself")
        told = [(one.outcome, one.reason) for one in attempts.of_runs(connection, ["run"])]
    assert told == [("crashed", "its run was not finished"), ("lost", "silent")]


@pytest.fixture
def holding() -> Iterator[Callable[[int], None]]:
    """Make this process hold an attempt, for the time of the test."""
    yield attempts.hold
    attempts.hold(None)


def nothing(connection: Connection) -> str:
    return "written"


def test_the_fence_lets_through_who_holds_the_job_and_nobody_else(
    engine: Engine, holding: Callable[[int], None]
) -> None:
    assert transact(engine, nothing) == "written", "commands and tests hold no attempt"
    token = taken(engine)
    holding(token)
    assert transact(engine, nothing) == "written"
    assert end(engine, token, "lost")
    with pytest.raises(Superseded):
        transact(engine, nothing)
    taken(engine)
    with pytest.raises(Superseded):
        transact(engine, nothing)
    assert transact_unfenced(engine, nothing) == "written"


def test_whoever_lost_his_job_is_asked_to_leave(engine: Engine) -> None:
    left: list[str] = []
    token = taken(engine)
    attempts.hold(token, leave=lambda: left.append("gone"))
    try:
        transact(engine, nothing)
        assert left == []
        end(engine, token)
        with pytest.raises(Superseded):
            transact(engine, nothing)
    finally:
        attempts.hold(None)
    assert left == ["gone"]


def test_declaring_an_attempt_over_waits_for_its_transactions(engine: Engine, holding: Callable[[int], None]) -> None:
    token = taken(engine)
    holding(token)
    with ThreadPoolExecutor(1) as pool:

        def work(connection: Connection) -> Future[bool]:
            ending = pool.submit(end, engine, token, "lost")
            time.sleep(0.3)
            assert not ending.done()
            return ending

        assert transact(engine, work).result()
    with pytest.raises(Superseded):
        transact(engine, nothing)


# SQLite has one writer at a time, so that there nobody can say anything while a transaction lasts.
mysql_only = pytest.mark.parametrize("engine", [pytest.param("mysql", marks=pytest.mark.mysql)], indirect=True)


@mysql_only
def test_signs_of_life_do_not_wait_for_a_transaction(engine: Engine, holding: Callable[[int], None]) -> None:
    token = taken(engine)
    holding(token)

    def work(connection: Connection) -> None:
        assert beat(engine, token)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(transact, engine, nothing).result(5) == "written", "nor do its other transactions"

    transact(engine, work)


@mysql_only
def test_signs_of_life_that_come_while_its_end_waits_for_a_transaction_save_an_attempt(
    engine: Engine, holding: Callable[[int], None]
) -> None:
    token = taken(engine)
    holding(token)
    with ThreadPoolExecutor(1) as pool:

        def work(connection: Connection) -> Future[bool]:
            ending = pool.submit(end, engine, token, "lost", seen_beats=0)
            time.sleep(0.3)
            assert not ending.done()
            assert beat(engine, token)
            return ending

        assert not transact(engine, work).result()
    assert transact(engine, nothing) == "written"
