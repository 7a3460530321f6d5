"""What the watch thinks of a run, and that it acts on what lasts and not on what it saw once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from aae.model import Process
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi, Schedule
from aae.operate.processes import is_alive, this_process
from aae.operate.recovery import Watch, _owed, is_overtaken, judge
from aae.settings import RecoverySettings
from aae.storage import attempts
from aae.storage.attempts import Attempt
from aae.storage.engine import reading

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SETTINGS = RecoverySettings(beat_seconds=1, lost_seconds=8, pending_seconds=15, settle_seconds=2)
ELSEWHERE = Process("another machine", 1, 1)


def a_run(state: str, **more: Any) -> FlowRun:
    values: dict[str, Any] = {
        "id": "r1",
        "name": "a run",
        "deployment_id": "d1",
        "state_type": state,
        "state_name": state.title(),
        "message": None,
        "scheduled_for": NOW,
        "started": NOW,
        "ended": None,
        "state_id": "s1",
        "state_since": NOW,
    }
    return FlowRun(**(values | more))


LIVING = Attempt(1, "job", "r1", "here", 1, 1, NOW, None, None, None, 5, NOW, "fetch x for 3 s")
ENDED = replace(LIVING, ended_at=NOW, outcome="ended")


@pytest.mark.parametrize(
    ("state", "tries", "verdict", "after"),
    [
        ("RUNNING", [LIVING], None, 0),
        ("PENDING", [LIVING], None, 0),
        ("CRASHED", [LIVING], "revive", 2),
        ("CANCELLING", [LIVING], "stop", 15),
        ("CANCELLING", [ENDED], "cancelled", 2),
        ("RUNNING", [ENDED], "run again", 2),
        ("CRASHED", [ENDED], "run again", 2),
        ("CRASHED", [], "run again", 2),
        ("PENDING", [], "run again", 15),
        ("RUNNING", [], "run again", 15),
        ("RUNNING", [replace(ENDED, outcome="handed_over")], "run again", 15),
        ("PENDING", [replace(ENDED, ended_at=NOW - timedelta(minutes=1))], "run again", 15),
        ("PENDING", [replace(ENDED, ended_at=NOW + timedelta(seconds=1))], "run again", 2),
    ],
)
def test_the_verdict_follows_from_prefects_state_and_the_last_attempt(
    state: str, tries: list[Attempt], verdict: str | None, after: float
) -> None:
    finding = judge(a_run(state), tries, SETTINGS)
    assert (finding and finding.verdict, finding and finding.after_seconds) == (verdict, after if verdict else None)


def test_the_reason_says_what_the_attempt_was_at() -> None:
    finding = judge(a_run("CRASHED", message="exit code 1."), [ENDED], SETTINGS)
    assert finding is not None
    assert finding.why == "exit code 1; last seen: fetch x for 3 s"


def test_a_process_of_this_machine_is_known_to_live_and_one_of_another_is_not_known() -> None:
    own = this_process()
    assert is_alive(own) is True
    assert is_alive(replace(own, born=own.born + 1)) is False, "the id was given to another since"
    assert is_alive(ELSEWHERE) is None


class Prefect:
    """A server with one run, as far as the watch asks it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.set("RUNNING", "Running")
        self.away = False

    def set(self, kind: str, name: str, message: str = "") -> None:
        number = len(self.history)
        self.state = {"id": f"s{number}", "type": kind, "name": name, "message": message}
        self.state["timestamp"] = datetime.now(UTC).isoformat()
        self.history.append(self.state)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away")
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path.endswith("/flow_runs/filter"):
            wanted = body["flow_runs"].get("state", {}).get("type", {}).get("any_", [self.state["type"]])
            return httpx.Response(200, json=[self.run()] if self.state["type"] in wanted else [])
        if path.endswith("/set_state"):
            self.set(body["state"]["type"], body["state"]["name"], body["state"]["message"])
            return httpx.Response(200, json={})
        if "/flow_run_states/" in path:
            return httpx.Response(200, json=self.history)
        return httpx.Response(200, json=[])

    def run(self) -> dict[str, Any]:
        due = NOW.isoformat()
        return {
            "id": "r1",
            "name": "a run",
            "deployment_id": "d1",
            "state": self.state,
            "expected_start_time": due,
            "start_time": due,
            "auto_scheduled": False,
        }


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def look(engine: Engine, prefect: Prefect, clock: list[float]) -> Callable[[float], None]:
    """Look now, after so many seconds."""
    api = PrefectApi("http://prefect/api", transport=httpx.MockTransport(prefect.answer))
    watch = Watch(engine, api, SETTINGS, "aae", monotonic=lambda: clock[0])

    def after(seconds: float) -> None:
        clock[0] += seconds
        watch.look()

    return after


