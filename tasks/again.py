"""Coming back to accounts that a platform wants left alone for longer than their step waits.

One more run of the same deployment is asked for, for just those accounts and the same days, a little after the last of
their pauses ends. Where the next regular run comes first, or no run can be asked for, that one takes them: what is owed
is planned again by every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from prefect.logging import get_run_logger

from aae.errors import AaeError
from aae.jobs.fetch import AccountOutcome
from aae.operate.prefect_api import PrefectApi, open_api
from aae.settings import load
from aae.shares import are_apart
from tasks.limits import in_thread
from tasks.resources import clock, run_id

MARGIN: Final = timedelta(minutes=1)
"""A moment too late is polite, a moment too early is another refusal."""

_SOMETIME: Final = "again with the next regular run"


async def come_back(outcomes: Sequence[AccountOutcome], since: date | None, until: date | None) -> list[AccountOutcome]:
    """See that the throttled accounts are fetched again, and say in their outcomes when."""
    # By this machine's clock, as Prefect's moments are; ours may be set otherwise (a sandbox).
    offset = datetime.now(UTC) - clock()
    due = {
        one.account_id: max(datetime.fromisoformat(one.throttled_until) + offset, datetime.now(UTC)) + MARGIN
        for one in outcomes
        if one.throttled_until
    }
    if not due:
        return list(outcomes)
    again: Mapping[int, str] = {}
    try:
        again = await in_thread(_arrange, run_id(), due, _days(since, until))
    except AaeError as error:
        get_run_logger().warning("no run could be asked for to come back to throttled accounts: %s", error)
    return [
        replace(one, again=again.get(one.account_id, _SOMETIME)) if one.account_id in due else one for one in outcomes
    ]


def _days(since: date | None, until: date | None) -> dict[str, str]:
    return {name: day.isoformat() for name, day in (("since", since), ("until", until)) if day is not None}


def _arrange(run: str | None, due: Mapping[int, datetime], days: Mapping[str, str]) -> dict[int, str]:
    """When each account is fetched again, in words; the run that the regular ones do not make is asked for.

    Raises:
        AaeError: Prefect's API does not answer, or nobody knows where it is.
    """
    with open_api(load()) as api:
        own = api.run(run) if run else None
        if own is None or own.deployment_id is None:
            return {}
        regular = _next_regular(api, own.deployment_id, own.share)
        if regular is None and not days and api.is_paused(own.deployment_id):
            return {}  # somebody wants no fetches
        # The regular run does not know of the days of a backfill.
        early = {one: at for one, at in due.items() if days or regular is None or at < regular}
        words = dict.fromkeys(due, _SOMETIME if regular is None else f"again with the regular run of {_told(regular)}")
        if early:
            # The key makes it one run, however often this one is begun.
            more = api.create_run(
                own.deployment_id,
                {"accounts": sorted(early), **days},
                idempotency_key=f"throttled {run}",
                scheduled_for=max(early.values()),
            )
            if not more.is_final and more.scheduled_for is not None:
                # Begun again, this run may have asked before, and for others.
                taken = set(more.only.get("accounts", ()))
                words |= {one: f"again at {_told(more.scheduled_for)}" if one in taken else _SOMETIME for one in early}
    return words


def _next_regular(api: PrefectApi, deployment_id: str, share: str | None) -> datetime | None:
    """When the schedule's next run for these accounts is due; one that is late begins as soon as this one has ended.

    Of a run that is no share itself nobody knows in which its accounts are: then it is when every share has its turn.
    """
    due: dict[str | None, datetime] = {}
    for one in api.planned(deployment_id):
        if one.auto_scheduled and one.scheduled_for and not are_apart(one.share, share):
            due.setdefault(one.share, one.scheduled_for)
    return max(due.values(), default=None)


def _told(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
