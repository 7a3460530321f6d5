"""Meta's ad accounts, campaigns, ad sets and ads."""

from __future__ import annotations

import json
from typing import Any, Final

import pandas as pd

from aae.model import MICROS, Account, Level, Token
from aae.platforms.base import RemoteAccount
from aae.platforms.columns import EntityColumns
from aae.platforms.meta.wire import Graph, read
from aae.platforms.shapes import Fields
from aae.platforms.transport import Caller, Purpose

_ACCOUNT_FIELDS: Final = "account_id,name,currency,timezone_name"

_WITHOUT_MINOR_UNIT: Final = frozenset(["CLP", "COP", "CRC", "HUF", "ISK", "IDR", "JPY", "KRW", "PYG", "TWD", "VND"])
"""Currencies whose budgets Meta counts in whole units; all others in hundredths. Meta's own table, not ISO 4217's."""

_STATUSES: Final = ("ACTIVE", "PAUSED", "DELETED", "ARCHIVED", "IN_PROCESS", "WITH_ISSUES")
_AD_SET_STATUSES: Final = (*_STATUSES, "CAMPAIGN_PAUSED")
AD_STATUSES: Final = (
    *_AD_SET_STATUSES,
    *("ADSET_PAUSED", "DISAPPROVED", "PENDING_REVIEW", "PREAPPROVED", "PENDING_BILLING_INFO"),
)
"""Asked for by name, because deleted and archived ones are left out otherwise."""

_STATUS: Final = {
    "ACTIVE": "active",
    "PAUSED": "paused",
    "CAMPAIGN_PAUSED": "paused",
    "ADSET_PAUSED": "paused",
    "DELETED": "deleted",
    "ARCHIVED": "archived",
}

_EDGES: Final = (
    (Level.CAMPAIGN, "campaigns", "id,name,effective_status,daily_budget,objective", _STATUSES, None),
    (Level.AD_SET, "adsets", "id,name,effective_status,daily_budget,campaign_id", _AD_SET_STATUSES, "campaign_id"),
    (Level.AD, "ads", "id,name,effective_status,adset_id", AD_STATUSES, "adset_id"),
)


async def accounts(graph: Graph, token: Token) -> list[RemoteAccount]:
    """Every ad account that the token's person can see."""
    found: dict[str, RemoteAccount] = {}
    fields, caller = {"fields": _ACCOUNT_FIELDS}, Caller(token.access)
    async for page in graph.pages("me/adaccounts", fields, caller, Purpose.LISTING, row=Fields):
        for row in page:
            account = _remote_account(row)
            found[account.external_id] = account
    return list(found.values())


async def describe(graph: Graph, external_id: str, token: Token) -> RemoteAccount:
    """One ad account by its bare id."""
    caller = Caller(token.access, external_id)
    row = await graph.get(f"act_{external_id}", {"fields": _ACCOUNT_FIELDS}, caller, Purpose.LISTING, fresh=True)
    return _remote_account(row)


async def list_entities(graph: Graph, account: Account, token: Token) -> pd.DataFrame:
    """Campaigns, ad sets and ads in the columns of ``ENTITY_COLUMNS``, deleted ones too.

    The status is the effective one: an active ad in a paused campaign is paused.
    """
    found, caller = EntityColumns(), Caller.of(account, token)
    for level, edge, fields, statuses, parent in _EDGES:
        params = {"fields": fields, "effective_status": json.dumps(statuses)}
        path = f"act_{account.external_id}/{edge}"
        async for page in graph.pages(path, params, caller, Purpose.LISTING, row=Fields):
            for row in page:
                found.level.append(level)
                found.external_id.append(read.id(row.get("id"), "id"))
                found.parent_external_id.append(read.id(row.get(parent), parent) if parent else None)
                found.name.append(read.text(row.get("name", ""), "name"))
                found.status.append(_status(row.get("effective_status")))
                found.daily_budget_micros.append(_budget(row.get("daily_budget"), account.currency))
                found.channel.append(_channel(row.get("objective")))
    return found.frame()


def _remote_account(row: dict[str, Any]) -> RemoteAccount:
    return RemoteAccount(
        external_id=read.id(row.get("account_id"), "account_id"),
        name=read.text(row.get("name", ""), "name"),
        currency=read.currency(row.get("currency"), "currency"),
        timezone=read.timezone(row.get("timezone_name"), "timezone_name"),
    )


def _status(value: object) -> str:
    return _STATUS.get(value, "other") if isinstance(value, str) else "other"


def _channel(value: object) -> str | None:
    return None if value is None else read.text(value, "objective")[:64]


def _budget(value: object, currency: str) -> int | None:
    """Micros of a daily budget, which Meta tells in minor units; 0 stands for none."""
    if value is None:
        return None
    minor = read.count(value, "daily_budget")
    micros = minor * MICROS // (1 if currency in _WITHOUT_MINOR_UNIT else 100)
    if micros >= 10**18:
        raise read.bug("too large an amount as daily_budget")
    return micros or None
