"""The watch: lost runs are run again, piles are thinned, missed runs are made, mail that waits goes out.

It compares, again and again, what Prefect says of the runs with what the attempts say of the processes, and repairs the
difference. It looks at states and not at events, so nothing that it or Prefect missed while it was away is lost:

- a run without a living attempt (killed, crashed, stuck in Pending, frozen) is put back into the schedule, the same run
  with the same parameters, for any worker; after ``max_recoveries`` times it has failed;
- a run that Prefect believes crashed while its attempt beats is set right;
- of runs that are late because nobody could run them only the newest of each deployment stays, or of each share of it
  (:mod:`aae.shares`); one that a schedule owes and that is not there at all is made.

An attempt lives if its process does (on this machine), else if its beats go on *while we look*: what nobody could say
while the database was away does not count, and no clocks are compared. Several watches may run; one leads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from aae.errors import AaeError
from aae.notify.outbox import deliver_pending
from aae.operate.alerts import Alert, Alerts
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi, Schedule
from aae.operate.processes import is_alive, this_process
from aae.operate.schedule import last_due
from aae.settings import RecoverySettings, Settings
from aae.shares import PARAMETER, are_apart, missing
from aae.storage import attempts
from aae.storage.attempts import Attempt
from aae.storage.engine import database_clock, reading

log = logging.getLogger(__name__)

JOB: Final = "watch"
"""The job that the leading watch holds."""

SKIPPED: Final = "Skipped"
"""State name of a run whose work a newer one does."""

AGAIN: Final = "AwaitingRetry"
"""State name of a run that is to be run again."""

_USEFUL: Final = timedelta(days=2)
"""A run that crashed longer ago than this stays crashed."""

_MISSED_AFTER: Final = timedelta(minutes=2)
"""The scheduler is given this long to make a run that is due."""

_THIN_OUT_SECONDS: Final = 15.0

Verdict = Literal["run again", "revive", "stop", "cancelled"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a run, how long it must look so before something is done, and why we think so."""

    verdict: Verdict
    after_seconds: float
    why: str


def judge(run: FlowRun, tries: Sequence[Attempt], settings: RecoverySettings) -> Finding | None:
    """What is to be done about a run that has not ended well, by its attempts (oldest first); None: nothing."""
    last = tries[-1] if tries else None
    settle = settings.settle_seconds
    match run.state_type, last is not None and last.ended_at is None:
        case "CRASHED", True:
            return Finding("revive", settle, "it was taken for lost, but it lives")
        case "CANCELLING", True:
            return Finding("stop", settings.pending_seconds, "it was cancelled and goes on")
        case _, True:
            return None
        case "CANCELLING", False:
            return Finding("cancelled", settle, "nobody works on it any more")
    if run.state_type != "CRASHED" and (last is None or _began_after(run, last)):
        return Finding("run again", settings.pending_seconds, "a worker took it and it never began")
    # Whoever took the job from an attempt puts its run back; only if they did not come to that, we do.
    handed_over = last is not None and last.outcome == "handed_over"
    return Finding("run again", settings.pending_seconds if handed_over else settle, _last_words(run, last))


def _began_after(run: FlowRun, last: Attempt) -> bool:
    """Whether the run has been handed to a worker since its last attempt ended."""
    return run.state_type == "PENDING" and bool(
        run.state_since and last.ended_at and run.state_since > last.ended_at + timedelta(seconds=1)
    )


def _losses(tries: Sequence[Attempt], states: Sequence[str]) -> int:
    """How often the run was lost, this time included; ``states`` are the names of those it was in, oldest first.

    A worker may report one and the same crash twice, so attempts are counted, not put-backs. Only where none was ever
    made (a wrong setting ends the process before that) it is how often a worker took the run and it was put back.
    """
    if tries:
        return max(1, sum(one.outcome in attempts.LOSSES | {"ended"} for one in tries))
    losses, taken = 0, False
    for name in states:
        losses += taken and name == AGAIN
        taken = name != AGAIN and (taken or name == "Pending")
    return max(1, losses + taken)


def _last_words(run: FlowRun, last: Attempt | None) -> str:
    told = [run.message if run.state_type == "CRASHED" else None, last.reason if last else None]
    words = ". ".join(each.rstrip(".") for each in told if each) or "its process ended before it had reported"
    return f"{words}; last seen: {last.doing}" if last and last.doing not in words else words


