"""Keeping one account's token alive, and telling its owner once when only they can help.

A token is refreshed by its platform's own means. Three things can come out: it is good (perhaps new), it is dead
for good, or nobody can tell right now. Only the second pauses the account, and only if the token is still the one we
looked at: compare-and-set on ``token_version`` decides every race with a re-authorization or another worker.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from aae.errors import Reauthorize, Retry
from aae.jobs.context import Context, Stores
from aae.jobs.telling import tell
from aae.model import Account, AccountStatus, Token
from aae.notify import messages
from aae.platforms.base import TokenCheck, TokenState
from aae.storage import accounts
from aae.storage.transact import look, transact

EXPIRING_HOURS = 24.0
"""A token that expires within this counts as failing (requirement 2.1)."""

USABLE_HOURS = 10 / 60
"""A fetch wants a token that outlives its first calls; Google's live one hour."""


@dataclass(frozen=True, slots=True)
class TokenResult:
    """What came of one check. ``outcome`` is as in table ``token_refreshes``, or that of :func:`preview`."""

    account_id: int
    account: str
    name: str
    platform: str
    outcome: str
    expires_at: datetime | None
    detail: str | None = None


async def check_account(
    context: Context, account: Account, *, now: datetime, run_id: str | None, within_hours: float = EXPIRING_HOURS
) -> TokenResult:
    """Check one account's token, refresh it if it expires soon, and record what happened.

    Raises:
        Retry: nobody can tell right now; recorded, the account untouched, worth trying again.
    """
    token = await asyncio.to_thread(_read, context, account)
    try:
        checked = await context.connectors[account.platform].check_token(account, token, now, within_hours=within_hours)
    except Reauthorize as error:
        return await asyncio.to_thread(declare_dead, context, account, token, error, now=now, run_id=run_id)
    except Retry as error:
        await asyncio.to_thread(_log_failure, context, account, token, error, now=now, run_id=run_id)
        raise
    return await asyncio.to_thread(_keep, context, account, token, checked, now=now, run_id=run_id)


def _keep(
    context: Context, account: Account, before: Token, checked: TokenCheck, *, now: datetime, run_id: str | None
) -> TokenResult:
    """Store the token that a check came back with, log it, and notice a recovery."""

    def replace_token(connection: Connection) -> bool:
        # In the log already: this transaction has happened before, and nobody was told.
        return accounts.is_logged(
            connection, account.id, at=now, outcome="refreshed", token_version=before.version + 1, run_id=run_id
        ) or accounts.replace_token(
            connection, context.vault, account.id, checked.token, expected_version=before.version, now=now
        )

    def work(connection: Connection) -> tuple[str, bool]:
        outcome, version = str(checked.state), before.version
        if checked.state is TokenState.REFRESHED:
            outcome, version = ("refreshed", version + 1) if replace_token(connection) else ("lost_race", version)
        accounts.log_refresh(
            connection,
            account_id=account.id,
            at=now,
            outcome=outcome,
            token_version=version,
            expires_at=checked.token.expires_at,
            run_id=run_id,
        )
        return outcome, outcome != "lost_race" and _notice_recovery(
            connection, context, account, version, now=now, run_id=run_id
        )

    # A refreshed token exists nowhere else yet, and the old one may be dead: this write is tried for long.
    outcome, recovered = transact(context.engine, work)
    return _result(account, "recovered" if recovered else outcome, checked.token.expires_at)


def preview(stores: Stores, account: Account, *, now: datetime, within_hours: float) -> TokenResult:
    """What a check would do with the token (``would_refresh`` or ``would_probe``); nothing is asked or stored."""
    token = _read(stores, account)
    soon = token.expires_at is not None and token.expires_at <= now + timedelta(hours=within_hours)
    return _result(account, "would_refresh" if soon else "would_probe", token.expires_at)


async def usable_token(context: Context, account: Account, *, now: datetime, run_id: str | None) -> Token:
    """The account's token, checked first if it ends within minutes or if its owner still believes it dead.

    Raises:
        Reauthorize: it is dead; the account is paused and its owner told.
        Retry: it needs a refresh and the platform cannot be reached.
    """
    token, believed_dead = await asyncio.to_thread(_read_with_doubt, context, account)
    lasts = token.expires_at is None or (token.expires_at - now).total_seconds() > USABLE_HOURS * 3600
    return token if lasts and not believed_dead else await renewed_token(context, account, now=now, run_id=run_id)


