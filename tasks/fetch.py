"""The steps of fetching: choose the accounts, fetch each on its own, show what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import date
from typing import Any

from prefect import State
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from aae.errors import UserError
from aae.jobs import planning
from aae.jobs.fetch import DRIFT_ALARM, AccountOutcome, plan
from aae.jobs.fetch import fetch_account as fetch
from aae.model import Account, Slice
from aae.platforms.transport import Purpose
from tasks.cluster import carried_out, cluster
from tasks.limits import Incomplete, deadline, place, reason, settled, step
from tasks.resources import clock, platforms, run_id, stores
from tasks.showing import show_table, shown

PROGRESS_EVERY_SECONDS = 1.0
"""More often nobody looks; with thousands of accounts the server would do nothing else."""

PROGRESS_PATIENCE_SECONDS = 5.0
"""What is shown of the progress is soon shown again."""


@step(
    name="fetch-account",
    run_name="fetch {account}",
    description="Everything one ad account owes: entities, metrics by day and by hour, reconciled and published.",
)
async def fetch_account(account: Account, since: date | None, until: date | None, dry_run: bool) -> AccountOutcome:
    """One account's outcome.

    Raises:
        Incomplete: not everything was stored; it carries the outcome, and is retried if trying again may help.
    """
    log = get_run_logger()
    if dry_run:
        return await _planned(account, since, until)
    outcome = await carried_out(fetch_owed, account, since, until)
    log.info("%s %s: %s rows, %s calls, %.1f s", account, outcome.outcome, outcome.rows, outcome.calls, outcome.seconds)
    if outcome.drift is not None and outcome.drift > DRIFT_ALARM:
        log.warning("%s: sums are %.2f %% from the platform's own totals", account, outcome.drift * 100)
    if outcome.outcome != "stored":
        raise Incomplete(outcome.detail or outcome.outcome, outcome=outcome, retry=outcome.retry)
    return outcome


async def fetch_owed(account: Account, since: date | None, until: date | None) -> AccountOutcome:
    """The work itself, in whichever process: what the account owes, or the days of a backfill."""
    async with platforms() as context:
        pieces = _override(account, since, until, context.connectors)
        return await fetch(context, account, clock=clock, run_id=run_id(), pieces=pieces, deadline=deadline())


async def _planned(account: Account, since: date | None, until: date | None) -> AccountOutcome:
    """What would be fetched, said in the run's log."""
    log = get_run_logger()
    async with platforms() as context:
        pieces = _override(account, since, until, context.connectors)
        pieces = pieces or plan(context, account, context.connectors[account.platform], now=clock(), run_id=run_id())
    for piece in pieces:
        log.info("would fetch %s %s", account, piece)
    return AccountOutcome(account.id, str(account), account.name, account.platform, "planned", slices=len(pieces))


def check_range(since: date | None, until: date | None) -> None:
    """See that the days of a backfill can be asked for, before anything is done.

    Raises:
        UserError: they cannot, and why.
    """
    if since is not None or until is not None:
        planning.check_range(since, until, now=clock())


async def fetch_accounts(
    chosen: Sequence[Account], since: date | None, until: date | None, dry_run: bool
) -> list[AccountOutcome]:
    """Fetch all of them, some at a time, the users in turns; whatever happens to one, the others go on."""
    if not chosen:
        return []
    gate = asyncio.Semaphore(stores().settings.fetch.accounts_at_once)
    outcomes: list[AccountOutcome] = []
    progress = await shown(
        acreate_progress_artifact(0.0, key="fetch-progress", description=_progress([], chosen)),
        patience=PROGRESS_PATIENCE_SECONDS,
    )

    told = time.monotonic()

    async def one(account: Account) -> None:
        nonlocal told
        async with place(gate):
            state = await settled(fetch_account(account, since, until, dry_run, return_state=True))
        outcomes.append(await _outcome(account, state))
        if progress is not None and (time.monotonic() >= told + PROGRESS_EVERY_SECONDS or len(outcomes) == len(chosen)):
            told = time.monotonic()
            share = 100 * len(outcomes) / len(chosen)
            update = aupdate_progress_artifact(progress, share, _progress(outcomes, chosen))
            await shown(update, patience=PROGRESS_PATIENCE_SECONDS)

    async with nullcontext() if dry_run else cluster(stores().settings.fetch):
        await asyncio.gather(*(one(account) for account in planning.in_turns(chosen)))
    return sorted(outcomes, key=lambda outcome: outcome.account_id)


