"""Each cause of "it does not run" is found, told in words, and comes with what helps.

Here against a server that is only its API's answers; tests/integration/test_doctor.py breaks a real one.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import update

from aae.errors import AaeError, Throttled, UserError
from aae.model import Process
from aae.operate.doctor import Check, Group, ago, basics, examine
from aae.operate.doctor.failing import KINDS, kind_of
from aae.operate.prefect_api import PrefectApi
from aae.operate.redis_server import dial
from aae.settings import EmailSettings, FetchSettings, Settings
from aae.storage import attempts
from aae.storage import engine as database
from aae.storage.engine import database_clock
from aae.storage.schema import ad_accounts, attempt_beats, users
from aae.vault import Vault

NOW = datetime(2026, 11, 22, 13, 30, tzinfo=UTC)
JOB = "detect-anomalies/hourly"
FILE = """\
deployments:
- name: hourly
  entrypoint: flows/anomaly_detection.py:detect_anomalies
  schedules: [{slug: hourly, cron: "0 * * * *", timezone: UTC, active: true}]
  work_pool: {name: aae}
"""
POOL = {
    "name": "aae",
    "type": "process",
    "is_paused": False,
    "concurrency_limit": None,
    "base_job_template": {"variables": {"properties": {"command": {"default": "python -m tasks.launch"}}}},
}
MINUTE = timedelta(minutes=1)


class Run(NamedTuple):
    state: str
    at: datetime
    message: str = "because"
    name: str = ""
    auto: bool = True
    share: str | None = None

    def json(self) -> dict[str, Any]:
        started = None if self.state in {"SCHEDULED", "PENDING"} else self.at.isoformat()
        state = {"type": self.state, "name": self.name or self.state.title(), "message": self.message}
        return {
            "id": "r1",
            "name": "brave-fox",
            "state": {**state, "timestamp": self.at.isoformat()},
            "expected_start_time": self.at.isoformat(),
            "start_time": started,
            "end_time": started,
            "auto_scheduled": self.auto,
            "parameters": {"share": self.share} if self.share else {},
        }


def alert_answered(status: int) -> dict[str, Any]:
    """What Prefect records when it has called a webhook, whatever that answered."""
    block = {
        "prefect.resource.id": "b",
        "prefect.resource.role": "block",
        "prefect.resource.name": "aae-alerts-webhook",
    }
    alert = {"prefect.resource.id": "prefect.event.1", "prefect.resource.role": "triggering-event"}
    return {
        "event": "prefect.automation.action.executed",
        "occurred": (NOW - 10 * MINUTE).isoformat(),
        "related": [alert, block],
        "payload": {"status_code": status},
    }


@dataclass
class Server:
    """A Prefect server as its API shows it; healthy unless a test says otherwise."""

    pool: dict[str, Any] | None = field(default_factory=lambda: dict(POOL))
    other_pools: tuple[str, ...] = ()
    worker_seen: timedelta = timedelta(seconds=5)
    worker_status: str = "ONLINE"
    worker_in: str = "aae"
    queue: dict[str, Any] = field(default_factory=dict)
    deployed: dict[str, Any] | None = field(default_factory=dict)
    schedule: dict[str, Any] | None = field(default_factory=dict)
    more_schedules: tuple[str, ...] = ()
    left_behind: bool = False
    runs: Sequence[Run] = (Run("COMPLETED", NOW - 29 * MINUTE),)
    planned: Sequence[Run] = (Run("SCHEDULED", NOW + 30 * MINUTE),)
    pending: Sequence[Run] = ()
    block: str | None = "redis://127.0.0.1:1/1"
    alerts_answered: Sequence[int] = ()  # the newest first
    clock: datetime | None = None
    answer_with: httpx.Response | None = None
    reachable: bool = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.reachable:
            raise httpx.ConnectError("refused")
        if self.answer_with is not None:
            return self.answer_with
        path = request.url.path.removeprefix("/api/")
        found = self.answer(path, json.loads(request.content or b"null"))
        headers = {"Date": format_datetime(self.clock, usegmt=True)} if self.clock else {}
        return httpx.Response(404 if found is None else 200, json=found, headers=headers)

    def answer(self, path: str, body: Any) -> Any:  # noqa: C901
        match path.split("/"):
            case ["health"]:
                return True
            case ["admin", "version"]:
                return "3.8.8"
            case ["work_pools", "filter"]:
                return [{**POOL, "name": name} for name in ("aae", *self.other_pools)]
            case ["work_pools", _]:
                return self.pool
            case ["work_pools", pool, "workers", "filter"]:
                seen = (NOW - self.worker_seen).isoformat()
                one = {"name": "w1", "status": self.worker_status, "last_heartbeat_time": seen}
                return [one] if pool == self.worker_in else []
            case ["work_pools", _, "queues", "filter"]:
                return [{"name": "default", "is_paused": False, "last_polled": NOW.isoformat(), **self.queue}]
            case ["deployments", "name", *_]:
                return None if self.deployed is None else self.deployment()
            case ["deployments", "filter"]:
                gone = {**self.deployment(), "flow_id": "f", "name": "gone", "tags": ["aae"]}
                return [gone] if self.left_behind else []
            case ["flows", "filter"]:
                return [{"id": "f", "name": "old-job"}]
            case ["block_types", *_]:
                return None if self.block is None else {"data": {"connection_url": self.block}}
            case ["flow_runs", "filter"]:
                return self.flow_runs(body)
            case ["events", "filter"]:
                return {"events": [alert_answered(status) for status in self.alerts_answered]}
            case ["block_documents", "filter"]:
                return [{"name": "aae-alerts-webhook"}]
        raise AssertionError(path)

    def flow_runs(self, body: Any) -> list[dict[str, Any]]:
        if "work_pools" in body:
            return [one.json() for one in self.pending]
        if body["flow_runs"]["state"]["type"]["any_"] == ["SCHEDULED"]:
            return [one.json() for one in self.planned]
        return [one.json() for one in self.runs]

    def deployment(self) -> dict[str, Any]:
        def schedule(cron: str = "0 * * * *", **more: Any) -> dict[str, Any]:
            plan = {"cron": cron, "timezone": more.pop("timezone", "UTC")}
            return {"schedule": plan, "active": True, "slug": "hourly", **more}

        own = [] if self.schedule is None else [schedule(**self.schedule)]
        return {
            "id": "d",
            "created": (NOW - timedelta(days=9)).isoformat(),
            "work_pool_name": "aae",
            "work_queue_name": "default",
            "paused": False,
            "entrypoint": "flows/anomaly_detection.py:detect_anomalies",
            "schedules": [*own, *(schedule(cron, slug=None) for cron in self.more_schedules)],
            **(self.deployed or {}),
        }


Doctor = Callable[..., dict[str, Check]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "flows").mkdir(parents=True)
    (folder / "prefect.yaml").write_text(FILE)
    (folder / "flows" / "anomaly_detection.py").write_text("def detect_anomalies(): ...\n")
    return folder


@pytest.fixture
def settings(tmp_path: Path, _sqlite_template: Path) -> Settings:
    made = Settings(_env_file=None, state_dir=tmp_path / "state", database_url="", redis_url="redis://127.0.0.1:1/0")
    made.state_dir.mkdir()
    shutil.copy(_sqlite_template, made.state_dir / "aae.db")
    engine = database.connect(made.resolved_database_url)
    with engine.begin() as connection:
        attempts.take(connection, "watch", run_id="watch-1", process=Process("here", 1, 1))
    engine.dispose()
    return made


@pytest.fixture
def examined(settings: Settings, project: Path) -> Doctor:
    """What the doctor says, by name; findings win where one name has several checks."""

    def doctor(server: Server | None = None, *, of: Settings = settings, only: str | None = None) -> dict[str, Check]:
        api = PrefectApi("http://prefect.test/api", transport=httpx.MockTransport(server)) if server else None
        checks = list(examine(of, api, project, "aae", clock=lambda: NOW, only=only))
        return {check.name: check for check in sorted(checks, key=lambda check: not check.ok)}

    return doctor


def bad(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.ok}


# Nobody answers at the addresses of the cache and the results in these tests.
ALWAYS = {"cache", "result storage"}


def test_a_healthy_server_has_no_findings(examined: Doctor) -> None:
    found = examined(Server())
    assert bad(found) == ALWAYS
    assert found[f"{JOB} next run"].detail == "2026-11-22 14:00 UTC"
    assert {check.group for check in found.values()} == set(Group)
    assert all(check.remedy is None for check in found.values() if check.ok)


PASSED = [Run("SCHEDULED", NOW - timedelta(hours=hours)) for hours in (3, 2)]


CAUSES: list[tuple[Server, str, str, str]] = [
    (Server(reachable=False), "Prefect API", "does not answer", "prefect server start"),
    (Server(answer_with=httpx.Response(401)), "Prefect API", "does not let us in", "PREFECT_API_AUTH_STRING="),
    (Server(answer_with=httpx.Response(200, text="<html>")), "Prefect API", "not Prefect's", "PREFECT_API_URL="),
    (Server(answer_with=httpx.Response(404)), "Prefect API", "knows nothing", "PREFECT_API_URL="),
    (Server(pool=None), "work pool", "no work pool", "aae deploy"),
    (Server(pool={**POOL, "is_paused": True}), "work pool", "paused", "aae resume"),
    (Server(pool={**POOL, "type": "docker"}), "work pool", "type 'docker'", "work-pool delete aae && aae deploy"),
    (Server(pool={**POOL, "base_job_template": {}}), "work pool", "Prefect's own command", "aae deploy"),
    (Server(pool={**POOL, "concurrency_limit": 0}), "work pool", "limit of 0", "clear-concurrency-limit aae"),
    (Server(worker_in="nowhere"), "worker", "none has ever been seen", "aae worker"),
    (Server(worker_in="other", other_pools=("other",)), "worker", r"w1 \(pool 'other'\)", "aae worker"),
    (Server(worker_status="OFFLINE", worker_seen=83 * MINUTE), "worker", "last one was seen 83 min", "aae worker"),
    (Server(worker_seen=5 * MINUTE), "worker", "still believes that w1 is online", "aae worker"),
    (
        Server(alerts_answered=(503, 200)),
        "alerts",
        "aae-alerts-webhook, .*, did not arrive: it answered 503",
        "--test-alerts",
    ),
    (Server(queue={"is_paused": True}), "queue default", "paused", "work-queue resume default --pool aae"),
    (Server(queue={"concurrency_limit": 0}), "queue default", "limit of 0", "clear-concurrency-limit default"),
    (Server(queue={"last_polled": None}), "queue default", "nobody ever did", "--work-queue default"),
    (Server(deployed=None), f"{JOB} deployment", "not deployed", "aae deploy"),
    (Server(deployed={"paused": True}), f"{JOB} deployment", "paused", "d/resume_deployment"),
    (Server(deployed={"work_pool_name": "other"}), f"{JOB} deployment", "pool 'other', not 'aae'", "aae deploy"),
    (
        Server(deployed={"job_variables": {"command": "python -m prefect.engine"}}),
        f"{JOB} deployment",
        "goes around",
        "aae deploy",
    ),
    (
        Server(deployed={"pull_steps": [{"a.set_working_directory": {"directory": "/no/where"}}]}),
        f"{JOB} deployment",
        "/no/where, which is not there",
        "AAE_PROJECT_DIR=",
    ),
    (
        Server(deployed={"pull_steps": [{"a.set_working_directory": {"directory": "{{ $AAE_PROJECT_DIR }}"}}]}),
        f"{JOB} deployment",
        "is not set here",
        "AAE_PROJECT_DIR=",
    ),
    (Server(planned=()), f"{JOB} next run", "scheduler does not work", "log"),
    (Server(planned=PASSED[1:]), f"{JOB} next run", "since 2026-11-22 11:30 UTC: no worker takes it", "worker"),
    (Server(planned=PASSED), f"{JOB} next run", "2 runs have piled up since 2026-11-22 10:30", "worker"),
    (Server(pending=[Run("PENDING", NOW - 9 * MINUTE)]), "pending", "brave-fox is stuck", "aae watch"),
    (Server(block=None), "result storage", "no block redis-database/aae-results", "aae deploy"),
    (Server(), "result storage", "No Redis answers at 127.0.0.1:1", "aae deploy"),
    (Server(runs=[Run("FAILED", NOW - 9 * MINUTE)]), f"{JOB} runs", "once, 9 min ago.*because", "logs r1"),
    (Server(runs=[Run("COMPLETED", NOW - timedelta(hours=5))]), f"{JOB} runs", "overdue", "deployment run"),
    (Server(runs=()), f"{JOB} runs", "never run", f"prefect deployment run {JOB}"),
    (Server(schedule={"active": False}), f"{JOB} schedule", "inactive: it was paused", "aae deploy"),
    (Server(schedule={"cron": "5 * * * *"}), f"{JOB} schedule", r"says 0 \* .* server has 5 \*", "aae deploy"),
    (Server(schedule={"timezone": "Asia/Tokyo"}), f"{JOB} schedule", "in UTC.*in Asia/Tokyo", "aae deploy"),
    (Server(schedule={"parameters": {"users": [1]}}), f"{JOB} schedule", "parameters.*: users", "aae deploy"),
    (Server(schedule=None), f"{JOB} schedule", "has none", "aae deploy"),
    (Server(more_schedules=("9 * * * *",)), f"{JOB} schedule", r"also runs at 9 \*", "aae deploy"),
    (Server(deployed={"entrypoint": "flows/old.py:f"}), f"{JOB} schedule", "server runs flows/old.py:f", "deploy"),
    (Server(deployed={"parameters": {"dry_run": True}}), f"{JOB} schedule", "parameters.*: dry_run", "aae deploy"),
    (
        Server(deployed={"pull_steps": [{"a.set_working_directory": {"directory": "/tmp"}}]}),
        f"{JOB} schedule",
        "another checkout: /tmp, not",
        "aae deploy",
    ),
    (
        Server(planned=[Run("SCHEDULED", NOW + 7 * MINUTE), Run("SCHEDULED", NOW + 30 * MINUTE)]),
        f"{JOB} planned",
        "1 run is still planned by an older schedule, the next at 2026-11-22 13:37",
        "aae deploy",
    ),
    (Server(left_behind=True), "left behind", "old-job/gone is no longer in prefect.yaml", "deployment delete"),
]


@pytest.mark.parametrize(("server", "name", "detail", "remedy"), CAUSES)
def test_a_cause_is_found_and_comes_with_a_remedy(
    examined: Doctor, server: Server, name: str, detail: str, remedy: str
) -> None:
    check = examined(server)[name]
    assert not check.ok
    assert re.search(detail, check.detail), check.detail
    assert check.remedy is not None
    assert remedy in check.remedy


def test_every_command_of_prefects_that_helps_is_one_that_prefect_knows(examined: Doctor) -> None:
    from prefect.cli._app import _app

    remedies = {str(examined(server)[name].remedy) for server, name, _, _ in CAUSES}
    remedies |= {kind.remedy.format(run="r1", job=JOB) for kind in KINDS}
    parts = [part.strip() for remedy in remedies for part in re.split(r"&&|, |; |`", remedy)]
    commands = sorted({part for part in parts if part.startswith("prefect ")})
    assert len(commands) > 8
    for command in commands:
        # The words around a command are not its own; options before the command are read elsewhere.
        own = re.sub(r" (says|on the) .*|--no-prompt ", "", command).replace("r1", str(UUID(int=1)))
        _app.parse_args(own.split()[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    "server",
    [
        Server(runs=(), planned=(), deployed={"created": (NOW - timedelta(seconds=30)).isoformat()}),
        Server(runs=[Run("RUNNING", NOW - timedelta(hours=3))]),
        Server(planned=[Run("SCHEDULED", NOW - 30 * MINUTE, name="AwaitingTurn")]),
        Server(planned=[Run("SCHEDULED", NOW + 7 * MINUTE, auto=False)]),
        Server(pending=[Run("PENDING", NOW - MINUTE)]),
        Server(runs=[Run("CANCELLED", NOW - MINUTE, name="Skipped"), Run("COMPLETED", NOW - 29 * MINUTE)]),
    ],
    ids=["deployed just now", "still running", "awaits its turn", "asked for by a person", "just taken", "skipped"],
)
def test_what_only_takes_its_time_is_no_finding(examined: Doctor, server: Server) -> None:
    assert bad(examined(server)) == ALWAYS


def test_several_causes_at_once_are_all_told(settings: Settings, project: Path) -> None:
    server = Server(
        pool={**POOL, "is_paused": True, "concurrency_limit": 0, "base_job_template": None},
        queue={"is_paused": True, "concurrency_limit": 0, "last_polled": None},
        deployed={"paused": True, "job_variables": {"command": "x"}},
    )
    api = PrefectApi("http://prefect.test/api", transport=httpx.MockTransport(server))
    told = [one.name for one in examine(settings, api, project, "aae", clock=lambda: NOW) if not one.ok]
    counted = {name: told.count(name) for name in ("work pool", "queue default", f"{JOB} deployment")}
    assert list(counted.values()) == [3, 3, 2]


def test_what_a_failed_run_says_is_repeated_without_secrets(examined: Doctor) -> None:
    said = "GET https://graph/x?access_token=EAABsbCS1iHgBO0ZB3ZC4d5e6f failed"
    check = examined(Server(runs=[Run("FAILED", NOW - MINUTE, said)]))[f"{JOB} runs"]
    assert "access_token=*** failed" in check.detail


FETCH = "fetch-ad-data/six-hourly"


@pytest.fixture
def fetching(project: Path) -> Path:
    """The project's only job is the fetch, which can be dealt out."""
    text = FILE.replace("flows/anomaly_detection.py:detect_anomalies", "flows/data_fetch.py:fetch_ad_data")
    (project / "prefect.yaml").write_text(text.replace("hourly", "six-hourly"))
    (project / "flows" / "data_fetch.py").write_text("def fetch_ad_data(share=None): ...\n")
    return project


