"""When a job was due last, by its cron expression; and that prefect.yaml is read as it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import UserError
from aae.operate.schedule import Job, last_due, read_jobs

NOW = datetime(2026, 11, 22, 13, 37, 5, tzinfo=UTC)  # a Sunday


@pytest.mark.parametrize(
    ("cron", "timezone", "due"),
    [
        ("0 * * * *", "UTC", "2026-11-22T13:00"),
        ("0 */6 * * *", "UTC", "2026-11-22T12:00"),
        ("0 2 * * *", "UTC", "2026-11-22T02:00"),
        ("0 14 * * *", "UTC", "2026-11-21T14:00"),
        ("37 13 * * *", "UTC", "2026-11-22T13:37"),
        ("0 9 * * *", "Asia/Tokyo", "2026-11-22T00:00"),
        ("15,45 8-10 * * 1-5", "UTC", "2026-11-20T10:45"),
        ("0 0 * * 7", "UTC", "2026-11-22T00:00"),
        ("0 0 * * 0", "UTC", "2026-11-22T00:00"),
        ("0 0 1 * 5", "UTC", "2026-11-20T00:00"),
        ("0 0 29 2 *", "UTC", None),
        ("30 2 28 3 *", "UTC", "2026-03-28T02:30"),
    ],
)
def test_the_last_due_moment(cron: str, timezone: str, due: str | None) -> None:
    expected = datetime.fromisoformat(due).replace(tzinfo=UTC) if due else None
    assert last_due(cron, NOW, timezone) == expected


@pytest.mark.parametrize("cron", ["", "* * * *", "61 * * * *", "a * * * *", "5-1 * * * *", "*/0 * * * *", "@daily"])
def test_what_is_not_a_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(UserError, match="cron"):
        last_due(cron, NOW)


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    now=st.integers(1_735_689_600, 1_893_456_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_a_daily_job_was_due_within_the_last_day(minute: int, hour: int, now: datetime) -> None:
    due = last_due(f"{minute} {hour} * * *", now)
    assert due is not None
    assert (due.hour, due.minute) == (hour, minute)
    assert timedelta(0) <= now - due < timedelta(days=1)


def test_jobs_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(
        "deployments:\n"
        "- {name: daily, entrypoint: 'flows/a.py:check_token_expiry', schedules: [{cron: '0 2 * * *'}]}\n"
        "- {name: hourly, entrypoint: 'flows/b.py:detect', schedules: [{cron: '0 * * * *', timezone: Asia/Tokyo}]}\n"
    )
    assert read_jobs(tmp_path) == [
        Job("check-token-expiry/daily", "0 2 * * *", "UTC", entrypoint="flows/a.py:check_token_expiry"),
        Job("detect/hourly", "0 * * * *", "Asia/Tokyo", entrypoint="flows/b.py:detect"),
    ]


@pytest.mark.parametrize("text", [None, "", "deployments: [{}]", "deployments: 3", "{"])
def test_a_missing_or_odd_file_is_told_in_words(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(UserError, match=r"prefect\.yaml"):
        read_jobs(tmp_path)


def test_a_job_that_runs_at_intervals_has_no_cron_and_is_never_missed(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(
        "deployments:\n"
        "- {name: often, entrypoint: 'flows/a.py:ping', schedules: [{interval: 45}]}\n"
        "- {name: monthly, entrypoint: 'flows/a.py:pay', schedules: [{cron: '0 9 8-14 * 5', day_or: false}]}\n"
    )
    often, monthly = read_jobs(tmp_path)
    assert (often.cron, often.every_seconds, often.last_due(NOW)) == (None, 45, None)
    assert monthly.last_due(NOW) == datetime(2026, 11, 13, 9, tzinfo=UTC), "the second Friday"
