"""How unusual each value of a single hourly series is, given only what came before it.

For series that nothing else is known about, such as the price of a click in one campaign. Prices are positive, daily in
their rhythm, and heavy-tailed, so a rule of so many sigmas on the raw values raises alarms all day. Here:

1. the value's logarithm is predicted from its hour of the day and a robust running level;
2. the error of the prediction is compared with the past errors on the same side, whose tail is fitted (peaks over
   threshold: Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017) instead of assumed;
3. the median of the last hours is tested the same way against the past weeks, for shifts too small for a single hour.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALERT_THRESHOLD: Final = 0.5
"""Score from which a value is worth an alert: a chance of about one in ten thousand (:data:`_ALERT_DIGITS`)."""

_ALERT_DIGITS: Final = 4.0
"""Decimal digits of the chance at the alert threshold."""

_MEMORY: Final = 28 * 24
"""Values remembered: four weeks of hours."""

_WARM_UP: Final = 72
"""Errors needed before anything is judged: three days of hours."""

_SHORT: Final = 6
"""Values in the short window for level shifts."""

_LEVEL_GAIN: Final = 0.08
"""How fast the running level follows: half of a step is learnt in about nine hours."""

_FLOOR: Final = 0.05
"""Logarithms end at this share of the usual value, so that nothing at all is far down but finite."""

_NOTHING: Final = 1e-200
"""A usual value this small is none: its share would not be a number any more."""

_LEAST_SPREAD: Final = 0.02
"""Errors below two per cent are never news."""


def score_series(values: pd.Series) -> pd.Series:
    """Score every value of an hourly series of non-negative numbers: 0 ordinary, 1 surely anomalous.

    Each score is computed from that value and earlier ones only. Hours may be missing, irregular or NaN (which score
    0); the first three days score 0, there being nothing to compare with.

    Args:
        values: Floats, indexed by timestamps; naive or aware (the index's own zone tells the hour of the day).

    Returns:
        Scores from 0 to 1 on the same index; :data:`ALERT_THRESHOLD` is the default bar.

    Raises:
        TypeError: the index does not hold timestamps.
    """
    if not isinstance(values.index, pd.DatetimeIndex):
        raise TypeError("score_series needs a series indexed by timestamps")
    order = np.argsort(values.index.asi8, kind="stable")
    numbers = values.to_numpy(dtype=float, na_value=np.nan)[order]
    scores = np.zeros(len(numbers))
    scores[order] = _score(numbers, np.asarray(values.index.hour)[order])
    return pd.Series(scores, index=values.index, name="score")


def _score(numbers: Floats, hours: NDArray[np.int32]) -> Floats:
    known = np.flatnonzero(np.isfinite(numbers))
    scores = np.zeros(len(numbers))
    if len(known) == 0:
        return scores
    raw, hour = np.maximum(numbers[known], 0.0), hours[known]
    logs = np.zeros(len(known))
    errors, shifts = np.full(len(known), np.nan), np.full(len(known), np.nan)
    profile, level, usual, slow = np.zeros(24), 0.0, 0.0, 0.0
    width = 0.1
    for now in range(len(known)):
        past = slice(max(0, now - _MEMORY), now)
        if now % 24 == 0 and now > 0:  # the slow parts are renewed once a day
            usual = float(np.median(raw[past]))
            logs[past] = _log(raw[past], usual)
            renewed = _profile(logs[past], hour[past])
            level += float(np.mean(profile - renewed))
            profile = renewed
            slow = float(np.median(logs[past] - profile[hour[past]]))
            recent = errors[past][np.isfinite(errors[past])]
            width = max(1.4826 * float(np.median(np.abs(recent))), _LEAST_SPREAD) if len(recent) else width
        if usual <= _NOTHING:
            usual = float(np.median(raw[: now + 1])) if now < 24 else 0.0
            if usual <= _NOTHING:
                continue
            level = float(np.log(usual))
        logs[now] = _log(raw[now : now + 1], usual)[0]
        if now < 24:
            level = float(np.median(logs[: now + 1]))
            continue
        rest = logs[now] - profile[hour[now]]
        errors[now] = rest - level
        last = slice(max(0, now - _SHORT + 1), now + 1)
        shifts[now] = float(np.median(logs[last] - profile[hour[last]])) - slow
        digits = max(_digits(errors[now], errors[past]), _digits(shifts[now], shifts[past]))
        scores[known[now]] = 1.0 - 2.0 ** (-digits / _ALERT_DIGITS)
        level += _LEVEL_GAIN * float(np.clip(errors[now], -2.5 * width, 2.5 * width))
    return scores


def _log(values: Floats, usual: float) -> Floats:
    return np.asarray(np.log(np.maximum(values, _FLOOR * usual))) if usual > _NOTHING else np.zeros(len(values))


def _profile(logs: Floats, hour: NDArray[np.int32]) -> Floats:
    """Deviation of each hour of the day from the whole, its neighbours helping, believed as far as it is known."""
    middle = float(np.median(logs))
    own, count = np.zeros(24), np.zeros(24)
    for which in range(24):
        near = logs[np.isin(hour, [(which - 1) % 24, which, (which + 1) % 24])]
        count[which] = len(near)
        own[which] = np.median(near) - middle if len(near) else 0.0
    return np.asarray(own * count / (count + 12.0))


def _digits(error: float, past: Floats) -> float:
    """Decimal digits of the chance of an error at least this far on its side, from the past errors.

    The largest tenth of the past errors on that side is fitted with a generalized Pareto distribution by its quantiles,
    which one old incident cannot bend; its shape leans on 0.2, a tail as heavy as a Student's with five degrees.
    """
    past = past[np.isfinite(past)]
    if len(past) < _WARM_UP:
        return 0.0
    side = np.sign(error) * past
    size = abs(error)
    if np.count_nonzero(side >= size) > 0.1 * len(side) or size <= _LEAST_SPREAD:
        return 0.0
    threshold = min(max(float(np.quantile(side, 0.9)), _LEAST_SPREAD), size)
    beyond = side[side > threshold] - threshold
    if len(beyond) < 5:
        spread = max(float(np.quantile(np.abs(past), 0.9)), _LEAST_SPREAD) / 2.3
        shape, scale, share = 0.2, spread, max(len(beyond), 1) / len(past)
    else:
        middle, far = np.quantile(beyond, [0.5, 0.75])
        # Pickands' estimator: exact for a generalized Pareto distribution, and blind to the farthest quarter.
        steep = np.log2(max(float(far - middle), 1e-9) / max(float(middle), 1e-9))
        shape = float(np.clip((len(beyond) * steep + 40 * 0.2) / (len(beyond) + 40), 0.05, 0.5))
        scale = max(float(middle) * shape / (2.0**shape - 1.0), _LEAST_SPREAD / 3)
        share = len(beyond) / len(past)
    return float(-np.log10(share) + np.log10(1.0 + shape * (size - threshold) / scale) / shape)
