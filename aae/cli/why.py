"""``aae why``: why the numbers of a day are no longer what they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aae.cli import common
from aae.errors import UserError
from aae.local.steps import shown

if TYPE_CHECKING:
    from aae.model import Account, Totals
    from aae.storage.fetches import FetchRow
    from aae.storage.revisions import Revision

app = typer.Typer()

_MOST = 15


@app.command()
def why(
    account: Annotated[str, typer.Option(help="The account: our id, the platform's, or platform:id.")],
    day: Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="The account's local day.")],
    as_json: common.AsJson = False,
) -> None:
    """Why did that day change? Every correction a platform has made to it: when, in which run, from what to what.

    Platforms restate past days for weeks: conversions that come late, clicks found invalid, ads withdrawn. Nothing is
    ever overwritten without being written down here.
    """
    from aae.storage import fetches, metrics, revisions  # noqa: PLC0415
    from aae.storage.accounts import find_accounts  # noqa: PLC0415
    from aae.storage.engine import reading  # noqa: PLC0415

    local_day = day.date()
    with reading(common.tables(common.settings()), snapshot=True) as connection:
        found = find_accounts(connection, account)
        if len(found) > 1:
            names = ", ".join(f"{one.id}" for one in found)
            raise UserError(f"{account} is connected by several users: name it by our id ({names}).")
        (one,) = found
        now = metrics.daily_totals(connection, one.id, local_day, local_day).get(local_day)
        changes = revisions.of_day(connection, one.id, local_day)
        visits = fetches.covering(connection, one.id, local_day)
    if as_json:
        typer.echo(json.dumps(_as_json(one, local_day, now, changes, visits), indent=2, ensure_ascii=False))
    else:
        _print(one, local_day, now, changes, visits)


def _as_json(
    account: Account, day: date, now: Totals | None, changes: Sequence[Revision], visits: Sequence[FetchRow]
) -> dict[str, Any]:
    return {
        "account": str(account),
        "date": str(day),
        "now": None if now is None else asdict(now),
        "changes": [{**asdict(one), "changed_at": one.changed_at.isoformat()} for one in changes],
        "fetches": [
            {
                "finished_at": one.finished_at.isoformat(),
                "granularity": one.granularity,
                "since": f"{one.since}",
                "until": f"{one.until}",
                "outcome": one.outcome,
                "inserted": one.rows_inserted,
                "updated": one.rows_updated,
                "deleted": one.rows_deleted,
                "drift": one.drift,
                "detail": one.detail,
                "run_id": one.run_id,
            }
            for one in visits
        ],
    }


def _print(
    account: Account, day: date, now: Totals | None, changes: Sequence[Revision], visits: Sequence[FetchRow]
) -> None:
    common.out.print(f"[bold]{shown(f'{account} {account.name}')}[/], {day} ({shown(account.timezone)})")
    common.out.print(_in_words(account, now))
    if changes:
        common.out.print("\n[bold]What changed, and by how much the day's sums did[/]")
        common.print_table(
            ("at_utc", "run", "impressions", "clicks", "spend", "conversions", "revenue", "what"),
            [_line(list(group)) for _, group in groupby(changes, lambda one: (one.changed_at, one.run_id))],
        )
        common.out.print("\n[bold]Where it changed most[/]")
        largest = sorted(changes, key=lambda one: (one.metric != "spend", -abs(one.difference)))[:_MOST]
        common.print_table(("at_utc", "level", "name", "metric", "before", "after"), [_detail(one) for one in largest])
        if len(changes) > _MOST:
            common.out.print(f"... and {len(changes) - _MOST} more: --json has them all.")
    elif now is not None:
        common.out.print("\nNo number of that day has changed since it was first stored.")
    common.out.print("\n[bold]When it was fetched[/]")
    columns = ("at_utc", "by", "days", "outcome", "new", "changed", "withdrawn", "off_the_platforms_total", "detail")
    common.print_table(columns, [_visit(one) for one in visits])
    if not visits:
        common.out.print("Never, as far as the log goes back: aae backfill fetches it.")


def _in_words(account: Account, now: Totals | None) -> str:
    if now is None:
        return "Nothing is stored of that day."
    told = [f"{now.impressions:,} impressions", f"{now.clicks:,} clicks", f"{_amount(now.spend_micros)} spend"]
    told += [] if now.conversions_micros is None else [f"{_amount(now.conversions_micros)} conversions"]
    told += [] if now.revenue_micros is None else [f"{_amount(now.revenue_micros)} revenue"]
    return f"Now: {', '.join(told)} ({shown(account.currency)})."


def _line(changes: Sequence[Revision]) -> dict[str, Any]:
    from aae.storage.revisions import METRICS  # noqa: PLC0415

    sums = {name: sum(one.difference for one in changes if one.metric == name) for name in METRICS}
    touched = {(one.level, one.external_id) for one in changes}
    withdrawn = {(one.level, one.external_id) for one in changes if one.metric == "impressions" and one.new is None}
    parts = [f"{len(touched - withdrawn)} corrected" if touched - withdrawn else ""]
    parts += [f"{len(withdrawn)} withdrawn" if withdrawn else ""]
    return {
        "at_utc": f"{changes[0].changed_at:%Y-%m-%d %H:%M}",
        "run": (changes[0].run_id or "")[:8],
        **{name: f"{_amount(value, sign='+')}" if value else "" for name, value in sums.items()},
        "what": ", ".join(part for part in parts if part),
    }


def _detail(one: Revision) -> dict[str, Any]:
    before, after = ("not told" if value is None else _amount(value) for value in (one.old, one.new))
    gone = one.new is None and one.metric == "impressions"
    return {
        "at_utc": f"{one.changed_at:%Y-%m-%d %H:%M}",
        "level": one.level.value,
        "name": one.name,
        "metric": one.metric,
        "before": before,
        "after": "withdrawn" if gone else after,
    }


def _visit(one: FetchRow) -> dict[str, Any]:
    return {
        "at_utc": f"{one.finished_at:%Y-%m-%d %H:%M}",
        "by": one.granularity.value,
        "days": f"{one.since}" if one.since == one.until else f"{one.since} to {one.until}",
        "outcome": one.outcome,
        "new": one.rows_inserted or "",
        "changed": one.rows_updated or "",
        "withdrawn": one.rows_deleted or "",
        "off_the_platforms_total": "" if one.drift is None else f"{one.drift:.2%}",
        "detail": one.detail or "",
    }


def _amount(millionths: int, sign: str = "") -> str:
    """Exact, without digits that say nothing: 12, 12.50, 0.000001."""
    whole, rest = divmod(abs(millionths), 10**6)
    digits = f"{rest:06d}".rstrip("0")
    text = f"{whole:,}" + (f".{digits.ljust(2, '0')}" if digits else "")
    return f"{'-' if millionths < 0 else sign}{text}"
