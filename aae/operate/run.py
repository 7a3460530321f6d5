"""Ask for a run of a job and wait for what it returns, as ``.apply_async()`` and ``.get()`` do in Celery.

    from aae.operate.run import run_job
    run = run_job("fetch_ad_data", {"accounts": [1]})
    print(run.get(timeout=600))

Nothing here imports Prefect, so that it costs a web application nothing: the server is asked by HTTP, and the result,
which is JSON in Redis, is read from there.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aae.display import clean
from aae.errors import AaeError, Retry, UserError
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi, Progress, open_api
from aae.operate.spoken import type_in_words
from aae.settings import Settings

_FARTHEST: Final = timedelta(days=366)
_SERVER_AWAY_SECONDS: Final = 30.0
"""While somebody waits for a run, the server may be away this long."""
_GIVEN_UP: Final = timedelta(minutes=5)
"""A crashed run that nobody has put back by then has nobody to do it."""
_MOST_TEXT: Final = 100_000
"""Parameters longer than this are refused: Prefect keeps at most 512 KB with a run."""


class RunFailed(AaeError):
    """The run has ended, and not well; the message says how and why. ``run`` is its last state."""

    def __init__(self, message: str, run: FlowRun) -> None:
        super().__init__(message)
        self.run = run


class StillRunning(AaeError, TimeoutError):
    """It was not waited for any longer; the run goes on. ``run`` is its last known state."""

    def __init__(self, message: str, run: FlowRun) -> None:
        super().__init__(message)
        self.run = run


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run that was asked for. ``id`` is Prefect's, ``job`` is ``flow-name/deployment-name``, ``due`` aware UTC."""

    id: str
    name: str
    job: str
    due: datetime | None
    _settings: Settings = field(repr=False)

    @property
    def state(self) -> FlowRun:
        """The run as it is now.

        Raises:
            Retry, Reauthorize, Bug: the server (see :class:`PrefectApi`).
        """
        with open_api(self._settings) as api:
            return api.run(self.id)

    def wait(
        self, timeout: float | None = None, *, every: float = 0.5, show: Callable[[Progress], None] = lambda _: None
    ) -> FlowRun:
        """Wait until the run has ended, well or badly, however often it has to be begun again.

        ``timeout`` in seconds; None: as long as it takes. ``show`` hears of its progress.

        Raises:
            StillRunning: the time is over. The run is not: it goes on.
            Retry, Reauthorize, Bug: the server has been away for half a minute, or does not let us in.
        """
        begun = seen = time.monotonic()
        last: FlowRun | None = None
        with open_api(self._settings) as api:
            while True:
                try:
                    progress = api.progress(self.id)
                except Retry:
                    if time.monotonic() - seen > _SERVER_AWAY_SECONDS:
                        raise
                else:
                    seen, last = time.monotonic(), progress.run
                    show(progress)
                    if _is_over(last):
                        return last
                left = float("inf") if timeout is None else begun + timeout - time.monotonic()
                if left <= 0:
                    told = f"{self.name} of {self.job} has not ended within {timeout:g} s"
                    state = last.state_name if last else "unknown"
                    raise StillRunning(f"{told}; it is {state} and goes on.", last or api.run(self.id))
                time.sleep(min(every, left))

    def get(self, timeout: float | None = None) -> Any:
        """Wait as :meth:`wait` does, then what the job returned.

        Raises:
            RunFailed: it did not end well.
            StillRunning: see :meth:`wait`.
        """
        run = self.wait(timeout)
        if not run.succeeded:
            message = run.message or "without a reason"
            raise RunFailed(f"{self.name} of {self.job} ended {run.state_name}: {message}", run)
        return self.result

    @property
    def result(self) -> Any:
        """What the run returned, as data; its last message where nothing was kept (any more); None if it has not ended.

        Of a run that failed too: what it had done by then.
        """
        run = self.state
        return result_of(run, self._settings) if run.is_final else None


def run_job(
    job: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    countdown: float | None = None,
    eta: datetime | None = None,
    key: str | None = None,
    settings: Settings | None = None,
) -> JobRun:
    """Ask for a run of ``job``; a worker takes it.

    Args:
        job: ``flow-name/deployment-name``, or a part that names only one: the flow, its function, the deployment.
        parameters: JSON-like values by name; what is left out has the deployment's or the flow's default.
        countdown: Seconds from now until it is due.
        eta: When it is due (aware).
        key: The same key asks for the same run, however often; it is not made twice.
        settings: Where the server is; without it what the environment, ``.env`` or a running ``aae up`` say.

    Raises:
        UserError: there is no such job, it does not take these parameters, or no server is named; nothing was created.
        Retry, Reauthorize, Bug: the server (see :class:`PrefectApi`).
    """
    if settings is None:
        from aae.local.stack import settings_here  # noqa: PLC0415 - only where it is needed

        settings = settings_here()
    now = datetime.now(UTC)
    due = _due(countdown, eta, now)
    with open_api(settings) as api:
        deployment = find_job(api, job)
        check_parameters(deployment, parameters or {})
        run = api.create_run(deployment.id, parameters or {}, idempotency_key=key, scheduled_for=due)
    return JobRun(run.id, run.name, deployment.name, run.scheduled_for, settings)


