"""The ledger of corrections: which stored numbers of a day a platform has changed since, when, and in which run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, select

from aae.model import Granularity, Level
from aae.storage.schema import entities, fetches, metric_revisions

METRICS = ("impressions", "clicks", "spend", "conversions", "revenue")


@dataclass(frozen=True, slots=True)
class Revision:
    """One stored value that changed. ``old`` and ``new`` are millionths, of counts too; None: not told, or withdrawn.

    ``changed_at`` is aware UTC; ``run_id`` Prefect's flow run, None for a command or a test.
    """

    level: Level
    external_id: str
    name: str
    metric: str
    old: int | None
    new: int | None
    changed_at: datetime
    run_id: str | None

    @property
    def difference(self) -> int:
        """By how much the day's sum changed, in millionths; what is not told adds nothing to it."""
        return (self.new or 0) - (self.old or 0)


@dataclass(frozen=True, slots=True)
class Visit:
    """A fetch whose slice held the day, and what it found in all of that slice; moments are aware UTC."""

    finished_at: datetime
    granularity: Granularity
    since: date
    until: date
    outcome: str
    inserted: int
    updated: int
    deleted: int
    drift: float | None
    detail: str | None
    run_id: str | None


def of_day(connection: Connection, account_id: int, day: date) -> list[Revision]:
    """Every change of the account's daily numbers of a local day, oldest first."""
    ledger = metric_revisions
    rows = connection.execute(
        select(
            entities.c.level,
            entities.c.external_id,
            entities.c.name,
            *(ledger.c[name] for name in ("metric", "old", "new", "changed_at", "run_id")),
        )
        .join_from(ledger, entities, entities.c.id == ledger.c.entity_id)
        .where(
            ledger.c.account_id == account_id,
            ledger.c.local_date == day,
            ledger.c.granularity == Granularity.DAILY.value,
        )
        .order_by(ledger.c.changed_at, ledger.c.id)
    )
    return [Revision(**{**row._mapping, "level": Level(row.level)}) for row in rows]


def visits(connection: Connection, account_id: int, day: date) -> list[Visit]:
    """Every fetch of the day that is on record, oldest first."""
    names = ("finished_at", "granularity", "since", "until", "outcome", "drift", "detail", "run_id")
    counts = {f"rows_{name}": name for name in ("inserted", "updated", "deleted")}
    rows = connection.execute(
        select(*(fetches.c[name] for name in names), *(fetches.c[name].label(short) for name, short in counts.items()))
        .where(fetches.c.account_id == account_id, fetches.c.since <= day, fetches.c.until >= day)
        .order_by(fetches.c.finished_at, fetches.c.id)
    )
    return [Visit(**{**row._mapping, "granularity": Granularity(row.granularity)}) for row in rows]
