"""Delivering what the jobs have to say: the outbox, emptied by whoever is alive."""

from __future__ import annotations

from prefect.logging import get_run_logger

from aae.notify.outbox import deliver_pending
from tasks.limits import in_thread, step
from tasks.resources import clock, stores


@step(name="deliver-notifications", description="Send what waits in the outbox, each message once.")
async def deliver_notifications() -> int:
    """How many e-mails went out."""
    shared = stores()
    delivered = await in_thread(deliver_pending, shared.engine, shared.settings, clock=clock)
    log = get_run_logger()
    log.info("%s e-mails sent, %s failed", delivered.sent, delivered.failed)
    if delivered.stopped:
        # Nothing is lost, and every hourly run delivers what waits: no reason to fail the job that had the news.
        log.warning("the mail server does not take our mail; what waits is sent by a later run: %s", delivered.stopped)
    return delivered.sent