def find_job(api: PrefectApi, job: str) -> Deployment:
    """The deployment that is meant.

    Raises:
        UserError: none is, or several are; the message lists the jobs.
    """
    from aae.local.stack import POOL  # noqa: PLC0415

    known = api.deployments(POOL)
    if not known:
        raise UserError(f"No job is deployed at {api.url}: run aae deploy.")
    wanted = job.strip().replace("_", "-").lower()
    exact = [one for one in known if one.name == job.strip()]
    # Celery's names of tasks are dotted: app.tasks.data_fetch.fetch_ad_data
    parts = (wanted, wanted.rpartition(".")[2])
    found = exact or [one for one in known if any(part in _called(one) for part in parts)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(one.name for one in found or known))
    if found:
        raise UserError(f"{clean(job)} can mean several jobs: {names}.")
    called = {name: one.name for one in known for name in _called(one)}
    close = difflib.get_close_matches(wanted, called, n=1, cutoff=0.6)
    hint = f" Do you mean {called[close[0]]}?" if close else ""
    raise UserError(f"There is no job {clean(job)}.{hint} The jobs are: {names}.")


def _called(one: Deployment) -> set[str]:
    """By what a deployment may be called: its full name, its flow's name or function, its own name."""
    flow, _, name = one.name.lower().partition("/")
    function = (one.entrypoint or "").rpartition(":")[2]
    return {
        f"{flow}/{name}".replace("_", "-"),
        flow.replace("_", "-"),
        name.replace("_", "-"),
        function.replace("_", "-"),
    }


def check_parameters(deployment: Deployment, parameters: Mapping[str, Any]) -> None:
    """Hold parameters against the deployment's schema.

    Raises:
        UserError: the first that does not fit, and what would.
    """
    takes = deployment.parameter_schema.get("properties") or {}
    for name in parameters:
        if name not in takes:
            close = difflib.get_close_matches(name, takes, n=1)
            hint = f" Do you mean {close[0]}?" if close else ""
            raise UserError(
                f"{deployment.name} has no parameter {clean(name)}.{hint} It takes: {', '.join(takes) or 'none'}."
            )
    required = deployment.parameter_schema.get("required") or ()
    missing = [name for name in required if name not in parameters and name not in deployment.parameters]
    if missing:
        raise UserError(f"{deployment.name} needs a value for {', '.join(missing)}.")
    try:
        if len(json.dumps(dict(parameters), allow_nan=False)) > _MOST_TEXT:
            raise UserError(f"The parameters are longer than {_MOST_TEXT:,} characters.")
    except (TypeError, ValueError, RecursionError):
        raise UserError(
            "Parameters must be JSON: text, numbers, true, false, null, lists and objects of them."
        ) from None
    for name, value in parameters.items():
        trouble = misfit(deployment, name, value)
        if trouble:
            raise UserError(f"{deployment.name} does not take {name}={_short(value)}: {trouble}.")


def misfit(deployment: Deployment, name: str, value: Any) -> str | None:
    """Why the parameter cannot have this value; None if it can."""
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - takes long to import
    from jsonschema.exceptions import best_match  # noqa: PLC0415

    schema = dict(deployment.parameter_schema)
    one = {"properties": {name: schema["properties"][name]}, "definitions": schema.get("definitions") or {}}
    error = best_match(Draft202012Validator(one, format_checker=FormatChecker()).iter_errors({name: value}))
    if error is None:
        return None
    # "Is not valid under any of the given schemas" helps nobody.
    wanted = f"it must be {type_in_words(schema['properties'][name], one['definitions'])}"
    if error.validator == "maxItems":  # its own message would repeat all of them
        return f"it has {len(error.instance):,} items, and may have {error.validator_value:,}"
    return wanted if error.validator in {"anyOf", "oneOf", "type", "enum"} else clean(error.message, limit=200)


def read_value(deployment: Deployment, name: str, text: str) -> Any:
    """A value as it is typed: JSON where that fits the parameter, else the text itself (``day=2026-11-20``)."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text
    known = name in (deployment.parameter_schema.get("properties") or {})
    return text if known and misfit(deployment, name, value) and not misfit(deployment, name, text) else value


def result_of(run: FlowRun, settings: Settings) -> Any:
    """What a run that has ended returned; its message where that is not kept, or not as JSON.

    Raises:
        Retry: the Redis with the results does not answer.
    """
    kept = run.result or {}
    key = kept.get("storage_key")
    # A pickle would be a program, and is not read.
    if not key or (kept.get("serializer") or {}).get("type") != "json" or not settings.resolved_results_url:
        return run.message
    from redis import Redis  # noqa: PLC0415 - takes long to import
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        with Redis.from_url(settings.resolved_results_url, socket_timeout=5, socket_connect_timeout=5) as client:
            found = client.get(str(key))
    except (RedisError, OSError) as error:
        raise Retry(f"The Redis with the results does not answer ({type(error).__name__}).") from None
    try:
        return run.message if found is None else json.loads(found)
    except (ValueError, RecursionError):
        return run.message


def _is_over(run: FlowRun) -> bool:
    """A crash is not the end: the watch has the run made again, or declares it failed."""
    crashed_at = run.state_since if run.state_type == "CRASHED" else None
    return run.is_final and (crashed_at is None or datetime.now(UTC) - crashed_at > _GIVEN_UP)


def _due(countdown: float | None, eta: datetime | None, now: datetime) -> datetime | None:
    if countdown is not None and eta is not None:
        raise UserError("Say how long from now or when, not both.")
    if countdown is not None:
        if not 0 <= countdown <= _FARTHEST.total_seconds():
            raise UserError("A run can be asked for from now up to a year ahead.")
        return now + timedelta(seconds=countdown)
    if eta is None:
        return None
    if eta.tzinfo is None:
        raise UserError("A time needs its time zone, for instance 2026-11-22T14:30+00:00.")
    if not now - timedelta(seconds=1) <= eta <= now + _FARTHEST:
        raise UserError(f"{eta:%Y-%m-%d %H:%M:%S %Z} is over, or more than a year ahead.")
    return eta


def _short(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False), limit=60)


def _no_number(text: str) -> float:
    raise ValueError(text)


__all__: Sequence[str] = ("JobRun", "RunFailed", "StillRunning", "run_job")
