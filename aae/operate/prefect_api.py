"""A small typed client of Prefect's REST API: what the command line asks and tells, without importing Prefect.

Importing Prefect takes seconds; a status question should not.
"""

from __future__ import annotations

import base64
import math
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import httpx

from aae import shares, tls
from aae.errors import Bug, Reauthorize, Retry, UserError
from aae.settings import Settings

FINAL_STATES: Final = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
"""State types that a run does not leave by itself."""

_PAGE: Final = 200
_NARROWING: Final = ("accounts", "users", "platforms")
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, None)
"""Seconds between tries while the server says that it is busy."""
_ERROR: Final = 40
"""Level of an error in Prefect's logs (Python's own number)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a deployment runs. ``cron`` is None for other kinds of schedule.

    ``day_or`` false: day of month *and* day of week must match. ``every_seconds``: of one that runs at intervals.
    """

    cron: str | None
    timezone: str
    active: bool
    day_or: bool = True
    every_seconds: float | None = None
    slug: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def share(self) -> str | None:
        """The share of the job that its runs do (:mod:`aae.shares`); None: all of it."""
        return shares.of_run(self.parameters)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A job as the server knows it; ``name`` is ``flow-name/deployment-name``."""

    id: str
    name: str
    paused: bool
    created: datetime
    work_pool: str | None
    schedules: tuple[Schedule, ...]
    queue: str | None = None
    # ``path.py:function``, from the folder that the pull steps go to.
    entrypoint: str | None = None
    pull_steps: tuple[Mapping[str, Any], ...] = ()
    # Those given for every run of it, and the JSON schema of all that its flow takes.
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    parameter_schema: Mapping[str, Any] = field(default_factory=dict, hash=False)
    job_variables: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One run of a job. Moments are aware, UTC; None where it has not come to that yet."""

    id: str
    name: str
    deployment_id: str | None
    state_type: str
    state_name: str
    message: str | None
    scheduled_for: datetime | None
    started: datetime | None
    ended: datetime | None
    # Of the state: a new one with every change, also to one of the same type.
    state_id: str | None = None
    state_since: datetime | None = None
    # Made by the schedule, not by a person.
    auto_scheduled: bool = False
    # How often it has begun.
    run_count: int = 0
    # Where Prefect says that the result lies (the state's ``data``); None where there is none.
    result: Mapping[str, Any] | None = None
    # The share of its job that it does (see aae.shares); None: all of it, or what its parameters name.
    share: str | None = None
    # Those of its parameters by which it is about a part of its job only: some accounts, users or platforms.
    only: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_final(self) -> bool:
        """Whether it has ended, well or badly."""
        return self.state_type in FINAL_STATES

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.state_type == "COMPLETED"

    @property
    def seconds(self) -> float | None:
        """How long it ran, once it has ended."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None


@dataclass(frozen=True, slots=True)
class Progress:
    """A run on its way: ``share`` (0..1) is its progress artifact's, None where it has none."""

    run: FlowRun
    tasks_done: int
    tasks_known: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that executes runs of a work pool; ``heartbeat`` (aware, UTC) is when it last said so."""

    name: str
    online: bool
    heartbeat: datetime | None


@dataclass(frozen=True, slots=True)
class WorkPool:
    """A work pool; a paused one hands out no runs.

    ``limit``: as many runs at once; ``command``: what a worker starts for a run. None where the pool does not say.
    """

    name: str
    type: str
    paused: bool
    limit: int | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A queue of a work pool; ``polled`` (aware, UTC) is when a worker last asked for its runs, None if never."""

    name: str
    paused: bool
    limit: int | None
    polled: datetime | None


