"""Which slices a fetch asks for: everything owed, nothing twice, nothing longer than the platform allows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aae.jobs.planning import in_turns, plan_account, to_slices
from aae.model import Account, Granularity, Platform, Slice
from aae.platforms.base import Rules
from aae.settings import FetchSettings
from aae.storage.fetches import StoredWindow

RULES = Rules(
    restatement_days=28, slice_days={Granularity.DAILY: 30, Granularity.HOURLY: 1}, attribution="7d_click,1d_view"
)
SETTINGS = FetchSettings(recent_days=3, hourly_days=2, first_days=42, first_hourly_days=29)
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def account(timezone: str = "UTC") -> Account:
    return Account(1, 1, Platform.TIKTOK, "7001", "Shop", "USD", timezone)


def plan(stored: dict[Granularity, list[StoredWindow]], *, now: datetime = NOW, zone: str = "UTC", run: str = "run"):
    return plan_account(account(zone), RULES, stored, SETTINGS, now=now, run_id=run)


def days_of(pieces, granularity: Granularity) -> list[date]:
    return [day for piece in pieces if piece.granularity is granularity for day in piece.days]


def everything_until(moment: datetime, run_id: str | None = None) -> dict[Granularity, list[StoredWindow]]:
    window = StoredWindow(date(2026, 1, 1), moment.date(), moment, run_id)
    return {granularity: [window] for granularity in Granularity}


def test_an_account_never_seen_before_gets_its_whole_history() -> None:
    pieces = plan({})
    assert len(days_of(pieces, Granularity.DAILY)) == 42
    assert len(days_of(pieces, Granularity.HOURLY)) == 29
    assert max(days_of(pieces, Granularity.DAILY)) == date(2026, 11, 22)


def test_a_regular_run_asks_only_for_the_recent_days() -> None:
    pieces = plan(everything_until(NOW - timedelta(minutes=30)))
    assert days_of(pieces, Granularity.DAILY) == [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)]
    assert days_of(pieces, Granularity.HOURLY) == [date(2026, 11, 21), date(2026, 11, 22)]


def test_the_first_run_after_noon_utc_reads_the_restatement_window_again_and_the_next_does_not() -> None:
    before_noon = everything_until(NOW.replace(hour=11))
    after_noon = everything_until(NOW.replace(hour=12, minute=5))
    assert len(days_of(plan(before_noon), Granularity.DAILY)) == 28
    assert len(days_of(plan(after_noon), Granularity.DAILY)) == 3


def test_days_missed_during_an_outage_are_owed_and_so_is_the_day_that_was_only_partly_seen() -> None:
    stored = everything_until(datetime(2026, 11, 16, 18, tzinfo=UTC))
    hourly = days_of(plan(stored), Granularity.HOURLY)
    assert hourly == [date(2026, 11, day) for day in range(16, 23)]


def test_a_run_that_starts_over_repeats_only_the_day_that_goes_on() -> None:
    stored = everything_until(NOW - timedelta(minutes=1), run_id="run")
    assert {day for piece in plan(stored, run="run") for day in piece.days} == {NOW.date()}
    assert len(days_of(plan(stored, run="another"), Granularity.DAILY)) == 3


def test_a_day_stored_before_it_ended_is_asked_for_again_by_a_try_after_midnight() -> None:
    before_midnight = datetime(2026, 11, 21, 23, 58, tzinfo=UTC)
    stored = everything_until(before_midnight, run_id="run")
    again = plan(stored, now=before_midnight + timedelta(minutes=7), run="run")
    assert set(days_of(again, Granularity.HOURLY)) == {date(2026, 11, 21), date(2026, 11, 22)}


def test_restatement_slices_that_failed_are_still_owed_by_the_next_try() -> None:
    stored = everything_until(NOW.replace(hour=11))
    oldest = StoredWindow(date(2026, 10, 26), date(2026, 11, 1), NOW.replace(hour=12, minute=5), "run")
    stored[Granularity.DAILY].append(oldest)
    days = days_of(plan(stored), Granularity.DAILY)
    assert days == [date(2026, 11, 2) + timedelta(days=n) for n in range(21)]


def test_yesterday_is_decided_by_the_account_and_not_by_utc() -> None:
    late_evening = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
    pieces = plan(everything_until(late_evening), now=late_evening, zone="America/Los_Angeles")
    assert max(days_of(pieces, Granularity.DAILY)) == date(2026, 11, 21)


@given(days=st.sets(st.dates(date(2026, 1, 1), date(2026, 12, 31)), max_size=80), longest=st.integers(1, 30))
def test_slices_hold_each_day_once_in_order_and_none_is_too_long(days: set[date], longest: int) -> None:
    rules = Rules(28, {Granularity.DAILY: longest, Granularity.HOURLY: longest}, "")
    pieces = to_slices(1, Granularity.DAILY, days, rules)
    assert days_of(pieces, Granularity.DAILY) == sorted(days)
    assert all(len(piece.days) <= longest for piece in pieces)


def owned(id_: int, user: int, platform: Platform) -> Account:
    return Account(id_, user, platform, str(id_), "Shop", "USD", "UTC")


def test_users_take_turns_and_so_do_the_platforms_of_each() -> None:
    many = [owned(number, 1, Platform.TIKTOK if number <= 90 else Platform.META) for number in range(1, 101)]
    few = [owned(201, 2, Platform.GOOGLE), owned(202, 2, Platform.META), owned(301, 3, Platform.TIKTOK)]
    order = [account.id for account in in_turns([*many, *few])]
    assert order[:8] == [1, 201, 301, 91, 202, 2, 92, 3]
    assert sorted(order) == sorted(account.id for account in [*many, *few])
    assert in_turns([]) == []


@given(st.integers(1, 60))
def test_halves_of_a_slice_are_its_days_in_order_and_as_even_as_can_be(days: int) -> None:
    whole = Slice(1, Granularity.HOURLY, NOW.date(), NOW.date() + timedelta(days=days - 1))
    halves = whole.halves
    assert [day for half in halves for day in half.days] == whole.days
    assert max(map(len, halves)) - min(map(len, halves)) <= 1
    assert len(halves) == min(days, 2)