def in_shares(number: int) -> dict[str, Any]:
    """What the server has of the fetch, in so many shares."""
    plan = {"schedule": {"cron": "0 * * * *", "timezone": "UTC"}, "active": True}
    schedules: list[dict[str, Any]] = [plan | {"slug": "six-hourly"}]
    if number > 1:
        slugs = {f"{place}/{number}": f"six-hourly-{place}-of-{number}" for place in range(1, number + 1)}
        schedules = [plan | {"slug": slug, "parameters": {"share": share}} for share, slug in slugs.items()]
    return {"entrypoint": "flows/data_fetch.py:fetch_ad_data", "schedules": schedules}


@pytest.mark.parametrize(
    ("asked", "there", "said"),
    [
        (1, 1, None),
        (3, 3, None),
        (3, 1, "AAE_FETCH__SHARES asks for 3 shares here, the server has schedules for no shares."),
        (1, 2, "AAE_FETCH__SHARES asks for no shares here, the server has schedules for 2 shares."),
        (2, 3, "AAE_FETCH__SHARES asks for 2 shares here, the server has schedules for 3 shares."),
    ],
)
def test_the_schedules_of_shares_are_as_declared_or_it_is_told(
    examined: Doctor, settings: Settings, fetching: Path, asked: int, there: int, said: str | None
) -> None:
    assert fetching.is_dir()
    of = settings.model_copy(update={"fetch": settings.fetch.model_copy(update={"shares": asked})})
    check = examined(Server(deployed=in_shares(there)), of=of)[f"{FETCH} schedule"]
    assert (check.detail if not check.ok else None) == said
    assert said or check.detail == "0 * * * * (UTC)" + (f", {asked} shares" if asked > 1 else "")


