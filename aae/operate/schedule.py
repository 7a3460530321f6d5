"""The scheduled jobs as ``prefect.yaml`` declares them, and when a cron expression was due last.

``prefect.yaml`` is the one place where schedules are written down; whoever wants to know them reads it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import yaml

from aae.errors import UserError
from aae.shares import deal, of_run

# Minute, hour, day of month, month, day of week (0 and 7 are Sunday).
_RANGES: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_LOOK_BACK: Final = timedelta(days=370)


KNOWN_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "prefect.yaml": frozenset({"name", "prefect-version", "definitions", "build", "push", "pull", "deployments"}),
    "deployment": frozenset(
        {
            "name", "version", "version_type", "tags", "description", "entrypoint", "flow_name", "parameters",
            "enforce_parameter_schema", "paused", "schedule", "schedules", "concurrency_limit", "work_pool", "triggers",
            "sla", "build", "push", "pull",
        }
    ),
    "schedule": frozenset(
        {
            "slug", "cron", "interval", "rrule", "anchor_date", "timezone", "day_or", "active", "parameters",
            "replaces",
        }
    ),
    "work_pool": frozenset({"name", "work_queue_name", "job_variables"}),
}  # fmt: skip
"""What Prefect reads in each place of the file; it ignores anything else without a word."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One schedule as the file declares it; ``cron`` is None if it runs every so many seconds instead."""

    cron: str | None
    timezone: str = "UTC"
    day_or: bool = True
    every_seconds: float | None = None
    active: bool = True
    slug: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def share(self) -> str | None:
        """The share of the job that its runs do (:mod:`aae.shares`); None: all of it."""
        return of_run(self.parameters)


@dataclass(frozen=True, slots=True)
class Job:
    """A deployment; ``name`` is ``flow-name/deployment-name`` as Prefect calls it.

    ``cron`` to ``every_seconds`` are those of its first schedule; ``schedules`` has all of them. ``entrypoint`` is
    ``path.py:function`` from the project's folder, or ``package.module.function``.
    """

    name: str
    cron: str | None
    timezone: str
    day_or: bool = True
    every_seconds: float | None = None
    entrypoint: str = field(default="", compare=False)
    schedules: tuple[Planned, ...] = field(default=(), compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)
    paused: bool = field(default=False, compare=False)

    def last_due(self, now: datetime) -> datetime | None:
        """The last moment (aware, UTC) at or before ``now`` at which the job was due; None: not within a year."""
        return None if self.cron is None else last_due(self.cron, now, self.timezone, day_or=self.day_or)


