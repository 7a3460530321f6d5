"""What the shared tables say: accounts, freshness, fetches, incidents, news, processes.

Logs grow at their end, so the rows of the last day are those after an id that is found by halving: no index on time is
needed, and a table of years costs what a table of a day does. Words that this program does not know are counted as
``other``: what somebody else writes into a table adds no series.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Final, get_args

from sqlalchemy import Column, Connection, Engine, Table, case, func, select, text

from aae.display import clean
from aae.errors import UserError
from aae.model import AccountStatus, Platform
from aae.notify.messages import Kind
from aae.operate.metrics import catalogue
from aae.operate.metrics.catalogue import Metric, Sample
from aae.operate.recovery import JOB
from aae.storage import attempts as attempt_log
from aae.storage import engine as database
from aae.storage.fetches import REZONED
from aae.storage.schema import (
    ad_accounts,
    api_calls,
    attempts,
    fetches,
    incidents,
    notifications,
    reports,
    token_refreshes,
)

OTHER: Final = "other"
MOST_NAMES: Final = 50
"""So many flows (or deployments) have series of their own; the rest is ``other``."""

PATIENCE_SECONDS: Final = 5
"""Longest time of one statement."""

_DAY: Final = timedelta(days=1)
_LEEWAY: Final = timedelta(hours=1)
"""Rows may be stored a little out of the order of their moments."""

_DRIFT: Final = 0.01
# Words of other modules that are not imported here: they would bring numpy and scipy into the watch. A test compares.
SEVERITIES: Final = ("low", "medium", "high", "critical")
PURPOSES: Final = ("listing", "metrics", "totals", "poll", "auth")
INCIDENT_METRICS: Final = ("cpa", "roas", "cvr", "tracking", "ctr", "cpc", "cpm", "spend", "delivery")
_PLATFORMS: Final = tuple(Platform)
_OUTCOMES: Final = ("stored", "throttled", "failed", "reauthorize", "skipped")
_REFRESHES: Final = (
    "refreshed",
    "still_valid",
    "permanent_failure",
    "transient_failure",
    "access_doubted",
    "access_refused",
    "recovered",
    "lost_race",
)
_MAIL: Final = ("pending", "sending", "sent", "not_wanted", "failed")
_WAITING: Final = ("pending", "sending")
_ENDS: Final = ("running", *get_args(attempt_log.Outcome))


class Tally:
    """Sums per combination of labels. Every combination of the known words is there from the start, with zero."""

    def __init__(self, metric: Metric, *known: Iterable[str]) -> None:
        self._metric = metric
        self._known = [tuple(map(str, words)) for words in known]
        self._sums: dict[tuple[str, ...], float] = dict.fromkeys(itertools.product(*self._known), 0.0)

    def add(self, value: float | None, *labels: str | None) -> None:
        """Add to one combination; None adds nothing."""
        key = tuple(word if word in words else OTHER for word, words in zip(map(str, labels), self._known, strict=True))
        self._sums[key] = self._sums.get(key, 0.0) + float(value or 0)

    def samples(self) -> Iterator[Sample]:
        """What was added up."""
        return (self._metric.of(value, *key) for key, value in self._sums.items())


def read(engine: Engine, *, now: datetime, lost_seconds: float) -> list[Sample]:
    """All that the tables say. ``now`` (aware, UTC) is the jobs' clock; a watch unheard for ``lost_seconds`` is none.

    Raises:
        UserError: there are no tables yet.
        DBAPIError: the database does not answer, or not within some seconds.
    """
    # A look must not make an empty file of a SQLite database that is not there.
    if database.current(engine) is None:
        raise UserError("The database is empty: run aae db upgrade.")
    with database.reading(engine) as connection, _hurried(connection):
        return [
            *_accounts(connection, now),
            *_fetches(connection, now),
            *_calls(connection, now),
            *_refreshes(connection, now),
            *_incidents(connection),
            *_reports(connection, now),
            *_outbox(connection, now),
            *_attempts(connection, lost_seconds),
        ]


def first_since(connection: Connection, table: Table, moment: Column[Any], since: datetime) -> int:
    """The id from which on a log's rows are at or after ``since``; its rows are in the order of their moments."""
    low, high = 0, (connection.scalar(select(func.max(table.c.id))) or 0) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            select(table.c.id, moment).where(table.c.id >= middle).order_by(table.c.id).limit(1)
        ).first()
        if row is None or row[1] >= since:
            high = middle
        else:
            low = row[0] + 1
    return low