def test_a_share_that_fails_each_time_is_not_hidden_by_the_others(
    examined: Doctor, settings: Settings, fetching: Path
) -> None:
    assert fetching.is_dir()
    of = settings.model_copy(update={"fetch": settings.fetch.model_copy(update={"shares": 2})})
    at = [NOW - timedelta(hours=each, minutes=29) for each in (0, 0, 1, 1)]
    states = ("COMPLETED", "FAILED", "COMPLETED", "FAILED")
    runs = [
        Run(state, moment, share=share) for state, moment, share in zip(states, at, ("1/2", "2/2") * 2, strict=True)
    ]
    checks = examined(Server(deployed=in_shares(2), runs=runs), of=of)
    assert checks[f"{FETCH} runs of 1/2"].ok
    assert checks[f"{FETCH} runs of 2/2"].detail.startswith("Failed twice in a row")


def test_failures_are_told_once_per_reason_with_their_number_the_first_and_the_last_success(examined: Doctor) -> None:
    hours = [NOW - timedelta(hours=each, minutes=30) for each in range(6)]
    runs = [
        Run("FAILED", hours[0], "2 of 9 accounts still owe data"),
        Run("CANCELLED", hours[1]),
        Run("FAILED", hours[2], "3 of 9 accounts still owe data"),
        Run("CRASHED", hours[3], "Lost: nobody\nknows"),
        Run("COMPLETED", hours[4]),
        Run("FAILED", hours[5], "long over"),
    ]
    check = examined(Server(runs=runs))[f"{JOB} runs"]
    assert check.detail == (
        "Failed 3 times in a row since 2026-11-22 10:00 UTC (the last success was 4 h ago). "
        "2 x 2 of 9 accounts still owe data; 1 x Lost: nobody knows"
    )