class PrefectApi:
    """Questions to one Prefect API, for instance ``http://127.0.0.1:4200/api``.

    ``auth_string`` (``user:password``) and ``api_key`` are Prefect's own ways to log in, the first of them counts;
    ``ca_file`` (PEM) is trusted in place of the public authorities. Every method may raise
    ``Retry`` (no answer), ``Reauthorize`` (not allowed in) or ``Bug`` (an answer that we do not understand).
    """

    def __init__(
        self,
        url: str,
        *,
        auth_string: str | None = None,
        api_key: str | None = None,
        ca_file: str | None = None,
        timeout: float = 10,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        # A question now and then: a connection kept open between them would only have to be closed by somebody.
        headers = {"Connection": "close"}
        self._remedy = "set PREFECT_API_AUTH_STRING (user:password) or PREFECT_API_KEY"
        if auth_string:
            # As a whole, as Prefect does: its server compares it as a whole, also one without a colon.
            headers["Authorization"] = f"Basic {base64.b64encode(auth_string.encode()).decode()}"
            self._remedy = "set PREFECT_API_AUTH_STRING to what the server has as PREFECT_SERVER_API_AUTH_STRING"
        elif api_key:
            headers["Authorization"] = f"Bearer {api_key}"
            self._remedy = "PREFECT_API_KEY is not, or no longer, one of its keys"
        self._client = httpx.Client(
            base_url=f"{self.url}/",
            headers=headers,
            timeout=timeout,
            transport=transport,
            # Certificates take a third of a second to load, and are for TLS only.
            verify=_trusting(ca_file) if ca_file else not self.url.startswith("http://"),
            # A loopback server is never behind a proxy; another may be.
            trust_env=not self.url.startswith(("http://127.0.0.1", "http://localhost")),
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def health(self) -> bool:
        """Whether the server says that it is well."""
        return bool(self._ask("GET", "health"))

    def server_version(self) -> str:
        """The server's Prefect version."""
        return str(self._ask("GET", "admin/version"))

    def require_entry(self) -> None:
        """See that the server lets us in, before long work begins. One that does not answer now may do so later.

        Raises:
            Reauthorize: it does not.
        """
        with suppress(Retry, Bug):
            self.server_version()

    def deployment(self, name: str) -> Deployment | None:
        """The deployment ``flow-name/deployment-name``; None if there is none."""
        found = self._find("GET", f"deployments/name/{name}")
        return None if found is None else _deployment(name, found)

    def is_paused(self, deployment_id: str) -> bool:
        """Whether nothing is planned for the deployment because a person wants it so."""
        found = self._ask("GET", f"deployments/{deployment_id}")
        schedules = found.get("schedules") or []
        return bool(found.get("paused")) or (bool(schedules) and not any(one["active"] for one in schedules))

    def work_pool(self, name: str) -> WorkPool | None:
        """The work pool of that name; None if there is none."""
        found = self._find("GET", f"work_pools/{name}")
        return None if found is None else _work_pool(found)

    def work_pools(self) -> list[WorkPool]:
        """Every work pool of the server."""
        return [_work_pool(one) for one in self._ask("POST", "work_pools/filter", {})]

    def queues(self, pool: str) -> list[WorkQueue]:
        """Every queue of the work pool; none if there is no such pool."""
        found = self._find("POST", f"work_pools/{pool}/queues/filter", {}) or []
        return [
            WorkQueue(q["name"], bool(q["is_paused"]), q.get("concurrency_limit"), _moment(q.get("last_polled")))
            for q in found
        ]

    def block(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """What the block document of this kind (its type's slug) and name holds, secrets too; None if there is none."""
        path = f"block_types/slug/{kind}/block_documents/name/{name}?include_secrets=true"
        found = self._find("GET", path)
        return None if found is None else dict(found["data"])

    def clock(self) -> datetime | None:
        """What time it is for the server (aware, UTC, to the second); None if it does not say."""
        try:
            told = self._client.get("health").headers.get("date")
            return parsedate_to_datetime(told).astimezone(UTC) if told else None
        except (httpx.HTTPError, ValueError):
            return None

    def deployments(self, pool: str) -> list[Deployment]:
        """Every deployment whose runs go to this work pool."""
        found = list(self.every("deployments/filter", {"work_pools": {"name": {"any_": [pool]}}}))
        names = self.flow_names({one["flow_id"] for one in found})
        # A deployment that was made or removed between two pages shifts them.
        known = {one["id"]: one for one in found if one["flow_id"] in names}
        return [_deployment(f"{names[one['flow_id']]}/{one['name']}", one) for one in known.values()]

    def flow_names(self, flow_ids: Collection[str]) -> dict[str, str]:
        """The names of the flows with these ids."""
        asked = {"flows": {"id": {"any_": sorted(flow_ids)}}}
        return {flow["id"]: flow["name"] for flow in self.every("flows/filter", asked)} if flow_ids else {}

    def set_pool_paused(self, name: str, *, paused: bool) -> None:
        """Hand out no runs of this pool any more, or hand them out again."""
        self._find("PATCH", f"work_pools/{name}", {"is_paused": paused})

    def workers(self, pool: str) -> list[Worker]:
        """Every worker the pool has seen lately; none if there is no such pool."""
        found = self._find("POST", f"work_pools/{pool}/workers/filter", {}) or []
        return [Worker(w["name"], w.get("status") == "ONLINE", _moment(w.get("last_heartbeat_time"))) for w in found]

    def run(self, run_id: str) -> FlowRun:
        """One run, as it is now."""
        return _flow_run(self._ask("GET", f"flow_runs/{run_id}"))

    def create_run(
        self,
        deployment_id: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        scheduled_for: datetime | None = None,
    ) -> FlowRun:
        """Ask for a run, right now or for later; a worker will take it. The same key asks for the same run."""
        details = {} if scheduled_for is None else {"scheduled_time": scheduled_for.isoformat()}
        state = {"type": "SCHEDULED", "state_details": details}
        body = {"parameters": dict(parameters), "state": state, "idempotency_key": idempotency_key}
        return _flow_run(self._ask("POST", f"deployments/{deployment_id}/create_flow_run", body))

    def last_run(self, deployment_id: str) -> FlowRun | None:
        """The deployment's run that started last, whatever became of it; None if it never ran."""
        body = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"start_time": {"is_null_": False}},
            "sort": "START_TIME_DESC",
            "limit": 1,
        }
        return next(iter(self._runs(body)), None)

    def last_runs(self, deployment_id: str, limit: int = 50) -> list[FlowRun]:
        """So many of the deployment's runs that have ended or been handed to a worker, the last due first."""
        begun = sorted(FINAL_STATES | {"RUNNING", "PENDING", "CANCELLING"})
        body = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"state": {"type": {"any_": begun}}},
            "sort": "EXPECTED_START_TIME_DESC",
        }
        return list(self._all_runs(body, limit))

    def planned(self, deployment_id: str) -> list[FlowRun]:
        """The deployment's runs that wait for their moment or for a worker, by when they are due; at most 200."""
        body = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": _PAGE,
        }
        return self._runs(body)

    def next_run(self, deployment_id: str) -> FlowRun | None:
        """The deployment's run that is to start next (late ones included); None if the server has planned none."""
        body = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 1,
        }
        return next(iter(self._runs(body)), None)

    def runs_in(
        self, pool: str, states: Collection[str], *, since: datetime | None = None, until: datetime | None = None
    ) -> list[FlowRun]:
        """The pool's runs in a state of one of these types, due at ``since <= t <= until``, by when they are due."""
        runs: dict[str, Any] = {"state": {"type": {"any_": sorted(states)}}}
        due = {"after_": since and since.isoformat(), "before_": until and until.isoformat()}
        if any(due.values()):
            runs["expected_start_time"] = due
        pools = {"name": {"any_": [pool]}}
        return list(self._all_runs({"work_pools": pools, "flow_runs": runs, "sort": "EXPECTED_START_TIME_ASC"}))

    def runs_begun(self, pool: str, since: datetime, *, at_most: int) -> list[FlowRun]:
        """The pool's runs that began at or after ``since``, the newest first; no more than ``at_most``."""
        body = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"start_time": {"after_": since.isoformat()}},
            "sort": "START_TIME_DESC",
        }
        return list(self._all_runs(body, at_most))

    def ended_runs(self, pool: str, *, since: datetime, limit: int) -> list[FlowRun]:
        """The pool's runs that ended at or after ``since``, newest first, at most ``limit`` of them."""
        body = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {
                "end_time": {"after_": since.isoformat()},
                "state": {"type": {"any_": sorted(FINAL_STATES)}},
            },
            "sort": "END_TIME_DESC",
        }
        return list(self._all_runs(body, limit))

    def last_ended(self, deployment_id: str, states: Collection[str]) -> FlowRun | None:
        """The deployment's run that ended last in a state of one of these types; None if there is none."""
        body = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"state": {"type": {"any_": sorted(states)}}, "end_time": {"is_null_": False}},
            "sort": "END_TIME_DESC",
            "limit": 1,
        }
        return next(iter(self._runs(body)), None)

    def due_between(self, deployment_id: str, since: datetime, until: datetime) -> list[FlowRun]:
        """The deployment's runs, in whatever state, that were due at ``since <= t <= until``, oldest first."""
        body = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"expected_start_time": {"after_": since.isoformat(), "before_": until.isoformat()}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return list(self._all_runs(body))

    def states(self, run_id: str) -> list[tuple[str, str]]:
        """Name and message of every state that the run has been in, oldest first."""
        found = self._ask("GET", f"flow_run_states/?flow_run_id={run_id}")
        return [(one["name"], one.get("message") or "") for one in sorted(found, key=lambda one: str(one["timestamp"]))]

    def set_state(
        self, run_id: str, state_type: str, name: str, message: str, *, scheduled_for: datetime | None = None
    ) -> None:
        """Put the run into this state, whatever its present one; ``scheduled_for`` for ``SCHEDULED``."""
        details = {} if scheduled_for is None else {"scheduled_time": scheduled_for.isoformat()}
        state = {"type": state_type, "name": name, "message": message, "state_details": details}
        self._ask("POST", f"flow_runs/{run_id}/set_state", {"state": state, "force": True})

    def add_log(self, run_id: str, message: str, *, at: datetime) -> None:
        """Add a warning to the run's log."""
        line = {"name": "aae.watch", "level": 30, "message": message, "timestamp": at.isoformat()}
        self._find("POST", "logs/", [line | {"flow_run_id": run_id}])

    def error_logs(self, run_id: str, limit: int = 5) -> list[str]:
        """The run's last error messages, oldest first."""
        body = {
            "logs": {"flow_run_id": {"any_": [run_id]}, "level": {"ge_": _ERROR}},
            "sort": "TIMESTAMP_DESC",
            "limit": limit,
        }
        return [str(line["message"]) for line in reversed(self._ask("POST", "logs/filter", body))]

    def set_paused(self, deployment_id: str, *, paused: bool) -> None:
        """Stop or resume a deployment's schedules."""
        self._ask("POST", f"deployments/{deployment_id}/{'pause_deployment' if paused else 'resume_deployment'}")

    def every(self, path: str, body: Mapping[str, Any], at_most: float = math.inf) -> Iterator[Any]:
        """All that a filter finds, or so much of it, page by page: the API gives at most 200 at once."""
        offset = 0
        while (limit := int(min(_PAGE, at_most - offset))) > 0:
            page = self._ask("POST", path, {**body, "limit": limit, "offset": offset}) or ()
            yield from page
            if len(page) < limit:
                return
            offset += limit

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Any question of the API's own; None where there is no such thing (404) or nothing is said (204)."""
        return self._find(method, path, body)

    def emit_event(
        self,
        name: str,
        resource: Mapping[str, str],
        payload: Mapping[str, Any],
        *,
        at: datetime,
        event_id: str | None = None,
    ) -> None:
        """Record an event about ``resource`` (its labels), to which automations may react."""
        event = {"occurred": at.isoformat(), "event": name, "resource": dict(resource), "payload": dict(payload)}
        self._find("POST", "events", [event | {"id": event_id or str(uuid4())}])

    def has_event(self, event_id: str) -> bool:
        """Whether the server keeps an event of this id."""
        return bool(self._ask("POST", "events/filter", {"filter": {"id": {"id": [event_id]}}, "limit": 1})["events"])

    def progress(self, run_id: str) -> Progress:
        """How far a run has come."""
        this = {"flow_runs": {"id": {"any_": [run_id]}}}
        done = {**this, "task_runs": {"state": {"type": {"any_": sorted(FINAL_STATES)}}}}
        artifacts = {**this, "artifacts": {"type": {"any_": ["progress"]}}, "sort": "UPDATED_DESC", "limit": 1}
        found = self._ask("POST", "artifacts/filter", artifacts)
        return Progress(
            run=self.run(run_id),
            tasks_done=int(self._ask("POST", "task_runs/count", done)),
            tasks_known=int(self._ask("POST", "task_runs/count", this)),
            share=float(found[0]["data"]) / 100 if found and found[0]["data"] is not None else None,
        )

    def watch(
        self, run_id: str, *, every: float = 0.5, pause: Callable[[float], None] = time.sleep
    ) -> Iterator[Progress]:
        """The run's progress again and again until it has ended; the last one given is final.

        A server that does not answer for a moment is asked again; after twenty times in a row that is raised.
        """
        silent = 0
        while True:
            try:
                progress = self.progress(run_id)
            except Retry:
                silent += 1
                if silent == 20:
                    raise
            else:
                silent = 0
                yield progress
                if progress.run.is_final:
                    return
            pause(every)

    def _all_runs(self, body: dict[str, Any], at_most: float = math.inf) -> Iterator[FlowRun]:
        return map(_flow_run, self.every("flow_runs/filter", body, at_most))

    def _runs(self, body: dict[str, Any]) -> list[FlowRun]:
        return [_flow_run(found) for found in self._ask("POST", "flow_runs/filter", body)]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        found = self._find(method, path, body)
        if found is None and method == "GET":
            raise Bug(f"Prefect's API at {self.url} knows nothing at /{path}.")
        return found

    def _find(self, method: str, path: str, body: object = None) -> Any:
        """The answer; None where the API says that there is no such thing (404) or has nothing to say (204)."""
        for pause in _PAUSES:
            try:
                response = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                reason = tls.trouble(error)
                if reason is not None:
                    raise Retry(f"Prefect's API at {self.url} cannot be trusted: {reason}.") from None
                raise Retry(f"Prefect's API at {self.url} does not answer ({type(error).__name__}).") from None
            # 503: its database was busy, nothing happened. On SQLite that is everyday life.
            if response.status_code not in {429, 503} or pause is None:
                break
            time.sleep(pause)
        if response.status_code in {404, 204}:
            return None
        if response.status_code in {401, 403}:
            raise Reauthorize(f"Prefect's API at {self.url} does not let us in: {self._remedy}.")
        if response.status_code >= 500 or response.status_code == 429:
            raise Retry(f"Prefect's API at {self.url} answered {response.status_code} to /{path}.")
        if not response.is_success:
            raise Bug(f"Prefect's API at {self.url} answered {response.status_code} to /{path}: {response.text[:300]}")
        try:
            return response.json()
        except ValueError:
            raise Bug(f"What answers at {self.url} is not Prefect's API: check PREFECT_API_URL.") from None


