"""What the doctor says: one sentence per check, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from aae.errors import AaeError
from aae.operate.prefect_api import Deployment, PrefectApi
from aae.operate.schedule import Job
from aae.settings import Settings

GRACE: Final = timedelta(minutes=10)
"""A run that is later than this is overdue: a worker asks every few seconds, a process starts within half a minute."""

PLANNING: Final = timedelta(minutes=2)
"""A server plans the runs of a new deployment within this; its scheduler looks every minute at the latest."""

DEPLOY: Final = "aae deploy"
"""Puts pool, block, deployments and schedules on the server as the project declares them."""


class Group(StrEnum):
    """Which trouble a check belongs to."""

    BASICS = "basics"
    EXECUTING = "not_executing"
    FAILING = "failing"
    SCHEDULE = "schedule"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; ``remedy`` is a command (or a deed) that helps, None where all is well."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
    group: Group = Group.BASICS


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined. ``now`` is aware, by the Prefect server's clock where it is known.

    ``api`` is None where Prefect does not answer or does not let us in, ``engine`` where the tables cannot be worked
    with. ``deployments`` has what the server knows of each job by name, None for those that it does not.
    """

    settings: Settings
    project: Path
    pool: str
    jobs: Sequence[Job]
    api: PrefectApi | None
    engine: Engine | None
    deployments: Mapping[str, Deployment | None]
    now: datetime


def attempt(name: str, work: Callable[[], str], remedy: str) -> Check:
    """What ``work`` says, or what went wrong with it and the remedy."""
    try:
        return Check(name, True, work())
    except (AaeError, SQLAlchemyError, OSError) as error:
        return failed(name, error, remedy)


def failed(name: str, error: Exception, remedy: str) -> Check:
    """The check that failed with this error."""
    # SQLAlchemy's messages quote statements and parameters; ours are written for people.
    return Check(name, False, str(error) if isinstance(error, AaeError) else type(error).__name__, remedy)


def moment(at: datetime) -> str:
    """A moment for people."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def ago(now: datetime, then: datetime | None) -> str:
    """How long ago, in the largest sensible unit."""
    return "never" if then is None else f"{span(now - then)} ago"


def span(length: timedelta) -> str:
    """A length of time in its largest sensible unit; negative ones are none."""
    seconds = max(0, int(length.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
