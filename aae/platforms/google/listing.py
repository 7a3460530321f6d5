"""Google's customers, campaigns, ad groups and ads."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from aae.errors import Skip
from aae.model import Account, Level, Token
from aae.platforms.base import RemoteAccount
from aae.platforms.columns import EntityColumns
from aae.platforms.google.wire import Ads, read
from aae.platforms.shapes import Fields
from aae.platforms.transport import Caller, Purpose

_CLIENTS: Final = (
    "SELECT customer_client.id, customer_client.descriptive_name, customer_client.currency_code, "
    "customer_client.time_zone, customer_client.manager, customer_client.status FROM customer_client"
)
"""The accounts below a manager and itself; of an account that is no manager, itself alone."""

_CAMPAIGNS: Final = (
    "SELECT campaign.id, campaign.name, campaign.status, campaign.advertising_channel_type, "
    "campaign_budget.amount_micros, campaign_budget.period, campaign_budget.explicitly_shared FROM campaign"
)
_AD_GROUPS: Final = "SELECT ad_group.id, ad_group.name, ad_group.status, campaign.id FROM ad_group"
_ADS: Final = "SELECT ad_group_ad.ad.id, ad_group_ad.ad.name, ad_group_ad.status, ad_group.id FROM ad_group_ad"
_STATUS: Final = {"ENABLED": "active", "PAUSED": "paused", "REMOVED": "deleted"}


async def accounts(ads: Ads, token: Token) -> list[RemoteAccount]:
    """Every enabled account that the token reaches, directly or through managers; managers themselves have no ads.

    One reached by several ways is there once, by the way that needs no manager if there is one.
    """
    found: dict[str, RemoteAccount] = {}
    for root in await ads.reachable(Caller(token.access), Purpose.LISTING):
        try:
            clients = await _clients(ads, Caller(token.access, root, login=root))
        except Skip:  # one disabled customer must not hide the others
            continue
        for client in clients:
            account = _remote_account(client, root)
            if account is not None and (account.external_id not in found or account.login_customer_id is None):
                found[account.external_id] = account
    return list(found.values())


async def describe(ads: Ads, external_id: str, token: Token, login_customer_id: str | None) -> RemoteAccount:
    """One account.

    Raises:
        Skip: it is a manager, or not enabled.
    """
    caller = Caller(token.access, external_id, login=login_customer_id)
    for client in await _clients(ads, caller):
        account = _remote_account(client, login_customer_id or external_id)
        if account is not None and account.external_id == external_id:
            return account
    raise Skip(f"Google customer {external_id} is a manager or not enabled: it has no ads of its own.", code="no-ads")


async def list_entities(ads: Ads, account: Account, token: Token) -> pd.DataFrame:
    """Campaigns, ad groups and ads in the columns of ``ENTITY_COLUMNS``; removed ones are never left out by Google.

    A budget shared by several campaigns belongs to none of them and is missing.
    """
    found, caller = EntityColumns(), Caller.of(account, token)
    for rows in await ads.search(_CAMPAIGNS, caller, Purpose.LISTING, row=Fields):
        for row in rows:
            campaign = part(row, "campaign")
            _add(found, Level.CAMPAIGN, campaign, campaign.get("status"), None)
            found.daily_budget_micros.append(_budget(row.get("campaignBudget")))
            found.channel.append(_channel(campaign))
    for rows in await ads.search(_AD_GROUPS, caller, Purpose.LISTING, row=Fields):
        for row in rows:
            group = part(row, "adGroup")
            _add(found, Level.AD_SET, group, group.get("status"), part(row, "campaign"))
            found.daily_budget_micros.append(None)
            found.channel.append(None)
    for rows in await ads.search(_ADS, caller, Purpose.LISTING, row=Fields):
        for row in rows:
            ad = part(row, "adGroupAd")
            _add(found, Level.AD, part(ad, "ad"), ad.get("status"), part(row, "adGroup"))
            found.daily_budget_micros.append(None)
            found.channel.append(None)
    return found.frame()


def part(row: dict[str, Any], name: str) -> dict[str, Any]:
    """One resource of a result row."""
    return read.record(row.get(name), name)


def _add(
    found: EntityColumns, level: Level, entity: dict[str, Any], status: object, parent: dict[str, Any] | None
) -> None:
    external_id = read.id(entity.get("id"), "id")
    found.level.append(level)
    found.external_id.append(external_id)
    found.parent_external_id.append(read.id(parent.get("id"), "id") if parent is not None else None)
    found.name.append(read.text(entity.get("name", ""), "name") or f"{level.replace('_', ' ')} {external_id}")
    found.status.append(_STATUS.get(status, "other") if isinstance(status, str) else "other")


def _budget(value: object) -> int | None:
    if value is None:
        return None
    budget = read.record(value, "campaignBudget")
    if budget.get("explicitlyShared") or budget.get("period", "DAILY") != "DAILY" or budget.get("amountMicros") is None:
        return None
    return read.micros(budget["amountMicros"], "amountMicros") or None


def _channel(campaign: dict[str, Any]) -> str | None:
    value = campaign.get("advertisingChannelType")
    return None if value is None else read.text(value, "advertisingChannelType")[:64]


async def _clients(ads: Ads, caller: Caller) -> list[dict[str, Any]]:
    found = await ads.search(_CLIENTS, caller, Purpose.LISTING, row=Fields, fresh=True)
    return [part(row, "customerClient") for rows in found for row in rows]


def _remote_account(client: dict[str, Any], root: str) -> RemoteAccount | None:
    """An enabled account that is no manager; it is reached through ``root`` unless it is that itself."""
    if client.get("manager") or client.get("status", "ENABLED") != "ENABLED":
        return None
    external_id = read.id(client.get("id"), "id")
    return RemoteAccount(
        external_id=external_id,
        name=read.text(client.get("descriptiveName", ""), "descriptiveName"),
        currency=read.currency(client.get("currencyCode"), "currencyCode"),
        timezone=read.timezone(client.get("timeZone"), "timeZone"),
        login_customer_id=None if root == external_id else root,
    )
