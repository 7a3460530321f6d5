"""Schedules and spans as a person says them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.operate.spoken import interval_in_words, schedule_in_words, span_in_words


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 2 * * *", "every day at 02:00 UTC"),
        ("0 */6 * * *", "at 00:00, 06:00, 12:00 and 18:00 UTC"),
        ("0 * * * *", "every hour, on the hour"),
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("5,35 * * * *", "every hour at :05 and :35"),
        ("0 9 * * 1-5", "at 09:00 UTC on Monday to Friday"),
        ("0 9 * * 0,6", "at 09:00 UTC on Saturday and Sunday"),
        ("0 9 * * 7", "at 09:00 UTC on Sunday"),
        ("0 9 1 * *", "at 09:00 UTC on day 1 of the month"),
        ("0 9 1,15 1-3,12 *", "at 09:00 UTC on days 1 and 15 of the month in January to March and December"),
        ("0 9 1 * 5", "at 09:00 UTC on day 1 of the month and on Friday"),
        ("*/10 8-17 * * *", "at :00, :10, :20, :30, :40 and :50 of the hours 08 to 17 UTC"),
        ("* 3 * * *", "every minute of the hours 03"),
    ],
)
def test_a_cron_expression_in_words(cron: str, words: str) -> None:
    assert schedule_in_words(cron) == words


def test_days_that_must_both_match_are_said_so() -> None:
    assert schedule_in_words("0 9 1 * 5,6", "Europe/Vienna", day_or=False) == (
        "at 09:00 Europe/Vienna on day 1 of the month if that is a Friday or Saturday"
    )


@given(
    st.tuples(
        st.sets(st.integers(0, 59), min_size=1),
        st.sets(st.integers(0, 23), min_size=1),
        st.sets(st.integers(1, 31), min_size=1),
        st.sets(st.integers(1, 12), min_size=1),
        st.sets(st.integers(0, 7), min_size=1),
    )
)
def test_every_cron_expression_has_words(fields: tuple[set[int], ...]) -> None:
    cron = " ".join(",".join(map(str, sorted(one))) for one in fields)
    words = schedule_in_words(cron)
    assert "  " not in words
    assert words == words.strip()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "every second"),
        (45, "every 45 seconds"),
        (60, "every minute"),
        (21600, "every 6 hours"),
        (0.5, "every 0.5 seconds"),
    ],
)
def test_an_interval_in_words(seconds: float, words: str) -> None:
    assert interval_in_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h"), (-30, "30 s")],
)
def test_a_span_in_words(seconds: float, words: str) -> None:
    assert span_in_words(timedelta(seconds=seconds)) == words