def is_overtaken(api: PrefectApi, run: FlowRun) -> FlowRun | None:
    """The newer run of the same schedule that does this one's work too, if one is due already."""
    if not run.auto_scheduled or run.deployment_id is None or run.scheduled_for is None:
        return None
    later = api.due_between(run.deployment_id, run.scheduled_for, run.scheduled_for + timedelta(days=400))
    return next((one for one in reversed(later) if _replaces(one, run) and _has_come(one)), None)


def _replaces(newer: FlowRun, run: FlowRun) -> bool:
    """Whether it does the work of this run of the same deployment too.

    What is due at one moment belongs together: where the number of shares was just changed, runs of the old division
    and of the new must not leave the work to each other.
    """
    if newer.id == run.id or are_apart(newer.share, run.share):
        return False
    return newer.share == run.share or newer.scheduled_for != run.scheduled_for


def _has_come(run: FlowRun) -> bool:
    """Whether a scheduled run is due, by the server's own clock."""
    planned = run.state_type == "SCHEDULED" and run.state_name == "Scheduled"
    return run.auto_scheduled and not planned and run.state_name != SKIPPED


def skip(api: PrefectApi, run: FlowRun, newer: FlowRun) -> None:
    """End a run whose work a newer one does."""
    api.set_state(run.id, "CANCELLED", SKIPPED, f"{newer.name} does the work of this run too.")


