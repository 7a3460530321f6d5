"""Attempts at running a job: who holds it, since when, and how each ended.

An attempt *holds* its job, or its share of one (:mod:`aae.shares`): a unique column lets one attempt of that live at a
time. Attempts at different shares, or at a share and at the whole, may be at work beside each other: transactions that
write one account queue, and what they write replaces itself.

An attempt's id is a fencing token: every transaction of a job begins with :func:`check_hold`, which locks the attempt's
row for reading. Whoever declares the attempt over must change that row, and so waits for the transactions that are
under way and stops all later ones. A process that was frozen, cut off or wrongly taken for dead can therefore do no
harm when it goes on.

All moments here are the database's own clock (:func:`aae.storage.engine.database_clock`), the only one that all
machines share; whether an attempt lives is judged by whether its beats go on, never by comparing clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, Select, case, func, insert, select, update

from aae.errors import Superseded
from aae.model import Process
from aae.storage.bulk import add_once, fit
from aae.storage.engine import database_clock
from aae.storage.schema import attempt_beats, attempts

Outcome = Literal["ended", "lost", "crashed", "handed_over"]
"""``ended``: its process said so itself; ``lost``: it fell silent; ``crashed``: it ended with its run unfinished;
``handed_over``: it was asked to let another go on later."""

LOSSES: Final[frozenset[str | None]] = frozenset({"lost", "crashed"})
"""Outcomes after which a run is run again and that count against its number of recoveries."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process working on one run, the columns of the table, with its last sign of life. Moments are aware UTC."""

    id: int
    job: str
    run_id: str
    place: str
    pid: int
    born: int
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    reason: str | None
    beats: int
    beat_at: datetime
    doing: str

    @property
    def process(self) -> Process:
        """The process that makes this attempt."""
        return Process(self.place, self.pid, self.born)


def take(connection: Connection, job: str, *, share: str | None = None, run_id: str, process: Process) -> int | None:
    """Begin an attempt; its id (the fencing token), or ``None`` if another attempt holds the job, or this share of it.

    Asked again by the same process for the same run, it is the same attempt: the first answer may have been lost.
    """
    now = database_clock(connection)
    values = {
        "job": job,
        "holding": held_as(job, share),
        "run_id": run_id,
        "place": process.place,
        "pid": process.pid,
        "born": process.born,
        "started_at": now,
    }
    token = add_once(connection, attempts, values, attempts.c.holding == values["holding"])
    if token is None:
        other = holder(connection, job, share)
        return other.id if other is not None and (other.run_id, other.process) == (run_id, process) else None
    connection.execute(insert(attempt_beats).values(attempt_id=token, beats=0, beat_at=now, doing="starting"))
    return token


def beat(connection: Connection, token: int, *, doing: str) -> bool:
    """Say that the attempt lives and what it does; False if it has been declared over."""
    connection.execute(
        update(attempt_beats)
        .where(attempt_beats.c.attempt_id == token)
        .values(beats=attempt_beats.c.beats + 1, beat_at=database_clock(connection), doing=fit(doing, 300))
    )
    return connection.scalar(select(attempts.c.holding).where(attempts.c.id == token)) is not None


def end(
    connection: Connection, token: int, outcome: Outcome, *, reason: str = "", seen_beats: int | None = None
) -> bool:
    """Declare the attempt over and free its job; False if it was over already.

    With ``seen_beats`` only if no beat has come since that count was seen. Waits for the attempt's transactions.
    """
    over = update(attempts).where(attempts.c.id == token, attempts.c.holding.is_not(None))
    if seen_beats is not None:
        # First wait for the attempt's transactions, then look: what beat meanwhile lives.
        connection.execute(select(attempts.c.id).where(attempts.c.id == token).with_for_update())
        beats = select(attempt_beats.c.beats).where(attempt_beats.c.attempt_id == token).scalar_subquery()
        over = over.where(beats == seen_beats)
    values = {"holding": None, "ended_at": database_clock(connection), "outcome": outcome, "reason": fit(reason, 500)}
    return connection.execute(over.values(**values)).rowcount == 1


