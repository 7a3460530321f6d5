"""TikTok's advertiser accounts, campaigns, ad groups and ads."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from aae.errors import Skip
from aae.model import Account, Level, Token
from aae.platforms.base import RemoteAccount
from aae.platforms.columns import EntityColumns
from aae.platforms.shapes import Fields
from aae.platforms.tiktok.auth import advertisers
from aae.platforms.tiktok.wire import Business, Page, groups, read
from aae.platforms.transport import Caller, Purpose

_INFO_FIELDS: Final = ("advertiser_id", "name", "currency", "timezone", "display_timezone")
_INFO_IDS: Final = 100

_LEVELS: Final = (
    (Level.CAMPAIGN, "campaign", None),
    (Level.AD_SET, "adgroup", "campaign_id"),
    (Level.AD, "ad", "adgroup_id"),
)
_EVERYTHING: Final = {"primary_status": "STATUS_ALL"}
"""Deleted ones are left out otherwise."""

_DAILY_MODES: Final = ("BUDGET_MODE_DAY", "BUDGET_MODE_DYNAMIC_DAILY_BUDGET")


async def accounts(business: Business, token: Token) -> list[RemoteAccount]:
    """Every advertiser account that the token reaches."""
    caller = Caller(token.access)
    ids = await advertisers(business, caller, Purpose.LISTING)
    found: dict[str, RemoteAccount] = {}
    for chunk in groups(list(dict.fromkeys(ids)), _INFO_IDS):
        found |= {account.external_id: account for account in await _info(business, chunk, caller)}
    return list(found.values())


async def describe(business: Business, external_id: str, token: Token) -> RemoteAccount:
    """One advertiser account.

    Raises:
        Skip: TikTok knows no such account, or not for this token.
    """
    for account in await _info(business, [external_id], Caller(token.access, external_id)):
        if account.external_id == external_id:
            return account
    raise Skip(f"TikTok tells nothing about account {external_id}.", code="not-listed")


async def list_entities(business: Business, account: Account, token: Token) -> pd.DataFrame:
    """Campaigns, ad groups and ads in the columns of ``ENTITY_COLUMNS``, deleted ones too."""
    found, caller = EntityColumns(), Caller.of(account, token)
    for level, kind, parent in _LEVELS:
        params = {"advertiser_id": account.external_id, "filtering": _EVERYTHING}
        async for page in business.pages(f"{kind}/get", params, caller, Purpose.LISTING, row=Fields):
            for row in page:
                found.level.append(level)
                found.external_id.append(read.id(row.get(f"{kind}_id"), f"{kind}_id"))
                found.parent_external_id.append(read.id(row.get(parent), parent) if parent else None)
                found.name.append(read.text(row.get(f"{kind}_name", ""), f"{kind}_name"))
                found.status.append(_status(row))
                found.daily_budget_micros.append(_budget(row))
                found.channel.append(_channel(row) if level is Level.CAMPAIGN else None)
    return found.frame()


async def _info(business: Business, ids: list[str], caller: Caller) -> list[RemoteAccount]:
    params = {"advertiser_ids": ids, "fields": _INFO_FIELDS}
    page = await business.get("advertiser/info", params, caller, Purpose.LISTING, shape=Page[Fields], fresh=True)
    return [_remote_account(row) for row in page.rows]


def _remote_account(row: dict[str, Any]) -> RemoteAccount:
    """``timezone`` may be like ``Etc/GMT+8``, which knows no daylight saving; ``display_timezone`` is the real one."""
    return RemoteAccount(
        external_id=read.id(row.get("advertiser_id"), "advertiser_id"),
        name=read.text(row.get("name", ""), "name"),
        currency=read.currency(row.get("currency"), "currency"),
        timezone=read.timezone(row.get("display_timezone") or row.get("timezone"), "display_timezone"),
    )


def _status(row: dict[str, Any]) -> str:
    """From the secondary status, which knows of deletion and of parents, else from the switch that people flip."""
    secondary, switch = row.get("secondary_status"), row.get("operation_status")
    if isinstance(secondary, str) and secondary.endswith(("_DELETE", "_DELETED")):
        return "deleted"
    if isinstance(secondary, str) and secondary.endswith("_DISABLE"):
        return "paused"
    return {"ENABLE": "active", "DISABLE": "paused", "DELETE": "deleted", "FROZEN": "other"}.get(str(switch), "other")


def _budget(row: dict[str, Any]) -> int | None:
    """Micros of a daily budget, told in major units; 0 stands for none, a lifetime budget is not daily."""
    if row.get("budget_mode") not in _DAILY_MODES or row.get("budget") is None:
        return None
    return read.rounded(row["budget"], "budget") or None


def _channel(row: dict[str, Any]) -> str | None:
    value = row.get("objective_type")
    return None if value is None else read.text(value, "objective_type")[:64]
