"""The score of a single hourly series: causal, calm on heavy tails, awake to shifts and spikes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aae.detection import ALERT_THRESHOLD, score_series


def price(seed: int, days: int = 58) -> pd.Series:
    """Cents per click: a daily rhythm, a wandering level, heavy tails (Student, four degrees)."""
    random = np.random.default_rng(seed)
    index = pd.date_range("2026-01-01", periods=days * 24, freq="h")
    level = np.zeros(len(index))
    for hour in range(1, len(index)):
        level[hour] = 0.9 * level[hour - 1] + random.normal(0, 0.03)
    rhythm = 0.25 * np.sin(2 * np.pi * np.asarray(index.hour) / 24) + 0.1 * (np.asarray(index.day_of_week) >= 5)
    return pd.Series(0.5 * np.exp(rhythm + level + 0.1 * random.standard_t(4, len(index))), index)


def episodes(alarms: pd.Series) -> int:
    where = np.flatnonzero(alarms.to_numpy())
    return int((np.diff(where) > 6).sum()) + 1 if len(where) else 0


def test_ordinary_heavy_tails_raise_few_alarms() -> None:
    assert sum(episodes(score_series(price(seed)) >= ALERT_THRESHOLD) for seed in range(6)) <= 12


@pytest.mark.parametrize(("factor", "hours"), [(3.0, 48), (0.25, 48), (8.0, 1), (2.0, 72)])
def test_shifts_and_spikes_are_seen_within_hours(factor: float, hours: int) -> None:
    seen = 0
    for seed in range(4):
        values = price(seed)
        values.iloc[900 : 900 + hours] *= factor
        seen += bool((score_series(values).iloc[900 : 900 + min(hours, 12)] >= ALERT_THRESHOLD).any())
    assert seen >= 3


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(80, 400), seed=st.integers(0, 50), factor=st.floats(0.0, 50.0))
def test_the_future_does_not_change_the_past(cut: int, seed: int, factor: float) -> None:
    values = price(seed, days=18)
    changed = values.copy()
    changed.iloc[cut:] *= factor
    pd.testing.assert_series_equal(score_series(values).iloc[:cut], score_series(changed).iloc[:cut])
    pd.testing.assert_series_equal(score_series(values).iloc[:cut], score_series(values.iloc[:cut]))


@settings(max_examples=10, deadline=None)
@given(unit=st.floats(1e-3, 1e6))
def test_the_unit_does_not_matter(unit: float) -> None:
    values = price(3, days=14)
    pd.testing.assert_series_equal(score_series(values), score_series(values * unit), rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e12), st.just(0.0)), max_size=200),
    st.randoms(use_true_random=False),
)
def test_any_series_gives_scores_between_zero_and_one(numbers, random) -> None:
    hours = sorted(random.sample(range(2000), len(numbers)))
    index = pd.Timestamp("2026-01-01", tz="Europe/Berlin") + pd.to_timedelta(hours, unit="h")
    scores = score_series(pd.Series(numbers, index=pd.DatetimeIndex(index), dtype=float))
    assert len(scores) == len(numbers)
    assert scores.between(0, 1).all()


def test_gaps_and_unknown_values_score_nothing() -> None:
    values = price(1, days=20)
    values.iloc[100:130] = np.nan
    holed = values.drop(values.index[200:240])
    scores = score_series(holed)
    assert (scores[holed.isna()] == 0).all()
    assert list(scores.index) == list(holed.index)


def test_an_index_without_time_is_refused() -> None:
    with pytest.raises(TypeError, match="timestamps"):
        score_series(pd.Series([1.0, 2.0]))