def _lately(connection: Connection, table: Table, moment: Column[Any], now: datetime) -> Any:
    """The condition that a log's row is of the last 24 hours."""
    since = now - _DAY
    return (table.c.id >= first_since(connection, table, moment, since - _LEEWAY)) & (moment >= since)


def _accounts(connection: Connection, now: datetime) -> Iterator[Sample]:
    tally = Tally(catalogue.ACCOUNTS, _PLATFORMS, AccountStatus)
    counts = select(ad_accounts.c.platform, ad_accounts.c.status, func.count()).group_by(
        ad_accounts.c.platform, ad_accounts.c.status
    )
    for platform, status, number in connection.execute(counts):
        tally.add(number, platform, status)
    yield from tally.samples()
    ages: dict[str, list[float]] = {}
    since = select(ad_accounts.c.platform, ad_accounts.c.data_through, ad_accounts.c.created_at).where(
        ad_accounts.c.status == AccountStatus.ACTIVE.value
    )
    for platform, through, connected in connection.execute(since):
        name = platform if platform in _PLATFORMS else OTHER
        ages.setdefault(name, []).append(max(0.0, (now - (through or connected)).total_seconds()))
    for platform, each in ages.items():
        yield catalogue.OLDEST.of(max(each), platform)
        yield catalogue.MEDIAN.of(median(each), platform)


def _fetches(connection: Connection, now: datetime) -> Iterator[Sample]:
    tried = Tally(catalogue.FETCHES, _PLATFORMS, _OUTCOMES)
    fetched = Tally(catalogue.ROWS_FETCHED, _PLATFORMS)
    stored = Tally(catalogue.ROWS_STORED, _PLATFORMS, ("inserted", "updated", "deleted"))
    drifted = Tally(catalogue.DRIFTED, _PLATFORMS)
    query = (
        select(
            ad_accounts.c.platform,
            fetches.c.outcome,
            func.count().label("tried"),
            func.sum(fetches.c.rows_fetched).label("fetched"),
            func.sum(fetches.c.rows_inserted).label("inserted"),
            func.sum(fetches.c.rows_updated).label("updated"),
            func.sum(fetches.c.rows_deleted).label("deleted"),
            func.sum(case((func.abs(fetches.c.drift) > _DRIFT, 1), else_=0)).label("drifted"),
        )
        .join_from(fetches, ad_accounts)
        .where(_lately(connection, fetches, fetches.c.finished_at, now), fetches.c.outcome != REZONED)
        .group_by(ad_accounts.c.platform, fetches.c.outcome)
    )
    for row in connection.execute(query):
        tried.add(row.tried, row.platform, row.outcome)
        fetched.add(row.fetched, row.platform)
        for change in ("inserted", "updated", "deleted"):
            stored.add(row._mapping[change], row.platform, change)
        drifted.add(row.drifted, row.platform)
    for tally in (tried, fetched, stored, drifted):
        yield from tally.samples()


def _calls(connection: Connection, now: datetime) -> Iterator[Sample]:
    tally = Tally(catalogue.API_CALLS, _PLATFORMS, PURPOSES)
    query = (
        select(ad_accounts.c.platform, api_calls.c.purpose, func.sum(api_calls.c.calls))
        .join_from(api_calls, ad_accounts)
        .where(_lately(connection, api_calls, api_calls.c.at, now))
        .group_by(ad_accounts.c.platform, api_calls.c.purpose)
    )
    for platform, purpose, calls in connection.execute(query):
        tally.add(calls, platform, purpose)
    yield from tally.samples()


def _refreshes(connection: Connection, now: datetime) -> Iterator[Sample]:
    tally = Tally(catalogue.TOKENS, _PLATFORMS, _REFRESHES)
    query = (
        select(ad_accounts.c.platform, token_refreshes.c.outcome, func.count())
        .join_from(token_refreshes, ad_accounts)
        .where(_lately(connection, token_refreshes, token_refreshes.c.at, now))
        .group_by(ad_accounts.c.platform, token_refreshes.c.outcome)
    )
    for platform, outcome, number in connection.execute(query):
        tally.add(number, platform, outcome)
    return tally.samples()


