"""The step that keeps the tables small, made at the end of a nightly job and never failing it."""

from __future__ import annotations

from typing import Any

from prefect.logging import get_run_logger

from aae.jobs.retention import RetentionOutcome, keep_small
from tasks.limits import deadline, in_thread, settled, step
from tasks.resources import clock, stores
from tasks.showing import show_table


@step(
    name="keep-tables-small",
    description="Fold numbers of more than 90 days into sums by campaign and day; remove old records.",
)
async def keep_tables_small() -> dict[str, Any]:
    """What went, by table; also as the table artifact ``retention``."""
    shared = stores()
    outcome = await in_thread(keep_small, shared.engine, shared.settings, now=clock(), deadline=deadline())
    log = get_run_logger()
    log.info("%s; the longest transaction took %.2f s", outcome, outcome.longest_seconds)
    for failure in outcome.failed:
        log.error("days were not folded: %s", failure)
    if not outcome.finished:
        log.warning("the soft time limit was reached; the next night goes on")
    rows = _rows(outcome)
    await show_table(key="retention", description="What was folded and removed, by table.", table=rows)
    return {row["what"]: row["rows"] for row in rows}


async def tidy_up() -> None:
    """Keep the tables small; what goes wrong is logged, and tried again the next night."""
    state = await settled(keep_tables_small(return_state=True))
    if not state.is_completed():
        get_run_logger().warning("the tables were not tidied up: %s", state.message)


def _rows(outcome: RetentionOutcome) -> list[dict[str, Any]]:
    folded = {"days folded": outcome.days, "daily rows": outcome.daily_rows, "hourly rows": outcome.hourly_rows}
    return [{"what": name, "rows": number} for name, number in {**folded, **outcome.removed}.items()]
