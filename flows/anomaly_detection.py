"""Every hour: notice what is wrong with people's ads, open an incident for each cause, tell each user once."""

from __future__ import annotations

from typing import Any, Literal

from prefect import State, flow

from flows.naming import run_name
from flows.parameters import Ids
from tasks.choosing import choose_users
from tasks.detection import conclude_detection, judge_users, show_anomalies
from tasks.notify import deliver_notifications


@flow(name="detect-anomalies", flow_run_name=run_name("anomalies"), persist_result=True, result_serializer="json")
async def detect_anomalies(
    users: Ids | None = None,
    sensitivity: Literal["low", "medium", "high"] | None = None,
    again: bool = False,
    dry_run: bool = False,
) -> State[Any]:
    """Judge every user's accounts whose numbers have moved since they were last judged.

    Args:
        users: User ids; empty for all active users.
        sensitivity: How eagerly anomalies are reported; empty for the setting.
        again: Judge also accounts without new numbers.
        dry_run: Show what would be reported here, keep and tell nothing.
    """
    chosen = await choose_users(users)
    outcomes = await judge_users(chosen, sensitivity, again, dry_run)
    await show_anomalies(outcomes)
    if not dry_run:
        await deliver_notifications()
    return conclude_detection(outcomes)