def begin(engine: Engine, process: Process = ELSEWHERE) -> int:
    with engine.begin() as connection:
        token = attempts.take(connection, "job", run_id="r1", process=process)
    assert token is not None
    return token


def outcome(engine: Engine, token: int) -> str | None:
    with reading(engine) as connection:
        (one,) = [one for one in attempts.of_runs(connection, ["r1"]) if one.id == token]
    return one.outcome


def test_an_attempt_elsewhere_is_lost_when_its_beats_stop_for_long_enough(
    engine: Engine, prefect: Prefect, look: Callable[[float], None]
) -> None:
    token = begin(engine)
    look(0)
    for _ in range(3):
        look(5)
        with engine.begin() as connection:
            assert attempts.beat(connection, token, doing="something")
    look(1)
    look(7.9)
    assert outcome(engine, token) is None
    look(0.2)
    assert outcome(engine, token) == "lost"
    look(1)
    assert prefect.state["name"] == "Running", "it must look so for a while"
    look(2.1)
    assert prefect.state["name"] == "AwaitingRetry"
    assert "something" in prefect.state["message"]


def test_what_nobody_could_see_does_not_count_as_silence(
    engine: Engine, prefect: Prefect, look: Callable[[float], None]
) -> None:
    token = begin(engine)
    look(0)
    prefect.away = True
    with pytest.raises(Exception, match="does not answer"):
        look(60)
    prefect.away = False
    look(1)
    look(7)
    assert outcome(engine, token) is None


def test_a_healthy_run_called_crashed_is_revived_once_it_has_beaten_again(
    engine: Engine, prefect: Prefect, look: Callable[[float], None]
) -> None:
    token = begin(engine)
    prefect.set("CRASHED", "Crashed", "by mistake")
    look(0)
    look(2.5)
    assert prefect.state["name"] == "Crashed", "it has given no sign of life since"
    for _ in range(2):
        with engine.begin() as connection:
            attempts.beat(connection, token, doing="something")
    look(0.5)
    assert prefect.state["name"] == "Running"


def test_of_a_crashed_run_that_is_silent_too_less_silence_is_enough(
    engine: Engine, prefect: Prefect, look: Callable[[float], None]
) -> None:
    token = begin(engine)
    prefect.set("CRASHED", "Crashed", "exit code -9")
    look(0)
    look(3.1)
    assert outcome(engine, token) == "lost"


def test_after_the_last_recovery_the_run_fails_loudly(
    engine: Engine, prefect: Prefect, look: Callable[[float], None]
) -> None:
    for number in range(4):
        token = begin(engine)
        with engine.begin() as connection:
            attempts.end(connection, token, "ended", reason="")
        prefect.set("CRASHED", "Crashed", f"crash {number}")
        look(0)
        look(2.1)
    assert prefect.state["type"] == "FAILED"
    assert "given up" in prefect.state["message"]
    assert [one["name"] for one in prefect.history].count("AwaitingRetry") == 3


def test_a_crash_that_is_reported_twice_counts_once(
    engine: Engine, prefect: Prefect, look: Callable[[float], None]
) -> None:
    token = begin(engine)
    with engine.begin() as connection:
        attempts.end(connection, token, "ended", reason="")
    for _ in range(3):
        prefect.set("CRASHED", "Crashed", "the same crash")
        look(0)
        look(2.1)
    assert "(1 of at most 3 times)" in prefect.state["message"]


def test_a_run_whose_process_ends_before_it_has_an_attempt_is_given_up_too(
    prefect: Prefect, look: Callable[[float], None]
) -> None:
    for number in range(4):
        assert prefect.state["type"] != "FAILED"
        prefect.set("PENDING", "Pending")
        for _ in range(2):  # the worker tells it twice
            prefect.set("CRASHED", "Crashed", f"exit code 2 ({number})")
            look(0)
            look(2.1)
    assert prefect.state["type"] == "FAILED"
    assert "It was run again 3 times and is given up." in prefect.state["message"]


