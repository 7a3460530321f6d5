"""What every platform's connector offers; the three folders beside this file implement it.

A connector holds no token and no account: both come with each call, so one connector serves all accounts at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import pandas as pd

from aae.model import Account, Granularity, Platform, Slice, Token, Totals


@dataclass(frozen=True, slots=True)
class Rules:
    """How a platform wants to be asked.

    ``restatement_days``: how long it goes on changing past days. ``slice_days``: the longest slice of each granularity
    that one request may cover. ``attribution``: the windows that conversions and revenue are counted with.
    """

    restatement_days: int
    slice_days: dict[Granularity, int]
    attribution: str


@dataclass(frozen=True, slots=True)
class RemoteAccount:
    """An ad account as its platform describes it. ``timezone`` is an IANA name."""

    external_id: str
    name: str
    currency: str
    timezone: str
    login_customer_id: str | None = None


class TokenState(StrEnum):
    """What checking a token found; a dead one is raised as ``Reauthorize`` instead."""

    STILL_VALID = "still_valid"
    REFRESHED = "refreshed"


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """A token after checking: ``token`` is the one to use from now on (the same, or a new one to be stored)."""

    state: TokenState
    token: Token


class Connector(Protocol):
    """One ad platform.

    Every method may raise ``Throttled``, ``Retry``, ``Reauthorize``, ``Skip`` or ``Bug`` (aae.errors).
    """

    platform: Platform
    rules: Rules

    async def check_token(self, account: Account, token: Token, now: datetime, *, within_hours: float) -> TokenCheck:
        """Refresh the token by the platform's own means if it expires within ``within_hours``, probe it otherwise."""

    async def accounts(self, token: Token) -> list[RemoteAccount]:
        """Every ad account that the token reaches."""

    async def describe(self, external_id: str, token: Token, login_customer_id: str | None) -> RemoteAccount:
        """One ad account's name, currency and time zone."""

    async def list_entities(self, account: Account, token: Token) -> pd.DataFrame:
        """All campaigns, ad sets and ads, also deleted ones: the columns of ``ENTITY_COLUMNS``, parents first."""

    def fetch_metrics(self, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
        """The slice's rows at the finest level there is, page by page: the columns of ``METRIC_COLUMNS``.

        A key (entity, date, hour) occurs at most once over all pages.
        """

    async def fetch_totals(self, account: Account, token: Token, piece: Slice) -> Totals:
        """The platform's own sums for the whole account over the slice, to reconcile the rows with."""