# Words that the program or Prefect really says.


def _said_by(cause: Callable[[], object]) -> str:
    with pytest.raises(AaeError) as caught:
        cause()
    return str(caught.value)


def _old_tables(folder: Path) -> None:
    engine = database.connect(f"sqlite:///{folder / 'a.db'}")
    try:
        database.require_current(engine)
    finally:
        engine.dispose()


def _new_tables(folder: Path) -> None:
    engine = database.connect(f"sqlite:///{folder / 'b.db'}")
    try:
        database.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        database.require_current(engine)
    finally:
        engine.dispose()


def _no_database() -> None:
    engine = database.connect("mysql+pymysql://u:p@127.0.0.1:1/aae", timeout=1)
    try:
        database.check(engine)
    finally:
        engine.dispose()


def _throttled() -> None:
    raise Throttled("Meta (account 1, metrics) asked for patience until 2026-11-22 14:00:00 UTC.", until=NOW, scope="m")


SEALED = Vault([("k1", bytes(32))]).encrypt(SecretStr("token"), "here")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("does not start", "Flow run infrastructure exited with non-zero status code 2."),
        ("flow cannot be loaded", "Flow run encountered an exception: ModuleNotFoundError: No module named 'x'"),
        ("tables behind", lambda tmp: _said_by(lambda: _old_tables(tmp))),
        ("program behind", lambda tmp: _said_by(lambda: _new_tables(tmp))),
        ("wrong key", lambda _: _said_by(lambda: Vault([("k1", bytes(31) + b"1")]).decrypt(SEALED, "here"))),
        ("wrong key", lambda _: _said_by(lambda: Vault([("k2", bytes(32))]).decrypt(SEALED, "here"))),
        ("database away", lambda _: _said_by(_no_database)),
        ("Redis away", lambda _: _said_by(lambda: dial("redis://127.0.0.1:1/0", "AAE_REDIS_URL"))),
        ("result storage", lambda _: _said_by(lambda: dial("redis://127.0.0.1:1/0", "AAE_RESULTS_URL"))),
        ("result storage", "Unable to find block document named aae-results for block type redis-database"),
        ("time limit", "1 of 3 accounts still owe data. meta:1 failed: Task run exceeded timeout of 3600.0 second(s)"),
        ("time limit", "Lost: its process has gone; last seen at: fetch meta:1 for 3605 s of at most 3610 s"),
        ("lost", "Lost: its process has gone; last seen at: fetch. It was run again 3 times and is given up."),
        ("throttled", lambda _: f"1 of 3 accounts still owe data. meta:1 throttled: {_said_by(_throttled)}"),
        ("authorization", "1 of 3 accounts still owe data. meta:1 reauthorize: Meta says that the token is dead."),
        ("other", "because"),
    ],
)
def test_every_kind_of_failure_has_its_own_remedy(
    kind: str, words: str | Callable[[Path], str], tmp_path: Path, examined: Doctor
) -> None:
    said = words if isinstance(words, str) else words(tmp_path)
    assert kind_of(said).name == kind, said
    check = examined(Server(runs=[Run("FAILED", NOW - MINUTE, said)]))[f"{JOB} runs"]
    assert check.remedy == kind_of(said).remedy.format(run="r1", job=JOB)


