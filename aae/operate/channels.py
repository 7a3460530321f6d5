"""Whether alerts arrive: what each channel answered when Prefect brought it one.

Prefect counts a webhook as called whatever it answers, also 302 or 503. It keeps the answer, though, in the event that
says so: that is where this looks, and a test alert asks for such an answer at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from aae.operate.alerts import Kind, event_name
from aae.operate.prefect_api import PrefectApi

AUTOMATION_PREFIX: Final = "aae: "
CHANNEL_PREFIX: Final = "aae-alerts-"

TEST_KIND: Final[Kind] = "failed-run"
"""The automation that carries a test alert: no other goes the whole way of a real one."""

_DONE: Final = "prefect.automation.action.executed"
_FAILED: Final = "prefect.automation.action.failed"
_MOST: Final = 50
"""So many events the API gives at once."""
_TEST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """The alert ``event_id`` by one channel; ``trouble`` says why it did not arrive, None where it did."""

    channel: str
    at: datetime
    event_id: str
    trouble: str | None


def deliveries(api: PrefectApi, *, since: datetime) -> list[Delivery]:
    """What became of the latest alerts since then, the newest first."""
    ours = {"prefect.resource.name": f"{AUTOMATION_PREFIX}*"}
    asked = {
        "occurred": {"since": since.isoformat()},
        "event": {"name": [_DONE, _FAILED]},
        "resource": {"labels": ours},
    }
    found = api.call("POST", "events/filter", {"filter": asked | {"order": "DESC"}, "limit": _MOST}) or {}
    return [told for event in found.get("events", ()) if (told := _delivery(event)) is not None]


def last_deliveries(api: PrefectApi, *, since: datetime) -> list[Delivery]:
    """The latest of each channel that there still is, if any came since then; by the channels' names."""
    last = {one.channel: one for one in reversed(deliveries(api, since=since))}
    present = {one.get("name") for one in api.every("block_documents/filter", {})} if last else set()
    return [last[name] for name in sorted(last) if name in present]


def send_test(
    api: PrefectApi,
    channels: Collection[str],
    *,
    pool: str,
    now: datetime,
    pause: Callable[[float], None] = time.sleep,
    seconds: float = _TEST_SECONDS,
) -> dict[str, str | None]:
    """Have Prefect bring each of these channels a test alert; what is wrong with it, None where it arrived."""
    event_id = str(uuid4())
    text = "This is a test: alerts of AAE Pipelines reach you here. Nothing is to be done."
    payload = {
        "alert": "test",
        "title": "AAE: a test alert",
        "text": text,
        "url": "",
        "first": "",
        "runbook": "",
        "run_id": "",
    }
    resource = {"prefect.resource.id": f"aae.pool.{pool}", "prefect.resource.name": pool}
    api.emit_event(event_name(TEST_KIND), resource, payload, at=now, event_id=event_id)
    answers: dict[str, str | None] = {}
    for _ in range(int(seconds)):
        told = deliveries(api, since=now - timedelta(minutes=5))
        answers = {one.channel: one.trouble for one in told if one.event_id == event_id}
        if answers.keys() >= set(channels):
            break
        pause(1)
    automation = f"{AUTOMATION_PREFIX}{TEST_KIND}"
    silent = f"nothing was heard of it within {seconds:.0f} s; is the automation {automation!r} switched off?"
    return {one: answers.get(one, silent) for one in channels}


def _delivery(event: Mapping[str, Any]) -> Delivery | None:
    """None for an action that leads to no channel of ours."""
    related = {one.get("prefect.resource.role"): one for one in event.get("related", ())}
    channel = str(related.get("block", {}).get("prefect.resource.name", ""))
    if not channel.startswith(CHANNEL_PREFIX):
        return None
    trigger = str(related.get("triggering-event", {}).get("prefect.resource.id", ""))
    at = datetime.fromisoformat(event["occurred"])
    return Delivery(channel, at, trigger.removeprefix("prefect.event."), _trouble(event))


def _trouble(event: Mapping[str, Any]) -> str | None:
    """The server's own reason stays out: it may hold the channel's address, which is a secret."""
    if event["event"] == _FAILED:
        return "Prefect's server could not send it; why is in its event feed"
    status = event.get("payload", {}).get("status_code", 200)
    return f"it answered {status}" if not 200 <= int(status) < 300 else None
