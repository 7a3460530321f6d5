"""The nouns that cross boundaries: platforms, accounts, slices, tokens, and the columns of every frame.

Money travels as **micros**: an ``int`` of millionths of the account's currency, exactly the ``DECIMAL(18,6)``
of the tables without its point. Conversions, which Google counts in fractions, travel the same way. No float
ever holds money between the wire and the tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import SecretStr

MICROS: Final = 1_000_000
"""Millionths in one unit of currency (or one conversion)."""


class Platform(StrEnum):
    """The three ad platforms."""

    META = "meta"
    TIKTOK = "tiktok"
    GOOGLE = "google"


class AccountStatus(StrEnum):
    """The life of a connected ad account. Only ``ACTIVE`` ones are fetched, detected on and reported."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PAUSED = "paused"


class Level(StrEnum):
    """Levels of the advertising hierarchy, top down (Google's ad group and TikTok's adgroup are ``AD_SET``)."""

    CAMPAIGN = "campaign"
    AD_SET = "ad_set"
    AD = "ad"


class Granularity(StrEnum):
    """What one row of metrics covers, in the account's own time zone."""

    DAILY = "daily"
    HOURLY = "hourly"


@dataclass(frozen=True, slots=True)
class Token:
    """What authorizes us at a platform, decrypted. Never logged, never a task's parameter or result.

    ``expires_at`` (aware, UTC) is ``None`` where the platform sets no expiry. ``version`` is the row's
    ``token_version``, used for compare-and-set.
    """

    access: SecretStr
    refresh: SecretStr | None = None
    expires_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """One connected ad account, without its secrets.

    ``external_id`` is the platform's id as a bare string (no ``act_``, no hyphens); ``timezone`` an IANA name;
    ``login_customer_id`` the Google manager through which access goes, if any.
    """

    id: int
    user_id: int
    platform: Platform
    external_id: str
    name: str
    currency: str
    timezone: str
    status: AccountStatus = AccountStatus.ACTIVE
    login_customer_id: str | None = None

    @property
    def zone(self) -> ZoneInfo:
        """The account's time zone; it decides what "yesterday" is."""
        return ZoneInfo(self.timezone)

    def local_day(self, now: datetime) -> date:
        """The account's calendar day at the aware moment ``now``."""
        return now.astimezone(self.zone).date()

    def __str__(self) -> str:
        return f"{self.platform}:{self.external_id}"


@dataclass(frozen=True, slots=True)
class Slice:
    """The unit of work, retry, replacement and backfill: an account, a granularity, local days, both inclusive."""

    account_id: int
    granularity: Granularity
    since: date
    until: date

    def __post_init__(self) -> None:
        if self.until < self.since:
            raise ValueError(f"a slice cannot end ({self.until}) before it begins ({self.since})")

    @property
    def days(self) -> list[date]:
        """Every local day of the slice, in order."""
        return [self.since + timedelta(days=n) for n in range(len(self))]

    @property
    def halves(self) -> list[Slice]:
        """The slice in two, neither longer than it; one of a single day stays as it is."""
        if len(self) == 1:
            return [self]
        middle = self.since + timedelta(days=len(self) // 2)
        return [replace(self, until=middle - timedelta(days=1)), replace(self, since=middle)]

    def __len__(self) -> int:
        return (self.until - self.since).days + 1

    def __str__(self) -> str:
        return f"{self.granularity} {self.since}..{self.until}"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a slice; money and conversions in micros, ``None`` where the platform does not tell."""

    impressions: int = 0
    clicks: int = 0
    spend_micros: int = 0
    conversions_micros: int | None = None
    revenue_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """An operating-system process, by machine, id and start; ``born`` tells a reused id from the old one."""

    place: str
    pid: int
    born: int


# Columns of the frames that cross boundaries. Every frame has exactly these, in this order.

ENTITY_COLUMNS: Final = {
    "level": "str",  # a Level
    "external_id": "str",
    "parent_external_id": "str",  # missing (NaN) on campaigns
    "name": "str",
    "status": "str",  # lower case: active, paused, deleted, archived, other
    "daily_budget_micros": "Int64",  # missing where there is none, or where it belongs to the parent
    "channel": "str",  # the platform's own objective or channel type; missing below campaigns
}
"""One row per campaign, ad set and ad, parents before children: what ``Connector.list_entities`` returns."""

METRIC_COLUMNS: Final = {
    "level": "str",  # the finest the platform gives: "ad", or "campaign" where there are no ads
    "external_id": "str",  # of the entity of that level
    "ad_set_external_id": "str",  # missing at campaign level
    "campaign_external_id": "str",
    "local_date": "datetime64[s]",
    "local_hour": "Int8",  # missing on daily rows
    "impressions": "int64",
    "clicks": "int64",
    "spend_micros": "int64",
    "conversions_micros": "Int64",  # missing: the platform does not tell. Unknown is not zero
    "revenue_micros": "Int64",
}
"""One row per entity and local day (or hour): what ``Connector.fetch_metrics`` yields, page by page."""


def to_micros(value: Decimal | str | int) -> int:
    """Exact millionths of a decimal number: ``"52.31"`` is ``52_310_000``.

    Raises:
        ValueError: it is not a finite number, or has more than six decimals (rounding money is not ours to do).
    """
    try:
        scaled = Decimal(value).scaleb(6)
        whole = int(scaled)
    except (ArithmeticError, ValueError, OverflowError) as error:
        raise ValueError(f"not an amount: {value!r}") from error
    if scaled != whole:
        raise ValueError(f"more than six decimals: {value!r}")
    return whole


def from_micros(micros: int) -> Decimal:
    """The decimal amount with six places, the inverse of :func:`to_micros`."""
    return Decimal(micros).scaleb(-6)
