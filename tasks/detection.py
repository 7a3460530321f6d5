"""The steps of anomaly detection: judge each user's accounts, show what was found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from aae.detection.scoring import SEVERITIES
from aae.jobs.detect import DetectionOutcome, Sensitivity, detect_user
from aae.storage import incidents
from aae.storage.accounts import User
from aae.storage.transact import look
from tasks.limits import in_thread, place, reason, settled, step
from tasks.resources import clock, stores
from tasks.showing import show_table

USERS_AT_ONCE = 2
"""Judging is work for the processor."""


@step(
    name="judge-user",
    run_name="judge user {user.id}",
    description="Judge one user's accounts together and move their incidents on; tells the user what is new.",
)
async def judge_user(user: User, sensitivity: Sensitivity | None, again: bool, dry_run: bool) -> DetectionOutcome:
    """One user's anomalies."""
    shared = stores()
    outcome = await in_thread(
        detect_user,
        shared,
        user,
        now=clock(),
        sensitivity=sensitivity or shared.settings.sensitivity,
        again=again,
        dry_run=dry_run,
    )
    log = get_run_logger()
    log.info("user %s %s: %s anomalies", user.id, outcome.outcome, len(outcome.findings))
    for account in outcome.late:
        log.warning("%s has no fresh numbers and was not judged", account)
    return outcome


async def judge_users(
    users: Sequence[User], sensitivity: Sensitivity | None, again: bool, dry_run: bool
) -> list[DetectionOutcome | str]:
    """One outcome per user, or the reason why there is none; whatever happens to one, the others go on."""
    gate = asyncio.Semaphore(USERS_AT_ONCE)

    async def one(user: User) -> DetectionOutcome | str:
        async with place(gate):
            state = await settled(judge_user(user, sensitivity, again, dry_run, return_state=True))
        result = await state.aresult(raise_on_failure=False)
        return result if isinstance(result, DetectionOutcome) else f"user {user.id}: {reason(state, result)}"

    return list(await asyncio.gather(*(one(user) for user in users)))


@step(name="show-anomalies", description="A table of what is wrong with these users' ads.")
async def show_anomalies(outcomes: list[DetectionOutcome | str]) -> None:
    """Write the table artifact ``anomalies``: every open incident, whichever run found it, or a dry run's findings."""
    done = [outcome for outcome in outcomes if isinstance(outcome, DetectionOutcome)]
    findings = [row for outcome in done if outcome.outcome == "previewed" for row in outcome.findings]
    kept = [outcome.user_id for outcome in done if outcome.outcome != "previewed"]
    still_open = look(stores().engine, incidents.open_incidents, kept)
    findings += [incident.data | {"severity": incident.severity} for incident in still_open]
    findings.sort(key=lambda row: SEVERITIES.index(row["severity"]), reverse=True)
    await show_table(
        key="anomalies",
        description="What is wrong now, the gravest first: current against expected, what is at stake, and what to do.",
        table=[_row(finding) for finding in findings],
    )


def conclude_detection(outcomes: Sequence[DetectionOutcome | str]) -> State[Any]:
    """The run's final state: failed if somebody's accounts could not be judged, with the reason."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, str)]
    done = [outcome for outcome in outcomes if isinstance(outcome, DetectionOutcome)]
    found = sum(len(outcome.findings) for outcome in done)
    opened, resolved = sum(outcome.opened for outcome in done), sum(outcome.resolved for outcome in done)
    late = sorted({account for outcome in done for account in outcome.late})
    told = f"{len(done)} users: {found} anomalies, {opened} new, {resolved} over"
    told += f"; no fresh numbers from {', '.join(late[:5])}" if late else ""
    # The findings are incidents in the tables; of thousands of users they would make one giant result.
    rows = [asdict(replace(outcome, findings=())) | {"findings": len(outcome.findings)} for outcome in done]
    data = {"users": len(done), "found": found, "opened": opened, "outcomes": rows}
    if failures:
        return Failed(message=f"{len(failures)} users could not be judged ({told}): {failures[0]}", data=data)
    return Completed(message=told, data=data)


def _row(finding: dict[str, Any]) -> dict[str, Any]:
    current = finding["current"]
    return {
        "severity": finding["severity"],
        "metric": finding["metric"].upper(),
        "where": f"{finding['level']} {finding['entity_name']}",
        "platform": finding["platform"] or "several",
        "window": finding["window"],
        "current": "none" if current is None else round(current, 4),
        "expected": round(finding["expected"], 4),
        "deviation %": round(finding["deviation"] * 100),
        "at stake": f"{finding['stake_micros'] / 1_000_000:,.2f} {finding['currency'] or ''}".strip(),
        "cause": finding["cause"],
        "recommendation": finding["recommendation"],
    }