def test_no_two_kinds_share_a_remedy() -> None:
    assert len({kind.remedy for kind in KINDS}) == len(KINDS)


@given(st.text(max_size=400), st.text(max_size=20))
@example("", "\n")
def test_whatever_a_run_says_the_doctor_says_something_on_one_line(message: str, state: str) -> None:
    from aae.operate.doctor.failing import _words
    from aae.operate.prefect_api import _flow_run

    run = _flow_run(Run("FAILED", NOW, message, state).json())
    assert re.fullmatch(r".+", _words(run))
    assert kind_of(_words(run)).remedy.format(run="r1", job=JOB)


# Clocks


def test_a_clock_that_is_apart_from_the_servers_is_told_and_misleads_no_other_check(examined: Doctor) -> None:
    found = examined(Server(clock=NOW - timedelta(hours=1), planned=[Run("SCHEDULED", NOW - 30 * MINUTE)]))
    assert found["clocks"].detail == "This machine's clock is 60 min ahead of the Prefect server's."
    assert found[f"{JOB} next run"].ok


def test_a_clock_that_agrees_is_well(examined: Doctor) -> None:
    assert examined(Server(clock=NOW))["clocks"].detail == "agree with the Prefect server's"


# The file


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (FILE.replace("timezone", "timezon"), "ignores .*schedule.timezon in hourly"),
        (FILE.replace("work_pool: {name: aae}", "work_pol: {name: aae}"), "deployment.work_pol in hourly"),
        (FILE.replace("{name: aae}", "{name: aae, queue: x}"), "work_pool.queue in hourly"),
        (FILE + "schedule: 3\n", r"prefect\.yaml\.schedule"),
        ("deployments:\n- [", r"is not YAML \(line 2\)"),
        ("deployments: [{}]", "does not declare every deployment"),
        (None, "There is no"),
    ],
)
def test_a_file_that_prefect_would_misread_is_a_finding(
    examined: Doctor, project: Path, text: str | None, detail: str
) -> None:
    (project / "prefect.yaml").unlink()
    if text is not None:
        (project / "prefect.yaml").write_text(text)
    check = examined(Server())["prefect.yaml"]
    assert not check.ok
    assert check.group is Group.SCHEDULE
    assert re.search(detail, check.detail), check.detail


