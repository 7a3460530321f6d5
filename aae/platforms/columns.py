"""Frames at the boundary: columns in, frames with exactly the contract's columns and types out.

Metrics come in pages. A page is columns from the start (``pyarrow``, about a hundred bytes a row), so that what came as
rows is gone with its page; pages are made into frames many at a time, because small frames cost more than their rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from aae.model import ENTITY_COLUMNS, METRIC_COLUMNS, Granularity, Level

ROWS_AT_ONCE: Final = 50_000
"""Rows of one frame, give or take a page."""

_ARROW: Final = {"str": pa.large_string(), "datetime64[s]": pa.date32(), "Int8": pa.int8()}
_SCHEMA: Final = pa.schema([(name, _ARROW.get(kind, pa.int64())) for name, kind in METRIC_COLUMNS.items()])
_NUMBERS: Final = ("impressions", "clicks", "spend_micros", "conversions_micros", "revenue_micros")
_EXTENSIONS: Final[dict[str, Any]] = {
    "str": pd.StringDtype(na_value=np.nan),
    "Int8": pd.Int8Dtype(),
    "Int64": pd.Int64Dtype(),
}


def metrics_page(level: Level, rows: int, **columns: Any) -> pa.RecordBatch:
    """One page of metrics: the columns of ``METRIC_COLUMNS`` in their units, those not given missing in every row."""
    given = {"level": pa.repeat(level.value, rows), **columns}
    arrays = [_arrow(given.get(name), rows, kind) for name, kind in zip(_SCHEMA.names, _SCHEMA.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def metrics_frame(pages: Sequence[pa.RecordBatch]) -> pd.DataFrame:
    """The pages as one frame of ``METRIC_COLUMNS``."""
    table = pa.Table.from_batches(pages, _SCHEMA)
    return pd.DataFrame(
        {name: _pandas(table[name].combine_chunks(), kind) for name, kind in METRIC_COLUMNS.items()}, copy=False
    )


async def metrics_frames(pages: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[pd.DataFrame]:
    """The pages of one fetch as frames, each key once, without rows in which nothing happened; none is empty."""
    once, held, rows = Once(), list[pa.RecordBatch](), 0
    async for page in pages:
        held.append(page)
        rows += len(page)
        if rows >= ROWS_AT_ONCE:
            if len(frame := once(has_delivery(metrics_frame(held)))):
                yield frame
            held, rows = [], 0
    if len(frame := once(has_delivery(metrics_frame(held)))):
        yield frame


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
        columns = {name: pd.Series(getattr(self, name), dtype=kind) for name, kind in ENTITY_COLUMNS.items()}
        return pd.DataFrame(columns).drop_duplicates(["level", "external_id"], ignore_index=True)


class Once:
    """Lets each key (entity, day, hour) pass once over all frames of one fetch.

    Pages shift while they are read, and a slice that had to be asked for again in smaller parts repeats rows; the first
    row of a key wins. A key is remembered as one number, put together without a loss: eight bytes.
    """

    def __init__(self) -> None:
        self._entities: dict[tuple[str, str], int] = {}
        self._seen = pd.Index([], dtype=np.int64)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of ``frame`` that no frame held before."""
        keys = pd.Index(self._keys(frame))
        new = ~(keys.duplicated() | keys.isin(self._seen))
        self._seen = self._seen.append(keys[new])
        return frame if new.all() else frame[new].reset_index(drop=True)

    def _keys(self, frame: pd.DataFrame) -> npt.NDArray[np.int64]:
        """Entity, day and hour as digits of one number: an hour, or none, is one of 25; a day below 2^22."""
        entity = np.zeros(len(frame), np.int64)
        for level, rows in frame.groupby("level", sort=False)["external_id"] if len(frame) else ():
            codes, ids = pd.factorize(rows)
            known = [self._entities.setdefault((str(level), each), len(self._entities)) for each in ids]
            entity[rows.index] = np.array(known, np.int64)[codes]
        day = frame["local_date"].to_numpy("datetime64[D]").astype(np.int64)
        hour = frame["local_hour"].fillna(24).to_numpy(np.int64)
        return np.asarray(((entity << 22) + day) * 25 + hour, np.int64)


def has_delivery(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` without the zero-filled rows that some platforms send for entities that did nothing."""
    something = np.logical_or.reduce([frame[name].to_numpy(np.int64, na_value=0) != 0 for name in _NUMBERS])
    return frame if something.all() else frame[something].reset_index(drop=True)


def hourly(granularity: Granularity) -> bool:
    """Whether rows carry an hour."""
    return granularity is Granularity.HOURLY


def _arrow(values: Any, rows: int, kind: pa.DataType) -> pa.Array:
    if values is None:
        return pa.nulls(rows, kind)
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _pandas(column: pa.Array, kind: str) -> Any:
    if kind in _EXTENSIONS:
        return _EXTENSIONS[kind].__from_arrow__(column)
    return column.to_numpy(zero_copy_only=False).astype(kind, copy=False)
