"""What Prefect's API says: workers, runs on their way, runs that ended, and how each job is doing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from aae.operate.metrics import catalogue
from aae.operate.metrics.catalogue import Sample
from aae.operate.metrics.tables import OTHER, Tally, bounded
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi, Worker
from aae.operate.schedule import last_due
from aae.shares import are_apart

GRACE: Final = timedelta(minutes=10)
"""A run may begin this late; and a crashed one is the watch's to mend for so long before it counts as failed."""

_DAY: Final = timedelta(days=1)
_AHEAD: Final = timedelta(minutes=1)
_MOST_RUNS: Final = 1000
_ENDS: Final = ("completed", "failed", "crashed", "cancelled")
_BAD: Final = ("FAILED", "CRASHED")
_STATES: Final = ("running", "pending", "late", "waiting")
_QUANTILES: Final = (0.5, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class JobHealth:
    """How one deployment is doing. Moments are aware UTC, None where that never happened.

    ``due`` is when its schedule wanted it last (ten minutes ago or earlier); ``overdue``: it has not begun since;
    ``failed``: the last run that ended has failed for good. Where it is dealt out to shares, one is enough for either.
    """

    name: str
    paused: bool
    last_success: datetime | None
    last_failure: datetime | None
    running_since: datetime | None
    due: datetime | None
    overdue: bool
    failed: bool

    @property
    def well(self) -> bool:
        """Neither overdue nor failed."""
        return not (self.overdue or self.failed)


@dataclass(frozen=True, slots=True)
class Sight:
    """The work pool at one moment. ``under_way`` are runs that are due and have not ended, ``ended`` those of 24 h."""

    now: datetime
    pool: str
    exists: bool
    paused: bool
    workers: Sequence[Worker]
    deployments: Sequence[Deployment]
    jobs: Sequence[JobHealth]
    under_way: Sequence[FlowRun]
    ended: Sequence[FlowRun]

    @property
    def online(self) -> list[Worker]:
        """The workers that take runs."""
        return [worker for worker in self.workers if worker.online]


def look(api: PrefectApi, pool: str, *, now: datetime) -> Sight:
    """Ask Prefect about this work pool; ``now`` is aware.

    Of more than a thousand runs that ended in 24 hours the last thousand are seen.

    Raises:
        Retry, Reauthorize, Bug: see :class:`PrefectApi`.
    """
    found = api.work_pool(pool)
    deployments = api.deployments(pool)
    # A worker takes a run some seconds before it is due.
    soon = api.runs_in(pool, {"RUNNING", "PENDING", "CANCELLING", "SCHEDULED"}, until=now + _AHEAD)
    under_way = [one for one in soon if one.state_type != "SCHEDULED" or (one.scheduled_for or now) <= now]
    ended = api.ended_runs(pool, since=now - _DAY, limit=_MOST_RUNS)
    return Sight(
        now=now,
        pool=pool,
        exists=found is not None,
        paused=found is not None and found.paused,
        workers=api.workers(pool),
        deployments=deployments,
        jobs=[_health(api, one, under_way, ended, now) for one in deployments],
        under_way=under_way,
        ended=ended,
    )


def _health(
    api: PrefectApi, job: Deployment, under_way: Sequence[FlowRun], ended: Sequence[FlowRun], now: datetime
) -> JobHealth:
    success = _last(api, job, ended, ("COMPLETED",))
    failure = _last(api, job, ended, _BAD)
    running = [one.started for one in under_way if one.deployment_id == job.id and one.state_type == "RUNNING"]
    since = min((started for started in running if started), default=None)
    ran = [one for one in ended if one.deployment_id == job.id and one.state_type != "CANCELLED"]
    ran = sorted([one for one in (success, failure) if one] + ran, key=lambda one: one.ended or now)
    last = _last_of_each_share(ran)
    due = _due(job, now)
    return JobHealth(
        name=job.name,
        paused=job.paused,
        last_success=success.ended if success else None,
        last_failure=failure.ended if failure else None,
        running_since=since,
        due=due,
        overdue=due is not None and not running and not (last and all(_serves(one, due) for one in last)),
        failed=any(not one.succeeded and _for_good(one, now) for one in last),
    )


def _last(api: PrefectApi, job: Deployment, ended: Sequence[FlowRun], states: Collection[str]) -> FlowRun | None:
    """The job's run that ended last in one of these states; only what is not of today is asked for."""
    seen = (one for one in ended if one.deployment_id == job.id and one.state_type in states)
    return next(seen, None) or api.last_ended(job.id, states)


def _last_of_each_share(ran: Sequence[FlowRun]) -> list[FlowRun]:
    """Of runs of one job, the oldest first: one, or as many as it has shares (:mod:`aae.shares`).

    What became of some accounts, which somebody asked for, says nothing of the others.
    """
    last: list[FlowRun] = []
    for one in [one for one in ran if not one.only] or ran:
        last = [*(other for other in last if are_apart(one.share, other.share)), one]
    return last


def _due(job: Deployment, now: datetime) -> datetime | None:
    if job.paused:
        return None
    dues = [
        due
        for one in job.schedules
        if one.active and one.cron and (due := last_due(one.cron, now - GRACE, one.timezone)) and due > job.created
    ]
    return max(dues, default=None)


def _serves(run: FlowRun, due: datetime) -> bool:
    """Whether this run was made for that moment, or began after it."""
    return any(moment is not None and moment >= due for moment in (run.scheduled_for, run.started))


def _for_good(run: FlowRun, now: datetime) -> bool:
    return run.state_type == "FAILED" or run.ended is None or now - run.ended > GRACE


def samples(sight: Sight) -> Iterator[Sample]:
    """The sight in numbers."""
    yield catalogue.WORKERS.of(len(sight.online))
    yield catalogue.POOL_PAUSED.of(sight.paused)
    names = bounded(one.name for one in sight.deployments)
    ids = {one.id: names.get(one.name, OTHER) for one in sight.deployments}
    for job in sight.jobs:
        if job.name in names:
            yield from _job(job, names[job.name], sight.now)
    known = sorted(set(ids.values()))
    on_their_way = Tally(catalogue.RUNS_NOW, known, _STATES)
    for run in sight.under_way:
        on_their_way.add(1, ids.get(run.deployment_id or "", OTHER), _state(run))
    outcomes = Tally(catalogue.RUNS, known, _ENDS)
    for run in sight.ended:
        outcomes.add(1, ids.get(run.deployment_id or "", OTHER), run.state_type.lower())
    yield from on_their_way.samples()
    yield from outcomes.samples()
    yield from _times(sight.ended, ids)


def _job(job: JobHealth, name: str, now: datetime) -> Iterator[Sample]:
    yield catalogue.OVERDUE.of(job.overdue, name)
    yield catalogue.FAILED.of(job.failed, name)
    yield catalogue.PAUSED.of(job.paused, name)
    yield catalogue.RUNNING_SECONDS.of((now - job.running_since).total_seconds() if job.running_since else 0, name)
    if job.last_success:
        yield catalogue.LAST_SUCCESS.of(job.last_success.timestamp(), name)
    if job.last_failure:
        yield catalogue.LAST_FAILURE.of(job.last_failure.timestamp(), name)


def _state(run: FlowRun) -> str:
    if run.state_type != "SCHEDULED":
        return "pending" if run.state_type == "PENDING" else "running"
    # A plain "Scheduled" that is due will be marked late by the server in some seconds, or is taken before that.
    return "late" if run.state_name == "Late" else "waiting"


def _times(ended: Sequence[FlowRun], ids: dict[str, str]) -> Iterator[Sample]:
    durations: dict[tuple[str, str], list[float]] = {}
    queued: dict[str, list[float]] = {}
    for run in ended:
        name = ids.get(run.deployment_id or "", OTHER)
        if run.seconds is not None:
            durations.setdefault((name, run.state_type.lower()), []).append(max(0.0, run.seconds))
        if run.started and run.scheduled_for:
            queued.setdefault(name, []).append(max(0.0, (run.started - run.scheduled_for).total_seconds()))
    for quantile in _QUANTILES:
        for (name, outcome), each in durations.items():
            yield catalogue.RUN_SECONDS.of(_quantile(each, quantile), name, outcome, f"{100 * quantile:g}")
        for name, each in queued.items():
            yield catalogue.QUEUE_SECONDS.of(_quantile(each, quantile), name, f"{100 * quantile:g}")


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]
