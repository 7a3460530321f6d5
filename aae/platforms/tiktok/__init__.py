"""The TikTok Business API (v1.3): ``TikTokConnector`` puts the folder's parts together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pandas as pd

from aae.model import Account, Platform, Slice, Token, Totals
from aae.platforms.base import RemoteAccount, Rules, TokenCheck
from aae.platforms.tiktok import auth, listing, reports
from aae.platforms.tiktok.wire import Business
from aae.platforms.transport import Transport
from aae.settings import TikTokSettings


class TikTokConnector:
    """TikTok as a :class:`~aae.platforms.base.Connector`."""

    platform = Platform.TIKTOK

    def __init__(self, settings: TikTokSettings, transport: Transport) -> None:
        self._business = Business(settings, transport)
        self.rules = Rules(
            restatement_days=28,
            slice_days=reports.SLICE_DAYS,
            attribution="advertiser's setting",
        )

    async def check_token(self, account: Account, token: Token, now: datetime, *, within_hours: float) -> TokenCheck:
        """Probe the token, which has no timed expiry."""
        return await auth.check_token(self._business, account, token)

    async def accounts(self, token: Token) -> list[RemoteAccount]:
        """Every ad account that the token reaches."""
        return await listing.accounts(self._business, token)

    async def describe(self, external_id: str, token: Token, login_customer_id: str | None) -> RemoteAccount:
        """One ad account's name, currency and time zone."""
        return await listing.describe(self._business, external_id, token)

    async def list_entities(self, account: Account, token: Token) -> pd.DataFrame:
        """All campaigns, ad sets and ads."""
        return await listing.list_entities(self._business, account, token)

    def fetch_metrics(self, account: Account, token: Token, piece: Slice) -> AsyncIterator[pd.DataFrame]:
        """The slice's rows by ad."""
        return reports.fetch_metrics(self._business, account, token, piece)

    async def fetch_totals(self, account: Account, token: Token, piece: Slice) -> Totals:
        """The account's own sums."""
        return await reports.fetch_totals(self._business, account, token, piece)
