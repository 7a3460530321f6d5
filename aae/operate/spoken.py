"""Schedules, spans of time and types, as a person says them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from aae.operate.schedule import CronFields, read_cron

WEEKDAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_UNITS: Final = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_MOST_TIMES: Final = 12
"""More times of day than this are told by hours and minutes."""


def schedule_in_words(cron: str, timezone: str = "UTC", *, day_or: bool = True) -> str:
    """``0 */6 * * *`` is ``at 00:00, 06:00, 12:00 and 18:00 UTC``; ``day_or`` as in :func:`schedule.last_due`.

    Raises:
        UserError: it is not a cron expression that we understand.
    """
    fields = read_cron(cron)
    times, days = _times(fields), _days(fields, day_or=day_or)
    # Of what happens around the clock nobody asks in which zone, unless a day has a limit.
    zone = f" {timezone}" if times.startswith("at") or days else ""
    if not days:
        return f"every day {times}{zone}" if times.startswith("at") and " and " not in times else f"{times}{zone}"
    return f"{times}{zone} {days}"


def interval_in_words(seconds: float) -> str:
    """``21600`` is ``every 6 hours``."""
    for unit, size in _UNITS:
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"every {unit}" if count == 1 else f"every {count:,} {unit}s"
    return f"every {seconds:g} seconds"


def span_in_words(span: timedelta) -> str:
    """The two largest units of a span, for instance ``3 h 12 min``; without its sign."""
    seconds = round(abs(span.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def type_in_words(one: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema's type, as short as a person needs it: ``list of integer``, ``low | medium | high``."""
    for many in ("anyOf", "allOf", "oneOf"):
        if many in one:
            kinds = [type_in_words(each, definitions) for each in one[many]]
            return " | ".join(kind for kind in dict.fromkeys(kinds) if kind != "null") or "null"
    if "$ref" in one:
        return type_in_words(definitions.get(str(one["$ref"]).rpartition("/")[2], {}), {})
    if "enum" in one:
        return " | ".join(map(str, one["enum"]))
    if "const" in one:
        return str(one["const"])
    if one.get("type") == "array":
        return f"list of {type_in_words(one.get('items') or {}, definitions)}"
    return str(one.get("format") or one.get("type") or "anything")


def listed(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _times(fields: CronFields) -> str:
    minutes, hours = sorted(fields.minutes), sorted(fields.hours)
    past = listed(f":{minute:02}" for minute in minutes)
    if len(hours) == 24:
        step = 60 // len(minutes)
        if minutes == [0]:
            return "every hour, on the hour"
        if len(minutes) == 60:
            return "every minute"
        if minutes == list(range(0, 60, step)):
            return f"every {step} minutes"
        return f"every hour at {past}"
    if len(hours) * len(minutes) <= _MOST_TIMES:
        return "at " + listed(f"{hour:02}:{minute:02}" for hour in hours for minute in minutes)
    between = _ranges(hours, lambda hour: f"{hour:02}")
    return f"every minute of the hours {between}" if len(minutes) == 60 else f"at {past} of the hours {between}"


def _days(fields: CronFields, *, day_or: bool) -> str:
    parts = []
    if fields.days_limited:
        many = "days" if len(fields.days) > 1 else "day"
        parts.append(f"on {many} {_ranges(sorted(fields.days), str)} of the month")
    if fields.weekdays_limited:
        # Monday first, Sunday last, as in a week.
        days = sorted(
            7 if day == 0 else day for day in fields.weekdays - {0} | ({7} if 0 in fields.weekdays else set())
        )
        names = _ranges(days, lambda day: WEEKDAYS[day % 7])
        parts.append(f"on {names}" if day_or or not parts else f"if that is a {names.replace(' and ', ' or ')}")
    told = (" and " if day_or else " ").join(parts)
    if len(fields.months) < 12:
        told += f"{' ' if told else ''}in {_ranges(sorted(fields.months), lambda month: MONTHS[month - 1])}"
    return told


def _ranges(values: Sequence[int], name: Callable[[int], str]) -> str:
    """Values with three or more neighbours put together: ``1 to 5 and 9``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    words: list[str] = []
    for run in runs:
        words += [f"{name(run[0])} to {name(run[-1])}"] if len(run) > 2 else [name(one) for one in run]
    return listed(words)
