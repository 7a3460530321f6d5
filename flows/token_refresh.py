"""Daily at 02:00 UTC: find tokens that expire within 24 hours or no longer work, and refresh them."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.naming import run_name
from flows.parameters import Hours, Ids
from tasks.choosing import choose_accounts
from tasks.notify import deliver_notifications
from tasks.retention import tidy_up
from tasks.tokens import check_tokens, conclude_check, show_tokens


@flow(name="check-token-expiry", flow_run_name=run_name("tokens"), persist_result=True, result_serializer="json")
async def check_token_expiry(
    accounts: Ids | None = None,
    users: Ids | None = None,
    within_hours: Hours = 24,
    dry_run: bool = False,
) -> State[Any]:
    """Keep every ad account's authorization alive.

    A token that expires soon is refreshed by its platform's own means, the others are probed. A dead one pauses its
    account and its owner is told once; when they have connected it again, operations resume and they are told so.
    It is the quiet hour: a check of all accounts ends by folding old numbers and removing old records.

    Args:
        accounts: Account ids; empty for all.
        users: Only the accounts of these users; empty for all.
        within_hours: Refresh what expires within this many hours.
        dry_run: Only say which would be refreshed and which probed; no platform is asked, nothing is stored.
    """
    chosen = await choose_accounts(accounts, users, refused=True)
    results = await check_tokens(chosen, within_hours, dry_run)
    await show_tokens(results)
    if not dry_run:
        await deliver_notifications()
    if not (accounts or users or dry_run):
        await tidy_up()
    return conclude_check(results)
