"""The hot window of one account as columns: what fetching publishes and what detection and reporting read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import pandas as pd

from aae.model import Account

ENTITIES: Final = {
    "entity_id": "int64",
    "level": "str",
    "external_id": "str",
    "name": "str",
    "status": "str",
    "campaign_id": "int64",  # entity_id of the campaign above, or itself
    "ad_set_id": "Int64",  # entity_id of the ad set above, or itself; missing on campaigns
    "daily_budget_micros": "Int64",
    "channel": "str",
}
DAILY: Final = {
    "local_date": "datetime64[s]",
    "entity_id": "int64",  # a leaf: an ad, or a campaign that has no ads
    "impressions": "int64",
    "clicks": "int64",
    "spend_micros": "int64",
    "conversions_micros": "Int64",  # missing: the platform does not tell
    "revenue_micros": "Int64",
}
HOURLY: Final = {
    "utc_start": "datetime64[s]",  # naive, UTC
    "local_date": "datetime64[s]",
    "local_hour": "int8",
    "entity_id": "int64",
    "impressions": "int64",
    "clicks": "int64",
    "spend_micros": "int64",
    "conversions_micros": "Int64",
    "revenue_micros": "Int64",
}


@dataclass(frozen=True, slots=True)
class Reach:
    """What frames hold: all from these local days on, as the account's fetches up to ``fetch_id`` left it (0: none)."""

    daily_since: date
    hourly_since: date
    fetch_id: int

    def continues(self, before: Reach) -> bool:
        """Whether frames of ``before`` are such ones of an earlier moment, so that what came since is all they lack."""
        same_days = (before.daily_since, before.hourly_since) == (self.daily_since, self.hourly_since)
        return same_days and before.fetch_id <= self.fetch_id


@dataclass(frozen=True, slots=True)
class AccountFrames:
    """One account's hot window.

    ``entities``, ``daily`` and ``hourly`` have exactly the columns of ``ENTITIES``, ``DAILY`` and ``HOURLY``, sorted by
    time and entity. ``version`` is the account's ``data_version`` when they were read. ``data_through`` (aware UTC) is
    when the numbers were last fetched in full, or None if never: what happened after it is unknown, not zero. With a
    ``reach`` they can be brought up to date instead of read anew.
    """

    account: Account
    version: int
    data_through: datetime | None
    entities: pd.DataFrame
    daily: pd.DataFrame
    hourly: pd.DataFrame
    reach: Reach | None = None
