"""The Meta Marketing API (Graph API v26): ``MetaConnector`` puts the folder's parts together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pandas as pd

from aae.model import Account, Granularity, Platform, Slice, Token, Totals
from aae.platforms.base import RemoteAccount, Rules, TokenCheck
from aae.platforms.meta import auth, listing, reports
from aae.platforms.meta.wire import Graph
from aae.platforms.transport import Transport
from aae.settings import MetaSettings


class MetaConnector:
    """Meta as a :class:`~aae.platforms.base.Connector`."""

    platform = Platform.META

    def __init__(self, settings: MetaSettings, transport: Transport) -> None:
        self._graph = Graph(settings, transport)
        self.rules = Rules(
            restatement_days=28,
            slice_days={Granularity.DAILY: 7, Granularity.HOURLY: 1},
            attribution=",".join(settings.attribution_windows)[:64],
        )

    async def check_token(self, account: Account, token: Token, now: datetime, *, within_hours: float) -> TokenCheck:
        """Exchange the token if it expires soon, probe it otherwise."""
        return await auth.check_token(self._graph, account, token, now, within_hours)

    async def accounts(self, token: Token) -> list[RemoteAccount]:
        """Every ad account that the token reaches."""
        return await listing.accounts(self._graph, token)

    async def describe(self, external_id: str, token: Token, login_customer_id: str | None) -> RemoteAccount:
        """One ad account's name, currency and time zone."""
        return await listing.describe(self._graph, external_id, token)

    async def list_entities(self, account: Account, token: Token) -> pd.DataFrame:
        """All campaigns, ad sets and ads."""
        return await listing.list_entities(self._graph, account, token)

    def fetch_metrics(self, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
        """The slice's rows by ad."""
        return reports.fetch_metrics(self._graph, account, token, piece)

    async def fetch_totals(self, account: Account, token: Token, piece: Slice) -> Totals:
        """The account's own sums."""
        return await reports.fetch_totals(self._graph, account, token, piece)
