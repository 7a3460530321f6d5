"""``aae doctor``: is everything there that the jobs need, and if not, which command helps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from aae.errors import AaeError, UserError
from aae.operate.prefect_api import Deployment, PrefectApi, Schedule
from aae.operate.recovery import JOB
from aae.operate.redis_server import dial
from aae.operate.schedule import Job
from aae.settings import Settings
from aae.storage import attempts
from aae.storage import engine as database
from aae.storage.accounts import read_token
from aae.storage.schema import ad_accounts
from aae.vault import Vault

GRACE: Final = timedelta(minutes=10)
"""A run that is later than this is overdue: a worker asks every few seconds, a process starts within half a minute."""

PLANNING: Final = timedelta(minutes=2)
"""A server plans the runs of a new deployment within this; its scheduler looks every minute at the latest."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; ``remedy`` is a command (or a deed) that helps, None where all is well."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None


def examine(
    settings: Settings, api: PrefectApi | None, jobs: list[Job], pool: str, *, now: datetime
) -> Iterator[Check]:
    """Every check, one after the other; what depends on something broken is not asked.

    ``api`` is None where nothing says where Prefect is; ``now`` is aware.
    """
    yield _state_dir(settings.state_dir)
    yield from _database(settings)
    yield _attempt(
        "cache", lambda: _cache(settings.redis_url), "start the server that AAE_REDIS_URL names, or `aae up`"
    )
    yield from _prefect(api, jobs, pool, now)


def _attempt(name: str, work: Callable[[], str], remedy: str) -> Check:
    """What ``work`` says, or what went wrong with it and the remedy."""
    try:
        return Check(name, True, work())
    except (AaeError, SQLAlchemyError, OSError) as error:
        return _failed(name, error, remedy)


def _failed(name: str, error: Exception, remedy: str) -> Check:
    # SQLAlchemy's messages quote statements and parameters; ours are written for people.
    return Check(name, False, str(error) if isinstance(error, AaeError) else type(error).__name__, remedy)


def _state_dir(folder: Path) -> Check:
    def work() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder.absolute())

    return _attempt("state folder", work, f"make {folder.absolute()} writable, or set AAE_STATE_DIR")


def _database(settings: Settings) -> Iterator[Check]:
    def dial() -> Engine:
        engine = database.connect(settings.resolved_database_url)
        database.check(engine)
        return engine

    keys = "set AAE_ENCRYPTION_KEYS to the keys that the tokens were stored with"
    try:
        engine = dial()
    except (AaeError, SQLAlchemyError, OSError) as error:
        yield _failed("database", error, "correct AAE_DATABASE_URL")
        yield _attempt("encryption key", lambda: _key(settings), keys)
        return
    try:
        yield Check("database", True, engine.dialect.name)
        tables = _attempt("tables", lambda: _version(engine), "aae db upgrade")
        yield tables
        yield _attempt("encryption key", lambda: _key(settings, engine if tables.ok else None), keys)
        if tables.ok:
            yield _attempt("watch", lambda: _watch(engine, settings), "aae watch")
    finally:
        engine.dispose()


def _version(engine: Engine) -> str:
    database.require_current(engine)
    return f"at {database.head()}"


def _watch(engine: Engine, settings: Settings) -> str:
    """Who watches over the runs."""
    with database.reading(engine) as connection:
        leader = attempts.holder(connection, JOB)
        now = database.database_clock(connection)
    if leader is None or (now - leader.beat_at).total_seconds() > settings.recovery.lost_seconds:
        raise UserError("Nobody watches over the runs: a lost one would not be run again.")
    return f"process {leader.pid}, since {leader.started_at:%Y-%m-%d %H:%M} UTC"


def _key(settings: Settings, engine: Engine | None = None) -> str:
    """What the key does with the tokens stored in ``engine``; None where they cannot be asked for. Makes no key."""
    vault = Vault.from_settings(settings)
    ready = "ready" if vault.has_key else "none yet; connecting the first account makes one"
    if engine is None:
        return ready
    with database.reading(engine) as connection:
        stored = connection.scalars(select(ad_accounts.c.id).where(ad_accounts.c.access_token.is_not(None))).all()
        for account_id in stored:
            read_token(connection, vault, account_id)
    return f"opens all {len(stored)} stored tokens" if stored else f"{ready}, no tokens stored yet"


def _cache(url: str) -> str:
    if not url:
        raise UserError("AAE_REDIS_URL is not set and no embedded cache runs.")
    return dial(url, "AAE_REDIS_URL")


# Prefect


def _prefect(api: PrefectApi | None, jobs: list[Job], pool: str, now: datetime) -> Iterator[Check]:
    if api is None:
        yield Check(
            "Prefect API", False, "PREFECT_API_URL is not set and no embedded server runs.", "`aae up`, or set it"
        )
        return
    server = _attempt(
        "Prefect API",
        lambda: f"{api.url}, version {api.health() and api.server_version()}",
        "`aae up`, or start the server that PREFECT_API_URL names",
    )
    yield server
    if not server.ok:
        return
    yield _attempt("work pool", lambda: _pool(api, pool), "python -m deployments.setup")
    yield _attempt("worker", lambda: _workers(api, pool, now), f"prefect worker start --pool {pool} --type process")
    for job in jobs:
        yield from _job(api, job, pool, now)