@step(name="show-fetch", description="Tables of what this run brought, per account, and of the API calls it made.")
async def show_fetch(outcomes: list[AccountOutcome]) -> None:
    """Write the table artifacts ``ad-data-fetch`` and ``ad-data-fetch-calls``."""
    await show_table(
        key="ad-data-fetch",
        description="Accounts of this fetch, those that owe data first: rows stored, changes to earlier numbers, API "
        "calls, what is owed and why.",
        table=[_row(outcome) for outcome in sorted(outcomes, key=lambda one: not one.owes)],
    )
    await show_table(
        key="ad-data-fetch-calls",
        description="API calls of this fetch, by platform and by what they were for.",
        table=[_calls(platform, outcomes) for platform in sorted({outcome.platform for outcome in outcomes})],
    )


def conclude_fetch(outcomes: Sequence[AccountOutcome]) -> State[Any]:
    """The run's final state: failed if numbers are still owed, with the reason in words."""
    owing = [outcome for outcome in outcomes if outcome.owes]
    rows, calls = sum(o.rows for o in outcomes), sum(o.calls for o in outcomes)
    data = {"accounts": len(outcomes), "rows": rows, "calls": calls, "outcomes": [asdict(o) for o in outcomes]}
    if owing:
        reasons = "; ".join(f"{outcome.account} {outcome.outcome}: {outcome.detail}" for outcome in owing[:5])
        told = "".join(f" {number} {again}." for again, number in sorted(_again(outcomes).items()))
        return Failed(message=f"{len(owing)} of {len(outcomes)} accounts still owe data.{told} {reasons}", data=data)
    kinds = Counter(outcome.outcome for outcome in outcomes)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    return Completed(message=f"{len(outcomes)} accounts ({told or 'none'}), {rows} rows, {calls} API calls", data=data)


def _override(account: Account, since: date | None, until: date | None, connectors: Any) -> list[Slice] | None:
    """The slices of an explicit date range, or None for the regular plan."""
    if since is None and until is None:
        return None
    today = account.local_day(clock())
    first = since or until or today
    last = min(until or today, today)
    if last < first:
        raise UserError(f"The range {first} to {until or today} is empty or lies in the future for {account}.")
    return planning.plan_backfill([account], connectors, first, last)


async def _outcome(account: Account, state: State[Any]) -> AccountOutcome:
    """What a step ended with, also if it ended badly."""
    result = await state.aresult(raise_on_failure=False)
    if isinstance(result, Incomplete) and result.outcome is not None:
        result = result.outcome
    if isinstance(result, AccountOutcome):
        return result
    return AccountOutcome(
        account.id, str(account), account.name, account.platform, "failed", owed=1, detail=reason(state, result)
    )


def _progress(outcomes: Sequence[AccountOutcome], chosen: Sequence[Account]) -> str:
    rows = sum(outcome.rows for outcome in outcomes)
    return f"{len(outcomes)} of {len(chosen)} accounts, {rows} rows"


def _row(outcome: AccountOutcome) -> dict[str, Any]:
    return {
        "account": outcome.account,
        "name": outcome.name,
        "outcome": outcome.outcome,
        "rows": outcome.rows,
        "new": outcome.inserted,
        "changed": outcome.updated,
        "withdrawn": outcome.deleted,
        "API calls": outcome.calls,
        "drift %": None if outcome.drift is None else round(outcome.drift * 100, 3),
        "owed": outcome.owed,
        "seconds": outcome.seconds,
        "remark": " ".join(filter(None, (outcome.detail, outcome.again and f"It is fetched {outcome.again}."))),
    }


def _calls(platform: str, outcomes: Sequence[AccountOutcome]) -> dict[str, Any]:
    """What one platform was asked, by purpose."""
    asked = [outcome for outcome in outcomes if outcome.platform == platform]
    made = sum((Counter(outcome.calls_by) for outcome in asked), Counter[str]())
    by_purpose = {purpose.value: made[purpose.value] for purpose in Purpose}
    return {"platform": platform, "accounts": len(asked), **by_purpose, "all": made.total()}


def _again(outcomes: Sequence[AccountOutcome]) -> Counter[str]:
    """How many throttled accounts are fetched again when."""
    return Counter(outcome.again for outcome in outcomes if outcome.again)