def test_what_is_on_the_server_as_the_file_says_otherwise_is_told_for_every_schedule(
    examined: Doctor, project: Path
) -> None:
    more = FILE.replace("active: true}]", 'active: true}, {cron: "30 6 * * 1", active: false}]')
    (project / "prefect.yaml").write_text(more)
    assert "says 30 6 * * 1 (UTC), the server has 0 * * * *" in examined(Server())[f"{JOB} schedule"].detail
    found = examined(Server(more_schedules=("30 6 * * 1",)))[f"{JOB} schedule"]
    assert found.detail == "The schedule 30 6 * * 1 is active, and prefect.yaml says active: false."


@pytest.mark.parametrize(
    ("cron", "timezone", "detail"),
    [
        ("0 25 * * *", "UTC", "'0 25"),
        ("every hour or so", "UTC", None),
        ("0 * * *", "UTC", "of five fields"),
        ("0 * * * *", "Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("0 9 * * MON", "UTC", None),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_told_and_names_of_days_are_none(
    examined: Doctor, project: Path, cron: str, timezone: str, detail: str | None
) -> None:
    changed = FILE.replace("0 * * * *", cron).replace("timezone: UTC", f"timezone: {timezone}")
    (project / "prefect.yaml").write_text(changed)
    api = PrefectApi("http://prefect.test/api", transport=httpx.MockTransport(Server(schedule={"cron": cron})))
    told = examine(Settings(_env_file=None), api, project, "aae", clock=lambda: NOW)
    found = [one.detail for one in told if one.group is Group.SCHEDULE and "cannot follow" in one.detail]
    assert bool(found) is (detail is not None)
    assert not found or str(detail) in found[0]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


@given(data=st.data())
def test_whatever_stands_in_the_file_it_is_a_finding_and_no_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from aae.operate.doctor import following
    from aae.operate.doctor.findings import Subject
    from aae.operate.schedule import read_jobs

    declared = yaml.safe_load(FILE)
    one = declared["deployments"][0]
    places: list[tuple[Any, Any]] = [
        (declared, "deployments"),
        (declared["deployments"], 0),
        *((one, key) for key in (*one, "parameters")),
        *((one["schedules"][0], key) for key in (*one["schedules"][0], "parameters")),
        (one["schedules"], 0),
        (one["work_pool"], "name"),
    ]
    for holder, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        holder[key] = data.draw(JUNK)
    folder = tmp_path_factory.mktemp("junk")
    (folder / "prefect.yaml").write_text(yaml.safe_dump(declared))
    with PrefectApi("http://prefect.test/api", transport=httpx.MockTransport(Server())) as api:
        try:
            jobs = read_jobs(folder)
        except UserError:
            return
        known = {job.name: api.deployment(JOB) for job in jobs}
        subject = Subject(Settings(_env_file=None), folder, "aae", jobs, api, None, known, NOW)
        assert list(following.examine(subject, everything=True))


# The flows


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' .*anomaly_detection.py:1"),
        ("def x(:\n", "SyntaxError"),
        ("raise ValueError('s3cret')\n", r"ValueError \(flows/anomaly_detection.py:1\)"),
        ("def other(): ...\n", "has no detect_anomalies"),
        ("import os; os._exit(3)\n", "ended the process .exit code 3"),
        (None, "there is no"),
    ],
)
def test_a_flow_that_cannot_be_loaded_is_a_finding(
    examined: Doctor, project: Path, text: str | None, detail: str
) -> None:
    path = project / "flows" / "anomaly_detection.py"
    path.unlink()
    if text is not None:
        path.write_text(text)
    check = examined()["flows load"]
    assert (check.ok, check.group) == (False, Group.FAILING)
    assert re.search(detail, check.detail), check.detail
    assert "s3cret" not in check.detail