async def renewed_token(context: Context, account: Account, *, now: datetime, run_id: str | None) -> Token:
    """The account's token after a check, which refreshes it if it ends within minutes or its platform refuses it.

    Raises:
        Reauthorize, Retry: as :func:`usable_token`.
    """
    result = await check_account(context, account, now=now, run_id=run_id, within_hours=USABLE_HOURS)
    if result.outcome == "permanent_failure":
        raise Reauthorize(result.detail or "The account must be connected again.")
    return await asyncio.to_thread(_read, context, account)


def declare_dead(
    context: Context, account: Account, token: Token, error: Reauthorize, *, now: datetime, run_id: str | None
) -> TokenResult:
    """Pause the account and tell its owner, once, in one transaction; unless ``token`` has been replaced meanwhile."""
    expired = token.expires_at is not None and token.expires_at <= now
    status = AccountStatus.EXPIRED if expired else AccountStatus.REVOKED

    def work(connection: Connection) -> bool:
        if not accounts.pause_dead(connection, account.id, status, str(error), token_version=token.version, now=now):
            return False
        if accounts.last_failed_version(connection, account.id) != token.version:
            accounts.log_refresh(
                connection,
                account_id=account.id,
                at=now,
                outcome="permanent_failure",
                token_version=token.version,
                expires_at=token.expires_at,
                error_code=error.code,
                detail=str(error),
                run_id=run_id,
            )
            note = messages.token_expired(
                account, reason=str(error), token_version=token.version, public_url=context.settings.public_url
            )
            _tell_owner(connection, account, note, now=now)
        return True

    if not transact(context.engine, work):
        return _result(account, "lost_race", None, "The account was connected again meanwhile.")
    return _result(account, "permanent_failure", token.expires_at, str(error))


def _notice_recovery(
    connection: Connection, context: Context, account: Account, version: int, *, now: datetime, run_id: str | None
) -> bool:
    """The token works: if its owner had been told that it was dead, resume the account and say so, once."""
    failed_version = accounts.last_failed_version(connection, account.id)
    if failed_version is None or version <= failed_version:
        return False
    if not accounts.resume(connection, account.id, token_version=version, now=now):
        return False
    accounts.log_refresh(
        connection, account_id=account.id, at=now, outcome="recovered", token_version=version, run_id=run_id
    )
    note = messages.token_recovered(account, token_version=failed_version, public_url=context.settings.public_url)
    _tell_owner(connection, account, note, now=now)
    return True


def _tell_owner(connection: Connection, account: Account, note: messages.Notification, *, now: datetime) -> None:
    (owner,) = accounts.list_users(connection, ids=[account.user_id], active_only=False)
    tell(connection, owner, note, now=now)


def _read(stores: Stores, account: Account) -> Token:
    return look(stores.engine, accounts.read_token, stores.vault, account.id)


def _read_with_doubt(stores: Stores, account: Account) -> tuple[Token, bool]:
    """The token, and whether its owner was told that it is dead and not yet that it works again."""

    def work(connection: Connection) -> tuple[Token, bool]:
        token = accounts.read_token(connection, stores.vault, account.id)
        return token, accounts.last_failed_version(connection, account.id) is not None

    return look(stores.engine, work)


def _log_failure(
    stores: Stores, account: Account, token: Token, error: Retry, *, now: datetime, run_id: str | None
) -> None:
    transact(
        stores.engine,
        accounts.log_refresh,
        account_id=account.id,
        at=now,
        outcome="transient_failure",
        token_version=token.version,
        expires_at=token.expires_at,
        error_code=error.code,
        detail=str(error),
        run_id=run_id,
    )


def _result(account: Account, outcome: str, expires_at: datetime | None, detail: str | None = None) -> TokenResult:
    return TokenResult(account.id, str(account), account.name, account.platform, outcome, expires_at, detail)
