"""Frames have the contract's columns and types, whatever is in them, and each key once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aae.model import ENTITY_COLUMNS, METRIC_COLUMNS, Granularity, Level
from aae.platforms import columns
from aae.platforms.columns import (
    EntityColumns,
    Once,
    has_delivery,
    hourly,
    metrics_frame,
    metrics_frames,
    metrics_page,
)

HOURS = st.integers(0, 23)


Key = tuple[str, str, int | None]


def page(*keys: Key, spend: int = 1, level: Level = Level.AD) -> pa.RecordBatch:
    ids, days, hours = zip(*keys, strict=True) if keys else ((), (), ())
    return metrics_page(
        level,
        len(keys),
        external_id=list(ids),
        campaign_external_id=["c"] * len(keys),
        local_date=[date.fromisoformat(day) for day in days],
        local_hour=list(hours),
        impressions=[0] * len(keys),
        clicks=[0] * len(keys),
        spend_micros=[spend] * len(keys),
        revenue_micros=[0] * len(keys),
    )


def frame(*keys: Key, **more: Any) -> pd.DataFrame:
    return metrics_frame([page(*keys, **more)])


def frames(*pages: pa.RecordBatch) -> list[pd.DataFrame]:
    async def given() -> AsyncIterator[pa.RecordBatch]:
        for each in pages:
            yield each

    async def gathered() -> list[pd.DataFrame]:
        return [each async for each in metrics_frames(given())]

    return asyncio.run(gathered())


def test_frames_have_exactly_the_contracts_columns_and_types_also_when_empty() -> None:
    for made in [metrics_frame([]), frame(), frame(("1", "2026-11-21", None)), frame(("1", "2026-11-21", 23))]:
        assert {name: made[name].dtype for name in made} == {
            name: pd.Series(dtype=kind).dtype for name, kind in METRIC_COLUMNS.items()
        }
    assert list(EntityColumns().frame()) == list(ENTITY_COLUMNS)


def test_big_money_is_exact_in_a_frame() -> None:
    assert frame(("1", "2026-11-21", None), spend=2**53 + 1)["spend_micros"].tolist() == [2**53 + 1]


def test_a_key_passes_once_and_hours_are_keys_of_their_own() -> None:
    once = Once()
    first = once(
        frame(("1", "2026-11-21", 1), ("1", "2026-11-21", 1), ("1", "2026-11-21", 2), ("1", "2026-11-21", None))
    )
    assert first["local_hour"].tolist()[:2] == [1, 2]
    assert len(first) == 3
    second = once(frame(("1", "2026-11-21", 2), ("2", "2026-11-21", 2), ("1", "2026-11-22", 2)))
    assert second["external_id"].tolist() == ["2", "1"]
    assert len(once(frame(("1", "2026-11-21", 1), level=Level.CAMPAIGN))) == 1
    assert once(frame()).empty


KEYS = st.tuples(
    st.sampled_from(["1", "2", "30"]), st.sampled_from(["0001-01-01", "2026-11-21", "9999-12-31"]), st.none() | HOURS
)


@examples(max_examples=40)
@given(st.lists(st.lists(st.tuples(st.sampled_from([Level.AD, Level.CAMPAIGN]), KEYS), max_size=8), max_size=4))
def test_whatever_repeats_over_all_pages_the_first_of_each_key_stays(pages: list[list[tuple[Level, Any]]]) -> None:
    once, left = Once(), list[tuple[Any, ...]]()
    for given_page in pages:
        passed = once(metrics_frame([page(key, level=level) for level, key in given_page]))
        hours = [None if pd.isna(hour) else hour for hour in passed["local_hour"]]
        days = [str(day.date()) for day in passed["local_date"]]
        left += zip(passed["level"], zip(passed["external_id"], days, hours, strict=True), strict=True)
    assert left == list(dict.fromkeys((level.value, key) for each in pages for level, key in each))


def test_zero_filled_rows_go_and_rows_with_anything_stay() -> None:
    assert has_delivery(frame(("1", "2026-11-21", 1), spend=0)).empty
    assert len(has_delivery(frame(("1", "2026-11-21", 1)))) == 1


def test_pages_become_one_frame_until_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [page((str(number), "2026-11-21", 1), ("again", "2026-11-21", 1)) for number in range(3)]
    (whole,) = frames(*pages, page(("nothing", "2026-11-21", 1), spend=0))
    assert whole["external_id"].tolist() == ["0", "again", "1", "2"]
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 2)
    assert [each["external_id"].tolist() for each in frames(*pages)] == [["0", "again"], ["1"], ["2"]]
    assert frames() == frames(page()) == frames(page(("1", "2026-11-21", 1), spend=0)) == []


def test_hourly_is_by_the_hour() -> None:
    assert hourly(Granularity.HOURLY)
    assert not hourly(Granularity.DAILY)