def test_only_one_of_two_watches_leads_and_the_other_takes_over_when_it_falls_silent(
    engine: Engine, prefect: Prefect, clock: list[float]
) -> None:
    api = PrefectApi("http://prefect/api", transport=httpx.MockTransport(prefect.answer))
    with engine.begin() as connection:
        attempts.take(connection, "watch", run_id="another", process=ELSEWHERE)
    watch = Watch(engine, api, SETTINGS, "aae", monotonic=lambda: clock[0])
    assert not watch.look()
    clock[0] += 7
    assert not watch.look()
    clock[0] += 2
    assert watch.look()


def a_deployment(**more: Any) -> Deployment:
    schedule = Schedule(cron="0 * * * *", timezone="UTC", active=True)
    values: dict[str, Any] = {"created": NOW - timedelta(days=1), "paused": False, "schedules": (schedule,)}
    return Deployment(**({"id": "d1", "name": "a/b", "work_pool": "aae"} | values | more))


@pytest.mark.parametrize(
    ("now", "more", "owed"),
    [
        (NOW + timedelta(minutes=5), {}, NOW),
        (NOW + timedelta(minutes=1), {}, NOW - timedelta(hours=1)),
        (NOW + timedelta(minutes=5), {"paused": True}, None),
        (NOW + timedelta(minutes=5), {"created": NOW + timedelta(minutes=3)}, None),
        (NOW + timedelta(minutes=5), {"schedules": ()}, None),
        (NOW + timedelta(minutes=5), {"schedules": (Schedule("0 * * * *", "UTC", active=False),)}, None),
    ],
    ids=["due", "not yet missed", "paused", "newer than that", "no schedule", "switched off"],
)
def test_a_run_is_owed_when_the_schedule_was_due_and_nobody_had_a_reason_not_to_plan_it(
    now: datetime, more: dict[str, Any], owed: datetime | None
) -> None:
    assert [due for due, _ in _owed(a_deployment(**more), now)] == ([] if owed is None else [owed])


SHARED = tuple(Schedule("0 * * * *", "UTC", active=True, parameters={"share": f"{place}/3"}) for place in (1, 2, 3))


def test_each_share_owes_a_run_of_its_own() -> None:
    owed = _owed(a_deployment(schedules=SHARED), NOW + timedelta(minutes=5))
    assert [(due, schedule.share) for due, schedule in owed] == [(NOW, "1/3"), (NOW, "2/3"), (NOW, "3/3")]


