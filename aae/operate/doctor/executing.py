"""Jobs that are not executed: from the server that plans them to the process that should work on them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from aae.errors import AaeError, Bug, Reauthorize, UserError
from aae.operate.channels import last_deliveries
from aae.operate.doctor.findings import DEPLOY, GRACE, PLANNING, Check, Subject, ago, attempt, failed, moment
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi, WorkQueue
from aae.operate.recovery import JOB as WATCH
from aae.operate.schedule import Job
from aae.settings import RecoverySettings
from aae.storage import attempts
from aae.storage.attempts import Attempt
from aae.storage.engine import database_clock, reading

COMMAND: Final = "python -m tasks.launch"
"""How a worker must start every run (``deployments/declared.py`` has it): one run of a job at a time, and none lost."""

POOL_TYPE: Final = "process"

START: Final = "aae worker"

ALERTS_KEPT: Final = timedelta(days=7)
"""Prefect's events, which say what became of alerts, are kept so long (``deployments/server.env``)."""

HEARTBEAT: Final = timedelta(minutes=2)
"""A worker says every 30 s that it lives, and asks its queues for runs every few seconds."""

_DIRECTORY_STEP: Final = "set_working_directory"
_PROJECT_DIR: Final = "AAE_PROJECT_DIR"


def server(api: PrefectApi | None) -> Check:
    """Whether Prefect's API answers and lets us in."""
    name = "Prefect API"
    if api is None:
        return Check(name, False, "PREFECT_API_URL is not set and no embedded server runs.", "`aae up`, or set it")
    try:
        return Check(name, True, f"{api.url}, version {api.health() and api.server_version()}")
    except Reauthorize as error:
        return failed(name, error, "export PREFECT_API_AUTH_STRING=user:password, as the server was started with")
    except Bug as error:
        return failed(name, error, "export PREFECT_API_URL=http://HOST:4200/api")
    except AaeError as error:
        return failed(name, error, "`aae up`, or `prefect server start` on the machine that PREFECT_API_URL names")


def examine(subject: Subject) -> Iterator[Check]:
    """The checks; without the API or the database those that can be made without."""
    api, engine, recovery = subject.api, subject.engine, subject.settings.recovery
    if api is not None:
        try:
            yield from _pool(api, subject.pool)
            yield from _workers(api, subject)
            for job in subject.jobs:
                yield from _job(api, job, subject)
            yield from _pending(api, subject.pool, recovery, subject.now)
        except AaeError as error:
            yield failed("Prefect API", error, "aae doctor, once the Prefect server is well")
    if api is not None:
        yield from _alerts(api, subject.now)
    if engine is not None:
        yield attempt("watch", lambda: _watch(engine, recovery), "aae watch")
        try:
            yield from _at_work(engine, recovery, {job.name.partition("/")[0] for job in subject.jobs})
        except SQLAlchemyError as error:
            yield failed("at work", error, "start the database that AAE_DATABASE_URL names")


# The way a run takes: pool, queue, worker


def _pool(api: PrefectApi, name: str) -> Iterator[Check]:
    pool = api.work_pool(name)
    faults: list[tuple[str, str]] = []
    if pool is None:
        faults.append((f"There is no work pool {name!r}.", DEPLOY))
    elif pool.type != POOL_TYPE:
        told = f"The work pool {name!r} is of the type {pool.type!r}, but runs need one of the type {POOL_TYPE!r}."
        faults.append((told, f"prefect --no-prompt work-pool delete {name} && {DEPLOY}"))
    elif pool.command != COMMAND:
        own = repr(pool.command) if pool.command else "Prefect's own command"
        faults.append((f"The work pool {name!r} starts runs with {own}, not {COMMAND!r}.", DEPLOY))
    if pool is not None and pool.paused:
        faults.append((f"The work pool {name!r} is paused (drained?), so no run is started.", "aae resume"))
    if pool is not None and pool.limit == 0:
        told = f"The work pool {name!r} has a concurrency limit of 0, so no run is started."
        faults.append((told, f"prefect work-pool clear-concurrency-limit {name}"))
    yield from _checks("work pool", faults, f"{name}, type {POOL_TYPE}")


def _checks(name: str, faults: Sequence[tuple[str, str]], well: str) -> Iterator[Check]:
    """Each fault with its remedy, or that there is none."""
    yield from (Check(name, False, told, remedy) for told, remedy in faults)
    if not faults:
        yield Check(name, True, well)