def reclassify(connection: Connection, token: int, outcome: Outcome, *, reason: str) -> bool:
    """Say of an attempt that ended by itself that its run was not finished with it; False if that was said before."""
    changed = connection.execute(
        update(attempts)
        .where(attempts.c.id == token, attempts.c.outcome == "ended")
        .values(outcome=outcome, reason=fit(reason, 500))
    )
    return changed.rowcount == 1


def holder(connection: Connection, job: str, share: str | None = None) -> Attempt | None:
    """The attempt that holds the job, or this share of it, if one does."""
    row = connection.execute(_rows().where(attempts.c.holding == held_as(job, share))).one_or_none()
    return None if row is None else Attempt(**row._mapping)


def held_as(job: str, share: str | None) -> str:
    """What is held, in words: ``fetch-ad-data`` or ``fetch-ad-data 2/4``."""
    return job if share is None else f"{job} {share}"


def live(connection: Connection) -> list[Attempt]:
    """Every attempt that holds its job, oldest first."""
    rows = connection.execute(_rows().where(attempts.c.holding.is_not(None)).order_by(attempts.c.id))
    return [Attempt(**row._mapping) for row in rows]


def of_runs(connection: Connection, run_ids: Collection[str]) -> list[Attempt]:
    """Every attempt at these runs, oldest first."""
    rows = connection.execute(_rows().where(attempts.c.run_id.in_(run_ids)).order_by(attempts.c.id))
    return [Attempt(**row._mapping) for row in rows]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many attempts at a job began, and how many of them were lost."""

    begun: int
    lost: int


def tally(connection: Connection, since: datetime) -> dict[str, Tally]:
    """Per job the attempts that began at or after ``since``; of the database's own clock."""
    lost = func.sum(case((attempts.c.outcome.in_([one for one in LOSSES if one]), 1), else_=0))
    query = select(attempts.c.job, func.count(), lost).where(attempts.c.started_at >= since).group_by(attempts.c.job)
    return {job: Tally(int(begun), int(gone)) for job, begun, gone in connection.execute(query)}


# The fence. A process makes one attempt at most, so its token belongs to the process. Only those of a cluster work for
# the attempts of others, several at a time: there it belongs to the piece of work.


class _Hold:
    token: int | None = None
    leave: Callable[[], None] | None = None


_lent: ContextVar[int | None] = ContextVar("lent", default=None)


def hold(token: int | None, *, leave: Callable[[], None] | None = None) -> None:
    """From here on this process writes under ``token`` (``None``: under none, as commands and tests do).

    ``leave`` is called when the token has been taken away; it should end the process. Without it, or if it returns,
    ``Superseded`` is raised.
    """
    _Hold.token, _Hold.leave = token, leave


def held() -> int | None:
    """The token that is written under; None if under none."""
    return _Hold.token if _lent.get() is None else _lent.get()


@contextmanager
def on_behalf_of(token: int | None) -> Iterator[None]:
    """Within this block, also in threads it calls, write under the token of another process's attempt.

    When that has been taken away, ``Superseded`` is raised: this process has other work.
    """
    mark = _lent.set(token)
    try:
        yield
    finally:
        _lent.reset(mark)


def check_hold(connection: Connection) -> None:
    """Let the rest of this transaction happen only if our attempt is not over; nothing without an attempt.

    Raises:
        Superseded: it is over.
    """
    token = held()
    if token is None:
        return
    ours = select(attempts.c.holding).where(attempts.c.id == token).with_for_update(read=True)
    if connection.scalar(ours) is None:
        if token == _Hold.token and _Hold.leave is not None:
            _Hold.leave()
        raise Superseded("Another attempt has this job now.")


def _rows() -> Select[Any]:
    own = [attempts.c[name] for name in Attempt.__dataclass_fields__ if name in attempts.c]
    beats = [attempt_beats.c.beats, attempt_beats.c.beat_at, attempt_beats.c.doing]
    return select(*own, *beats).join_from(attempts, attempt_beats)
