"""Days that are not what days usually are: restated, without any row, an hour shorter or longer."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np

from aae.model import Level
from aae.sandbox.entities import AdAccount
from aae.sandbox.ledger import NO_HOUR, Facts
from aae.sandbox.wire import Call

_SHORT: Final = 23
_LONG: Final = 25


def told(account: AdAccount, level: Level | None, since: date, until: date, call: Call, *, hourly: bool) -> Facts:
    """The account's facts at the call's moment, through the call's troubles. What the ledger says stays true."""
    facts = account.facts(level, since, until, call.now, hourly=hourly)
    if "no_rows" in call.troubles:
        facts = facts.take(slice(0, 0))
    if "restated" in call.troubles:
        today = call.now.astimezone(ZoneInfo(account.timezone)).date()
        facts = _restated(facts, today, call.troubles["restated"])
    if "clock_change" in call.troubles:
        facts = _changed(facts, call.troubles["clock_change"])
    return facts


def _restated(facts: Facts, today: date, value: float | None) -> Facts:
    """Whole multiples, so that the levels still add up."""
    factor = np.where(facts.day < today.toordinal(), 2 if value is None else int(value), 1)
    return replace(facts, **{name: getattr(facts, name) * factor for name in Facts.__slots__[3:]})


def _changed(facts: Facts, value: float | None) -> Facts:
    """Labels as on the day of a change: none for the hour left out, or one for two hours. The day's sum stays."""
    hours = _LONG if value is None else int(value)
    if hours == _SHORT:
        hour = np.where(facts.hour == 2, 3, facts.hour)
    else:
        hour = np.where(facts.hour >= 2, facts.hour - 1, facts.hour)
    return replace(facts, hour=np.where(facts.hour == NO_HOUR, NO_HOUR, hour)).merged(facts.day)
