"""Each cause of "it does not run" is found, told in words, and comes with what helps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aae.operate.doctor import Check, ago, examine
from aae.operate.prefect_api import PrefectApi
from aae.operate.schedule import Job
from aae.settings import Settings
from aae.storage import attempts
from aae.storage import engine as database
from aae.storage.attempts import Process

NOW = datetime(2026, 11, 22, 13, 30, tzinfo=UTC)
JOB = Job("detect-anomalies/hourly", "0 * * * *", "UTC")


@dataclass
class Server:
    """A Prefect server as its API shows it; healthy unless a test says otherwise."""

    pool: dict[str, Any] | None = field(default_factory=lambda: {"name": "aae", "type": "process", "is_paused": False})
    worker_online: bool = True
    deployed: bool = True
    paused: bool = False
    schedules: list[tuple[str, bool]] = field(default_factory=lambda: [("0 * * * *", True)])
    created: datetime = NOW - timedelta(days=9)
    last: tuple[str, datetime] | None = ("COMPLETED", NOW - timedelta(minutes=29))
    following: datetime | None = NOW + timedelta(minutes=30)
    reachable: bool = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.reachable:
            raise httpx.ConnectError("refused")
        found = self.answer(request.url.path.removeprefix("/api/"), json.loads(request.content or b"null"))
        return httpx.Response(404 if found is None else 200, json=found)

    def answer(self, path: str, body: Any) -> Any:
        if path == "health":
            return True
        if path == "admin/version":
            return "3.8.8"
        if path == "work_pools/aae":
            return self.pool
        if path == "work_pools/aae/workers/filter":
            seen = NOW - timedelta(seconds=5 if self.worker_online else 5000)
            status = "ONLINE" if self.worker_online else "OFFLINE"
            return [{"name": "local", "status": status, "last_heartbeat_time": seen.isoformat()}]
        if path.startswith("deployments/name/"):
            return self.deployment() if self.deployed else None
        if "start_time" in body["flow_runs"]:
            return [run(*self.last)] if self.last else []
        return [run("SCHEDULED", self.following)] if self.following else []

    def deployment(self) -> dict[str, Any]:
        schedules = [
            {"schedule": {"cron": cron, "timezone": "UTC"}, "active": active} for cron, active in self.schedules
        ]
        common = {"id": "d", "created": self.created.isoformat(), "work_pool_name": "aae"}
        return {**common, "paused": self.paused, "schedules": schedules}


def run(state: str, moment: datetime) -> dict[str, Any]:
    started = None if state == "SCHEDULED" else moment.isoformat()
    return {
        "id": "r1",
        "name": "n",
        "state": {"type": state, "name": state.title(), "message": "because"},
        "expected_start_time": moment.isoformat(),
        "start_time": started,
        "end_time": started,
    }


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(_env_file=None, state_dir=tmp_path, database_url="", redis_url="redis://127.0.0.1:1/0")
    engine = database.connect(made.resolved_database_url)
    database.upgrade(engine)
    with engine.begin() as connection:
        attempts.take(connection, "watch", run_id="watch-1", process=Process("here", 1, 1))
    engine.dispose()
    return made


@pytest.fixture
def checks(settings: Settings) -> Callable[[Server], dict[str, Check]]:
    def examined(server: Server) -> dict[str, Check]:
        api = PrefectApi("http://prefect.test/api", transport=httpx.MockTransport(server))
        return {check.name: check for check in examine(settings, api, [JOB], "aae", now=NOW)}

    return examined


Checks = Callable[[Server], dict[str, Check]]


def test_a_healthy_server_has_no_findings(checks: Checks) -> None:
    found = checks(Server())
    assert [check.name for check in found.values() if not check.ok] == ["cache"]
    assert found[f"{JOB.name} next run"].detail == "2026-11-22 14:00 UTC"


@pytest.mark.parametrize(
    ("server", "name", "detail", "remedy"),
    [
        (Server(reachable=False), "Prefect API", "does not answer", "aae up"),
        (Server(pool=None), "work pool", "no work pool", "deployments.setup"),
        (Server(pool={"name": "aae", "type": "process", "is_paused": True}), "work pool", "paused", "setup"),
        (
            Server(worker_online=False),
            "worker",
            "No worker serves the pool; the last one was seen 83 min",
            "worker start",
        ),
        (Server(deployed=False), JOB.name, "not deployed", "deploy --all"),
        (Server(paused=True), f"{JOB.name} schedule", "paused", "Prefect UI"),
        (Server(schedules=[("0 * * * *", False)]), f"{JOB.name} schedule", "inactive", "deploy --all"),
        (
            Server(schedules=[("5 * * * *", True)]),
            f"{JOB.name} schedule",
            r"says 0 \* .* server has 5 \*",
            "deploy --all",
        ),
        (Server(schedules=[]), f"{JOB.name} schedule", "has none", "deploy --all"),
        (
            Server(schedules=[("0 * * * *", True), ("9 * * * *", True)]),
            f"{JOB.name} schedule",
            r"also runs at 9 \*",
            "schedule clear",
        ),
        (Server(following=None), f"{JOB.name} next run", "scheduler does not work", "log"),
        (Server(following=NOW - timedelta(hours=2)), f"{JOB.name} next run", "no worker takes it", "worker"),
        (
            Server(last=("FAILED", NOW - timedelta(minutes=9))),
            f"{JOB.name} last run",
            "Failed.*because",
            "flow-run logs r1",
        ),
        (Server(last=("COMPLETED", NOW - timedelta(hours=5))), f"{JOB.name} last run", "overdue", "deployment run"),
        (Server(last=None), f"{JOB.name} last run", "never run", "deployment run"),
    ],
)
def test_a_cause_is_found_and_comes_with_a_remedy(
    checks: Checks, server: Server, name: str, detail: str, remedy: str
) -> None:
    check = checks(server)[name]
    assert not check.ok
    assert re.search(detail, check.detail)
    assert check.remedy is not None
    assert remedy in check.remedy


@pytest.mark.parametrize(
    "server",
    [
        Server(last=None, following=None, created=NOW - timedelta(seconds=30)),
        Server(last=("RUNNING", NOW - timedelta(hours=3))),
    ],
    ids=["deployed just now", "still running"],
)
def test_what_only_takes_its_time_is_no_finding(checks: Checks, server: Server) -> None:
    assert [check.name for check in checks(server).values() if not check.ok] == ["cache"]


def test_without_an_api_nothing_of_prefect_is_asked(settings: Settings) -> None:
    (check,) = [one for one in examine(settings, None, [JOB], "aae", now=NOW) if one.name.startswith("Prefect")]
    assert not check.ok
    assert "PREFECT_API_URL" in check.detail


def test_tables_of_another_version_are_a_finding_and_what_needs_them_is_not_asked(tmp_path: Path) -> None:
    empty = Settings(_env_file=None, state_dir=tmp_path, database_url="", redis_url="")
    found = {check.name: check for check in examine(empty, None, [], "aae", now=NOW)}
    assert found["tables"].remedy == "aae db upgrade"
    assert "no tokens" not in found["encryption key"].detail


def test_looking_makes_neither_tables_nor_a_key(tmp_path: Path) -> None:
    empty = Settings(_env_file=None, state_dir=tmp_path, database_url="", redis_url="")
    assert {check.name for check in examine(empty, None, [], "aae", now=NOW)} >= {"tables", "encryption key"}
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_key_is_found_even_without_tables(tmp_path: Path) -> None:
    wrong = Settings(_env_file=None, state_dir=tmp_path, encryption_keys=SecretStr("nonsense"))
    found = {check.name: check for check in examine(wrong, None, [], "aae", now=NOW)}
    assert not found["encryption key"].ok
    assert "AAE_ENCRYPTION_KEYS" in found["encryption key"].detail


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_state_folder_that_is_a_file_is_told_and_the_rest_is_asked(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(_env_file=None, state_dir=tmp_path / "file" / below, redis_url="")
    found = {check.name: check for check in examine(settings, None, [], "aae", now=NOW)}
    assert not found["state folder"].ok
    assert "AAE_STATE_DIR" in found["database"].detail
    assert {"encryption key", "cache", "Prefect API"} <= set(found)


@given(st.integers(0, 10**9))
def test_ago_is_in_one_unit_and_never_negative(seconds: int) -> None:
    assert re.fullmatch(r"\d+ (s|min|h|d) ago", ago(NOW, NOW - timedelta(seconds=seconds)))
    assert ago(NOW, NOW + timedelta(seconds=seconds)) == "0 s ago"


def test_nobody_watching_over_the_runs_is_a_finding(settings: Settings) -> None:
    def found() -> Check:
        return {check.name: check for check in examine(settings, None, [], "aae", now=NOW)}["watch"]

    assert found().ok
    engine = database.connect(settings.resolved_database_url)
    with engine.begin() as connection:
        assert attempts.end(connection, 1, "ended")
    engine.dispose()
    assert (found().ok, found().remedy) == (False, "aae watch")
