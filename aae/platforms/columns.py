"""Frames at the boundary: lists per column in, frames with exactly the contract's columns and types out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from aae.model import ENTITY_COLUMNS, METRIC_COLUMNS, Granularity, Level

_KEY = ["level", "external_id", "local_date", "local_hour"]


@dataclass(slots=True)
class MetricColumns:
    """The growing columns of one page of metrics; the units and types are those of ``METRIC_COLUMNS``.

    ``local_date`` holds ISO days; ``None`` stands for missing.
    """

    level: Level
    external_id: list[str] = field(default_factory=list)
    ad_set_external_id: list[str | None] = field(default_factory=list)
    campaign_external_id: list[str] = field(default_factory=list)
    local_date: list[str] = field(default_factory=list)
    local_hour: list[int | None] = field(default_factory=list)
    impressions: list[int] = field(default_factory=list)
    clicks: list[int] = field(default_factory=list)
    spend_micros: list[int] = field(default_factory=list)
    conversions_micros: list[int | None] = field(default_factory=list)
    revenue_micros: list[int | None] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """The page as a frame."""
        values: dict[str, object] = {name: getattr(self, name) for name in METRIC_COLUMNS}
        values["level"] = [self.level.value] * len(self.external_id)
        values["local_date"] = np.array(self.local_date, dtype="datetime64[s]")
        return _frame(values, METRIC_COLUMNS)


@dataclass(slots=True)
class EntityColumns:
    """The growing columns of a listing; the units and types are those of ``ENTITY_COLUMNS``."""

    level: list[str] = field(default_factory=list)
    external_id: list[str] = field(default_factory=list)
    parent_external_id: list[str | None] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    daily_budget_micros: list[int | None] = field(default_factory=list)
    channel: list[str | None] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """The listing as a frame; an entity that shifting pages repeat is there once."""
        listing = _frame({name: getattr(self, name) for name in ENTITY_COLUMNS}, ENTITY_COLUMNS)
        return listing.drop_duplicates(["level", "external_id"], ignore_index=True)


class Once:
    """Lets each key (entity, day, hour) pass once over all pages of one fetch.

    Pages shift while they are read, and a slice that had to be asked for again in smaller parts repeats rows; the first
    row of a key wins. Keys are remembered as 64-bit hashes: eight bytes each, and a false repeat is less likely than a
    broken disk.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __call__(self, page: pd.DataFrame) -> pd.DataFrame:
        """The rows of ``page`` that no page held before."""
        if page.empty:
            return page
        hashes = pd.util.hash_pandas_object(page[_KEY], index=False)
        new = np.zeros(len(page), dtype=bool)
        for row, key in enumerate(hashes.tolist()):
            if key not in self._seen:
                self._seen.add(key)
                new[row] = True
        return page if new.all() else page[new].reset_index(drop=True)


def has_delivery(page: pd.DataFrame) -> pd.DataFrame:
    """``page`` without the zero-filled rows that some platforms send for entities that did nothing."""
    numbers = ["impressions", "clicks", "spend_micros", "conversions_micros", "revenue_micros"]
    something = (page[numbers].fillna(0) != 0).any(axis=1).to_numpy(dtype=bool)
    return page if something.all() else page[something].reset_index(drop=True)


def hourly(granularity: Granularity) -> bool:
    """Whether rows carry an hour."""
    return granularity is Granularity.HOURLY


def _frame(values: dict[str, object], kinds: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(values[name], dtype=kind) for name, kind in kinds.items()})