class Asked:
    """A server that knows these runs of one deployment, and remembers what was made and skipped."""

    def __init__(self, runs: list[dict[str, Any]], due: str, shares: Sequence[str] = ()) -> None:
        self.runs, self.due, self.shares = runs, due, shares
        self.skipped: list[str] = []
        self.made: list[str] = []
        self.given: list[dict[str, Any]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path.endswith("/deployments/filter"):
            cron = {"schedule": {"cron": self.due, "timezone": "UTC"}, "active": True}
            schedules = [cron | {"parameters": {"share": share}} for share in self.shares] or [cron]
            created = (datetime.now(UTC) - timedelta(days=9)).isoformat()
            one = {
                "id": "d1",
                "name": "b",
                "flow_id": "f",
                "paused": False,
                "created": created,
                "schedules": schedules,
            }
            return httpx.Response(200, json=[one])
        if path.endswith("/flows/filter"):
            return httpx.Response(200, json=[{"id": "f", "name": "a"}])
        if path.endswith("/create_flow_run"):
            self.made.append(body["idempotency_key"])
            self.given.append(body["parameters"])
            return httpx.Response(200, json=planned("made", "Scheduled", datetime.now(UTC)))
        if path.endswith("/set_state"):
            self.skipped.append(path.partition("/flow_runs/")[2].removesuffix("/set_state"))
            return httpx.Response(200, json={})
        wanted = body.get("flow_runs", {})
        states = wanted.get("state", {}).get("type", {}).get("any_")
        since = wanted.get("expected_start_time", {}).get("after_") or ""
        found = [run for run in self.runs if states is None or run["state"]["type"] in states]
        return httpx.Response(200, json=[run for run in found if run["expected_start_time"] >= since])


def planned(name: str, state: str, due: datetime, share: str | None = None) -> dict[str, Any]:
    return {
        "parameters": {} if share is None else {"share": share},
        "id": name,
        "name": name,
        "deployment_id": "d1",
        "state": {"id": f"s-{name}", "type": "SCHEDULED", "name": state, "timestamp": due.isoformat()},
        "expected_start_time": due.isoformat(),
        "auto_scheduled": True,
    }


def one_look(engine: Engine, asked: Asked) -> None:
    api = PrefectApi("http://prefect/api", transport=httpx.MockTransport(asked.answer))
    Watch(engine, api, SETTINGS, "aae").look()


def test_of_late_runs_only_the_newest_stays_and_what_is_to_come_is_left_alone(engine: Engine) -> None:
    now = datetime.now(UTC)
    ages = {"old": ("Late", -180), "older": ("Late", -240), "newest": ("Late", -60), "next": ("Scheduled", 60)}
    runs = [planned(name, state, now + timedelta(minutes=minutes)) for name, (state, minutes) in ages.items()]
    asked = Asked(sorted(runs, key=lambda run: str(run["expected_start_time"])), due="0 0 1 1 *")
    one_look(engine, asked)
    assert sorted(asked.skipped) == ["old", "older"]
    assert not asked.made


def test_a_run_that_nobody_had_planned_is_made_under_a_key_that_makes_it_one(engine: Engine) -> None:
    asked = Asked([], due="0 * * * *")
    one_look(engine, asked)
    one_look(engine, asked)
    assert len(set(asked.made)) == 1
    assert asked.made[0].startswith("missed d1 ")


@pytest.mark.parametrize(
    ("late", "skipped"),
    [
        (["1/2 -120", "2/2 -120", "1/2 -60", "2/2 -60"], ["1/2 -120", "2/2 -120"]),
        (["1/2 -120", "2/2 -120", "1/2 -60"], ["1/2 -120"]),
        # The number of shares was changed in between.
        (["all -120", "1/2 -60", "2/2 -60"], ["all -120"]),
        (["1/2 -120", "2/2 -120", "all -60"], ["1/2 -120", "2/2 -120"]),
        (["3/4 -120", "1/2 -60", "2/2 -60"], ["3/4 -120"]),
        (["1/2 -60", "all -60", "2/2 -60"], []),
    ],
    ids=["each its newest", "one alone", "all to shares", "shares to all", "fewer shares", "changed at that moment"],
)
def test_of_late_runs_the_newest_of_each_share_stays(engine: Engine, late: list[str], skipped: list[str]) -> None:
    now = datetime.now(UTC)
    runs = []
    for name in late:
        share, _, minutes = name.partition(" ")
        due = now + timedelta(minutes=int(minutes))
        runs.append(planned(name, "Late", due, None if share == "all" else share))
    asked = Asked(runs, due="0 0 1 1 *")
    one_look(engine, asked)
    assert asked.skipped == skipped
    api = PrefectApi("http://prefect/api", transport=httpx.MockTransport(asked.answer))
    overtaken = [run.name for run in api.runs_in("aae", {"SCHEDULED"}) if is_overtaken(api, run)]
    assert overtaken == skipped, "the run's own process thinks the same"


def test_of_shares_that_nobody_had_planned_each_is_made_with_its_parameters(engine: Engine) -> None:
    there = planned("there", "Scheduled", datetime.now(UTC), "2/3")
    asked = Asked([there | {"state": there["state"] | {"type": "RUNNING"}}], "* * * * *", ["1/3", "2/3", "3/3"])
    one_look(engine, asked)
    assert asked.given == [{"share": "1/3"}, {"share": "3/3"}]
    assert len(set(asked.made)) == 2


@pytest.mark.parametrize("now", [["1/2", "2/2"], ["1/3", "2/3", "3/3"], []], ids=["to two", "to three", "to none"])
def test_shares_that_went_when_their_number_was_changed_are_made_once_and_as_they_were(
    engine: Engine, now: list[str]
) -> None:
    there = planned("there", "Scheduled", datetime.now(UTC), "2/4")
    asked = Asked([there | {"state": there["state"] | {"type": "RUNNING"}}], "* * * * *", now)
    one_look(engine, asked)
    one_look(engine, asked)
    made = {given["share"] for given in asked.given}
    assert made == {"1/4", "3/4", "4/4"}
    assert len(set(asked.made)) == 3, "the key makes it one run of each"


def test_when_the_setting_is_changed_what_ran_before_is_not_made_again_in_shares(engine: Engine) -> None:
    whole = planned("whole", "Scheduled", datetime.now(UTC))
    asked = Asked([whole | {"state": whole["state"] | {"type": "COMPLETED"}}], "* * * * *", ["1/2", "2/2"])
    one_look(engine, asked)
    assert not asked.made
