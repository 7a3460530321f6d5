"""The process of a flow run, around Prefect's own engine.

Before Prefect is even imported, which takes seconds:

- the process asks the kernel to end with its worker, so that none is left behind to work on unseen;
- it takes the *attempt* at its job or its share of one (:mod:`aae.storage.attempts`). If another run has that, this one
  gets in line again; if the same run is being worked on already (it was wrongly taken for lost), it leaves; if the
  schedule has moved on (after downtime), it leaves the work to the newest run; if its worker is about to stop, to
  another worker.

Then it says every few seconds that it is alive. Should somebody have declared the attempt over, the process ends itself
at once, with exit code 0: the run belongs to another process now, and the worker must not call it crashed.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from aae import logs
from aae.errors import AaeError, UserError
from aae.operate.leaving import is_leaving
from aae.operate.prefect_api import FlowRun, PrefectApi, open_api
from aae.operate.processes import is_alive, leave_no_core_dump, process, this_process
from aae.operate.recovery import is_overtaken, skip
from aae.settings import Settings, load
from aae.storage import attempts
from aae.storage.engine import connect, database_clock, require_current
from aae.storage.transact import transact, transact_unfenced
from tasks.watchdog import watchdog

_PR_SET_PDEATHSIG = 1
_BEAT_TIMEOUT_SECONDS = 5
_FULL = "This machine is at work on as many shares as it may; the next place, here or elsewhere, is this one's."
_SURELY = 5
"""After this many times ``lost_seconds`` of silence nobody needs to look again whether the beats go on."""


def run(begun: Callable[[], None] = lambda: None) -> None:
    """Run the flow run that the worker has put into the environment; ``begun`` is called when its attempt is guarded.

    Raises:
        SystemExit: a setting is wrong or the tables are not those of this program; it has been said.
    """
    try:
        _run(begun)
    except UserError as error:
        _say(str(error))
        sys.exit(2)


def _run(begun: Callable[[], None]) -> None:
    _end_with_parent()
    leave_no_core_dump()
    os.umask(0o077)  # reports and mails on disk are for us alone
    run_id, job = os.environ["PREFECT__FLOW_RUN_ID"], os.environ["PREFECT__FLOW_NAME"]
    settings = load()
    _log_as(settings, run_id, job)
    engine = connect(settings.resolved_database_url, timeout=_BEAT_TIMEOUT_SECONDS)
    require_current(engine)
    with open_api(settings) as api:
        if is_leaving(settings.state_dir, process(os.getppid())):
            _get_in_line_again(api, settings, run_id, "Its worker is about to stop; another one takes it.")
            return
        run = _asked(api, run_id)
        if run is not None and _is_overtaken(api, run):
            return
        # Of a share that nobody could name it is held as the whole: beside another run of that share, which does no
        # harm, since whatever two runs write of one account is written one after the other and replaces itself.
        share = run.share if run is not None else None
        if share is not None and _is_full(engine, settings, job):
            _get_in_line_again(api, settings, run_id, _FULL)
            return
        token = _take(engine, settings, job, run_id, share)
        if token is None:
            _get_in_line(engine, api, settings, job, run_id, share=share)
            return
        # A worker begins all that is due at once: they see each other only now.
        if share is not None and _is_full(engine, settings, job, before=token):
            transact(engine, attempts.end, token, "handed_over", reason=_FULL)
            _get_in_line_again(api, settings, run_id, _FULL)
            return
    logs.bind(attempt=token)
    with _alive(engine, settings, token):
        begun()
        sys.argv = ["prefect.engine"]
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _log_as(settings: Settings, run_id: str, job: str) -> None:
    """Before Prefect sets up its own logs, which leaves those alone that are there."""
    logs.bind(run_id=run_id, job=job)
    if settings.log_level != "info":
        os.environ["PREFECT_LOGGING_LEVEL"] = settings.log_level.upper()
    logs.set_levels(settings)
    if settings.log_format == "json":
        logs.configure(settings, sys.stderr)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # If it went before we could ask: nobody reads what we say.
    said = select.poll()
    said.register(sys.stdout.fileno(), select.POLLERR)
    if any(event & select.POLLERR for _, event in said.poll(0)):
        _leave("its worker has ended")


def _asked(api: PrefectApi, run_id: str) -> FlowRun | None:
    """What the server says of this run; None if it says nothing."""
    try:
        return api.run(run_id)
    except AaeError as error:
        _say(f"the server could not be asked about this run ({error}); it is made")
        return None


def _is_overtaken(api: PrefectApi, run: FlowRun) -> bool:
    """Whether a newer run of the schedule does this one's work; it is skipped then."""
    try:
        newer = is_overtaken(api, run)
        if newer is None:
            return False
        skip(api, run, newer)
    except AaeError as error:
        _say(f"the server could not be asked whether this run is still wanted ({error}); it is made")
        return False
    return True