def open_api(settings: Settings, *, timeout: float = 10) -> PrefectApi:
    """The API that the settings name; each question may take ``timeout`` seconds.

    Raises:
        UserError: they name none.
    """
    if not settings.prefect_api_url:
        raise UserError("No Prefect server is known: start one with aae up, or set PREFECT_API_URL.")
    return PrefectApi(
        settings.prefect_api_url,
        auth_string=settings.prefect_api_auth_string.get_secret_value() or None,
        api_key=settings.prefect_api_key.get_secret_value() or None,
        timeout=timeout,
        ca_file=settings.prefect_api_ssl_cert_file or None,
    )


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError:  # ssl's own errors are such, too
        raise UserError("The file that PREFECT_API_SSL_CERT_FILE names holds no certificates in PEM format.") from None


def _deployment(name: str, found: Mapping[str, Any]) -> Deployment:
    schedules = tuple(
        Schedule(
            cron=one["schedule"].get("cron"),
            timezone=one["schedule"].get("timezone") or "UTC",
            active=bool(one["active"]),
            day_or=one["schedule"].get("day_or") is not False,
            every_seconds=one["schedule"].get("interval"),
            slug=one.get("slug"),
            parameters=one.get("parameters") or {},
        )
        for one in found["schedules"]
    )
    # The server gives them in any order.
    schedules = tuple(sorted(schedules, key=lambda one: int((one.share or "0").partition("/")[0])))
    return Deployment(
        found["id"],
        name,
        bool(found["paused"]),
        _known_moment(found["created"]),
        found.get("work_pool_name"),
        schedules,
        queue=found.get("work_queue_name"),
        entrypoint=found.get("entrypoint"),
        pull_steps=tuple(found.get("pull_steps") or ()),
        parameters=found.get("parameters") or {},
        parameter_schema=found.get("parameter_openapi_schema") or {},
        job_variables=found.get("job_variables") or {},
        tags=frozenset(found.get("tags") or ()),
    )


