"""``aae doctor``: why do jobs not run, keep failing, or not follow their schedule, and which command helps.

Every check is one sentence, well or not; what is not well comes with its remedy. They are grouped as a person comes
with them: the *basics*, and the three troubles: jobs *not executing*, *failing* again and again, a *schedule* that does
not follow ``prefect.yaml``. Nothing is changed by looking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from aae.errors import AaeError, UserError
from aae.operate.doctor import basics, executing, failing, following
from aae.operate.doctor.findings import GRACE, PLANNING, Check, Group, Subject, ago, failed
from aae.operate.doctor.imports import ImportTrial
from aae.operate.prefect_api import Deployment, PrefectApi
from aae.operate.schedule import Job, read_jobs
from aae.settings import Settings

__all__ = ["GRACE", "PLANNING", "Check", "Group", "ago", "choose", "examine"]


def examine(
    settings: Settings,
    api: PrefectApi | None,
    project: Path,
    pool: str,
    *,
    clock: Callable[[], datetime],
    only: str | None = None,
    import_seconds: float = 60,
) -> Iterator[Check]:
    """Every check, group by group; what depends on something broken is not asked.

    ``project`` is the folder with ``prefect.yaml``; ``api`` is None where nothing says where Prefect is; ``clock``
    gives aware moments. ``only`` leaves the other jobs out (see :func:`choose`). Whether the flows can be imported is
    tried in a process of its own, for at most ``import_seconds``.

    Raises:
        UserError: there is no job that ``only`` names.
    """
    jobs, unreadable = _jobs(project, settings.fetch.shares)
    jobs = jobs if only is None or unreadable else choose(jobs, only)
    engine: Engine | None = None
    with ImportTrial(project, [job.entrypoint for job in jobs], import_seconds) as trial:
        try:
            engine, told = basics.examine(settings, api, clock)
            yield from told
            server = executing.server(api)
            yield replace(server, group=Group.EXECUTING)
            api = api if server.ok else None
            subject = Subject(
                settings=settings,
                project=project,
                pool=pool,
                jobs=jobs,
                api=api,
                engine=engine,
                deployments={job.name: _deployed(api, job.name) for job in jobs} if api else {},
                now=(api.clock() if api else None) or clock(),
            )
            yield from _in(Group.EXECUTING, executing.examine(subject))
            yield from _in(Group.FAILING, failing.examine(subject, trial))
            if unreadable:
                remedy = f"correct it; git -C {project} diff prefect.yaml shows what was changed"
                yield replace(failed("prefect.yaml", unreadable, remedy), group=Group.SCHEDULE)
            else:
                yield from _in(Group.SCHEDULE, following.examine(subject, everything=only is None))
        finally:
            if engine is not None:
                engine.dispose()


def choose(jobs: list[Job], name: str) -> list[Job]:
    """The job of that name, ``flow-name/deployment-name`` or the flow's name alone.

    Raises:
        UserError: there is none.
    """
    chosen = [job for job in jobs if name in {job.name, job.name.partition("/")[0]}]
    if not chosen:
        raise UserError(f"There is no job {name!r}; there are {', '.join(job.name for job in jobs)}.")
    return chosen


def _jobs(project: Path, shares: int) -> tuple[list[Job], UserError | None]:
    try:
        return read_jobs(project, shares), None
    except UserError as error:
        return [], error


def _deployed(api: PrefectApi, name: str) -> Deployment | None:
    try:
        return api.deployment(name)
    except AaeError:
        return None


def _in(group: Group, checks: Iterator[Check]) -> Iterator[Check]:
    for check in checks:
        yield replace(check, group=group)
