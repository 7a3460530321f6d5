"""Schedules that do not follow ``prefect.yaml``: what the file says, what the server has, what it has planned."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aae.errors import AaeError, UserError
from aae.operate.doctor.executing import working_directory
from aae.operate.doctor.findings import DEPLOY, Check, Subject, failed, moment
from aae.operate.prefect_api import Deployment, PrefectApi, Schedule
from aae.operate.schedule import Job, Planned, ignored_keys, last_due

TAG: Final = "aae"
"""Every deployment of ``prefect.yaml`` has it: how those that are no longer in the file are known for ours."""


def examine(subject: Subject, *, everything: bool) -> Iterator[Check]:
    """The checks; ``everything`` includes what is on the server and not in the file."""
    api, project = subject.api, subject.project
    ignored = ignored_keys(project)
    if ignored:
        told = f"Prefect silently ignores what it does not know: {', '.join(ignored[:5])}."
        yield Check("prefect.yaml", False, told, f"correct the name in {project / 'prefect.yaml'}, then {DEPLOY}")
    else:
        yield Check("prefect.yaml", True, f"{len(subject.jobs)} jobs")
    if api is None:
        return
    try:
        for job in subject.jobs:
            deployment = subject.deployments.get(job.name)
            if deployment is not None:
                yield from _differences(job, deployment, project)
                yield from _planned(api, job, deployment, subject.now)
        if everything:
            yield from _left_behind(api, {job.name for job in subject.jobs}, subject.pool)
    except AaeError as error:
        yield failed("schedules", error, "aae doctor, once the Prefect server is well")


def _differences(job: Job, deployment: Deployment, project: Path) -> Iterator[Check]:
    name = f"{job.name} schedule"
    wanted = job.schedules or (Planned(job.cron, job.timezone, job.day_or, job.every_seconds),)
    shares, there = {one.share for one in wanted}, {one.share for one in deployment.schedules}
    if there and shares != there:
        told = f"AAE_FETCH__SHARES asks for {_counted(shares)} here, the server has schedules for {_counted(there)}."
        yield Check(name, False, told, f"{DEPLOY}, where the setting is right")
        return
    found = [(told, f"correct it in {project / 'prefect.yaml'}, then {DEPLOY}") for told in _unreadable(wanted)]
    left = list(deployment.schedules)
    for want in wanted:
        match = _match(want, left)
        if match is None:
            has = ", ".join(_told(one) for one in deployment.schedules) or "none"
            found.append((f"prefect.yaml says {_times(want)} ({want.timezone}), the server has {has}.", DEPLOY))
            continue
        left.remove(match)
        found += [(told, DEPLOY) for told in _apart(want, match)]
    extra = [_told(one) for one in left if one.active]
    if extra and not found:
        told = f"Besides {_times(wanted[0])} it also runs at {', '.join(extra)}, which prefect.yaml does not say."
        found.append((told, DEPLOY))
    found += [(told, DEPLOY) for told in _deployed_apart(job, deployment, project)]
    for told, remedy in found:
        yield Check(name, False, told, remedy)
    if not found:
        told = ", ".join(dict.fromkeys(f"{_times(one)} ({one.timezone})" for one in wanted))
        yield Check(name, True, told if shares == {None} else f"{told}, {_counted(shares)}")


def _counted(shares: Collection[str | None]) -> str:
    number = len([one for one in shares if one])
    return "1 share" if number == 1 else f"{number or 'no'} shares"


def _unreadable(wanted: Sequence[Planned]) -> Iterator[str]:
    for want in wanted:
        if want.cron is None:
            continue
        # Names of months and days are cron's too; only we do not read them.
        cron = "* * * * *" if any(char.isalpha() for char in want.cron) else want.cron
        try:
            last_due(cron, datetime(2000, 1, 1, tzinfo=UTC), want.timezone)
        except UserError as error:
            yield f"prefect.yaml says something that Prefect cannot follow: {error}"


def _match(want: Planned, there: Sequence[Schedule]) -> Schedule | None:
    """The server's schedule that stands for this one: of the same slug, else of the same times."""
    by_slug = next((one for one in there if want.slug and one.slug == want.slug), None)
    return by_slug or next(
        (one for one in there if _times(one) == _times(want) and one.timezone == want.timezone), None
    )


