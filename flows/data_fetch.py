"""Every six hours: bring performance data from Meta, TikTok and Google into the shared tables and the cache."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import State, flow

from flows.naming import run_name
from flows.parameters import Ids, Platforms, Share
from tasks.again import come_back
from tasks.choosing import choose_accounts
from tasks.fetch import check_range, conclude_fetch, fetch_accounts, show_fetch


@flow(name="fetch-ad-data", flow_run_name=run_name("fetch"), persist_result=True, result_serializer="json")
async def fetch_ad_data(
    accounts: Ids | None = None,
    users: Ids | None = None,
    platforms: Platforms | None = None,
    since: date | None = None,
    until: date | None = None,
    dry_run: bool = False,
    share: Share | None = None,
) -> State[Any]:
    """Fetch ad performance for all active accounts, or some.

    Without dates each account gets what it owes: the recent days, days that were missed, and once a day the whole
    window in which its platform still changes past numbers. Fails, in words, if an account still owes data at the end;
    one that its platform wants left alone for long is fetched by another run as soon as it may be.

    Args:
        accounts: Account ids (see `aae accounts list`); empty for all active accounts.
        users: Only the accounts of these users; empty for all.
        platforms: Only these platforms; empty for all.
        since: First local day to fetch again, for a backfill.
        until: Last local day to fetch again; today if only "since" is given.
        dry_run: Only say what would be fetched; nothing is called or stored.
        share: Only the users of this share, like "2/4", the second of four; empty for all. The schedules of
            AAE_FETCH__SHARES give it.
    """
    check_range(since, until)
    chosen = await choose_accounts(accounts, users, platforms, share)
    outcomes = await fetch_accounts(chosen, since, until, dry_run)
    outcomes = await come_back(outcomes, since, until)
    await show_fetch(outcomes)
    return conclude_fetch(outcomes)
