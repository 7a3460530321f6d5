"""The scheduled jobs as ``prefect.yaml`` declares them, and when a cron expression was due last.

``prefect.yaml`` is the one place where schedules are written down; whoever wants to know them reads it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import yaml

from aae.errors import UserError

# Minute, hour, day of month, month, day of week (0 and 7 are Sunday).
_RANGES: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_LOOK_BACK: Final = timedelta(days=370)


@dataclass(frozen=True, slots=True)
class Job:
    """A deployment; ``name`` is ``flow-name/deployment-name`` as Prefect calls it, ``entrypoint`` is ``file:function``.

    ``cron`` is None if it runs every so many seconds instead; ``day_or`` is explained at :func:`last_due`.
    """

    name: str
    cron: str | None
    timezone: str
    day_or: bool = True
    every_seconds: float | None = None
    entrypoint: str = ""

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


def read_jobs(project: Path) -> list[Job]:
    """Every job of the project's ``prefect.yaml``, in the file's order.

    A flow is named like its function, with dashes.

    Raises:
        UserError: there is no such file, or it is not what we expect.
    """
    path = project / "prefect.yaml"
    try:
        declared = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [_job(one, one["schedules"][0]) for one in declared["deployments"]]
    except OSError:
        raise UserError(f"There is no {path}: run aae from a checkout of the project.") from None
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} does not declare every deployment with an entrypoint, a name and a cron.") from None


def _job(declared: dict[str, Any], schedule: dict[str, Any]) -> Job:
    return Job(
        name=f"{declared['entrypoint'].rpartition(':')[2].replace('_', '-')}/{declared['name']}",
        cron=None if "interval" in schedule else schedule["cron"],
        timezone=schedule.get("timezone", "UTC"),
        day_or=schedule.get("day_or", True) is not False,
        every_seconds=float(schedule["interval"]) if "interval" in schedule else None,
        entrypoint=declared["entrypoint"],
    )


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
        UserError: it is not a cron expression that we understand.
    """
    fields = read_cron(cron)
    either = day_or and fields.days_limited and fields.weekdays_limited
    zone = ZoneInfo(timezone)
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