class Watch:
    """Looks over the runs of one work pool. Not for several threads."""

    def __init__(
        self,
        engine: Engine,
        api: PrefectApi,
        settings: RecoverySettings,
        pool: str,
        *,
        alerts: Alerts | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alerts = alerts
        self._engine = engine
        self._api = api
        self._settings = settings
        self._pool = pool
        self._monotonic = monotonic
        self._process = this_process()
        self._token: int | None = None
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}
        self._fresh: dict[Hashable, tuple[Hashable, float]] = {}
        self._thin_out_at = monotonic()
        self._made: set[str] = set()

    def look(self) -> bool:
        """Look once and repair what is broken; whether we lead (otherwise another watch does the work).

        Raises:
            Retry, Reauthorize, Bug: Prefect's API (see :class:`PrefectApi`).
            DBAPIError: the database.
        """
        done = False
        try:
            leads = self._lead()
            if leads:
                now = self._now()
                runs = self._unsettled(now)
                self._bury({run.id for run in runs if run.state_type == "CRASHED"})
                self._settle(runs, now)
                if self._monotonic() >= self._thin_out_at:
                    self._thin_out(now)
                    self._thin_out_at = self._monotonic() + _THIN_OUT_SECONDS
                if self._alerts:
                    self._alerts.look(now, runs)
            done = True
            return leads
        finally:
            # What we saw before a look that failed says nothing about the time since.
            self._seen, self._fresh = self._fresh if done else {}, {}

    def resign(self) -> None:
        """Let another watch lead at once."""
        if self._token is not None:
            with self._engine.begin() as connection:
                attempts.end(connection, self._token, "ended")
            self._token = None

    def _lead(self) -> bool:
        with self._engine.begin() as connection:
            if self._token is not None and attempts.beat(connection, self._token, doing="watching"):
                return True
            other = attempts.holder(connection, JOB)
            if other is not None and self._is_dead(other, self._settings.lost_seconds):
                attempts.end(connection, other.id, "lost", reason="it fell silent", seen_beats=other.beats)
                log.warning("the watch of process %d fell silent; this one leads now", other.pid)
            self._token = attempts.take(connection, JOB, run_id=f"watch-{self._process.pid}", process=self._process)
        return self._token is not None

    def _unsettled(self, now: datetime) -> list[FlowRun]:
        crashed = self._api.runs_in(self._pool, {"CRASHED"}, since=now - _USEFUL)
        return self._api.runs_in(self._pool, {"RUNNING", "PENDING", "CANCELLING"}) + crashed

    def _bury(self, crashed: Collection[str]) -> None:
        """Declare over what lives no longer. Of a run that Prefect calls crashed less silence is proof enough."""
        with reading(self._engine) as connection:
            living = [one for one in attempts.live(connection) if one.job != JOB]
        for one in living:
            lost = 3 * self._settings.beat_seconds if one.run_id in crashed else self._settings.lost_seconds
            if not self._is_dead(one, lost):
                continue
            why = "its process has gone" if is_alive(one.process) is False else "it gave no sign of life"
            reason = f"{why}; last seen at: {one.doing}"
            try:
                with self._engine.begin() as connection:
                    if attempts.end(connection, one.id, "lost", reason=reason, seen_beats=one.beats):
                        log.warning("attempt %d at %s is over: %s", one.id, one.job, reason)
            except DBAPIError as error:
                # A transaction of it is still open: the others must not wait for that.
                log.warning("attempt %d cannot be declared over yet (%s)", one.id, type(error).__name__)

    def _is_dead(self, one: Attempt, lost_seconds: float) -> bool:
        silent = self._steady(("beats", one.id), one.beats)
        return is_alive(one.process) is False or silent >= lost_seconds

    def _settle(self, runs: Sequence[FlowRun], now: datetime) -> None:
        with reading(self._engine) as connection:
            tries = attempts.of_runs(connection, [run.id for run in runs])
        for run in runs:
            own = [one for one in tries if one.run_id == run.id]
            finding = judge(run, own, self._settings)
            if finding is None:
                continue
            steady = self._steady(("run", run.id), (run.state_id, finding.verdict, own[-1].id if own else None))
            if finding.verdict == "revive" and not self._beats_on(run, own[-1]):
                continue
            if steady >= finding.after_seconds:
                self._repair(run, own, finding, now)

    def _beats_on(self, run: FlowRun, attempt: Attempt) -> bool:
        """Whether the attempt has given signs of life since we first saw its run crashed."""
        first, _ = self._seen.get(("crashed", run.state_id), (attempt.beats, 0.0))
        self._fresh["crashed", run.state_id] = (first, 0.0)
        return attempt.beats > int(str(first)) + 1

    def _repair(self, run: FlowRun, tries: list[Attempt], finding: Finding, now: datetime) -> None:
        if finding.verdict == "revive":
            self._api.set_state(run.id, "RUNNING", "Running", "It was taken for lost, but it lives.")
        elif finding.verdict == "cancelled":
            self._api.set_state(run.id, "CANCELLED", "Cancelled", "Nobody works on it any more.")
        elif finding.verdict == "stop":
            with self._engine.begin() as connection:
                attempts.end(connection, tries[-1].id, "handed_over", reason="the run was cancelled")
        else:
            if run.state_type != "CRASHED" or (run.state_since and run.state_since > now - _USEFUL):
                self._run_again(run, tries, finding.why, now)
            return
        log.warning("%s: %s (%s)", run.name, finding.verdict, finding.why)

    def _run_again(self, run: FlowRun, tries: list[Attempt], why: str, now: datetime) -> None:
        if tries:
            with self._engine.begin() as connection:
                attempts.reclassify(connection, tries[-1].id, "crashed", reason=why)
        newer = is_overtaken(self._api, run)
        if newer is not None:
            skip(self._api, run, newer)
            return
        most = self._settings.max_recoveries
        losses = _losses(tries, [name for name, _ in self._api.states(run.id)])
        if losses > most:
            told = f"Lost: {why}. It was run again {losses - 1} times and is given up."
            self._api.set_state(run.id, "FAILED", "Failed", told)
            log.error("%s has failed for good. %s", run.name, told)
        else:
            told = f"Lost: {why}. It is run again ({losses} of at most {most} times)."
            # Due when it always was: no clock has to agree with the server's.
            self._api.set_state(run.id, "SCHEDULED", AGAIN, told, scheduled_for=run.scheduled_for or now)
            log.warning("%s is run again. %s", run.name, told)
            self._alert(run, tries, told, now)
        self._api.add_log(run.id, told, at=now)

    def _alert(self, run: FlowRun, tries: Sequence[Attempt], told: str, now: datetime) -> None:
        """Tell the operators, once for each run; of what was handed over on purpose they know."""
        if self._alerts is None or (tries and tries[-1].outcome == "handed_over"):
            return
        if tries:
            self._alerts.tell(
                Alert("lost-run", run.id, f"The run {run.name} was lost and is run again", told, run), now
            )
        else:
            title = f"The run {run.name} was stuck before it began and is run again"
            self._alerts.tell(Alert("stuck-run", run.id, title, told, run), now)

    def _thin_out(self, now: datetime) -> None:
        """Keep only the newest late run of each deployment and share; make those that are owed and not there."""
        late = [one for one in self._api.runs_in(self._pool, {"SCHEDULED"}) if _has_come(one)]
        for place, run in enumerate(late):
            own = (one for one in reversed(late[place + 1 :]) if one.deployment_id == run.deployment_id)
            newer = next((one for one in own if _replaces(one, run)), None)
            if newer is not None:
                skip(self._api, run, newer)
                log.warning("%s: skipped, %s does its work too", run.name, newer.name)
        for deployment in self._api.deployments(self._pool):
            for due, schedule in _owed(deployment, now):
                self._make(deployment, schedule, due, now)

    def _make(self, deployment: Deployment, schedule: Schedule, due: datetime, now: datetime) -> None:
        """Make the run that the schedule owes since ``due``, if the server planned none or has it no more."""
        there = {one.share for one in self._api.due_between(deployment.id, due, now) if one.auto_scheduled}
        for share in missing(schedule.share, there):
            # The key makes it one run, however often, by how many watches and for whose sake it is asked for.
            key = " ".join(filter(None, ("missed", deployment.id, f"{due:%Y-%m-%dT%H:%M}", share)))
            given = {**schedule.parameters, PARAMETER: share} if share else schedule.parameters
            run = self._api.create_run(deployment.id, given, idempotency_key=key)
            if key not in self._made:
                self._made.add(key)
                log.warning("%s was due at %s and is not there: %s makes up for it", deployment.name, due, run.name)

    def _now(self) -> datetime:
        with reading(self._engine) as connection:
            return database_clock(connection)

    def _steady(self, key: Hashable, value: Hashable) -> float:
        """For how long, in one look after the other, this has been so."""
        now = self._monotonic()
        before = self._seen.get(key)
        since = before[1] if before is not None and before[0] == value else now
        self._fresh[key] = (value, since)
        return now - since


