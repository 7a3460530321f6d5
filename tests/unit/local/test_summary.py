"""Which of the planted incidents count as found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aae.local.summary import Found, compare

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def planted(level: str = "campaign", entity: str = "c1") -> dict[str, Any]:
    return {"user": "a@example.com", "platform": "meta", "account": "1", "level": level, "entity": entity}


def found(**changes: Any) -> Found:
    given: dict[str, Any] = {
        "user": "a@example.com",
        "platform": "meta",
        "account": "1",
        "entity": "c1",
        "parent": None,
        "grandparent": None,
        "entity_name": "Winter",
        "level": "campaign",
        "metric": "roas",
        "severity": "high",
        "opened_at": NOW,
    }
    return Found(**(given | changes))


@pytest.mark.parametrize(
    "hit",
    [
        found(),
        found(entity="s1", parent="c1", level="ad_set"),
        found(entity="a1", parent="s1", grandparent="c1", level="ad"),
        found(entity=None, level="account"),
        found(account=None, platform=None, entity=None, level="user"),
    ],
    ids=["itself", "an ad set below", "an ad below", "the whole account", "all of the user's accounts"],
)
def test_it_is_found_by_an_incident_on_it_below_it_or_around_it(hit: Found) -> None:
    comparison = compare([planted()], [hit])
    assert (len(comparison.matched), comparison.missed, comparison.extra) == (1, (), ())


@pytest.mark.parametrize(
    "other",
    [found(entity="c2"), found(entity="s2", parent="c2"), found(account="2"), found(platform="google")],
    ids=["another campaign", "an ad set of another", "another account", "another platform"],
)
def test_it_is_missed_by_an_incident_elsewhere(other: Found) -> None:
    comparison = compare([planted()], [other])
    assert (comparison.matched, len(comparison.missed), comparison.extra) == ((), 1, (other,))
