"""Accounts that a platform no longer gives to a good token: a permission is gone, a customer is disabled or closed.

Asking again rarely helps, but platforms also refuse by mistake, and all accounts at once where it is our app that lacks
something. So an account is given up when two regular runs in a row got nothing of it but refusals, while the platform
gave others: it is paused, and its owner told, once. The daily token check looks at it again and resumes it when it is
given again; connecting it again does the same at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from aae.errors import AaeError, Skip
from aae.jobs.context import Stores
from aae.jobs.telling import tell_owner
from aae.model import Account, Granularity, Slice, Token
from aae.notify import messages
from aae.platforms.base import Connector, RemoteAccount
from aae.storage import accounts, fetches
from aae.storage.entities import lock_account
from aae.storage.transact import transact

REFUSED_FOR = timedelta(hours=5)
"""From the first refusal on; regular runs are six hours apart, tries of one run are not."""

OTHERS_WITHIN = timedelta(hours=1)
"""Before the first refusal: in the same run, where other accounts may have had their turn earlier."""

ANOTHER_CURRENCY = "currency"
"""The code of our own refusal, which no owner can help and no platform has said."""


async def described(connector: Connector, account: Account, token: Token) -> RemoteAccount:
    """What the platform says of the account now, by whichever way the token reaches it.

    Raises:
        Skip: by none, or it counts in another currency than the amounts that are stored.
    """
    try:
        remote = await connector.describe(account.external_id, token, account.login_customer_id)
    except Skip:
        known = await connector.accounts(token)
        elsewhere = [one for one in known if one.external_id == account.external_id]
        if not elsewhere:
            raise
        remote = elsewhere[0]
    if remote.currency != account.currency:
        raise Skip(
            f"{account.platform.capitalize()} counts {account} in {remote.currency} now, its stored amounts are in "
            f"{account.currency}; amounts of two currencies are not put side by side.",
            code=ANOTHER_CURRENCY,
        )
    return remote


async def probe(connector: Connector, account: Account, token: Token, *, now: datetime) -> None:
    """See that everything that a fetch reads can be read.

    Raises:
        Skip: it still cannot.
    """
    remote = await described(connector, account, token)
    reached, today = replace(account, login_customer_id=remote.login_customer_id), account.local_day(now)
    await connector.list_entities(reached, token)
    piece = Slice(account.id, Granularity.DAILY, today, today)
    async for _ in connector.fetch_metrics(reached, token, piece):
        pass
    await connector.fetch_totals(reached, token, piece)


def only_refusals(errors: Sequence[AaeError]) -> bool:
    """Whether the platform refused the account and nothing else went wrong; amid an outage refusals say little."""
    return bool(errors) and all(isinstance(one, Skip) and one.code != ANOTHER_CURRENCY for one in errors)


def give_up(
    stores: Stores, account: Account, token: Token, error: AaeError, *, now: datetime, run_id: str | None
) -> bool:
    """Pause an account of which a regular run got nothing but refusals, and tell its owner once, in one transaction.

    False if it is too early to say, or if the account is not active any more or has another token.
    """

    def log(connection: Connection, outcome: str) -> None:
        accounts.log_refresh(
            connection,
            account_id=account.id,
            at=now,
            outcome=outcome,
            token_version=token.version,
            error_code=error.code,
            detail=str(error),
            run_id=run_id,
        )

    def work(connection: Connection) -> bool:
        lock_account(connection, account.id)
        if accounts.is_logged(
            connection, account.id, at=now, outcome=accounts.REFUSED, token_version=token.version, run_id=run_id
        ):
            return True  # this transaction has happened before
        since = accounts.refused_since(connection, account.id)
        if since is None:
            log(connection, accounts.DOUBTED)
        if since is None or now - since < REFUSED_FOR:
            return False
        if not fetches.platform_gave_others(connection, account, since - OTHERS_WITHIN):
            return False
        if not accounts.pause_refused(connection, account.id, str(error), token_version=token.version, now=now):
            return False
        log(connection, accounts.REFUSED)
        note = messages.access_lost(account, reason=str(error), at=now, public_url=stores.settings.public_url)
        tell_owner(connection, account, note, now=now)
        return True

    return transact(stores.engine, work)
