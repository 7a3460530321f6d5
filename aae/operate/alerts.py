"""Alerts for operators: what is worth waking somebody for, told to Prefect once per cause.

An alert is an event on the Prefect server (``aae.alert.late-run``, ...); the automations that ``aae deploy`` declares
carry it to the operators' channels. The watch finds the causes: it sees states, so what happened while it or Prefect
was away is found later too. One cause is told once, also by a watch that starts anew, since the event's id is
derived from the cause and the server is asked whether it has it. An event that the server dropped is sent again.

What has a reason that was told is not told for its consequences: without a worker no run is reported late, and data
that is old because the fetch failed is not reported old.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Engine

from aae.display import clean
from aae.errors import AaeError
from aae.operate.prefect_api import FlowRun, PrefectApi, WorkPool
from aae.settings import Settings
from aae.shares import are_apart
from aae.storage import fetches
from aae.storage.engine import reading

log = logging.getLogger(__name__)

Kind = Literal["lost-run", "stuck-run", "late-run", "failed-run", "stale-data", "no-worker", "silent-watch"]

ALERT_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

FIRST: Final[dict[Kind, str]] = {
    "lost-run": "Nothing if it happened once: the run goes on by itself. Else: prefect flow-run logs {run}",
    "stuck-run": "prefect flow-run logs {run}",
    "late-run": "aae doctor",
    "failed-run": "prefect flow-run logs {run}",
    "stale-data": "aae doctor",
    "no-worker": "aae doctor, then start a worker: aae worker",
    "silent-watch": "Start the watch: aae watch",
}
"""The first thing to do about each kind of alert."""

BEAT: Final = "aae.watch.beat"
"""The event by which the watch says that it is there; an automation tells what the last one held."""

FETCH: Final = "fetch-ad-data/"

_LOOK_SECONDS: Final = 10.0
_CONFIRM_SECONDS: Final = 60.0
_HISTORY: Final = timedelta(days=2)
"""A failure longer ago than this is no news."""
_TEXT: Final = 600
_UNWATCHED: Final = "Jobs go on, but lost runs are not run again and nothing else is noticed."


def event_name(kind: Kind) -> str:
    """The event that tells of this kind of alert."""
    return f"aae.alert.{kind}"


def runbook(kind: Kind) -> str:
    """The page on it, by its path in the project."""
    return f"docs/runbooks/{kind}.md"


@dataclass(frozen=True, slots=True)
class Alert:
    """``title`` is a sentence; ``cause`` tells two of a kind apart; ``run`` is what it is about, if one."""

    kind: Kind
    cause: str
    title: str
    detail: str = ""
    run: FlowRun | None = None

    @property
    def event_id(self) -> str:
        """The same for the same cause, whoever asks."""
        return str(uuid5(NAMESPACE_URL, f"aae:{self.kind}:{self.cause}"))


def message(alert: Alert, *, pool: str, ui_url: str) -> dict[str, str]:
    """What the channels get: ``title`` and ``text`` for people, the rest for programs."""
    run = alert.run
    url = f"{ui_url}/runs/flow-run/{run.id}" if run else f"{ui_url}/work-pools/work-pool/{pool}"
    first = FIRST[alert.kind].format(run=run.id if run else "")
    title, detail = clean(alert.title, limit=200), clean(alert.detail, limit=_TEXT)
    lines = [title, detail, f"Look: {url}", f"First: {first}", f"More: {runbook(alert.kind)}"]
    return {
        "alert": alert.kind,
        "title": f"AAE: {title}",
        "text": "\n".join(line for line in lines if line),
        "url": url,
        "first": first,
        "runbook": runbook(alert.kind),
        "run_id": run.id if run else "",
    }


class Alerts:
    """Finds causes and tells them. For one thread, and one watch: the one that leads."""

    def __init__(
        self,
        engine: Engine,
        api: PrefectApi,
        settings: Settings,
        pool: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._api = api
        self._settings = settings
        self._pool = pool
        self._monotonic = monotonic
        self._waiting: list[tuple[Alert, datetime]] = []
        # Event ids that were sent: until when the server must have them, None once it has.
        self._sent: dict[str, tuple[float, Alert] | None] = {}
        # What is so right now: since when, and the cause by which it was told.
        self._open: dict[Kind, tuple[float, str]] = {}
        self._next_look = monotonic()
        self._next_beat = monotonic()

    def tell(self, alert: Alert, now: datetime) -> None:
        """Tell it as soon as the server answers; nothing if this cause was told already."""
        if alert.event_id not in self._sent and all(alert.event_id != one.event_id for one, _ in self._waiting):
            self._waiting.append((alert, now))

    def look(self, now: datetime, runs: Sequence[FlowRun]) -> None:
        """Look for causes every few seconds and tell what waits. ``runs``: those at work; ``now`` is aware, UTC.

        Never raises: what cannot be told now is told later.
        """
        try:
            if self._monotonic() >= self._next_look:
                self._next_look = self._monotonic() + _LOOK_SECONDS
                self._find(now, runs)
            self._send(now)
        except AaeError as error:
            log.warning("alerts wait: %s", error)

    # Causes

    def _find(self, now: datetime, runs: Sequence[FlowRun]) -> None:
        pool = self._api.work_pool(self._pool)
        if pool is None:
            return
        told = {self._no_worker(now, pool), self._late(now, pool), self._stuck(now, runs)}
        self._stale(now, explained=bool(told - {None}) | self._failed(now))

    def _no_worker(self, now: datetime, pool: WorkPool) -> Kind | None:
        workers = [] if pool.paused else self._api.workers(self._pool)
        absent = not pool.paused and not any(one.online for one in workers)
        seen = max((one.heartbeat for one in workers if one.heartbeat), default=None)
        since = f"since {seen:%Y-%m-%d %H:%M} UTC" if seen else "and never was one"
        if self._lasts("no-worker", absent, self._settings.alerts.no_worker_seconds, since):
            title = f"No worker serves the work pool {self._pool}"
            self.tell(Alert("no-worker", self._open["no-worker"][1], title, f"There is none, {since}."), now)
        return "no-worker" if absent else None

    def _late(self, now: datetime, pool: WorkPool) -> Kind | None:
        limit = timedelta(seconds=self._settings.alerts.late_seconds)
        late = [
            one
            for one in self._api.runs_in(self._pool, {"SCHEDULED"})
            if one.state_name == "Late" and one.scheduled_for and one.scheduled_for < now - limit
        ]
        # Without a worker everything is late: told as that.
        told = bool(late) and "no-worker" not in self._open
        oldest = min(late, key=lambda one: str(one.scheduled_for), default=None)
        if self._lasts("late-run", told, 0, oldest.id if oldest else "") and oldest:
            reason = f"The work pool {self._pool} is paused: aae resume." if pool.paused else "Workers are there."
            due = f"{oldest.scheduled_for:%Y-%m-%d %H:%M} UTC" if oldest.scheduled_for else "some time ago"
            more = f" {len(late) - 1} more runs wait." if len(late) > 1 else ""
            title = f"A run of {self._job(oldest)} was due at {due} and has not been started"
            self.tell(Alert("late-run", self._open["late-run"][1], title, f"{reason}{more}", oldest), now)
        return "late-run" if told else None

    def _stuck(self, now: datetime, runs: Collection[FlowRun]) -> Kind | None:
        limit = timedelta(seconds=self._settings.alerts.stuck_seconds)
        stuck = [
            one for one in runs if one.state_type == "RUNNING" and one.state_since and one.state_since < now - limit
        ]
        for one in stuck:
            title = f"A run of {self._job(one)} has been at work for more than {limit}"
            detail = f"{one.name} gives signs of life and does not end."
            # That the same run did not begin at first was another cause.
            self.tell(Alert("stuck-run", f"{one.id} at work", title, detail, one), now)
        return "stuck-run" if stuck else None

    def _failed(self, now: datetime) -> bool:
        """Tell of failed runs; whether the fetch is failing. The same words again and again are one cause."""
        fetch_fails = False
        ended = self._api.runs_in(self._pool, {"FAILED", "COMPLETED"}, since=now - _HISTORY)
        ended.sort(key=lambda one: (one.ended or now, one.id))
        streaks: dict[str | None, list[FlowRun]] = {}
        for one in ended:
            streak = streaks.setdefault(one.deployment_id, [])
            if one.succeeded:
                # Of another share's failure a success says nothing, nor that of some accounts of the others'.
                streak[:] = [
                    other
                    for other in streak
                    if are_apart(one.share, other.share) or (one.only and one.only != other.only)
                ]
            else:
                streak.append(one)
        for streak in streaks.values():
            words: set[str] = set()
            for one in streak:
                job = self._job(one)
                fetch_fails |= job.startswith(FETCH)
                same = re.sub(r"[\d.,:]+", "#", one.message or "")
                if same not in words:
                    words.add(same)
                    title = f"A run of {job} has failed"
                    self.tell(Alert("failed-run", one.id, title, f"{one.name}: {one.message or 'no reason'}", one), now)
        return fetch_fails

    def _stale(self, now: datetime, *, explained: bool) -> None:
        limit = timedelta(hours=self._settings.alerts.stale_hours)
        jobs_now = now + timedelta(seconds=self._settings.clock_offset_seconds)
        with reading(self._engine) as connection:
            ages = fetches.freshness(connection)
        stale = [(since, name) for name, since in ages if since < jobs_now - limit]
        since, name = min(stale, default=(jobs_now, ""))
        if self._lasts("stale-data", bool(stale) and not explained, 0, f"{since.isoformat()} {name}"):
            title = f"{len(stale)} of {len(ages)} ad accounts have had no fresh data for {limit}"
            detail = f"The oldest is {name}: nothing since {since:%Y-%m-%d %H:%M} UTC."
            self.tell(Alert("stale-data", self._open["stale-data"][1], title, detail), now)

    def _lasts(self, kind: Kind, is_so: bool, seconds: float, cause: str) -> bool:
        """Whether it has been so for that long. While it goes on it is one cause, that of its beginning."""
        if not is_so:
            self._open.pop(kind, None)
            return False
        since, _ = self._open.setdefault(kind, (self._monotonic(), cause))
        return self._monotonic() - since >= seconds

    def _job(self, run: FlowRun) -> str:
        return self._names().get(run.deployment_id or "", run.name)

    def _names(self) -> dict[str, str]:
        return {one.id: one.name for one in self._api.deployments(self._pool)}

    # Telling

    def _send(self, now: datetime) -> None:
        self._confirm(now)
        while self._waiting:
            alert, seen = self._waiting[0]
            if not self._api.has_event(alert.event_id):
                self._emit(alert, seen)
            self._sent[alert.event_id] = (self._monotonic() + _CONFIRM_SECONDS, alert)
            self._waiting.pop(0)
        if self._monotonic() >= self._next_beat:
            self._beat(now)
            self._next_beat = self._monotonic() + self._settings.alerts.beat_seconds

    def _beat(self, now: datetime) -> None:
        """Say that we are there, and what operators are to be told should we never say so again."""
        detail = f"It was last heard of at {now:%Y-%m-%d %H:%M:%S} UTC. {_UNWATCHED}"
        alert = Alert("silent-watch", now.isoformat(), "The watch says nothing any more", detail)
        resource = {"prefect.resource.id": f"aae.watch.{self._pool}", "prefect.resource.name": f"watch of {self._pool}"}
        self._api.emit_event(BEAT, resource, self._message(alert), at=now)

    def _confirm(self, now: datetime) -> None:
        """Send again what the server has lost: it drops events in bursts."""
        for event_id, waits in list(self._sent.items()):
            if waits is not None and self._monotonic() >= waits[0]:
                if self._api.has_event(event_id):
                    self._sent[event_id] = None
                else:
                    self._emit(waits[1], now)
                    self._sent[event_id] = (self._monotonic() + _CONFIRM_SECONDS, waits[1])

    def _emit(self, alert: Alert, now: datetime) -> None:
        run = alert.run
        resource: dict[str, str] = {
            "prefect.resource.id": f"prefect.flow-run.{run.id}" if run else f"aae.pool.{self._pool}",
            "prefect.resource.name": run.name if run else self._pool,
        }
        payload = self._message(alert)
        self._api.emit_event(event_name(alert.kind), resource, payload, at=now, event_id=alert.event_id)
        log.warning("alert: %s", payload["title"])

    def _message(self, alert: Alert) -> dict[str, Any]:
        return dict(message(alert, pool=self._pool, ui_url=self._settings.resolved_ui_url))
