"""Daily at 09:00 UTC: a performance report for every active user, on their accounts' yesterday."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import State, flow

from flows.naming import run_name
from flows.parameters import Ids
from tasks.choosing import choose_users
from tasks.fetch import fetch_accounts
from tasks.notify import deliver_notifications
from tasks.reporting import choose_editions, choose_lagging, conclude_reports, show_reports, write_reports


@flow(name="generate-daily-report", flow_run_name=run_name("report"), persist_result=True, result_serializer="json")
async def generate_daily_report(users: Ids | None = None, day: date | None = None, dry_run: bool = False) -> State[Any]:
    """Write and send every active user's report, once per user and day; after an outage also those that were missed.

    Accounts whose day ended after the last regular fetch (as the Pacific coast's does) are fetched first.

    Args:
        users: User ids; empty for all active users.
        day: The local day to report on; empty for each account's own yesterday and what was missed.
        dry_run: Show the reports here, keep and send nothing.
    """
    chosen = await choose_users(users)
    # Before the fetch, which may last beyond somebody's midnight.
    owed = await choose_editions(chosen, day)
    await fetch_accounts(await choose_lagging(chosen, day), None, None, dry_run)
    outcomes = await write_reports(owed, dry_run)
    await show_reports(outcomes)
    if not dry_run:
        await deliver_notifications()
    return conclude_reports(outcomes)
