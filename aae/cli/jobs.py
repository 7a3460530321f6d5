"""Work through Prefect from the terminal: ``aae backfill``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from aae.cli import common
from aae.errors import UserError

if TYPE_CHECKING:
    from aae.model import Account, Slice
    from aae.settings import Settings

app = typer.Typer()


@app.command()
def backfill(
    since: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First local day to fetch again.")],
    until: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last local day, included.")],
    account: Annotated[
        list[str] | None,
        typer.Option(help="Only this account: our id, the platform's, or platform:id. May be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
) -> None:
    """Fetch past days again, whatever was stored before: one run of fetch-ad-data through the worker.

    Replacing is idempotent: what has not changed at the platform stays as it is here, what has is corrected and the
    correction recorded. The exit code is 0 only if nothing is owed at the end.
    """
    settings = common.settings()
    chosen = _accounts(settings, account)
    first, last = since.date(), until.date()
    plan = _plan(settings, chosen, first, last)
    _print_plan(chosen, plan)
    if dry_run:
        return
    from aae.local.demo import explain_failure, follow  # noqa: PLC0415
    from aae.local.steps import Steps  # noqa: PLC0415

    api, name = common.prefect(settings), "fetch-ad-data/six-hourly"
    deployment = api.deployment(name)
    if deployment is None:
        raise UserError(f"{name} is not deployed at {api.url}: run aae deploy.")
    parameters = {"since": f"{first}", "until": f"{last}", "accounts": [one.id for one in chosen]}
    with Steps(common.out).step(f"Fetch {first} to {last}") as step:
        run = follow(api, api.create_run(deployment.id, parameters).id, step)
        explain_failure(api, run, name)
        step.note = run.message or ""


def _accounts(settings: Settings, references: Sequence[str] | None) -> list[Account]:
    """The active accounts that the references mean; all active ones without any."""
    from aae.storage.accounts import find_accounts, list_accounts  # noqa: PLC0415
    from aae.storage.engine import reading  # noqa: PLC0415

    with reading(common.tables(settings)) as connection:
        if not references:
            found = list_accounts(connection)
        else:
            meant = {one.id: one for reference in references for one in find_accounts(connection, reference)}
            idle = [one for one in meant.values() if one.status != "active"]
            if idle:
                raise UserError(f"The account {idle[0]} is {idle[0].status}: its owner must connect it again first.")
            found = list(meant.values())
    if not found:
        raise UserError("There is no active account to fetch: see aae accounts list.")
    return found


def _plan(settings: Settings, chosen: Sequence[Account], since: date, until: date) -> list[Slice]:
    from aae.jobs.planning import check_range, plan_backfill  # noqa: PLC0415
    from aae.model import Granularity  # noqa: PLC0415
    from aae.platforms import connectors  # noqa: PLC0415
    from aae.platforms.transport import Transport  # noqa: PLC0415

    now = common.now()
    latest = max(account.local_day(now) for account in chosen)
    check_range(since, until, now=now, latest=latest, prefix="--")
    transport = Transport(settings.fetch.request_timeout_seconds, clock=common.now)
    return plan_backfill(chosen, connectors(settings, transport), since, until, tuple(Granularity))


def _print_plan(chosen: Sequence[Account], plan: Sequence[Slice]) -> None:
    names = {account.id: account for account in chosen}
    rows = [
        {
            "account": str(names[account_id]),
            "name": names[account_id].name,
            "slices": ", ".join(str(piece) for piece in plan if piece.account_id == account_id),
        }
        for account_id in names
    ]
    common.print_table(("account", "name", "slices"), rows)
    common.out.print(f"{len(plan)} slices of {len(names)} accounts.")