def _incidents(connection: Connection) -> Iterator[Sample]:
    tally = Tally(catalogue.INCIDENTS, SEVERITIES, INCIDENT_METRICS)
    query = (
        select(incidents.c.severity, incidents.c.metric, func.count())
        .where(incidents.c.open_fingerprint.is_not(None))
        .group_by(incidents.c.severity, incidents.c.metric)
    )
    for severity, metric, number in connection.execute(query):
        tally.add(number, severity, metric)
    return tally.samples()


def _reports(connection: Connection, now: datetime) -> Iterator[Sample]:
    query = select(func.count(), func.avg(reports.c.completeness)).where(
        _lately(connection, reports, reports.c.created_at, now)
    )
    number, completeness = connection.execute(query).one()
    yield catalogue.REPORTS.of(number)
    if completeness is not None:
        yield catalogue.COMPLETENESS.of(completeness)


def _outbox(connection: Connection, now: datetime) -> Iterator[Sample]:
    waiting = select(func.count(), func.min(notifications.c.created_at)).where(
        notifications.c.email_state.in_(_WAITING)
    )
    number, oldest = connection.execute(waiting).one()
    yield catalogue.WAITING.of(number)
    yield catalogue.WAITING_SECONDS.of(max(0.0, (now - oldest).total_seconds()) if oldest else 0)
    tally = Tally(catalogue.NOTIFICATIONS, get_args(Kind), _MAIL)
    query = (
        select(notifications.c.kind, notifications.c.email_state, func.count())
        .where(_lately(connection, notifications, notifications.c.created_at, now))
        .group_by(notifications.c.kind, notifications.c.email_state)
    )
    for kind, state, number in connection.execute(query):
        tally.add(number, kind, state)
    yield from tally.samples()


def _attempts(connection: Connection, lost_seconds: float) -> Iterator[Sample]:
    # Attempts carry the database's clock, not the jobs'.
    now = database.database_clock(connection)
    query = (
        select(attempts.c.job, attempts.c.outcome, func.count())
        .where(_lately(connection, attempts, attempts.c.started_at, now), attempts.c.job != JOB)
        .group_by(attempts.c.job, attempts.c.outcome)
    )
    begun = connection.execute(query).all()
    living = attempt_log.live(connection)
    names = bounded({row[0] for row in begun} | {one.job for one in living if one.job != JOB})
    tally = Tally(catalogue.ATTEMPTS, names.values(), _ENDS)
    running = Tally(catalogue.ATTEMPTS_RUNNING, names.values())
    silent: dict[str, float] = {}
    for job, outcome, number in begun:
        tally.add(number, names.get(job), outcome or "running")
    heard = False
    for one in living:
        silence = max(0.0, (now - one.beat_at).total_seconds())
        if one.job == JOB:
            heard = silence <= lost_seconds
        else:
            flow = names.get(one.job, OTHER)
            running.add(1, flow)
            silent[flow] = max(silence, silent.get(flow, 0.0))
    yield from tally.samples()
    yield from running.samples()
    for flow, silence in silent.items():
        yield catalogue.SILENCE.of(silence, flow)
    yield catalogue.WATCHED.of(heard)


def bounded(names: Iterable[str]) -> dict[str, str]:
    """Name to label: harmless in every display, and no more than ``MOST_NAMES``; the others have none."""
    return {name: clean(name) for name in sorted(names)[:MOST_NAMES]}


@contextmanager
def _hurried(connection: Connection) -> Iterator[None]:
    """No statement takes longer than ``PATIENCE_SECONDS``: it is ended where it runs, not only no longer waited for."""
    if connection.dialect.name != "sqlite":
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        limit = f"max_statement_time = {PATIENCE_SECONDS}"
        other = f"max_execution_time = {PATIENCE_SECONDS * 1000}"
        # For the session: these connections are the exporter's own.
        connection.execute(text(f"SET SESSION {limit if is_mariadb else other}"))
        yield
        return
    sqlite: Any = connection.connection.driver_connection
    deadline = time.monotonic() + PATIENCE_SECONDS
    sqlite.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        yield
    finally:
        sqlite.set_progress_handler(None, 0)
