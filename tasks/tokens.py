"""The steps of the token check: choose the tokens, check each, show their states."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from aae.errors import UserError
from aae.jobs import tokens
from aae.jobs.tokens import TokenResult
from aae.model import Account
from tasks.limits import place, reason, settled, step
from tasks.resources import clock, platforms, run_id, stores
from tasks.showing import show_table

CHECKS_AT_ONCE = 16


@step(
    name="check-token",
    run_name="check {account}",
    description="Probe or refresh one account's token by its platform's own means; pause the account if it is dead.",
)
async def check_token(account: Account, within_hours: float, dry_run: bool) -> TokenResult:
    """One account's token, checked; a transient failure is raised and retried."""
    if dry_run:
        return tokens.preview(stores(), account, now=clock(), within_hours=within_hours)
    async with platforms() as context:
        result = await tokens.check_account(context, account, now=clock(), run_id=run_id(), within_hours=within_hours)
    get_run_logger().info("%s: %s", account, result.outcome)
    return result


async def check_tokens(chosen: Sequence[Account], within_hours: float, dry_run: bool) -> list[TokenResult]:
    """Check all of them, some at a time; whatever happens to one, the others go on."""
    gate = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def one(account: Account) -> TokenResult:
        async with place(gate):
            state = await settled(check_token(account, within_hours, dry_run, return_state=True))
        result = await state.aresult(raise_on_failure=False)
        if isinstance(result, TokenResult):
            return result
        outcome = "unreadable" if isinstance(result, UserError) else "transient_failure"
        told = reason(state, result)
        return TokenResult(account.id, str(account), account.name, account.platform, outcome, None, told)

    return list(await asyncio.gather(*(one(account) for account in chosen)))


@step(name="show-tokens", description="A table of every token's state.")
async def show_tokens(results: list[TokenResult]) -> None:
    """Write the table artifact ``token-states``."""
    await show_table(
        key="token-states",
        description="Every ad account's authorization after this check, those with trouble first.",
        table=[
            {
                "account": result.account,
                "name": result.name,
                "state": _WORDS[result.outcome],
                "expires": result.expires_at.isoformat(timespec="minutes") if result.expires_at else "never",
                "API calls": result.calls,
                "remark": result.detail or "",
            }
            for result in sorted(results, key=lambda one: one.outcome not in _TROUBLE)
        ],
    )


_TROUBLE = {"permanent_failure", "transient_failure", tokens.NO_ACCESS}
_WORDS = {
    "still_valid": "valid",
    "refreshed": "refreshed",
    "recovered": "recovered",
    "lost_race": "replaced meanwhile",
    "permanent_failure": "authorization expired",
    "transient_failure": "could not be checked",
    tokens.NO_ACCESS: "valid, but without access to the account",
    "unreadable": "could not be read",
    "would_refresh": "would be refreshed",
    "would_probe": "would be probed",
}


def conclude_check(results: Sequence[TokenResult]) -> State[Any]:
    """The run's final state: failed if some token could not be checked at all."""
    counts = Counter(_WORDS[result.outcome] for result in results)
    told = ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "no accounts"
    data = {"counts": dict(counts), "results": [asdict(result) for result in results]}
    unreadable = [result.detail for result in results if result.outcome == "unreadable"]
    if unreadable:
        # Nobody's authorization is at stake, and no later run will mend it: somebody must act.
        return Failed(message=f"{unreadable[0]} ({told})", data=data)
    if any(result.outcome == "transient_failure" for result in results):
        return Failed(message=f"Some tokens could not be checked; the next run tries again: {told}", data=data)
    return Completed(message=f"{len(results)} tokens: {told}", data=data)
