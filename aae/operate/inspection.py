"""Celery's four questions: what runs now, what comes next, which jobs there are, how they have done.

Prefect's API knows the runs, the table of attempts what their processes are doing. Without the table the answers still
come, with ``None`` where it would have been asked.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aae.errors import UserError
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi, Schedule
from aae.operate.spoken import interval_in_words, schedule_in_words, type_in_words

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aae.storage.attempts import Attempt, Tally

WINDOWS: Final = {"24h": timedelta(hours=24), "7d": timedelta(days=7)}
"""The spans that :func:`stats` looks back over."""

MOST_RUNS: Final = 5_000
"""The newest runs that :func:`stats` counts."""

_SKIPPED: Final = "Skipped"


@dataclass(frozen=True, slots=True)
class Active:
    """A run that a worker has. ``since`` is aware, UTC; the last five are None while no process has said anything.

    ``silent_seconds`` is how long its last sign of life is ago.
    """

    job: str
    run: str
    run_id: str
    state: str
    since: datetime | None
    attempt: int
    place: str | None
    pid: int | None
    doing: str | None
    silent_seconds: float | None


@dataclass(frozen=True, slots=True)
class Coming:
    """A run that waits for its time or a worker. ``due`` is aware, UTC; ``seconds`` until then, negative if late."""

    job: str
    run: str
    run_id: str
    state: str
    due: datetime
    seconds: float
    by_schedule: bool
    why: str | None


@dataclass(frozen=True, slots=True)
class Registered:
    """A job. ``schedules``: in words, and as they are written; ``parameters``: type, default, description of each."""

    job: str
    entrypoint: str | None
    paused: bool
    schedules: tuple[tuple[str, str], ...]
    parameters: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Any]
    next_run: datetime | None


@dataclass(frozen=True, slots=True)
class JobStats:
    """How a job did in one window. Seconds; None where nothing has ended. ``lost`` counts attempts, not runs.

    ``attempts`` and ``lost`` are None if the table of attempts could not be asked.
    """

    job: str
    window: str
    runs: int
    ok: int
    failed: int
    running: int
    skipped: int
    attempts: int | None
    lost: int | None
    run_seconds_median: float | None
    run_seconds_p95: float | None
    queue_seconds_median: float | None


@dataclass(frozen=True, slots=True)
class Stats:
    """The pool, its workers, and every job in every window. ``all_counted`` is false beyond :data:`MOST_RUNS` runs."""

    pool: str
    paused: bool | None
    workers_online: tuple[str, ...]
    workers_offline: tuple[str, ...]
    at_work: int
    waiting: int
    late: int
    jobs: tuple[JobStats, ...]
    all_counted: bool


def active(api: PrefectApi, engine: Engine | None, pool: str) -> list[Active]:
    """Every run that a worker has, the longest running first."""
    names = _names(api, pool)
    runs = api.runs_in(pool, {"RUNNING", "PENDING", "CANCELLING"})
    tries, now = _tries(engine, [run.id for run in runs])
    found = []
    for run in sorted(runs, key=lambda one: str(one.started or one.state_since)):
        own = [one for one in tries if one.run_id == run.id]
        last = own[-1] if own and own[-1].ended_at is None else None
        found.append(
            Active(
                job=names.get(run.deployment_id, run.name),
                run=run.name,
                run_id=run.id,
                state=run.state_name,
                since=run.started or run.state_since,
                attempt=max(len(own), run.run_count, 1),
                place=last.place if last else None,
                pid=last.pid if last else None,
                doing=last.doing if last else None,
                silent_seconds=(now - last.beat_at).total_seconds() if last and now else None,
            )
        )
    return found


def scheduled(api: PrefectApi, pool: str, *, now: datetime) -> list[Coming]:
    """Every run that is planned, the next one first: by a schedule, by a person, to be run again, or in line."""
    names = _names(api, pool)
    return [
        Coming(
            job=names.get(run.deployment_id, run.name),
            run=run.name,
            run_id=run.id,
            state=run.state_name,
            due=run.scheduled_for,
            seconds=(run.scheduled_for - now).total_seconds(),
            by_schedule=run.auto_scheduled,
            # Of what is simply planned Prefect says just that.
            why=run.message if run.state_name != "Scheduled" else None,
        )
        for run in api.runs_in(pool, {"SCHEDULED"})
        if run.scheduled_for is not None
    ]


def registered(api: PrefectApi, pool: str) -> list[Registered]:
    """Every job of the pool, by name."""
    coming = api.runs_in(pool, {"SCHEDULED"})
    return [
        Registered(
            job=one.name,
            entrypoint=one.entrypoint,
            paused=one.paused,
            schedules=tuple(_spoken(schedule) for schedule in one.schedules),
            parameters=_takes(one.parameter_schema),
            given=one.parameters,
            next_run=next((run.scheduled_for for run in coming if run.deployment_id == one.id), None),
        )
        for one in sorted(api.deployments(pool), key=lambda one: one.name)
    ]


def stats(api: PrefectApi, engine: Engine | None, pool: str, *, now: datetime) -> Stats:
    """How every job of the pool has done, and who works."""
    deployments = sorted(api.deployments(pool), key=lambda one: one.name)
    runs = api.runs_begun(pool, now - max(WINDOWS.values()), at_most=MOST_RUNS)
    tallies = {window: _tally(engine, span) for window, span in WINDOWS.items()}
    workers, found = api.workers(pool), api.work_pool(pool)
    waiting = api.runs_in(pool, {"SCHEDULED"})
    return Stats(
        pool=pool,
        paused=found.paused if found else None,
        workers_online=tuple(one.name for one in workers if one.online),
        workers_offline=tuple(one.name for one in workers if not one.online),
        at_work=len(api.runs_in(pool, {"RUNNING", "PENDING", "CANCELLING"})),
        waiting=len(waiting),
        late=sum(one.state_name == "Late" for one in waiting),
        jobs=tuple(
            _stats(one, window, [run for run in runs if run.started and run.started >= now - span], tallies[window])
            for one in deployments
            for window, span in WINDOWS.items()
        ),
        all_counted=len(runs) < MOST_RUNS,
    )


def _stats(job: Deployment, window: str, runs: Sequence[FlowRun], tally: Mapping[str, Tally] | None) -> JobStats:
    own = [run for run in runs if run.deployment_id == job.id]
    took = sorted(run.seconds for run in own if run.seconds is not None and run.state_name != _SKIPPED)
    waited = [(run.started - run.scheduled_for).total_seconds() for run in own if run.started and run.scheduled_for]
    counted = None if tally is None else tally.get(job.name.partition("/")[0])
    return JobStats(
        job=job.name,
        window=window,
        runs=len(own),
        ok=sum(run.succeeded for run in own),
        failed=sum(run.state_type in {"FAILED", "CRASHED"} for run in own),
        running=sum(not run.is_final for run in own),
        skipped=sum(run.state_type == "CANCELLED" for run in own),
        attempts=None if tally is None else counted.begun if counted else 0,
        lost=None if tally is None else counted.lost if counted else 0,
        run_seconds_median=statistics.median(took) if took else None,
        run_seconds_p95=took[math.ceil(0.95 * len(took)) - 1] if took else None,
        # A run that a person asked for is due at once by the server's clock, which may be a little ahead.
        queue_seconds_median=max(0.0, statistics.median(waited)) if waited else None,
    )


def _names(api: PrefectApi, pool: str) -> dict[str | None, str]:
    return {one.id: one.name for one in api.deployments(pool)}


def _tries(engine: Engine | None, run_ids: Sequence[str]) -> tuple[list[Attempt], datetime | None]:
    if engine is None or not run_ids:
        return [], None
    from aae.storage import attempts  # noqa: PLC0415
    from aae.storage.engine import database_clock, reading  # noqa: PLC0415

    with reading(engine) as connection:
        return attempts.of_runs(connection, run_ids), database_clock(connection)


def _tally(engine: Engine | None, span: timedelta) -> dict[str, Tally] | None:
    if engine is None:
        return None
    from aae.storage import attempts  # noqa: PLC0415
    from aae.storage.engine import database_clock, reading  # noqa: PLC0415

    with reading(engine) as connection:
        return attempts.tally(connection, database_clock(connection) - span)


def _spoken(schedule: Schedule) -> tuple[str, str]:
    """In words, and as it is written."""
    off = f"{f', share {schedule.share}' if schedule.share else ''}{'' if schedule.active else ' (switched off)'}"
    if schedule.cron is not None:
        try:
            words = schedule_in_words(schedule.cron, schedule.timezone, day_or=schedule.day_or)
        except UserError:  # cron has forms that no file of ours uses
            words = f"by cron {schedule.cron}"
        return words + off, f"{schedule.cron} {schedule.timezone}{'' if schedule.day_or else ' (both days)'}"
    if schedule.every_seconds is not None:
        return interval_in_words(schedule.every_seconds) + off, f"{schedule.every_seconds:g} s"
    return f"by a rule{off}", "rrule"


def _takes(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a flow takes, by its JSON schema."""
    definitions = schema.get("definitions") or {}
    return {
        name: {
            "type": type_in_words(one, definitions),
            "default": one.get("default"),
            "description": one.get("description"),
            "required": name in (schema.get("required") or ()),
        }
        for name, one in (schema.get("properties") or {}).items()
    }
