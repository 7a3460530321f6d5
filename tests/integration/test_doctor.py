"""A real Prefect server is broken in every way that keeps jobs from running, and the doctor says which.

The server asks to log in. There is no worker: what one tells the server (that it lives, that it asks for runs) is told
by the same calls.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from aae.model import Process
from aae.operate.doctor import Check, examine, imports
from aae.operate.prefect_api import PrefectApi
from aae.settings import RecoverySettings, Settings
from aae.storage import attempts
from aae.storage import engine as database
from tests.servers import DIE_WITH_PARENT, asked, free_port

ROOT = Path(__file__).parents[2]
JOB = "detect-anomalies/hourly"
LOGIN = "operator:s3cret"
START_SECONDS = 180


@dataclass
class World:
    """The server, what the doctor is told of it, and the ways to break it."""

    url: str
    project: Path
    settings: Settings
    environment: dict[str, str]
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=f"{self.url}/", auth=tuple(LOGIN.split(":")), timeout=60, trust_env=False)  # type: ignore[arg-type]

    def call(self, method: str, path: str, **body: Any) -> Any:
        answer = asked(self.http, method, path, json=body if body or method in {"POST", "PATCH"} else None)
        return answer.json() if answer.content else None

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"deployments/name/{JOB}")
        return found

    def beat(self, pool: str = "aae", name: str = "w1", seconds: int = 30) -> None:
        self.call("POST", f"work_pools/{pool}/workers/heartbeat", name=name, heartbeat_interval_seconds=seconds)
        self.call("POST", f"work_pools/{pool}/get_scheduled_flow_runs", work_queue_names=[])

    def findings(self, *, login: str = LOGIN, settings: Settings | None = None) -> dict[str, Check]:
        with PrefectApi(self.url, auth_string=login, timeout=150) as api:
            told = examine(settings or self.settings, api, self.project, "aae", clock=lambda: datetime.now(UTC))
            return {check.name: check for check in told if not check.ok}


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory, _redis_server: str, _sqlite_template: Path) -> Iterator[World]:
    home = tmp_path_factory.mktemp("doctor")
    project, state = home / "project", home / "state"
    shutil.copytree(ROOT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", project)
    state.mkdir()
    shutil.copy(_sqlite_template, state / "aae.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AAE_", "PREFECT_"))}
    environment = inherited | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": LOGIN,
        "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "AAE_STATE_DIR": str(state),
        "AAE_REDIS_URL": _redis_server,
        "AAE_PROJECT_DIR": str(project),
    }
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        state_dir=state,
        redis_url=_redis_server,
        # A run that has been pending for a moment is stuck.
        recovery=RecoverySettings(pending_seconds=0.001),
    )
    world = World(url, project, settings, environment)
    with (home / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(lambda: _answers(world), (home / "server.log"))
        world.run("deployments.apply")
        world.run("prefect", "--no-prompt", "deploy", "--all")
        engine = database.connect(settings.resolved_database_url)
        with engine.begin() as connection:
            attempts.take(connection, "watch", run_id="watch-1", process=Process("here", 1, 1))
        engine.dispose()
        yield world
    finally:
        world.http.close()
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture
def world(_server: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """With a worker that has just been heard of. Whether the flows load is tried in a test of its own."""
    monkeypatch.setattr(imports, "_TRIAL", "print('{}')")
    engine = database.connect(_server.settings.resolved_database_url)
    with engine.begin() as connection:
        assert attempts.beat(connection, 1, doing="watching")
    engine.dispose()
    _server.beat()
    return _server


def _answers(world: World) -> bool:
    try:
        return world.http.get("health").is_success
    except httpx.HTTPError:
        return False


def _wait(until: Callable[[], bool], log: Path | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not until():
        assert time.monotonic() < deadline, log.read_text() if log else "it did not come to that"
        time.sleep(0.2)


@contextmanager
def patched(world: World, path: str, change: dict[str, Any], back: dict[str, Any]) -> Iterator[None]:
    world.call("PATCH", path, **change)
    try:
        yield
    finally:
        world.call("PATCH", path, **back)


def test_nothing_is_wrong_once_the_scheduler_has_planned(_server: World) -> None:  # noqa: PT019
    with PrefectApi(_server.url, auth_string=LOGIN, timeout=150) as api:
        _wait(lambda: all(api.planned(one.id) for one in api.deployments("aae")))
    engine = database.connect(_server.settings.resolved_database_url)
    with engine.begin() as connection:
        attempts.beat(connection, 1, doing="watching")
    engine.dispose()
    _server.beat()
    # Here the four flows are really loaded.
    assert _server.findings() == {}


@pytest.mark.parametrize("login", ["", "operator:wrong"])
def test_a_server_that_asks_to_log_in(world: World, login: str) -> None:
    found = world.findings(login=login)
    assert "does not let us in" in found["Prefect API"].detail
    assert "s3cret" not in str(found)


def test_an_address_that_is_the_ui_and_not_the_api(world: World) -> None:
    with PrefectApi(world.url.removesuffix("/api"), auth_string=LOGIN, timeout=150) as api:
        told = examine(world.settings, api, world.project, "aae", clock=lambda: datetime.now(UTC))
        (check,) = [one for one in told if one.name == "Prefect API"]
    assert not check.ok
    assert "PREFECT_API_URL" in str(check.remedy)


def test_a_clock_that_is_apart_from_the_servers(world: World) -> None:
    with PrefectApi(world.url, auth_string=LOGIN, timeout=150) as api:
        told = examine(world.settings, api, world.project, "aae", clock=lambda: datetime.now(UTC) + timedelta(hours=2))
        found = {check.name: check.detail for check in told if not check.ok}
    # Times are judged by the server's clock, so that nothing else is misjudged.
    assert list(found) == ["clocks"]
    assert re.search("This machine's clock is (1|2) h|1[12][0-9] min", found["clocks"])


@pytest.mark.parametrize(
    ("change", "back", "detail", "remedy"),
    [
        ({"is_paused": True}, {"is_paused": False}, "paused", "aae resume"),
        ({"concurrency_limit": 0}, {"concurrency_limit": None}, "limit of 0", "clear-concurrency-limit"),
    ],
)
def test_a_pool_that_hands_out_no_runs(
    world: World, change: dict[str, Any], back: dict[str, Any], detail: str, remedy: str
) -> None:
    with patched(world, "work_pools/aae", change, back):
        found = world.findings()
    assert list(found) == ["work pool"]
    assert detail in found["work pool"].detail
    assert remedy in str(found["work pool"].remedy)


def test_a_pool_that_starts_runs_without_an_attempt(world: World) -> None:
    template = world.call("GET", "work_pools/aae")["base_job_template"]
    other = json.loads(json.dumps(template))
    other["variables"]["properties"]["command"]["default"] = "python -m prefect.engine"
    with patched(world, "work_pools/aae", {"base_job_template": other}, {"base_job_template": template}):
        found = world.findings()
    assert "with 'python -m prefect.engine', not 'python -m tasks.launch'" in found["work pool"].detail


@pytest.mark.parametrize(
    ("change", "detail"), [({"is_paused": True}, "paused"), ({"concurrency_limit": 0}, "limit of 0")]
)
def test_a_queue_that_hands_out_no_runs(world: World, change: dict[str, Any], detail: str) -> None:
    back = {"is_paused": False, "concurrency_limit": None}
    with patched(world, "work_pools/aae/queues/default", change, {name: back[name] for name in change}):
        found = world.findings()
    assert list(found) == ["queue default"]
    assert detail in found["queue default"].detail


def test_the_remedy_for_a_paused_queue_helps(world: World) -> None:
    world.call("PATCH", "work_pools/aae/queues/default", is_paused=True)
    remedy = str(world.findings()["queue default"].remedy)
    world.run(*remedy.split())
    assert "queue default" not in world.findings()


def test_a_worker_that_serves_another_queue(world: World) -> None:
    world.call("POST", "work_pools/aae/queues", name="other")
    deployment = world.deployment()
    path = f"deployments/{deployment['id']}"
    with patched(world, path, {"work_queue_name": "other"}, {"work_queue_name": "default"}):
        found = world.findings()
    assert "No worker asks for runs of the work queue 'other' (nobody ever did)" in found["queue other"].detail
    assert "--work-queue other" in str(found["queue other"].remedy)


def test_a_worker_that_serves_another_pool(world: World) -> None:
    world.call("POST", "work_pools/", name="other", type="process")
    world.beat("other", "lost-one")
    workers = world.call("POST", "work_pools/aae/workers/filter")
    for one in workers:
        world.call("DELETE", f"work_pools/aae/workers/{one['name']}")
    found = world.findings()
    assert found["worker"].detail == (
        "No worker serves the pool 'aae'; none has ever been seen; lost-one (pool 'other') serves another one."
    )


def test_a_worker_that_has_fallen_silent(world: World) -> None:
    now = datetime.now(UTC) + timedelta(minutes=10)
    with PrefectApi(world.url, auth_string=LOGIN, timeout=150) as api:
        api.clock = lambda: now  # type: ignore[method-assign] # ten minutes later
        told = examine(world.settings, api, world.project, "aae", clock=lambda: now)
        found = {check.name: check for check in told if not check.ok}
    assert "the last one was seen 10 min ago" in found["worker"].detail


def test_a_deployment_that_is_paused(world: World) -> None:
    deployment = world.deployment()
    world.call("POST", f"deployments/{deployment['id']}/pause_deployment")
    remedy = world.findings()[f"{JOB} deployment"].remedy
    # The remedy is a call of the API: it is made.
    method, url = str(remedy).partition(",")[0].removeprefix("curl -X ").split()
    assert world.http.request(method, url).is_success
    assert f"{JOB} deployment" not in world.findings()


def test_a_deployment_in_another_pool(world: World) -> None:
    if world.http.get("work_pools/other").status_code == 404:
        world.call("POST", "work_pools/", name="other", type="process")
    path = f"deployments/{world.deployment()['id']}"
    with patched(world, path, {"work_pool_name": "other"}, {"work_pool_name": "aae"}):
        found = world.findings()
    assert found[f"{JOB} deployment"].detail == "It goes to the pool 'other', not 'aae'."


def test_a_project_folder_that_is_not_on_this_machine(world: World) -> None:
    path = f"deployments/{world.deployment()['id']}"
    step = {"prefect.deployments.steps.set_working_directory": {"directory": "/no/where"}}
    with patched(world, path, {"pull_steps": [step]}, {"pull_steps": world.deployment()["pull_steps"]}):
        found = world.findings()
    assert "/no/where, which is not there" in found[f"{JOB} deployment"].detail


@pytest.fixture
def runs(world: World) -> Iterator[Callable[..., str]]:
    """Make a run of the job, due at some moment, in some states; all are deleted afterwards."""
    made: list[str] = []

    def make(due: datetime, *states: dict[str, Any]) -> str:
        scheduled = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
        run = world.call("POST", f"deployments/{world.deployment()['id']}/create_flow_run", state=scheduled)
        for state in states:
            world.call("POST", f"flow_runs/{run['id']}/set_state", state=state, force=True)
        made.append(run["id"])
        return str(run["id"])

    yield make
    for run_id in made:
        world.call("DELETE", f"flow_runs/{run_id}")


def test_runs_that_pile_up(world: World, runs: Callable[..., str]) -> None:
    now = datetime.now(UTC)
    runs(now - timedelta(hours=2))
    runs(now - timedelta(hours=1))
    assert "2 runs have piled up since" in world.findings()[f"{JOB} next run"].detail


def test_a_run_that_is_stuck_in_pending(world: World, runs: Callable[..., str]) -> None:
    runs(datetime.now(UTC), {"type": "PENDING"})
    # The server tells the time in whole seconds.
    _wait(lambda: "pending" in world.findings())
    found = world.findings()
    assert "stuck in Pending" in found["pending"].detail
    assert "aae watch" in str(found["pending"].remedy)


def test_a_job_that_fails_again_and_again(world: World, runs: Callable[..., str]) -> None:
    now = datetime.now(UTC)
    runs(now - timedelta(minutes=9), {"type": "RUNNING"}, {"type": "COMPLETED"})
    for minutes in (6, 5, 4):
        told = f"{minutes} of 9 accounts still owe data. meta:1 failed: Task run exceeded timeout of 3600.0 second(s)"
        last = runs(now - timedelta(minutes=minutes), {"type": "RUNNING"}, {"type": "FAILED", "message": told})
    found = world.findings()
    assert list(found) == [f"{JOB} runs"]
    assert "Failed 3 times in a row" in found[f"{JOB} runs"].detail
    assert "3 x 4 of 9 accounts still owe data" in found[f"{JOB} runs"].detail
    assert f"prefect flow-run logs {last}" in str(found[f"{JOB} runs"].remedy)


def test_a_run_that_never_began_and_was_given_up_counts_as_failed(world: World, runs: Callable[..., str]) -> None:
    told = "Lost: Flow run infrastructure exited with non-zero status code 2. It was run again 3 times and is given up."
    runs(datetime.now(UTC), {"type": "PENDING"}, {"type": "FAILED", "message": told})
    assert "see" not in world.findings()
    assert "basics above" in str(world.findings()[f"{JOB} runs"].remedy)


def test_results_that_have_no_place_or_whose_redis_is_away(world: World) -> None:
    kind = "block_types/slug/redis-database/block_documents/name/aae-results?include_secrets=true"
    block = world.call("GET", kind)
    path = f"block_documents/{block['id']}"
    world.call("PATCH", path, data={"connection_url": "redis://:s3cret@127.0.0.1:1/1"}, merge_existing_data=True)
    found = world.findings()
    assert "No Redis answers at 127.0.0.1:1" in found["result storage"].detail
    assert "s3cret" not in str(found)
    world.call("DELETE", path)
    assert "no block redis-database/aae-results" in world.findings()["result storage"].detail
    kept = {name: block[name] for name in ("name", "data", "block_schema_id", "block_type_id")}
    world.call("POST", "block_documents/", **kept)
    assert "result storage" not in world.findings()


# Schedules


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"active": False}, "inactive: it was paused in the UI"),
        (
            {"schedule": {"cron": "5 * * * *", "timezone": "UTC"}},
            "prefect.yaml says 0 * * * *, the server has 5 * * * *",
        ),
        ({"schedule": {"cron": "0 * * * *", "timezone": "Asia/Tokyo"}}, "the server takes it in Asia/Tokyo"),
        ({"parameters": {"users": [1]}}, "gives other parameters than prefect.yaml: users"),
    ],
    ids=["paused", "other times", "other time zone", "other parameters"],
)
def test_a_schedule_that_differs_from_the_file(world: World, change: dict[str, Any], detail: str) -> None:
    deployment = world.deployment()
    (schedule,) = deployment["schedules"]
    path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
    back = {name: {"parameters": {}, **schedule}[name] for name in change}
    with patched(world, path, change, back):
        found = world.findings()
    assert detail in found[f"{JOB} schedule"].detail
    assert found[f"{JOB} schedule"].remedy == "aae deploy"


def test_a_schedule_that_is_no_longer_in_the_file(world: World) -> None:
    path = f"deployments/{world.deployment()['id']}/schedules"
    (made,) = world.http.post(path, json=[{"schedule": {"cron": "9 * * * *"}, "active": True}]).json()
    try:
        assert "also runs at 9 * * * *" in world.findings()[f"{JOB} schedule"].detail
    finally:
        world.call("DELETE", f"{path}/{made['id']}")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"entrypoint": "flows/reports.py:generate_daily_report"}, "the server runs flows/reports.py"),
        ({"parameters": {"dry_run": True}}, "other parameters than prefect.yaml: dry_run"),
        (
            {"pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]},
            f"from another checkout: {ROOT}, not",
        ),
    ],
    ids=["entrypoint", "parameters", "checkout"],
)
def test_a_deployment_that_differs_from_the_file(world: World, change: dict[str, Any], detail: str) -> None:
    deployment = world.deployment()
    with patched(world, f"deployments/{deployment['id']}", change, {name: deployment[name] for name in change}):
        found = world.findings()
    assert detail in found[f"{JOB} schedule"].detail


def test_a_file_that_was_changed_and_not_deployed(world: World) -> None:
    path = world.project / "prefect.yaml"
    before = path.read_text()
    path.write_text(before.replace('"0 * * * *"', '"30 * * * *"'))
    try:
        found = world.findings()
    finally:
        path.write_text(before)
    assert found[f"{JOB} schedule"].detail == "prefect.yaml says 30 * * * *, the server has 0 * * * *."


def test_runs_that_an_older_schedule_has_planned(world: World) -> None:
    # Prefect takes them away when a schedule is changed, unless its scheduler is just then making them.
    file = Path(world.environment["PREFECT_HOME"]) / "prefect.db"
    deployment = world.deployment()["id"]
    with PrefectApi(world.url, auth_string=LOGIN, timeout=150) as api:
        _wait(lambda: bool(api.planned(deployment)))

    def put(cron: str) -> None:
        with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
            changed = connection.execute(
                "UPDATE deployment_schedule SET schedule = json_set(schedule, '$.cron', ?) "
                "WHERE deployment_id IN (?, ?)",
                (cron, deployment, deployment.replace("-", "")),
            )
            assert changed.rowcount == 1

    put("17 * * * *")
    try:
        found = world.findings()
    finally:
        put("0 * * * *")
    assert "still planned by an older schedule" in found[f"{JOB} planned"].detail


def test_a_job_that_is_no_longer_in_the_file(world: World) -> None:
    path = world.project / "prefect.yaml"
    before = path.read_text()
    path.write_text(before[: before.rindex("  - name: daily")])
    try:
        found = world.findings()
    finally:
        path.write_text(before)
    assert found["left behind"].detail.startswith("generate-daily-report/daily is no longer in prefect.yaml")


def test_a_server_on_which_nothing_is_yet(world: World) -> None:
    # The last test here: nothing is put back.
    for one in world.call("POST", "deployments/filter"):
        world.call("DELETE", f"deployments/{one['id']}")
    world.call("DELETE", "work_pools/aae")
    found = world.findings()
    assert found["work pool"].remedy == found[f"{JOB} deployment"].remedy == "aae deploy"
    world.call("POST", "work_pools/", name="aae", type="docker")
    assert "of the type 'docker'" in world.findings()["work pool"].detail


def test_a_server_that_has_gone(world: World) -> None:
    with PrefectApi(f"http://127.0.0.1:{free_port()}/api") as api:
        told = examine(world.settings, api, world.project, "aae", clock=lambda: datetime.now(UTC))
        (check,) = [one for one in told if one.name == "Prefect API"]
    assert "does not answer (ConnectError)" in check.detail


# The database


@pytest.mark.mysql
def test_a_clock_that_is_apart_from_the_databases(tmp_path: Path, mysql_url: str) -> None:
    settings = Settings(_env_file=None, state_dir=tmp_path, database_url=mysql_url)  # type: ignore[call-arg]
    engine = database.connect(mysql_url)
    database.upgrade(engine)
    engine.dispose()
    told = examine(settings, None, tmp_path, "aae", clock=lambda: datetime.now(UTC) - timedelta(hours=1))
    (check,) = [one for one in told if one.name == "clocks"]
    assert re.search("This machine's clock is (59|60) min behind the database's", check.detail)


def test_a_database_that_has_gone(tmp_path: Path) -> None:
    url = f"mysql+pymysql://u:s3cret@127.0.0.1:{free_port()}/aae"
    settings = Settings(_env_file=None, state_dir=tmp_path, database_url=url)  # type: ignore[call-arg]
    found = {one.name: one for one in examine(settings, None, tmp_path, "aae", clock=lambda: datetime.now(UTC))}
    assert not found["database"].ok
    assert "AAE_DATABASE_URL" in str(found["database"].remedy)
    assert "s3cret" not in str(found)