def _is_full(engine: Engine, settings: Settings, job: str, *, before: int | None = None) -> bool:
    """Whether as many runs of the job as may be are at work on this machine already, or were before this attempt.

    A Prefect worker takes whatever is due: without this, one machine would have every share and the others none.
    """
    living = [one for one in transact(engine, attempts.live) if one.job == job and (before is None or one.id < before)]
    here = [one for one in living if is_alive(one.process)]
    return len(here) >= settings.fetch.shares_at_once


def _take(engine: Engine, settings: Settings, job: str, run_id: str, share: str | None = None) -> int | None:
    """The attempt's token; None if somebody else holds the job or the share. One that is surely dead is no obstacle."""

    def work(connection: Connection) -> int | None:
        other = attempts.holder(connection, job, share)
        if other is not None:
            silent = (database_clock(connection) - other.beat_at).total_seconds()
            # To see such things is the watch's work; but without any watch a job must not stand still for ever.
            if is_alive(other.process) is False or silent > _SURELY * settings.recovery.lost_seconds:
                reason = f"it has said nothing for {silent:.0f} s; last seen at: {other.doing}"
                attempts.end(connection, other.id, "lost", reason=reason, seen_beats=other.beats)
        return attempts.take(connection, job, share=share, run_id=run_id, process=this_process())

    return transact(engine, work)


def _get_in_line(
    engine: Engine, api: PrefectApi, settings: Settings, job: str, run_id: str, *, share: str | None
) -> None:
    """Somebody else works on this job or share: come back later, or leave if they work on this very run."""
    other = transact(engine, attempts.holder, job, share)
    if other is not None and other.run_id == run_id:
        _say(f"process {other.pid} has been working on this run since {other.started_at:%H:%M:%S}")
        api.set_state(run_id, "RUNNING", "Running", "It was taken for lost, but it lives.")
        return
    _get_in_line_again(
        api, settings, run_id, f"Another run of {attempts.held_as(job, share)} is at work; this one waits."
    )


def _get_in_line_again(api: PrefectApi, settings: Settings, run_id: str, why: str) -> None:
    again = datetime.now(UTC) + timedelta(seconds=settings.recovery.turn_seconds)
    api.set_state(run_id, "SCHEDULED", "AwaitingTurn", why, scheduled_for=again)


@contextmanager
def _alive(engine: Engine, settings: Settings, token: int) -> Iterator[None]:
    """Within this block, beat; after it the attempt is over."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(settings.recovery.beat_seconds):
            try:
                with engine.begin() as connection:
                    lives = attempts.beat(connection, token, doing=watchdog.activity() or "between two steps")
            except SQLAlchemyError as error:
                # Nobody else can take the job without the database either.
                _say(f"a sign of life could not be given ({type(error).__name__})")
                continue
            if not lives and not over.is_set():
                _leave("its attempt has been declared over")

    attempts.hold(token, leave=lambda: _leave("its attempt has been declared over"))
    watchdog.guard_interpreter(settings.recovery.lost_seconds)
    threading.Thread(target=beat, name="beat", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        attempts.hold(None)
        transact_unfenced(engine, attempts.end, token, "ended")


def _leave(why: str) -> None:
    _say(f"{why}; this process ends")
    os._exit(0)


def _say(text: str) -> None:
    if logs.is_json():
        logs.announce(text)
        return
    # Straight to the descriptor: a pipe that nobody reads must not become an exception here.
    try:
        os.write(2, f"aae: {text}\n".encode())
    except OSError:
        return