def _workers(api: PrefectApi, subject: Subject) -> Iterator[Check]:
    pool, now = subject.pool, subject.now
    seen = api.workers(pool)
    alive = [one for one in seen if one.online and one.heartbeat and now - one.heartbeat < HEARTBEAT]
    if not alive:
        latest = max((one.heartbeat for one in seen if one.heartbeat), default=None)
        told = f"the last one was seen {ago(now, latest)}" if latest else "none has ever been seen"
        stale = [one.name for one in seen if one.online]
        if stale:
            told += f", and the server still believes that {', '.join(stale)} is online"
        elsewhere = _elsewhere(api, pool, now)
        if elsewhere:
            told += f"; {elsewhere} serves another one"
        yield Check("worker", False, f"No worker serves the pool {pool!r}; {told}.", START)
        return
    yield Check("worker", True, ", ".join(f"{one.name} (seen {ago(now, one.heartbeat)})" for one in alive))
    used = {one.queue or "default" for one in subject.deployments.values() if one and one.work_pool == pool}
    for queue in api.queues(pool):
        if queue.name in used:
            yield from _queue(queue, pool, now)


def _queue(queue: WorkQueue, pool: str, now: datetime) -> Iterator[Check]:
    faults = []
    if queue.paused:
        told = f"The work queue {queue.name!r} is paused, so none of its runs is started."
        faults.append((told, f"prefect work-queue resume {queue.name} --pool {pool}"))
    if queue.limit == 0:
        told = f"The work queue {queue.name!r} has a concurrency limit of 0, so none of its runs is started."
        faults.append((told, f"prefect work-queue clear-concurrency-limit {queue.name} --pool {pool}"))
    if queue.polled is None or now - queue.polled > HEARTBEAT:
        last = f"last {ago(now, queue.polled)}" if queue.polled else "nobody ever did"
        told = f"No worker asks for runs of the work queue {queue.name!r} ({last}): those there are serve others."
        faults.append((told, f"{START} --work-queue {queue.name}"))
    yield from _checks(f"queue {queue.name}", faults, f"asked for {ago(now, queue.polled)}")


def _elsewhere(api: PrefectApi, pool: str, now: datetime) -> str:
    """Living workers of other pools, in words."""
    others = [one for one in api.work_pools() if one.name != pool]
    found = [
        f"{worker.name} (pool {one.name!r})"
        for one in others
        for worker in api.workers(one.name)
        if worker.online and worker.heartbeat and now - worker.heartbeat < HEARTBEAT
    ]
    return ", ".join(found)


# A job's deployment and its next run


def _job(api: PrefectApi, job: Job, subject: Subject) -> Iterator[Check]:
    name, deployment = f"{job.name} deployment", subject.deployments.get(job.name)
    if deployment is None:
        yield Check(name, False, "It is not deployed.", DEPLOY)
        return
    faults = []
    command = deployment.job_variables.get("command", COMMAND)
    if deployment.work_pool != subject.pool:
        faults.append((f"It goes to the pool {deployment.work_pool!r}, not {subject.pool!r}.", DEPLOY))
    if deployment.paused and not job.paused:
        switch = f"curl -X POST {api.url}/deployments/{deployment.id}/resume_deployment"
        faults.append(("The deployment is paused.", f"{switch}, or the switch at its page in the Prefect UI"))
    if command != COMMAND:
        faults.append((f"Its own command {command!r} goes around {COMMAND!r}.", DEPLOY))
    missing = _missing(deployment)
    if missing:
        faults.append((missing, f"export {_PROJECT_DIR}={subject.project}, {DEPLOY}, and restart the worker"))
    yield from _checks(name, faults, f"deployed to {deployment.work_pool}")
    if any(one.active for one in deployment.schedules) and not deployment.paused:
        yield _next_run(api, job, deployment, subject.now)


def working_directory(deployment: Deployment) -> str | None:
    """The folder that a run of it starts in, with the variables of this process filled in; None: it does not say."""
    for step in deployment.pull_steps:
        for name, inputs in step.items():
            if name.endswith(_DIRECTORY_STEP) and isinstance(inputs, Mapping):
                told = str(inputs.get("directory", ""))
                variable = f"{{{{ ${_PROJECT_DIR} }}}}"
                return told.replace(variable, os.environ.get(_PROJECT_DIR, "")) if variable in told else told
    return None


