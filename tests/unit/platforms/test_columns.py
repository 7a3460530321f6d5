"""Frames have the contract's columns and types, whatever is in them, and each key once."""

from __future__ import annotations

import pandas as pd

from aae.model import ENTITY_COLUMNS, METRIC_COLUMNS, Granularity, Level
from aae.platforms.columns import EntityColumns, MetricColumns, Once, has_delivery, hourly


def page(*keys: tuple[str, str, int | None], spend: int = 1) -> pd.DataFrame:
    columns = MetricColumns(Level.AD)
    for external_id, day, hour in keys:
        columns.external_id.append(external_id)
        columns.ad_set_external_id.append(None)
        columns.campaign_external_id.append("c")
        columns.local_date.append(day)
        columns.local_hour.append(hour)
        columns.impressions.append(0)
        columns.clicks.append(0)
        columns.spend_micros.append(spend)
        columns.conversions_micros.append(None)
        columns.revenue_micros.append(0)
    return columns.frame()


def test_frames_have_exactly_the_contracts_columns_and_types_also_when_empty() -> None:
    for frame in [page(), page(("1", "2026-11-21", None)), page(("1", "2026-11-21", 23))]:
        assert {name: frame[name].dtype for name in frame} == {
            name: pd.Series(dtype=kind).dtype for name, kind in METRIC_COLUMNS.items()
        }
    assert list(EntityColumns().frame()) == list(ENTITY_COLUMNS)


def test_big_money_is_exact_in_a_frame() -> None:
    assert page(("1", "2026-11-21", None), spend=2**53 + 1)["spend_micros"].tolist() == [2**53 + 1]


def test_a_key_passes_once_and_hours_are_keys_of_their_own() -> None:
    once = Once()
    first = once(
        page(("1", "2026-11-21", 1), ("1", "2026-11-21", 1), ("1", "2026-11-21", 2), ("1", "2026-11-21", None))
    )
    assert first["local_hour"].tolist()[:2] == [1, 2]
    assert len(first) == 3
    second = once(page(("1", "2026-11-21", 2), ("2", "2026-11-21", 2), ("1", "2026-11-22", 2)))
    assert second["external_id"].tolist() == ["2", "1"]
    assert once(page()).empty


def test_zero_filled_rows_go_and_rows_with_anything_stay() -> None:
    assert has_delivery(page(("1", "2026-11-21", 1), spend=0)).empty
    assert len(has_delivery(page(("1", "2026-11-21", 1)))) == 1


def test_hourly_is_by_the_hour() -> None:
    assert hourly(Granularity.HOURLY)
    assert not hourly(Granularity.DAILY)
