"""Which accounts a report fetches first: those whose day has ended since they were last fetched in full."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aae.jobs.report import lags
from aae.model import Account, Platform

NINE = datetime(2026, 11, 22, 9, tzinfo=UTC)
SIX = datetime(2026, 11, 22, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timezone", "lagging"),
    [
        ("UTC", False),
        ("Asia/Tokyo", False),
        ("America/New_York", False),  # ended at 05:00 UTC
        ("America/Denver", True),  # ended at 07:00 UTC, after the fetch at 06:00
        ("America/Los_Angeles", True),
        ("Pacific/Honolulu", False),  # it is still yesterday there; the day before ended long ago
    ],
)
def test_at_nine_the_american_west_is_fetched_again(timezone: str, lagging: bool) -> None:
    account = Account(1, 1, Platform.META, "1", "Shop", "USD", timezone)
    assert lags(account, SIX, now=NINE, day=None) is lagging
    assert lags(account, NINE, now=NINE, day=None) is False


def test_an_account_never_fetched_lags_and_a_day_that_goes_on_does_not() -> None:
    account = Account(1, 1, Platform.META, "1", "Shop", "USD", "UTC")
    assert lags(account, None, now=NINE, day=None)
    assert not lags(account, SIX, now=NINE, day=NINE.date())
