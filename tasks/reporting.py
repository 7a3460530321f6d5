"""The steps of the daily report: choose the readers, write each one's report, show them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from prefect import State
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from aae.jobs.report import ReportOutcome, lags, report_user
from aae.model import Account
from aae.storage import accounts
from aae.storage.accounts import User
from aae.storage.engine import reading
from tasks.limits import in_thread, place, settled, step
from tasks.resources import clock, stores

REPORTS_AT_ONCE = 2
"""Drawing charts is work for the processor."""


@step(name="choose-lagging", description="Accounts whose numbers do not yet cover the day to report on.")
async def choose_lagging(users: list[User], day: date | None) -> list[Account]:
    """Active accounts of these users whose reported day has ended since they were last fetched in full."""
    now = clock()
    with reading(stores().engine) as connection:
        owned = accounts.list_accounts(connection, user_ids=[user.id for user in users])
        through = accounts.data_through(connection)
    return [one for one in owned if lags(one, through[one.id], now=now, day=day)]


@step(
    name="write-report",
    run_name="report for user {user.id}",
    description="One user's daily report: numbers, what changed and why, trends, recommendations.",
)
async def write_report(user: User, day: date | None, dry_run: bool) -> ReportOutcome:
    """The report, kept once per user and day; in the UI as the artifact ``daily-report-<user id>``."""
    outcome = await in_thread(report_user, stores(), user, now=clock(), day=day, dry_run=dry_run)
    get_run_logger().info("user %s, %s: %s", user.id, outcome.report_date, outcome.outcome)
    if outcome.markdown:
        await acreate_markdown_artifact(
            key=f"daily-report-{user.id}",
            markdown=outcome.markdown,
            description=f"Report on {outcome.report_date} for user {user.id}",
        )
    return outcome


async def write_reports(users: Sequence[User], day: date | None, dry_run: bool) -> list[ReportOutcome | str]:
    """One outcome per user, or the reason why there is none; whatever happens to one, the others get theirs."""
    gate = asyncio.Semaphore(REPORTS_AT_ONCE)

    async def one(user: User) -> ReportOutcome | str:
        async with place(gate):
            state = await settled(write_report(user, day, dry_run, return_state=True))
        result = await state.aresult(raise_on_failure=False)
        return result if isinstance(result, ReportOutcome) else f"user {user.id}: {state.message}"

    return list(await asyncio.gather(*(one(user) for user in users)))


@step(name="show-reports", description="A table of the reports of this run.")
async def show_reports(outcomes: list[ReportOutcome | str]) -> None:
    """Write the table artifact ``daily-reports``."""
    await acreate_table_artifact(
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
    data = {"counts": dict(counts), "reports": [asdict(outcome) | {"markdown": ""} for outcome in done]}
    if failures:
        return Failed(message=f"{len(failures)} reports failed ({told}): {'; '.join(failures[:3])}", data=data)
    return Completed(message=f"{len(done)} reports: {told}", data=data)
