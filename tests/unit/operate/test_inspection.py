"""The four questions: what the server and the attempts say becomes one answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from aae.model import Process
from aae.operate import inspection
from aae.operate.prefect_api import PrefectApi
from aae.storage import attempts
from tests.unit.operate.prefect_fake import Server, serving

HERE = Process("a machine", 4711, 1)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def api(server: Server) -> Iterator[PrefectApi]:
    with serving(server) as url, PrefectApi(url) as found:
        yield found


def attempt(engine: Engine, run_id: str, outcome: attempts.Outcome | None, doing: str = "") -> None:
    with engine.begin() as connection:
        token = attempts.take(connection, "fetch-ad-data", run_id=run_id, process=HERE)
        assert token is not None
        if doing:
            attempts.beat(connection, token, doing=doing)
        if outcome:
            attempts.end(connection, token, outcome)


def test_a_running_run_is_shown_with_what_its_process_is_doing_and_which_attempt_it_is(
    server: Server, api: PrefectApi, engine: Engine
) -> None:
    run = server.run("RUNNING", start_time=-3)
    attempt(engine, run["id"], "lost")
    attempt(engine, run["id"], None, doing="fetch meta:1")
    (found,) = inspection.active(api, engine, "aae")
    assert (found.job, found.attempt, found.place, found.pid) == ("fetch-ad-data/six-hourly", 2, "a machine", 4711)
    assert found.doing == "fetch meta:1"
    assert found.silent_seconds is not None
    assert found.silent_seconds < 60
    assert found.since is not None
    assert timedelta(minutes=2) < datetime.now(UTC) - found.since < timedelta(minutes=10)


def test_a_run_whose_attempt_has_ended_has_no_process(server: Server, api: PrefectApi, engine: Engine) -> None:
    run = server.run("PENDING", "Submitting")
    attempt(engine, run["id"], "crashed", doing="something")
    (found,) = inspection.active(api, engine, "aae")
    assert (found.pid, found.doing, found.silent_seconds) == (None, None, None)


def test_without_the_database_the_server_still_answers(server: Server, api: PrefectApi) -> None:
    server.run("RUNNING", start_time=-1, run_count=3)
    (found,) = inspection.active(api, None, "aae")
    assert (found.state, found.attempt, found.doing) == ("Running", 3, None)
    assert inspection.stats(api, None, "aae", now=datetime.now(UTC)).jobs[0].lost is None


def test_what_comes_is_in_order_and_says_why_it_waits(server: Server, api: PrefectApi) -> None:
    server.run("SCHEDULED", expected_start_time=60)
    server.run("SCHEDULED", "AwaitingTurn", expected_start_time=1, message="Another run is at work.")
    server.run("SCHEDULED", "Late", expected_start_time=-5, auto_scheduled=False, deployment_id="d2")
    server.run("COMPLETED", expected_start_time=-9)
    found = inspection.scheduled(api, "aae", now=datetime.now(UTC))
    assert [one.state for one in found] == ["Late", "AwaitingTurn", "Scheduled"]
    assert [one.job for one in found] == ["report/daily", "fetch-ad-data/six-hourly", "fetch-ad-data/six-hourly"]
    assert [one.by_schedule for one in found] == [False, True, True]
    assert [round(one.seconds / 60) for one in found] == [-5, 1, 60]
    assert found[1].why == "Another run is at work."


def test_a_job_is_registered_with_its_schedule_in_words_and_what_it_takes(server: Server, api: PrefectApi) -> None:
    server.run("SCHEDULED", expected_start_time=30)
    found = {one.job: one for one in inspection.registered(api, "aae")}
    job = found["fetch-ad-data/six-hourly"]
    assert job.schedules == (("at 00:00, 06:00, 12:00 and 18:00 UTC", "0 */6 * * * UTC"),)
    assert job.entrypoint == "flows/data_fetch.py:fetch_ad_data"
    types = {name: one["type"] for name, one in job.parameters.items()}
    assert types == {
        "accounts": "list of integer",
        "since": "date",
        "name": "string",
        "how": "low | high",
        "dry_run": "boolean",
    }
    assert job.next_run is not None
    assert found["report/daily"].next_run is None


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"interval": 45.0}, "every 45 seconds"),
        ({"rrule": "FREQ=DAILY"}, "by a rule"),
        ({"cron": "@daily", "timezone": "UTC"}, "by cron @daily"),
        (
            {"cron": "0 9 1 * 5", "timezone": "UTC", "day_or": False},
            "at 09:00 UTC on day 1 of the month if that is a Friday",
        ),
    ],
)
def test_every_kind_of_schedule_has_words(
    server: Server, api: PrefectApi, schedule: dict[str, object], words: str
) -> None:
    server.deployments[0]["schedules"] = [{"schedule": schedule, "active": False}]
    job = next(one for one in inspection.registered(api, "aae") if one.job.startswith("fetch"))
    assert job.schedules[0][0] == f"{words} (switched off)"


def test_stats_count_each_window_on_its_own(server: Server, api: PrefectApi, engine: Engine) -> None:
    day = 24 * 60
    for minutes in (1, 2, 3, 4):
        server.run("COMPLETED", expected_start_time=-62, start_time=-60, end_time=-60 + minutes)
    server.run("FAILED", expected_start_time=-60, start_time=-60, end_time=-50)
    server.run("COMPLETED", expected_start_time=-3 * day, start_time=-3 * day, end_time=-3 * day + 20)
    server.run("COMPLETED", expected_start_time=-9 * day, start_time=-9 * day, end_time=-9 * day + 20)
    server.run("CANCELLED", "Skipped", expected_start_time=-60, start_time=-60, end_time=-60)
    server.run("RUNNING", expected_start_time=-1, start_time=-1)
    server.run("SCHEDULED", "Late", expected_start_time=-1)
    attempt(engine, "r1", "lost")
    attempt(engine, "r1", "handed_over")
    attempt(engine, "r2", "ended")
    found = inspection.stats(api, engine, "aae", now=datetime.now(UTC))
    assert (found.workers_online, found.workers_offline) == (("w1",), ("w0",))
    assert (found.at_work, found.waiting, found.late, found.all_counted) == (1, 1, 1, True)
    day_of, week_of = [one for one in found.jobs if one.job == "fetch-ad-data/six-hourly"]
    assert (day_of.runs, day_of.ok, day_of.failed, day_of.skipped, day_of.running) == (7, 4, 1, 1, 1)
    assert (week_of.runs, week_of.ok) == (8, 5)
    assert (day_of.attempts, day_of.lost) == (3, 1)
    assert day_of.run_seconds_median == pytest.approx(180, abs=1)
    assert day_of.run_seconds_p95 == pytest.approx(600, abs=1)
    assert week_of.run_seconds_p95 == pytest.approx(1200, abs=1)
    assert day_of.queue_seconds_median is not None
    idle = next(one for one in found.jobs if one.job == "report/daily")
    assert (idle.runs, idle.run_seconds_median, idle.queue_seconds_median) == (0, None, None)


def test_more_runs_than_are_counted_are_said_so(
    server: Server, api: PrefectApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "MOST_RUNS", 250)
    for _ in range(260):
        server.run("COMPLETED", expected_start_time=-5, start_time=-5, end_time=-4)
    found = inspection.stats(api, None, "aae", now=datetime.now(UTC))
    assert not found.all_counted
    assert sum(one.runs for one in found.jobs if one.window == "7d") == 250
