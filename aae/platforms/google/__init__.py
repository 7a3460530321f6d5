"""The Google Ads API (REST, v26): ``GoogleConnector`` puts the folder's parts together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pandas as pd

from aae.model import Account, Granularity, Platform, Slice, Token, Totals
from aae.platforms.base import RemoteAccount, Rules, TokenCheck
from aae.platforms.google import auth, listing, reports
from aae.platforms.google.wire import Ads
from aae.platforms.transport import Transport
from aae.settings import GoogleSettings


class GoogleConnector:
    """Google as a :class:`~aae.platforms.base.Connector`."""

    platform = Platform.GOOGLE

    def __init__(self, settings: GoogleSettings, transport: Transport) -> None:
        self._ads = Ads(settings, transport)
        self.rules = Rules(
            restatement_days=30,
            slice_days={Granularity.DAILY: 30, Granularity.HOURLY: 7},
            attribution="by click",
        )

    async def check_token(self, account: Account, token: Token, now: datetime, *, within_hours: float) -> TokenCheck:
        """Refresh the token if it expires soon, probe it otherwise."""
        return await auth.check_token(self._ads, account, token, now, within_hours)

    async def accounts(self, token: Token) -> list[RemoteAccount]:
        """Every ad account that the token reaches."""
        return await listing.accounts(self._ads, token)

    async def describe(self, external_id: str, token: Token, login_customer_id: str | None) -> RemoteAccount:
        """One ad account's name, currency and time zone."""
        return await listing.describe(self._ads, external_id, token, login_customer_id)

    async def list_entities(self, account: Account, token: Token) -> pd.DataFrame:
        """All campaigns, ad sets and ads."""
        return await listing.list_entities(self._ads, account, token)

    def fetch_metrics(self, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
        """The slice's rows by ad, or by campaign where there are no ads."""
        return reports.fetch_metrics(self._ads, account, token, piece)

    async def fetch_totals(self, account: Account, token: Token, piece: Slice) -> Totals:
        """The account's own sums."""
        return await reports.fetch_totals(self._ads, account, token, piece)
