"""Prefect's own history is bounded: with these settings a real server deletes old runs, logs, artifacts and events.

What is proven is what the variables do in the locked version; how long things are kept is declared in deployments/.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.servers import DIE_WITH_PARENT, asked, free_port

VACUUM = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3600),
    # In ISO 8601, unlike the one above: with seconds the server does not start.
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P7D",
    # Hourly and daily otherwise.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS": "2",
}
KINDS = ("old", "young")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment = kept | VACUUM | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (
        subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, *command],
            env=environment | {"DO_NOT_TRACK": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60) as client,
    ):
        try:
            until(lambda: answers(client), 240)
            yield client, home / "prefect.db"
        finally:
            process.kill()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.HTTPError:
        return False


def until(happens: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


def post(client: httpx.Client, path: str, body: Any) -> Any:
    answer = asked(client, "POST", path, json=body)
    return answer.json() if answer.content else None


def make_run(client: httpx.Client, flow: str, name: str) -> str:
    """A finished run with a log line and an artifact."""
    run = post(client, "/flow_runs/", {"flow_id": flow, "name": name, "state": {"type": "RUNNING"}})["id"]
    post(client, f"/flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    now = datetime.now(UTC).isoformat()
    line = {"name": "n", "level": 20, "message": name, "timestamp": now, "flow_run_id": run}
    post(client, "/logs/", [line])
    post(client, "/artifacts/", {"key": f"table-{name}", "type": "markdown", "data": name, "flow_run_id": run})
    return str(run)


def make_event(client: httpx.Client, name: str) -> None:
    happened = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": f"aae.{name}",
        "resource": {"prefect.resource.id": f"aae.{name}"},
    }
    post(client, "/events", [happened])


def test_old_runs_with_their_logs_and_artifacts_and_old_events_are_deleted_and_young_ones_stay(
    server: tuple[httpx.Client, Path],
) -> None:
    client, path = server
    flow = post(client, "/flows/", {"name": "f"})["id"]
    runs = {kind: make_run(client, flow, kind) for kind in KINDS}
    for kind in KINDS:
        make_event(client, kind)

    def rows(query: str) -> set[str]:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            return {str(row[0]) for row in database.execute(query)}

    until(lambda: {"aae.old", "aae.young"} <= rows("SELECT event FROM events"), 60)
    until(lambda: rows("SELECT message FROM log") >= set(KINDS), 60)
    # Prefect keeps moments as text on SQLite.
    long_ago = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%d %H:%M:%S.000000")
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        ended = database.execute("UPDATE flow_run SET end_time = ? WHERE name = 'old'", [long_ago]).rowcount
        events = database.execute("UPDATE events SET occurred = ? WHERE event = 'aae.old'", [long_ago]).rowcount
        database.execute("UPDATE event_resources SET occurred = ? WHERE resource_id = 'aae.old'", [long_ago])
    assert (ended, events) == (1, 1)
    until(lambda: rows("SELECT name FROM flow_run") == {"young"}, 90)
    until(lambda: rows("SELECT message FROM log") & set(KINDS) == {"young"}, 90)
    until(lambda: rows("SELECT key FROM artifact") == {"table-young"}, 90)
    until(lambda: rows("SELECT key FROM artifact_collection") == {"table-young"}, 90)
    until(lambda: "aae.old" not in rows("SELECT event FROM events"), 90)
    assert "aae.young" in rows("SELECT event FROM events")
    until(lambda: "aae.old" not in rows("SELECT resource_id FROM event_resources"), 90)
    assert client.get(f"/flow_runs/{runs['old']}").status_code == 404
    assert asked(client, "GET", f"/flow_runs/{runs['young']}").json()["state_type"] == "COMPLETED"
