"""The steps of the daily report: choose the readers, write each one's report, show them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from typing import Any

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from aae.jobs.report import Edition, ReportOutcome, editions, lags, report_user
from aae.model import Account
from aae.storage import accounts
from aae.storage.accounts import User
from aae.storage.transact import look
from tasks.limits import in_thread, place, reason, settled, step
from tasks.resources import clock, stores
from tasks.showing import show_markdown, show_table

REPORTS_AT_ONCE = 2
"""Drawing charts is work for the processor."""

REPORTS_SHOWN = 100
"""Reports of one run that are in the UI too. All are in the table ``reports``, in the folder and in the mail."""


@step(name="choose-editions", description="Which reports are owed: today's, and those of mornings that were missed.")
async def choose_editions(users: list[User], day: date | None) -> list[Edition]:
    """Every report that is to be written."""
    return editions(stores(), users, now=clock(), day=day)


@step(name="choose-lagging", description="Accounts whose numbers do not yet cover the day to report on.")
async def choose_lagging(users: list[User], day: date | None) -> list[Account]:
    """Active accounts of these users whose reported day has ended since they were last fetched in full."""
    now, engine = clock(), stores().engine
    owned = look(engine, accounts.list_accounts, user_ids=[user.id for user in users])
    through = look(engine, accounts.data_through)
    return [one for one in owned if lags(one, through[one.id], now=now, day=day)]


@step(
    name="write-report",
    run_name="report for user {edition.user.id}",
    description="One user's daily report: numbers, what changed and why, trends, recommendations.",
)
async def write_report(edition: Edition, dry_run: bool, shown: bool) -> ReportOutcome:
    """The report, kept once per user and day; if ``shown``, in the UI as the artifact ``daily-report-<user id>``."""
    user = edition.user
    outcome = await in_thread(report_user, stores(), user, now=edition.at, day=edition.day, dry_run=dry_run)
    outcome = replace(outcome, missed=edition.missed)
    get_run_logger().info("user %s, %s: %s", user.id, outcome.report_date, outcome.outcome)
    if outcome.markdown and shown:
        await show_markdown(
            key=f"daily-report-{user.id}",
            description=f"Report on {outcome.report_date} for user {user.id}",
            markdown=outcome.markdown,
        )
    # It is in the table and in the UI; the step's result is kept by Prefect for a week.
    return replace(outcome, markdown="")


async def write_reports(owed: Sequence[Edition], dry_run: bool) -> list[ReportOutcome | str]:
    """One outcome per report, or the reason why there is none; whatever happens to one, the others are written.

    A user's reports are written one after the other, the oldest first, so that they also arrive in this order.
    """
    gate = asyncio.Semaphore(REPORTS_AT_ONCE)

    async def one(edition: Edition) -> ReportOutcome | str:
        shown = edition in owed[:REPORTS_SHOWN]
        async with place(gate):
            state = await settled(write_report(edition, dry_run, shown, return_state=True))
        result = await state.aresult(raise_on_failure=False)
        return result if isinstance(result, ReportOutcome) else f"user {edition.user.id}: {reason(state, result)}"

    async def in_order(editions: Sequence[Edition]) -> list[ReportOutcome | str]:
        return [await one(edition) for edition in editions]

    by_user: dict[int, list[Edition]] = {}
    for edition in owed:
        by_user.setdefault(edition.user.id, []).append(edition)
    written = await asyncio.gather(*(in_order(editions) for editions in by_user.values()))
    return [outcome for outcomes in written for outcome in outcomes]


@step(name="show-reports", description="A table of the reports of this run.")
async def show_reports(outcomes: list[ReportOutcome | str]) -> None:
    """Write the table artifact ``daily-reports``."""
    await show_table(
        key="daily-reports",
        description="Who got a report, on which day, how complete, and where its files are.",
        table=[
            {
                "user": outcome.user_id,
                "day": outcome.report_date.isoformat(),
                "outcome": outcome.outcome,
                "complete %": round(outcome.completeness * 100),
                "headline": outcome.headline,
                "files": ", ".join(outcome.files),
            }
            for outcome in outcomes
            if isinstance(outcome, ReportOutcome)
        ],
    )


def conclude_reports(outcomes: Sequence[ReportOutcome | str]) -> State[Any]:
    """The run's final state: failed if somebody did not get a report, with the reason."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, str)]
    done = [outcome for outcome in outcomes if isinstance(outcome, ReportOutcome)]
    counts = Counter(outcome.outcome for outcome in done)
    told = ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "no users"
    missed = sum(outcome.missed and outcome.outcome == "written" for outcome in done)
    told += f" ({missed} of mornings that were missed)" if missed else ""
    data = {
        "counts": dict(counts),
        "missed": missed,
        "reports": [asdict(outcome) | {"markdown": ""} for outcome in done],
    }
    if failures:
        return Failed(message=f"{len(failures)} reports failed ({told}): {'; '.join(failures[:3])}", data=data)
    return Completed(message=f"{len(done)} reports: {told}", data=data)