@dataclass(frozen=True, slots=True)
class CronFields:
    """The values that each field of a cron expression matches; of the weekdays both 0 and 7 are Sunday."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    days_limited: bool
    weekdays_limited: bool


def read_jobs(project: Path, shares: int = 1) -> list[Job]:
    """Every job of the project's ``prefect.yaml``, in the file's order; its schedules in so many shares if it has such.

    A flow is named like its function, with dashes.

    Raises:
        UserError: there is no such file, or it is not what we expect.
    """
    try:
        return [_in_shares(_job(one), shares) for one in _read(project)["deployments"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        path = project / "prefect.yaml"
        raise UserError(f"{path} does not declare every deployment with an entrypoint, a name and a cron.") from None


def ignored_keys(project: Path) -> list[str]:
    """What the project's ``prefect.yaml`` says and Prefect does not read, like ``schedule.crom in daily``.

    Raises:
        UserError: there is no such file, or it is not YAML.
    """
    return list(_ignored(_read(project)))


def _read(project: Path) -> Any:
    path = project / "prefect.yaml"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"There is no {path}: run aae from a checkout of the project.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{path} is not YAML{where}.") from None


def _job(one: Mapping[str, Any]) -> Job:
    schedules = tuple(
        Planned(
            cron=None if "interval" in each else _text(each["cron"]),
            timezone=_text(each.get("timezone", "UTC")),
            day_or=each.get("day_or", True) is not False,
            every_seconds=float(each["interval"]) if "interval" in each else None,
            active=bool(each.get("active", True)),
            slug=each.get("slug"),
            parameters=dict(each.get("parameters") or {}),
        )
        for each in one["schedules"]
    )
    entrypoint = _text(one["entrypoint"])
    return Job(
        name=f"{re.split('[:.]', entrypoint)[-1].replace('_', '-')}/{_text(one['name'])}",
        cron=schedules[0].cron,
        timezone=schedules[0].timezone,
        day_or=schedules[0].day_or,
        every_seconds=schedules[0].every_seconds,
        schedules=schedules,
        entrypoint=entrypoint,
        parameters=dict(one.get("parameters") or {}),
        paused=bool(one.get("paused", False)),
    )


def _in_shares(job: Job, number: int) -> Job:
    flow = job.name.partition("/")[0]
    dealt = (
        replace(one, slug=one.slug and one.slug + end, parameters=parameters)
        for one in job.schedules
        for end, parameters in deal(flow, one.parameters, number)
    )
    return replace(job, schedules=tuple(dealt))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError
    return value


def _ignored(declared: Any) -> Iterator[str]:
    def odd(place: str, found: Any, where: str = "") -> Iterator[str]:
        if isinstance(found, dict):
            yield from (f"{place}.{key}{where}" for key in found if key not in KNOWN_KEYS[place])

    yield from odd("prefect.yaml", declared)
    deployments = declared.get("deployments") if isinstance(declared, dict) else None
    for one in deployments if isinstance(deployments, list) else []:
        if not isinstance(one, dict):
            continue
        where = f" in {one.get('name')}"
        yield from odd("deployment", one, where)
        yield from odd("work_pool", one.get("work_pool"), where)
        schedules = one.get("schedules")
        for each in schedules if isinstance(schedules, list) else []:
            yield from odd("schedule", each, where)


def read_cron(cron: str) -> CronFields:
    """What a cron expression of five fields matches. Understands numbers, lists, ranges and steps.

    Raises:
        UserError: it is not such an expression.
    """
    texts = cron.split()
    if len(texts) != len(_RANGES):
        raise UserError(f"{cron!r} is not a cron expression of five fields.")
    minutes, hours, days, months, weekdays = (
        _field(text, *span, cron) for text, span in zip(texts, _RANGES, strict=True)
    )
    return CronFields(minutes, hours, days, months, weekdays, texts[2] != "*", texts[4] != "*")


def last_due(cron: str, now: datetime, timezone: str = "UTC", *, day_or: bool = True) -> datetime | None:
    """The last full minute (aware, UTC) at or before ``now`` that the cron expression matches in that time zone.

    As cron does, a day matches by either of day of month and day of week where both are restricted; by both, as in
    Celery, if ``day_or`` is false.

    Raises:
        UserError: it is not a cron expression of five such fields, or there is no such time zone.
    """
    fields = read_cron(cron)
    either = day_or and fields.days_limited and fields.weekdays_limited
    try:
        zone = ZoneInfo(timezone)
    except (LookupError, ValueError, OSError):
        raise UserError(f"There is no time zone {timezone!r}.") from None
    moment = now.astimezone(UTC).replace(second=0, microsecond=0)
    earliest = moment - _LOOK_BACK
    while moment > earliest:
        local = moment.astimezone(zone)
        by_date, by_weekday = local.day in fields.days, local.isoweekday() in fields.weekdays
        if local.month not in fields.months or not (by_date or by_weekday if either else by_date and by_weekday):
            moment -= timedelta(hours=local.hour, minutes=local.minute + 1)
        elif local.hour not in fields.hours:
            moment -= timedelta(minutes=local.minute + 1)
        elif local.minute not in fields.minutes:
            moment -= timedelta(minutes=1)
        else:
            return moment
    return None


def _field(text: str, low: int, high: int, cron: str) -> frozenset[int]:
    values: set[int] = set()
    try:
        for part in text.split(","):
            span, _, step = part.partition("/")
            first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
            end = int(last) if last else high if step else int(first)
            if not low <= int(first) <= end <= high:
                raise ValueError
            values.update(range(int(first), end + 1, int(step or 1)))
    except ValueError:
        raise UserError(f"{cron!r} is not a cron expression that we understand: {text!r}.") from None
    if high == 7 and values & {0, 7}:
        values |= {0, 7}
    return frozenset(values)
