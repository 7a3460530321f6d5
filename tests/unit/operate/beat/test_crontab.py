"""A crontab of Celery's and the cron expression written for it name the same moments, for Celery, Prefect and us."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from celery.schedules import crontab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule

from aae.errors import UserError
from aae.operate.beat.crontab import Timing, from_crontab, from_seconds, from_string
from aae.operate.schedule import last_due, read_cron

YEAR = datetime(2027, 1, 1, tzinfo=UTC)
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def field(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """One argument of a crontab, in every form that Celery takes."""
    number = st.integers(low, high)
    word = number.map(str)
    if names:
        word |= number.map(lambda one: names[one - low])
        word |= number.map(lambda one: names[one - low].title())
    step = st.integers(1, high + 3)
    ends = st.tuples(word, word).map("-".join)
    part = st.one_of(
        word,
        ends,
        st.just("*"),
        step.map(lambda one: f"*/{one}"),
        st.tuples(ends, step).map(lambda two: f"{two[0]}/{two[1]}"),
    )
    several = st.lists(number, min_size=1, max_size=5)
    return st.one_of(
        st.just("*"),
        number,
        part,
        st.lists(part, min_size=2, max_size=3).map(",".join),
        several,
        several.map(set),
        several.map(tuple),
    )


crontabs = st.fixed_dictionaries(
    {},
    optional={
        "minute": field(0, 59),
        "hour": field(0, 23),
        "day_of_week": field(0, 6, WEEKDAYS),
        "day_of_month": field(1, 31),
        "month_of_year": field(1, 12, MONTHS),
    },
)


def celerys(arguments: dict[str, Any]) -> crontab | None:
    try:
        return crontab(**arguments)
    except ValueError:  # a day that no month has
        return None


def next_of_celery(schedule: crontab, after: datetime, count: int) -> list[datetime]:
    """The moments at which Celery's beat would send the task."""
    found: list[datetime] = []
    while len(found) < count:
        schedule.nowfun = partial(datetime.fromtimestamp, after.timestamp(), UTC)
        last, delta, _ = schedule.remaining_delta(after)
        after = last + delta
        found.append(after.astimezone(UTC))
    return found


def next_of_prefect(timing: Timing, after: datetime, count: int) -> list[datetime]:
    assert timing.cron is not None
    schedule = CronSchedule(cron=timing.cron, timezone=timing.timezone, day_or=timing.day_or)
    dates = asyncio.run(schedule.get_dates(n=count, start=after + timedelta(seconds=1)))
    return [datetime.fromtimestamp(one.timestamp(), UTC) for one in dates]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(arguments=crontabs, minutes=st.integers(0, 365 * 24 * 60))
def test_the_next_moments_are_the_same_for_celery_prefect_and_the_watch(
    arguments: dict[str, Any], minutes: int
) -> None:
    schedule = celerys(arguments)
    if schedule is None:
        with pytest.raises(UserError):
            from_crontab(**arguments)
        return
    timing = from_crontab(**arguments)
    start = YEAR + timedelta(minutes=minutes)
    expected = next_of_celery(schedule, start, 12)
    assert next_of_prefect(timing, start, 12) == expected
    assert timing.cron is not None
    for moment in expected[:3]:
        assert last_due(timing.cron, moment + timedelta(seconds=30), day_or=timing.day_or) == moment


@settings(max_examples=300)
@given(arguments=crontabs)
def test_over_a_whole_year_the_same_minutes_match(arguments: dict[str, Any]) -> None:
    schedule = celerys(arguments)
    if schedule is None:
        return
    timing = from_crontab(**arguments)
    assert timing.cron is not None
    fields = read_cron(timing.cron)
    assert (fields.minutes, fields.hours) == (schedule.minute, schedule.hour)
    for number in range(366):
        day = YEAR + timedelta(days=number)
        wanted = (
            day.isoweekday() % 7 in schedule.day_of_week
            and day.day in schedule.day_of_month
            and day.month in schedule.month_of_year
        )
        by_date, by_weekday = day.day in fields.days, day.isoweekday() in fields.weekdays
        either = timing.day_or and fields.days_limited and fields.weekdays_limited
        matches = day.month in fields.months and (by_date or by_weekday if either else by_date and by_weekday)
        assert matches == wanted, day


