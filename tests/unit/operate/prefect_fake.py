"""As much of Prefect's API as questions about jobs and runs need, on a port of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = {"type": "json"}
SCHEMA = {
    "type": "object",
    "properties": {
        "accounts": {
            "anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}],
            "description": "Account ids; empty for all.",
        },
        "since": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "name": {"type": "string"},
        "how": {"$ref": "#/definitions/How"},
        "dry_run": {"type": "boolean", "default": False},
    },
    "definitions": {"How": {"enum": ["low", "high"]}},
}


class Server:
    """Deployments ``fetch-ad-data/six-hourly`` and ``report/daily``, ``report/weekly``; the runs that a test gives."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.workers = [{"name": "w1", "status": "ONLINE"}, {"name": "w0", "status": "OFFLINE"}]
        self.paused = False
        self.busy = 0
        self.cron = {"cron": "0 */6 * * *", "timezone": "UTC"}
        self.deployments = [
            self._deployment("d1", "f1", "six-hourly", "flows/data_fetch.py:fetch_ad_data", SCHEMA),
            self._deployment("d2", "f2", "daily", "flows/reports.py:report", {}),
            self._deployment("d3", "f2", "weekly", "flows/reports.py:report", {}),
        ]

    def _deployment(self, key: str, flow: str, name: str, entrypoint: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": key,
            "flow_id": flow,
            "name": name,
            "paused": False,
            "created": "2026-01-01T00:00:00Z",
            "work_pool_name": "aae",
            "entrypoint": entrypoint,
            "parameters": {},
            "parameter_openapi_schema": schema,
            "schedules": [{"schedule": self.cron, "active": True}],
        }

    def run(self, state: str, name: str = "", **more: Any) -> dict[str, Any]:
        """Add a run; times are minutes from now."""
        number = len(self.runs)
        made = {
            "id": f"r{number}",
            "name": f"run {number}",
            "deployment_id": "d1",
            "state": {"type": state, "name": name or state.title(), "message": more.pop("message", None)},
            "auto_scheduled": True,
            "run_count": 1,
        } | more
        for key in ("expected_start_time", "start_time", "end_time"):
            if isinstance(made.get(key), int | float):
                made[key] = (datetime.now(UTC) + timedelta(minutes=made[key])).isoformat()
        made["state"]["timestamp"] = datetime.now(UTC).isoformat()
        self.runs.append(made)
        return made

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:  # noqa: C901 - one case for each question
        if self.busy:
            self.busy -= 1
            return 500, {}
        match path.strip("/").split("/"):
            case ["deployments", "filter"]:
                return 200, self.deployments
            case ["flows", "filter"]:
                return 200, [{"id": "f1", "name": "fetch-ad-data"}, {"id": "f2", "name": "report"}]
            case ["deployments", _, "create_flow_run"]:
                key = body.get("idempotency_key")
                same = [one for one in self.runs if key and one.get("key") == key]
                self.asked.append(body)
                due = body["state"].get("state_details", {}).get("scheduled_time") or datetime.now(UTC).isoformat()
                made = (
                    same[0] if same else self.run("SCHEDULED", expected_start_time=due, key=key, auto_scheduled=False)
                )
                return 201, made
            case ["flow_runs", "filter"]:
                return 200, self._filtered(body)
            case ["flow_runs", run_id]:
                return 200, next(one for one in self.runs if one["id"] == run_id)
            case ["work_pools", "aae"]:
                return 200, {"name": "aae", "type": "process", "is_paused": self.paused}
            case ["work_pools", "aae", "workers", "filter"]:
                return 200, self.workers
            case [_, "count"]:
                return 200, 2
            case [_, "filter"]:
                return 200, []
        return 404, {}

    def _filtered(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = body["flow_runs"]
        found = self.runs
        if "state" in wanted:
            found = [one for one in found if one["state"]["type"] in wanted["state"]["type"]["any_"]]
        if "start_time" in wanted:
            since = wanted["start_time"]["after_"]
            found = [one for one in found if one.get("start_time") and one["start_time"] >= since]
        key = "start_time" if "START" in body["sort"] and "EXPECTED" not in body["sort"] else "expected_start_time"
        found = sorted(found, key=lambda one: str(one.get(key)), reverse=body["sort"].endswith("DESC"))
        offset = body.get("offset", 0)
        return found[offset : offset + body.get("limit", 200)]


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """The API's address."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, found = server.answer(self.path.removeprefix("/api"), body)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/api"
        finally:
            http.shutdown()
            thread.join()