def _owed(deployment: Deployment, now: datetime) -> list[tuple[datetime, Schedule]]:
    """When each share of the deployment should have run last, and by which schedule.

    Only what is long enough ago to be missed, and what nobody had a reason not to plan.
    """
    owed: dict[str | None, tuple[datetime, Schedule]] = {}
    for one in deployment.schedules:
        if deployment.paused or not one.active or not one.cron:
            continue
        due = last_due(one.cron, now - _MISSED_AFTER, one.timezone, day_or=one.day_or)
        before, _ = owed.get(one.share, (deployment.created, None))
        if due is not None and due > before:
            owed[one.share] = (due, one)
    return list(owed.values())


def keep_watch(
    watch: Watch,
    seconds: float,
    stop: threading.Event,
    *,
    say: Callable[[str], None],
    looked: Callable[[], None] | None = None,
) -> None:
    """Look every ``seconds`` until ``stop``; what is away is waited for. ``say`` hears when that begins and ends.

    ``looked`` is called after every look, whatever it saw: a sign that the watch itself lives.
    """
    trouble = ""
    while not stop.is_set():
        try:
            watch.look()
        except (AaeError, SQLAlchemyError) as error:
            told = (
                str(error) if isinstance(error, AaeError) else f"the database does not answer ({type(error).__name__})"
            )
            if told != trouble:
                say(f"cannot see: {told}")
            trouble = told
        else:
            if trouble:
                say("sees again")
            trouble = ""
        if looked is not None:
            looked()
        stop.wait(seconds)
    with suppress(SQLAlchemyError):
        watch.resign()


def keep_delivering(engine: Engine, settings: Settings, seconds: float, stop: threading.Event) -> None:
    """Send every ``seconds`` what waits in the outbox, until ``stop``: for mail whose own job cannot any more."""
    while not stop.wait(seconds):
        try:
            deliver_pending(engine, settings, clock=lambda: datetime.now(UTC))
        except (AaeError, SQLAlchemyError) as error:
            log.warning("the outbox could not be emptied (%s)", type(error).__name__)