@pytest.mark.parametrize(
    ("arguments", "cron"),
    [
        ({"minute": 0, "hour": 2}, "0 2 * * *"),
        ({"minute": 0, "hour": "0,6,12,18"}, "0 */6 * * *"),
        ({"minute": 0, "hour": "*/6"}, "0 */6 * * *"),
        ({"minute": 0, "hour": {18, 0, 12, 6}}, "0 */6 * * *"),
        ({"minute": 0}, "0 * * * *"),
        ({"minute": "*/15", "day_of_week": "mon-fri"}, "*/15 * * * 1-5"),
        ({"minute": 0, "hour": 22, "day_of_week": "fri-mon"}, "0 22 * * 0,1,5,6"),
        ({"minute": 0, "hour": "22-2"}, "0 0-2,22,23 * * *"),
        ({"minute": 5, "hour": 4, "day_of_month": "1,15", "month_of_year": "jan-mar"}, "5 4 1,15 1-3 *"),
        ({}, "* * * * *"),
    ],
)
def test_what_is_written_is_what_a_person_would_write(arguments: dict[str, Any], cron: str) -> None:
    assert from_crontab(**arguments) == Timing(cron=cron)


def test_both_days_must_match_as_in_celery() -> None:
    timing = from_crontab(0, 9, "fri", "8-14")
    assert (timing.cron, timing.day_or) == ("0 9 8-14 * 5", False)
    assert str(timing) == "at 09:00 UTC on days 8 to 14 of the month if that is a Friday"


def test_from_string_has_crons_own_order() -> None:
    assert from_string("0 9 1 * mon").cron == "0 9 1 * 1"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"minute": 60}, "minute=60 is not within 0 to 59"),
        ({"minute": -1}, "minute=-1"),
        ({"hour": "25"}, "hour: '25' is not within 0 to 23"),
        ({"day_of_week": "someday"}, "'someday' is not within 0 to 6"),
        ({"day_of_month": 0}, "day_of_month=0"),
        ({"day_of_month": 31, "month_of_year": "feb,apr"}, "no month"),
        ({"minute": ""}, "'' is not understood"),
        ({"minute": "1,"}, "'' is not understood"),
        ({"minute": "5/10"}, "'5/10' is not understood"),
        ({"minute": "*/0"}, "a step of nothing"),
        ({"minute": "1--2"}, "not understood"),
        ({"minute": "9" * 5000}, "not within"),
        ({"minute": 1.5}, "minute cannot be 1.5"),
        ({"minute": None}, "minute cannot be None"),
        ({"minute": True}, "minute cannot be True"),
        ({"minute": ["1"]}, "whole numbers only"),
        ({"minute": []}, "is not within"),
    ],
)
def test_what_celery_would_not_take_is_refused_in_a_sentence(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        from_crontab(**arguments)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("seconds", "written", "words"),
    [
        (60, "* * * * *", "every minute"),
        (900, "*/15 * * * *", "every 15 minutes"),
        (3600, "0 * * * *", "every hour, on the hour"),
        (21600, "0 */6 * * *", "at 00:00, 06:00, 12:00 and 18:00 UTC"),
        (86400, "0 0 * * *", "every day at 00:00 UTC"),
        (30, None, "every 30 seconds"),
        (90.5, None, "every 90.5 seconds"),
        (5400, None, "every 90 minutes"),
        (7 * 3600, None, "every 7 hours"),
        (7 * 86400, None, "every 7 days"),
    ],
)
def test_an_interval_is_cron_where_cron_can_say_it(seconds: float, written: str | None, words: str) -> None:
    timing = from_seconds(seconds)
    assert timing.cron == written
    assert str(timing) == words


@given(minutes=st.integers(1, 1440))
def test_an_interval_as_cron_is_the_interval_from_midnight(minutes: int) -> None:
    timing = from_seconds(minutes * 60)
    if timing.cron is None:
        return
    interval = IntervalSchedule(interval=timedelta(minutes=minutes), anchor_date=datetime(2020, 1, 1, tzinfo=UTC))
    dates = asyncio.run(interval.get_dates(n=5, start=YEAR + timedelta(seconds=1)))
    assert next_of_prefect(timing, YEAR, 5) == [datetime.fromtimestamp(one.timestamp(), UTC) for one in dates]


@pytest.mark.parametrize("seconds", [0, -5, 0.25, float("inf"), float("nan"), 1e12])
def test_an_interval_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(UserError, match="interval"):
        from_seconds(seconds)