def test_a_flow_that_hangs_while_it_is_loaded_does_not_hang_the_doctor(settings: Settings, project: Path) -> None:
    (project / "flows" / "anomaly_detection.py").write_text("import time; time.sleep(600)\n")
    checks = examine(settings, None, project, "aae", clock=lambda: NOW, import_seconds=1)
    check = {one.name: one for one in checks}["flows load"]
    assert check.detail == "Loading the flows took longer than 1 s."


# One job


def test_one_job_may_be_examined_alone(examined: Doctor, project: Path) -> None:
    (project / "prefect.yaml").write_text(FILE + FILE.partition("\n")[2].replace("hourly", "other"))
    assert "detect-anomalies/other runs" in examined(Server())
    assert "detect-anomalies/other runs" not in examined(Server(left_behind=True), only=JOB)
    assert "left behind" not in examined(Server(left_behind=True), only=JOB)
    assert "detect-anomalies/other runs" in examined(Server(), only="detect-anomalies")


def test_a_job_that_there_is_not_is_told_with_those_there_are(examined: Doctor) -> None:
    with pytest.raises(UserError, match=f"no job 'detect'; there are {JOB}"):
        examined(Server(), only="detect")


# Without Prefect, or without tables


def test_without_an_api_nothing_of_prefect_is_asked(examined: Doctor) -> None:
    found = examined()
    assert bad(found) == {"cache", "Prefect API"}
    assert "PREFECT_API_URL" in found["Prefect API"].detail


def test_tables_of_another_version_are_a_finding_and_what_needs_them_is_not_asked(
    examined: Doctor, tmp_path: Path
) -> None:
    found = examined(of=Settings(_env_file=None, state_dir=tmp_path, database_url="", redis_url=""))
    assert found["tables"].remedy == "aae db upgrade"
    assert "no tokens" not in found["encryption key"].detail
    assert "watch" not in found


def test_a_program_older_than_the_tables_is_a_finding_with_another_remedy(examined: Doctor, settings: Settings) -> None:
    with writing(settings) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    found = examined()["tables"]
    assert "9999" in found.detail
    assert "git pull" in str(found.remedy)


def test_looking_makes_neither_tables_nor_a_key(examined: Doctor, tmp_path: Path) -> None:
    state = tmp_path / "empty"
    found = examined(of=Settings(_env_file=None, state_dir=state, database_url="", redis_url=""))
    assert set(found) >= {"tables", "encryption key"}
    assert list(state.iterdir()) == []


def test_a_malformed_key_is_found_even_without_tables(examined: Doctor, tmp_path: Path) -> None:
    found = examined(of=Settings(_env_file=None, state_dir=tmp_path, encryption_keys=SecretStr("nonsense")))
    assert not found["encryption key"].ok
    assert "AAE_ENCRYPTION_KEYS" in found["encryption key"].detail


@pytest.mark.parametrize(("key", "well"), [(bytes(32), True), (bytes(31) + b"1", False)])
def test_a_key_that_does_not_open_the_stored_tokens_is_a_finding(
    examined: Doctor, settings: Settings, key: bytes, well: bool
) -> None:
    with writing(settings) as connection:
        connection.execute(users.insert().values(id=1, email="a@b.c", name="A", created_at=NOW))
        sealed = Vault([("k1", bytes(32))]).encrypt(SecretStr("token"), "ad_accounts:1:access_token")
        connection.execute(
            ad_accounts.insert().values(
                id=1,
                user_id=1,
                platform="meta",
                external_id="1",
                name="n",
                currency="EUR",
                timezone="UTC",
                access_token=sealed,
                created_at=NOW,
                updated_at=NOW,
            )
        )
    keys = SecretStr(f"k1:{base64.b64encode(key).decode()}")
    found = examined(of=settings.model_copy(update={"encryption_keys": keys}))["encryption key"]
    assert found.ok is well
    assert well or "set AAE_ENCRYPTION_KEYS" in str(found.remedy)