def _work_pool(found: Mapping[str, Any]) -> WorkPool:
    command: Any = found.get("base_job_template")
    for key in ("variables", "properties", "command", "default"):
        command = command.get(key) if isinstance(command, dict) else None
    return WorkPool(
        found["name"],
        found["type"],
        bool(found["is_paused"]),
        limit=found.get("concurrency_limit"),
        command=None if command is None else str(command),
    )


def _flow_run(found: Mapping[str, Any]) -> FlowRun:
    state, given = found.get("state") or {}, found.get("parameters") or {}
    return FlowRun(
        id=found["id"],
        name=found["name"],
        deployment_id=found.get("deployment_id"),
        state_type=state.get("type") or "PENDING",
        state_name=state.get("name") or "Pending",
        message=state.get("message"),
        scheduled_for=_moment(found.get("expected_start_time")),
        started=_moment(found.get("start_time")),
        ended=_moment(found.get("end_time")),
        state_id=state.get("id"),
        state_since=_moment(state.get("timestamp")),
        auto_scheduled=bool(found.get("auto_scheduled")),
        run_count=int(found.get("run_count") or 0),
        result=state["data"] if isinstance(state.get("data"), dict) else None,
        share=shares.of_run(given),
        only={name: given[name] for name in _NARROWING if given.get(name)},
    )


def _known_moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
