"""Which slices a fetch asks for. Pure: what was stored before goes in, what is owed comes out.

One rule makes the first fetch, the regular one, the catching-up after downtime and the daily re-reading:
a local day is *settled* once a fetch that covered it was begun after the day had ended. Asked for are

- the recent days, always;
- every day of the history window that is not settled;
- once a day, every day of the window in which the platform still restates its numbers.

A run that starts over, or is tried again, leaves out the days that it has settled itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import zip_longest
from typing import Final

from aae.errors import UserError
from aae.model import Account, Granularity, Platform, Slice
from aae.platforms.base import Connector, Rules
from aae.settings import FetchSettings
from aae.storage.fetches import StoredWindow

RESTATE_AFTER = time(12, 0, tzinfo=UTC)
"""TikTok's daily correction is finished by 12:00 UTC; a restatement window read before it would miss it."""

HISTORY_MONTHS: Final = 37
"""Meta's insights reach back 37 months (error 3018 beyond). Further back is a typing mistake for every platform."""

_LATEST_ZONE: Final = timedelta(hours=14)


def plan_account(
    account: Account,
    rules: Rules,
    stored: Mapping[Granularity, Sequence[StoredWindow]],
    settings: FetchSettings,
    *,
    now: datetime,
    run_id: str | None = None,
) -> list[Slice]:
    """What this account owes at ``now``, newest days last; what ``run_id`` itself settled is left out."""
    today = account.local_day(now)
    pieces: list[Slice] = []
    for granularity, recent, history in (
        (Granularity.DAILY, settings.recent_days, settings.first_days),
        (Granularity.HOURLY, settings.hourly_days, settings.first_hourly_days),
    ):
        # What claims to have been asked for in the future was asked for by a clock that was wrong, and proves nothing.
        windows = [window for window in stored.get(granularity, ()) if window.asked_at <= now]
        wanted = set(_last(recent, today))
        wanted.update(day for day in _last(history, today) if not settled(day, account, windows))
        if granularity is Granularity.DAILY:
            fresh = [window for window in windows if window.asked_at >= _last_boundary(now)]
            restated = _last(rules.restatement_days, today)
            wanted.update(day for day in restated if not any(window.covers(day) for window in fresh))
        own = [window for window in windows if run_id is not None and window.run_id == run_id]
        wanted = {day for day in wanted if not settled(day, account, own)}
        pieces += to_slices(account.id, granularity, wanted, rules)
    return pieces


def plan_backfill(
    accounts: Iterable[Account],
    connectors: Mapping[Platform, Connector],
    since: date,
    until: date,
    granularities: Sequence[Granularity] = tuple(Granularity),
) -> list[Slice]:
    """Every slice of the local days ``since`` to ``until``, both inclusive, whatever was stored before."""
    days = {since + timedelta(days=n) for n in range((until - since).days + 1)}
    return [
        piece
        for account in accounts
        for granularity in granularities
        for piece in to_slices(account.id, granularity, days, connectors[account.platform].rules)
    ]


def check_range(
    since: date | None, until: date | None, *, now: datetime, latest: date | None = None, prefix: str = ""
) -> None:
    """See that somebody may ask for the days ``since`` to ``until`` (None: today) again.

    ``latest`` is the last local day of those it is asked for; without it, of anybody on earth.

    Raises:
        UserError: there are no such days, or no platform knows them any more; ``prefix`` is how the two are written.
    """
    latest = latest or (now.astimezone(UTC) + _LATEST_ZONE).date()
    first, last = since or until or latest, until or latest
    if first < _months_before(now.date(), HISTORY_MONTHS):
        raise UserError(
            f"{prefix}{'since' if since else 'until'} {first} lies further back than the {HISTORY_MONTHS} months that "
            "the platforms keep."
        )
    for name, day in (("since", first), ("until", last)):
        if day > latest:
            raise UserError(f"{prefix}{name} {day} lies in the future: the latest day anywhere is {latest}.")
    if last < first:
        raise UserError(f"{prefix}until {last} lies before {prefix}since {first}.")


def in_turns(accounts: Sequence[Account]) -> list[Account]:
    """The accounts in the order in which to begin them: every user's first, then every user's second, and so on.

    So nobody's many accounts keep another's few waiting; and of one user's the platforms take turns in the same way,
    since what one of them slows down should not fill every place.
    """
    return _dealt([_dealt(_by(own, "platform")) for own in _by(accounts, "user_id")])


def _by(accounts: Iterable[Account], what: str) -> list[list[Account]]:
    groups: dict[object, list[Account]] = {}
    for account in accounts:
        groups.setdefault(getattr(account, what), []).append(account)
    return list(groups.values())


def _dealt(hands: Sequence[Sequence[Account]]) -> list[Account]:
    """The first of each, then the second of each that has one, and so on."""
    return [account for turn in zip_longest(*hands) for account in turn if account is not None]


def to_slices(account_id: int, granularity: Granularity, days: Iterable[date], rules: Rules) -> list[Slice]:
    """The days as slices: runs of neighbouring days, none longer than the platform allows."""
    longest = rules.slice_days[granularity]
    runs: list[list[date]] = []
    for day in sorted(days):
        if runs and day - runs[-1][-1] == timedelta(days=1) and len(runs[-1]) < longest:
            runs[-1].append(day)
        else:
            runs.append([day])
    return [Slice(account_id, granularity, run[0], run[-1]) for run in runs]


def due_for_a_look(stored: Mapping[Granularity, Sequence[StoredWindow]], now: datetime) -> bool:
    """Whether the platform is to be asked again what the account is called, and in which zone and currency it counts.

    Once a day, with the window of restatement; a new account has been asked about a moment ago.
    """
    asked = [window.asked_at for window in stored.get(Granularity.DAILY, ()) if window.asked_at <= now]
    return bool(asked) and max(asked) < _last_boundary(now)


def settled(day: date, account: Account, windows: Sequence[StoredWindow]) -> bool:
    """Whether one of the windows covered the account's local day and was asked for after it had ended."""
    ended = datetime.combine(day + timedelta(days=1), time(), tzinfo=account.zone)
    return any(window.covers(day) and window.asked_at >= ended for window in windows)


def _months_before(day: date, months: int) -> date:
    """The first day of the month that many months earlier."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, 1)


def _last(days: int, today: date) -> list[date]:
    return [today - timedelta(days=n) for n in range(days)]


def _last_boundary(now: datetime) -> datetime:
    boundary = datetime.combine(now.astimezone(UTC).date(), RESTATE_AFTER)
    return boundary if boundary <= now else boundary - timedelta(days=1)
