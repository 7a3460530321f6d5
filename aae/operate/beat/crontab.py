"""Celery's schedules as ours: the same moments, said as a cron expression or as an interval.

Celery's ``crontab`` is more liberal than cron: a field may also be a number, a list or a set, and a range may run over
the end (``fri-mon``). And where both days are given, Celery wants *both* to match and cron wants *one* of them; Prefect
can do either (``day_or``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aae.errors import UserError
from aae.operate.spoken import MONTHS, WEEKDAYS, interval_in_words, schedule_in_words

_WEEKDAY_NAMES: Final = {name[:3].lower(): number for number, name in enumerate(WEEKDAYS)}
_MONTH_NAMES: Final = {name[:3].lower(): number for number, name in enumerate(MONTHS, start=1)}

_PART: Final = re.compile(r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")

_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class Timing:
    """When a job runs: by ``cron`` in a time zone, or else every ``seconds``.

    ``day_or`` false: day of month and day of week must both match.
    """

    cron: str | None = None
    timezone: str = "UTC"
    day_or: bool = True
    seconds: float | None = None

    def __str__(self) -> str:
        if self.cron is not None:
            return schedule_in_words(self.cron, self.timezone, day_or=self.day_or)
        return interval_in_words(self.seconds or 0)


def from_crontab(
    minute: object = "*",
    hour: object = "*",
    day_of_week: object = "*",
    day_of_month: object = "*",
    month_of_year: object = "*",
    *,
    timezone: str = "UTC",
) -> Timing:
    """The moments of ``crontab(...)`` with these arguments.

    Raises:
        UserError: Celery would not take it either, or it never happens.
    """
    minutes = _values(minute, "minute", 0, 59)
    hours = _values(hour, "hour", 0, 23)
    weekdays = _values(day_of_week, "day_of_week", 0, 6, _WEEKDAY_NAMES)
    days = _values(day_of_month, "day_of_month", 1, 31)
    months = _values(month_of_year, "month_of_year", 1, 12, _MONTH_NAMES)
    if min(days) > max(_DAYS_IN[month] for month in months):
        raise UserError("no month of month_of_year has a day of day_of_month")
    fields = (
        _field(minutes, 0, 59, steps=True),
        _field(hours, 0, 23, steps=True),
        _field(days, 1, 31),
        _field(months, 1, 12, steps=True),
        _field(weekdays, 0, 6),
    )
    both = fields[2] != "*" and fields[4] != "*"
    return Timing(cron=" ".join(fields), timezone=timezone, day_or=not both)


def from_string(cron: str, *, timezone: str = "UTC") -> Timing:
    """The moments of ``crontab.from_string(cron)``.

    Raises:
        UserError: these are not five fields that Celery would take.
    """
    fields = cron.split()
    if len(fields) != 5:
        raise UserError(f"{cron!r} are not the five fields of a crontab")
    minute, hour, day_of_month, month_of_year, day_of_week = fields
    return from_crontab(minute, hour, day_of_week, day_of_month, month_of_year, timezone=timezone)


def from_seconds(seconds: float) -> Timing:
    """Every so many seconds; as cron, from midnight UTC on, where a day is so many times of whole minutes.

    As cron because of that the watch knows what was missed, and a person when the next one is.

    Raises:
        UserError: nothing can happen that often.
    """
    if not 0 < seconds <= 366 * _DAY:
        raise UserError(f"an interval of {seconds:g} seconds is not between a second and a year")
    if seconds < 1:
        raise UserError(f"an interval of {seconds:g} seconds is too short: each run is a process of its own")
    if _DAY % seconds or seconds % 60:
        return Timing(seconds=seconds)
    minutes = int(seconds // 60)
    if 60 % minutes == 0:
        return Timing(cron=f"{_field(set(range(0, 60, minutes)), 0, 59, steps=True)} * * * *")
    if minutes % 60 == 0:
        return Timing(cron=f"0 {_field(set(range(0, 24, minutes // 60)), 0, 23, steps=True)} * * *")
    return Timing(seconds=seconds)


_DAYS_IN: Final = dict(enumerate((31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), start=1))


def _values(given: object, name: str, low: int, high: int, names: dict[str, int] | None = None) -> set[int]:
    """The numbers that one field of a crontab stands for."""
    values: set[int] = set()
    if isinstance(given, str):
        for part in given.split(","):
            values |= _part(part.strip(), name, low, high, names or {})
    elif isinstance(given, int) and not isinstance(given, bool):
        values = {given}
    elif isinstance(given, Iterable):
        for each in given:
            if not isinstance(each, int) or isinstance(each, bool):
                raise UserError(f"{name} may hold whole numbers only, not {each!r}")
            values.add(each)
    else:
        raise UserError(f"{name} cannot be {given!r}")
    if not values or not all(low <= value <= high for value in values):
        raise UserError(f"{name}={given!r} is not within {low} to {high}")
    return values


def _part(text: str, name: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    found = _PART.fullmatch(text)
    if not found or (found["step"] and not found["star"] and not found["last"]):
        raise UserError(f"{name}: {text!r} is not understood")

    def number(word: str) -> int:
        value = names.get(word[:3].lower()) if not word.isdecimal() else int(word[:6])
        if value is None or not low <= value <= high:
            raise UserError(f"{name}: {word!r} is not within {low} to {high}")
        return value

    if found["star"]:
        values = list(range(low, high + 1))
    else:
        first = number(found["first"])
        last = number(found["last"]) if found["last"] else first
        over_the_end = [*range(first, high + 1), *range(low, last + 1)]
        values = list(range(first, last + 1)) if first <= last else over_the_end
    step = int((found["step"] or "1")[:6])
    if step < 1:
        raise UserError(f"{name}: {text!r} has a step of nothing")
    return set(values[::step])


def _field(values: set[int], low: int, high: int, *, steps: bool = False) -> str:
    """The values as a field of a cron expression, as short as everybody reads them alike."""
    every = sorted(values)
    if every == list(range(low, high + 1)):
        return "*"
    step = every[1] - every[0] if steps and len(every) > 1 else 0
    if step > 1 and every == list(range(low, high + 1, step)):
        return f"*/{step}"
    return ",".join(_runs(every))


def _runs(values: Sequence[int]) -> list[str]:
    words: list[str] = []
    begin = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[end - 1] + 1:
            run = values[begin:end]
            words += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(value) for value in run]
            begin = end
    return words