def _pool(api: PrefectApi, name: str) -> str:
    pool = api.work_pool(name)
    if pool is None:
        raise UserError(f"There is no work pool {name!r}.")
    if pool.paused:
        raise UserError(f"The work pool {name!r} is paused, so no run is started: `aae resume`.")
    return f"{name}, type {pool.type}"


def _workers(api: PrefectApi, pool: str, now: datetime) -> str:
    known = api.workers(pool)
    alive = [worker for worker in known if worker.online]
    if not alive:
        last = max((worker.heartbeat for worker in known if worker.heartbeat), default=None)
        seen = f"the last one was seen {ago(now, last)}" if last else "none has ever been seen"
        raise UserError(f"No worker serves the pool; {seen}.")
    return ", ".join(f"{one.name} (seen {ago(now, one.heartbeat)})" for one in alive)


def _job(api: PrefectApi, job: Job, pool: str, now: datetime) -> Iterator[Check]:
    try:
        deployment = api.deployment(job.name)
        if deployment is None:
            yield Check(job.name, False, "It is not deployed.", "prefect --no-prompt deploy --all")
            return
        schedule = _schedule(job, deployment, pool)
        yield schedule
        if schedule.ok:
            yield _next_run(api, job, deployment, now)
        yield _last_run(api, job, deployment, now)
    except AaeError as error:
        yield Check(job.name, False, str(error), "aae doctor, once the Prefect server is well")


def _schedule(job: Job, deployment: Deployment, pool: str) -> Check:
    name = f"{job.name} schedule"
    wanted = Schedule(job.cron, job.timezone, True, job.day_or, job.every_seconds)
    if deployment.work_pool != pool:
        return Check(name, False, f"It goes to the pool {deployment.work_pool!r}.", "prefect --no-prompt deploy --all")
    if deployment.paused:
        return Check(name, False, "The deployment is paused.", "switch it on at its page in the Prefect UI")
    if wanted in deployment.schedules:
        others = [one for one in deployment.schedules if one != wanted and one.active]
        if not others:
            return Check(name, True, f"{job.cron} ({job.timezone})")
        extra = ", ".join(str(one.cron) for one in others)
        return Check(
            name,
            False,
            f"Besides {job.cron} it also runs at {extra}, which prefect.yaml does not say.",
            f"prefect deployment schedule clear --accept-yes {job.name} && prefect --no-prompt deploy --all",
        )
    has = ", ".join(f"{one.cron}{'' if one.active else ' (inactive)'}" for one in deployment.schedules) or "none"
    return Check(
        name, False, f"prefect.yaml says {job.cron}, the server has {has}.", "prefect --no-prompt deploy --all"
    )


def _next_run(api: PrefectApi, job: Job, deployment: Deployment, now: datetime) -> Check:
    """A schedule that is in order still needs a server that makes runs of it, and a worker that takes them."""
    name = f"{job.name} next run"
    run = api.next_run(deployment.id)
    if run is None or run.scheduled_for is None:
        if now - deployment.created < PLANNING:
            return Check(name, True, "not planned yet, deployed just now")
        return Check(
            name, False, "The server has planned none: its scheduler does not work.", "read the Prefect server's log"
        )
    if run.scheduled_for < now - GRACE:
        detail = f"It waits since {run.scheduled_for:%Y-%m-%d %H:%M} UTC: no worker takes it."
        return Check(name, False, detail, f"prefect worker start --pool {deployment.work_pool}, or read its log")
    return Check(name, True, f"{run.scheduled_for:%Y-%m-%d %H:%M} UTC")


def _last_run(api: PrefectApi, job: Job, deployment: Deployment, now: datetime) -> Check:
    name = f"{job.name} last run"
    again = f"prefect deployment run {job.name}"
    run = api.last_run(deployment.id)
    due = job.last_due(now - GRACE)
    owed = due is not None and due > deployment.created
    if run is None or run.started is None:
        if owed:
            return Check(name, False, f"It has never run; it was due {ago(now, due)}.", again)
        return Check(name, True, "not yet due")
    told = f"{run.state_name}, started {ago(now, run.started)}"
    if not run.is_final:
        return Check(name, True, told)
    if not run.succeeded:
        return Check(name, False, f"{told}: {run.message or 'without a reason'}", f"prefect flow-run logs {run.id}")
    if owed and due is not None and run.started < due:
        return Check(name, False, f"{told}; overdue, it was due {ago(now, due)}.", again)
    return Check(name, True, told)


def ago(now: datetime, moment: datetime | None) -> str:
    """How long ago, in the largest sensible unit."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