@pytest.mark.parametrize(
    ("public", "sent", "well"),
    [
        ("https://app.example.com", True, True),
        ("http://localhost:8000", False, True),
        ("http://localhost:8000", True, False),
        ("https://10.0.0.5", True, False),
        ("https://2130706433/app", True, False),
        ("https://app.internal", True, False),
    ],
)
def test_links_that_lead_inside_are_a_finding_while_mail_is_sent_for_real(
    examined: Doctor, settings: Settings, public: str, *, sent: bool, well: bool
) -> None:
    email = EmailSettings(smtp_url=SecretStr("smtps://me:s3cret@mail.example.com" if sent else ""))
    found = examined(of=settings.model_copy(update={"public_url": public, "email": email}))["links"]
    assert found.ok is well
    assert public in found.detail
    assert well or "set AAE_PUBLIC_URL" in str(found.remedy)


@pytest.mark.parametrize(
    ("fetch", "asked"),
    [
        ({}, None),
        ({"shares_at_once": 4, "runner": "dask"}, None),  # of this machine
        ({"shares": 2}, "AAE_FETCH__SHARES=2"),
        ({"shares": 2, "runner": "dask", "cluster": "tls://far:8786"}, "AAE_FETCH__CLUSTER=tls://far:8786"),
    ],
)
def test_a_fetch_that_is_for_several_machines_is_a_finding_on_a_database_of_one(
    examined: Doctor, settings: Settings, fetch: dict[str, Any], asked: str | None
) -> None:
    of = settings.model_copy(update={"fetch": FetchSettings(**fetch)})
    found = examined(of=of)
    assert found["database"].ok is (asked is None)
    assert found["database"].detail.startswith(asked or "sqlite")
    assert asked is None or "set AAE_DATABASE_URL" in str(found["database"].remedy)
    assert found["tables"].ok, "what is there is looked at all the same"
    assert not basics.on_one_machine(of.model_copy(update={"database_url": "mysql+pymysql://aae@far/aae"}))


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_state_folder_that_is_a_file_is_told_and_the_rest_is_asked(
    examined: Doctor, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    found = examined(of=Settings(_env_file=None, state_dir=tmp_path / "file" / below, redis_url=""))
    assert not found["state folder"].ok
    assert "AAE_STATE_DIR" in found["database"].detail
    assert {"encryption key", "cache", "Prefect API"} <= set(found)


def test_a_disk_that_is_nearly_full_is_a_finding(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(basics.shutil, "disk_usage", lambda _: usage._replace(free=70 * 1024**2))
    found = examined()["disk"]
    assert not found.ok
    assert "Only 70 MiB are free" in found.detail


@given(st.integers(0, 10**9))
def test_ago_is_in_one_unit_and_never_negative(seconds: int) -> None:
    assert re.fullmatch(r"\d+ (s|min|h|d) ago", ago(NOW, NOW - timedelta(seconds=seconds)))
    assert ago(NOW, NOW + timedelta(seconds=seconds)) == "0 s ago"


# Who works, by the tables


def writing(settings: Settings) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def transaction() -> Iterator[Any]:
        engine = database.connect(settings.resolved_database_url)
        with engine.begin() as connection:
            yield connection
        engine.dispose()

    return transaction()


def test_nobody_watching_over_the_runs_is_a_finding(examined: Doctor, settings: Settings) -> None:
    assert examined()["watch"].ok
    with writing(settings) as connection:
        assert attempts.end(connection, 1, "ended")
    found = examined()["watch"]
    assert (found.ok, found.remedy) == (False, "aae watch")


def test_a_job_held_by_a_process_that_is_silent_is_a_finding(examined: Doctor, settings: Settings) -> None:
    with writing(settings) as connection:
        token = attempts.take(connection, "detect-anomalies", run_id="r", process=Process("elsewhere", 7, 1))
    assert examined()["at work"].detail == "detect-anomalies"
    with writing(settings) as connection:
        silent = database_clock(connection) - timedelta(seconds=100)
        connection.execute(
            update(attempt_beats).where(attempt_beats.c.attempt_id == token).values(beat_at=silent, doing="step 3")
        )
    found = examined()["detect-anomalies"]
    assert re.search(r"Process 7 on elsewhere .* no sign of life for 10\d s, last seen at: step 3", found.detail)
    assert "aae watch" in str(found.remedy)


@pytest.mark.parametrize(("active", "well"), [(1, True), (0, False)])
def test_accounts_without_authorization_are_counted_and_named(
    examined: Doctor, settings: Settings, active: int, well: bool
) -> None:
    stamps = {"created_at": NOW, "updated_at": NOW}
    with writing(settings) as connection:
        connection.execute(users.insert().values(id=1, email="a@b.c", name="A", created_at=NOW))
        for number in range(7 + active):
            connection.execute(
                ad_accounts.insert().values(
                    user_id=1,
                    platform="meta",
                    external_id=str(number),
                    name="n",
                    currency="EUR",
                    timezone="UTC",
                    status="expired" if number < 4 else "revoked" if number < 7 else "active",
                    **stamps,
                )
            )
    found = examined()["accounts"]
    assert found.ok is well
    assert "meta:0, meta:1, meta:2, meta:3, meta:4 and 2 more" in found.detail
    assert ("4 expired, 3 revoked" in found.detail) is well