def _missing(deployment: Deployment) -> str | None:
    """What a worker on this machine would not find."""
    folder = working_directory(deployment)
    path = (deployment.entrypoint or "").rpartition(":")[0]
    if folder is None:
        return None
    if not folder:
        return f"{_PROJECT_DIR} is not set here, so a worker started from here would not find the flows."
    if not Path(folder).is_dir():
        return f"Its runs start in {folder}, which is not there on this machine."
    if path and not (Path(folder) / path).is_file():
        return f"Its runs load {path} in {folder}, which is not there on this machine."
    return None


def _next_run(api: PrefectApi, job: Job, deployment: Deployment, now: datetime) -> Check:
    """A schedule that is in order still needs a server that makes runs of it, and a worker that takes them."""
    name = f"{job.name} next run"
    planned = [one for one in api.planned(deployment.id) if one.scheduled_for]
    late = [one for one in planned if _is_late(one, now)]
    if late:
        since = f"since {moment(late[0].scheduled_for or now)}"
        told = f"A run waits {since}: no worker takes it."
        if len(late) > 1:
            told = f"{len(late)} runs have piled up {since}: no worker takes them."
        return Check(name, False, told, f"{START}, or read its log")
    if not planned:
        if now - deployment.created < PLANNING:
            return Check(name, True, "not planned yet, deployed just now")
        told = "The server has planned none: its scheduler does not work."
        return Check(name, False, told, "read the Prefect server's log; `prefect server services ls` on its machine")
    return Check(name, True, moment(planned[0].scheduled_for or now))


def _is_late(run: FlowRun, now: datetime) -> bool:
    # A run that waits for its job's turn is not late: another run of the job is at work.
    due = run.scheduled_for
    return due is not None and due < now - GRACE and run.state_name != "AwaitingTurn"


def _pending(api: PrefectApi, pool: str, recovery: RecoverySettings, now: datetime) -> Iterator[Check]:
    """Runs that a worker took and that never began."""
    stuck = [
        one
        for one in api.runs_in(pool, {"PENDING"})
        if one.state_since and (now - one.state_since).total_seconds() > 3 * recovery.pending_seconds
    ]
    if stuck:
        since = min(one.state_since for one in stuck if one.state_since)
        told = f"{_names(stuck)} stuck in Pending since {moment(since)}: a worker took it and it never began."
        yield Check("pending", False, told, "aae watch, which puts it back; then read that worker's log")


def _names(runs: Sequence[FlowRun]) -> str:
    names = ", ".join(one.name for one in runs[:3])
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f"{names}{more} {'is' if len(runs) == 1 else 'are'}"


# Who works


def _watch(engine: Engine, recovery: RecoverySettings) -> str:
    """Who watches over the runs."""
    with reading(engine) as connection:
        leader = attempts.holder(connection, WATCH)
        now = database_clock(connection)
    if leader is None or (now - leader.beat_at).total_seconds() > recovery.lost_seconds:
        raise UserError("Nobody watches over the runs: a lost one would not be run again.")
    return f"process {leader.pid}, since {moment(leader.started_at)}"


def _alerts(api: PrefectApi, now: datetime) -> Iterator[Check]:
    """Whether the last alert arrived by each channel: Prefect itself takes any answer for a good one."""
    remedy = "aae deploy --test-alerts, once the channel is well or AAE_ALERTS__... is corrected"
    try:
        last = last_deliveries(api, since=now - ALERTS_KEPT)
    except AaeError as error:
        yield failed("alerts", error, remedy)
        return
    lost = [one for one in last if one.trouble]
    for one in lost:
        told = f"The last alert by {one.channel}, {moment(one.at)}, did not arrive: {one.trouble}."
        yield Check("alerts", False, told, remedy)
    if last and not lost:
        yield Check("alerts", True, f"the last one arrived by {', '.join(one.channel for one in last)}")


def _at_work(engine: Engine, recovery: RecoverySettings, names: Collection[str]) -> Iterator[Check]:
    """Jobs that a process holds; one that has fallen silent keeps the next run waiting."""
    with reading(engine) as connection:
        holding = [one for one in attempts.live(connection) if one.job in names]
        now = database_clock(connection)
    silent = [one for one in holding if (now - one.beat_at).total_seconds() > recovery.lost_seconds]
    for one in silent:
        yield Check(one.job, False, _silence(one, now), "aae watch, which takes the job from it and runs it again")
    if not silent:
        yield Check("at work", True, ", ".join(sorted(one.job for one in holding)) or "no job right now")


def _silence(one: Attempt, now: datetime) -> str:
    return (
        f"Process {one.pid} on {one.place} holds the job and has given no sign of life for "
        f"{(now - one.beat_at).total_seconds():.0f} s, last seen at: {one.doing}."
    )
