"""Delivering what the jobs have to say: the outbox, emptied by whoever is alive."""

from __future__ import annotations

from prefect.logging import get_run_logger

from aae.notify.outbox import deliver_pending
from tasks.limits import deadline, in_thread, step
from tasks.resources import clock, stores

AT_ONCE = 500
"""E-mails between two looks at the time limit."""


@step(name="deliver-notifications", description="Send what waits in the outbox, each message once.")
async def deliver_notifications() -> int:
    """How many e-mails went out."""
    shared = stores()
    log, limit, sent = get_run_logger(), deadline(), 0
    while True:
        delivered = await in_thread(deliver_pending, shared.engine, shared.settings, clock=clock, limit=AT_ONCE)
        sent += delivered.sent
        log.info("%s e-mails sent, %s failed", delivered.sent, delivered.failed)
        if delivered.stopped or delivered.sent + delivered.failed < AT_ONCE or limit.passed:
            break
    if delivered.stopped:
        # Nothing is lost, and every hourly run delivers what waits: no reason to fail the job that had the news.
        log.warning("the mail server does not take our mail; what waits is sent by a later run: %s", delivered.stopped)
    return sent
