"""How long things are kept: ``aae retention``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from aae.cli import common

app = typer.Typer()


@app.command()
def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: common.AsJson = False,
) -> None:
    """Fold old numbers into sums by campaign and day, and remove old records, as AAE_RETENTION__... say.

    The jobs do it every night by themselves. It may be interrupted at any moment and repeated at will, also while the
    jobs run: its transactions are short. What is kept how long, and why: docs/retention.md.
    """
    from aae.errors import AaeError  # noqa: PLC0415
    from aae.jobs.retention import RetentionOutcome, keep_small, preview  # noqa: PLC0415

    settings = common.settings()
    engine = common.tables(settings)
    if dry_run:
        outcome = preview(engine, settings, now=common.now())
    else:
        with common.err.status("tidying up ...") as status:

            def show(so_far: RetentionOutcome) -> None:
                status.update(str(so_far))

            outcome = keep_small(engine, settings, now=common.now(), show=show)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run} | asdict(outcome), indent=2, ensure_ascii=False))
    else:
        folded = {"days to sums": outcome.days, "rows by day": outcome.daily_rows, "rows by hour": outcome.hourly_rows}
        rows = [{"what": name, "number": number} for name, number in {**folded, **outcome.removed}.items()]
        common.print_table(("what", "number"), rows)
        common.out.print("Nothing was changed (--dry-run)." if dry_run else f"Done: {outcome}.")
    if outcome.failed:
        raise AaeError(f"{len(outcome.failed)} accounts were left as they are; the first: {outcome.failed[0]}")