def _times(one: Planned | Schedule) -> str:
    """When it runs, as the file says it."""
    if one.cron is None:
        return "no cron" if one.every_seconds is None else f"every {one.every_seconds:g} s"
    return f"{one.cron}{'' if one.day_or else ' (both days)'}"


def _apart(want: Planned, has: Schedule) -> Iterator[str]:
    if _times(has) != _times(want):
        yield f"prefect.yaml says {_times(want)}, the server has {_told(has)}."
    if has.timezone != want.timezone:
        yield f"prefect.yaml says {_times(want)} in {want.timezone}, the server takes it in {has.timezone}."
    if want.active and not has.active:
        yield f"The schedule {_times(want)} is inactive: it was paused in the UI or by a command."
    if has.active and not want.active:
        yield f"The schedule {_times(want)} is active, and prefect.yaml says active: false."
    if _differ(want.parameters, has.parameters):
        which = _which(want.parameters, has.parameters)
        yield f"The schedule {_times(want)} gives other parameters than prefect.yaml: {which}."


def _deployed_apart(job: Job, deployment: Deployment, project: Path) -> Iterator[str]:
    if deployment.entrypoint and job.entrypoint and deployment.entrypoint != job.entrypoint:
        yield f"prefect.yaml says {job.entrypoint}, the server runs {deployment.entrypoint}."
    if _differ(job.parameters, deployment.parameters):
        yield f"It has other parameters than prefect.yaml: {_which(job.parameters, deployment.parameters)}."
    folder = working_directory(deployment)
    # One that is not on this machine is no schedule's fault (see executing).
    if folder and Path(folder).is_dir() and Path(folder).resolve() != project.resolve():
        yield f"Its runs come from another checkout: {folder}, not {project}."


def _differ(want: Mapping[str, Any], has: Mapping[str, Any]) -> bool:
    # What is filled in when it is deployed cannot be compared.
    return dict(want) != dict(has) and "{{" not in str(want)


def _which(want: Mapping[str, Any], has: Mapping[str, Any]) -> str:
    keys = sorted(key for key in want.keys() | has.keys() if want.get(key, ...) != has.get(key, ...))
    return ", ".join(keys)


def _told(one: Schedule) -> str:
    return f"{_times(one)}{'' if one.active else ' (inactive)'}"


def _planned(api: PrefectApi, job: Job, deployment: Deployment, now: datetime) -> Iterator[Check]:
    """Runs to come that no schedule of the server would make: planned before it was changed."""
    crons = [one for one in deployment.schedules if one.active and one.cron]
    if len(crons) != sum(one.active for one in deployment.schedules):
        return  # a schedule of another kind: what it plans is its own affair
    old = []
    for run in api.planned(deployment.id):
        due = run.scheduled_for
        if run.auto_scheduled and run.state_name == "Scheduled" and due and due > now and not _fits(crons, due):
            old.append(due)
    if old:
        runs = "1 run is" if len(old) == 1 else f"{len(old)} runs are"
        told = f"{runs} still planned by an older schedule, the next at {moment(old[0])}."
        yield Check(f"{job.name} planned", False, told, f"{DEPLOY}, which plans them anew")


def _fits(schedules: Sequence[Schedule], due: datetime) -> bool:
    try:
        return any(last_due(one.cron or "", due, one.timezone, day_or=one.day_or) == due for one in schedules)
    except UserError:
        return True  # a cron expression that we do not read


def _left_behind(api: PrefectApi, declared: set[str], pool: str) -> Iterator[Check]:
    for one in api.deployments(pool):
        if one.name in declared or TAG not in one.tags:
            continue
        active = [_told(each) for each in one.schedules if each.active]
        if active and not one.paused:
            told = f"{one.name} is no longer in prefect.yaml, and the server still runs it at {', '.join(active)}."
            yield Check("left behind", False, told, f"{DEPLOY}, or prefect deployment delete {one.name}")
