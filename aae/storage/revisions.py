"""The ledger of corrections: which stored numbers of a day a platform has changed since, when, and in which run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, select

from aae.model import Granularity, Level
from aae.storage.schema import entities, metric_revisions

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
