"""Keeping the tables small: old numbers are folded into sums by campaign and day, old records go.

Everything happens in short transactions, each complete in itself, with a rest as long as the work after each: others
who write never wait long, and a process that is ended at any moment leaves nothing half done. The next one goes on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from aae.deadline import NEVER, Deadline
from aae.errors import Bug
from aae.model import Account
from aae.settings import Settings
from aae.storage import accounts, history, pruning
from aae.storage.history import Folded
from aae.storage.transact import is_passing, look, transact

P = ParamSpec("P")
R = TypeVar("R")

_REPORT_FILE: Final = re.compile(r"(\d{4}-\d{2}-\d{2})-user-\d+\.(html|csv|pdf)")
# What aae/notify/email.py writes where no mail server is set, and its drafts, of which a killed process leaves one.
_MAIL_FILE: Final = re.compile(r"[0-9a-f]{32}\.eml|\.[0-9a-f]{32}\.\d+\.tmp")
_LONGEST_REST_SECONDS: Final = 0.5


@dataclass(slots=True)
class RetentionOutcome:
    """What went, or would go. ``removed``: rows by table, and files by kind; ``failed`` accounts stay as they were.

    ``finished`` is False when the time limit came first: the rest is left for the next time. ``longest_seconds`` is the
    longest transaction.
    """

    accounts: int = 0
    days: int = 0
    daily_rows: int = 0
    hourly_rows: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    finished: bool = True
    longest_seconds: float = 0.0

    def __str__(self) -> str:
        gone = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in self.removed.items() if number)
        rows = f"{self.daily_rows} rows by day, {self.hourly_rows} by hour"
        return f"{self.days} days of {self.accounts} accounts folded ({rows})" + (f"; removed {gone}" if gone else "")


Show = Callable[[RetentionOutcome], None]


def preview(engine: Engine, settings: Settings, *, now: datetime) -> RetentionOutcome:
    """What :func:`keep_small` would do at ``now``; nothing is changed."""
    outcome = RetentionOutcome()
    for account, before in _cutoffs(engine, settings, now):
        found = look(engine, history.backlog, account.id, before)
        outcome.accounts += bool(found.days or found.hourly_rows)
        outcome.days += found.days
        outcome.daily_rows += found.daily_rows
        outcome.hourly_rows += found.hourly_rows
    for rule in _rules(settings, now):
        outcome.removed[rule.name] = sum(len(ids) for ids in _chosen(engine, rule))
    outcome.removed |= {kind: len(files) for kind, files in _old_files(settings, now).items()}
    return outcome


def keep_small(
    engine: Engine, settings: Settings, *, now: datetime, deadline: Deadline = NEVER, show: Show = lambda _: None
) -> RetentionOutcome:
    """Fold and remove whatever is older than the settings say; ``show`` is called after each step.

    Idempotent, and safe to be ended at any moment. An account whose days cannot be folded is told and left alone.
    """
    return _Keeping(engine, settings, now, deadline, show).run()


class _Keeping:
    """One round under way."""

    def __init__(self, engine: Engine, settings: Settings, now: datetime, deadline: Deadline, show: Show) -> None:
        self._engine = engine
        self._settings = settings
        self._now = now
        self._deadline = deadline
        self._show = show
        self._rows = settings.retention.rows_at_once
        self._outcome = RetentionOutcome()

    def run(self) -> RetentionOutcome:
        for account, before in _cutoffs(self._engine, self._settings, self._now):
            if self._deadline.passed:
                break
            self._fold_account(account, before)
        for rule in _rules(self._settings, self._now):
            self._remove(rule)
        for kind, files in _old_files(self._settings, self._now).items():
            for path in files:
                path.unlink(missing_ok=True)
                self._count(kind, 1)
        self._outcome.finished = not self._deadline.passed
        return self._outcome

    def _fold_account(self, account: Account, before: date) -> None:
        done = Folded()
        try:
            for piece in self._folding(account.id, before):
                done += piece
                self._outcome.days += piece.days
                self._outcome.daily_rows += piece.daily_rows
                self._outcome.hourly_rows += piece.hourly_rows
                self._show(self._outcome)
        except (Bug, SQLAlchemyError) as error:
            # A database that is away is away for all: the whole round is tried again later.
            if isinstance(error, SQLAlchemyError) and is_passing(error):
                raise
            # Of a database only the kind of error is told: its own words hold values.
            told = str(error) if isinstance(error, Bug) else type(error).__name__
            self._outcome.failed.append(f"{account}: {told}")
        self._outcome.accounts += done != Folded()

    def _folding(self, account_id: int, before: date) -> Iterator[Folded]:
        while not self._deadline.passed:
            days = look(self._engine, history.days_to_fold, account_id, before, rows=self._rows)
            if days is None:
                break
            yield self._briefly(history.fold, account_id, *days)
        while not self._deadline.passed and look(self._engine, history.has_hours, account_id, before):
            dropped = self._briefly(history.drop_hours, account_id, before, rows=self._rows)
            if dropped == Folded():
                break
            yield dropped

    def _remove(self, rule: pruning.Rule) -> None:
        self._count(rule.name, 0)
        for ids in _chosen(self._engine, rule):
            for start in range(0, len(ids), self._rows):
                if self._deadline.passed:
                    return
                self._count(rule.name, self._briefly(pruning.remove, rule, ids[start : start + self._rows]))

    def _count(self, name: str, number: int) -> None:
        self._outcome.removed[name] = self._outcome.removed.get(name, 0) + number
        self._show(self._outcome)

    def _briefly(self, work: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        begun = time.perf_counter()
        result = transact(self._engine, work, *args, **kwargs)
        took = time.perf_counter() - begun
        self._outcome.longest_seconds = max(self._outcome.longest_seconds, took)
        # On SQLite those who wait for the lock ask for it only now and then: without a gap they would never get it.
        time.sleep(min(took, _LONGEST_REST_SECONDS))
        return result


def _cutoffs(engine: Engine, settings: Settings, now: datetime) -> list[tuple[Account, date]]:
    """Every account, also those that are paused, and its first local day that is kept whole."""
    kept = timedelta(days=settings.retention.metrics_days)
    every = look(engine, accounts.list_accounts, statuses=None)
    return [(account, account.local_day(now) - kept) for account in every]


def _rules(settings: Settings, now: datetime) -> list[pruning.Rule]:
    planned = max(settings.fetch.first_days, settings.fetch.first_hourly_days) + 7
    return pruning.rules(settings.retention, now=now, planning_days=planned)


def _chosen(engine: Engine, rule: pruning.Rule) -> Iterator[tuple[int, ...]]:
    """All rows that may go, some at a time."""
    after: int | None = 0
    while after is not None:
        chosen = look(engine, pruning.choose, rule, after=after)
        if chosen.ids:
            yield chosen.ids
        after = chosen.after


def _old_files(settings: Settings, now: datetime) -> dict[str, list[Path]]:
    """By kind, files of reports, and of mails that hold them, that are no longer kept; no others are touched."""
    first_kept = (now - timedelta(days=settings.retention.reports_days + 1)).date()
    reports = ((path, _REPORT_FILE.fullmatch(path.name)) for path in _files_in(settings.reports_dir))
    mails = (path for path in _files_in(settings.outbox_dir) if _MAIL_FILE.fullmatch(path.name))
    return {
        "report files": [path for path, name in reports if name and name[1] < first_kept.isoformat()],
        # A mail's name tells no day.
        "mail files": [path for path in mails if _written_on(path) < first_kept],
    }


def _files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _written_on(path: Path) -> date:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    except FileNotFoundError:  # another round was quicker, or the draft has become the mail
        return date.max
