"""Keeping one account's token alive, and telling its owner once when only they can help.

A token is refreshed by its platform's own means. Three things can come out: it is good (perhaps new), it is dead
for good, or nobody can tell right now. Only the second pauses the account, and only if the token is still the one we
looked at: compare-and-set on ``token_version`` decides every race with a re-authorization or another worker.

Of all processes that want a token checked at once one asks the platform and the others take its answer
(:mod:`aae.storage.token_checks`). If an answer is lost, the next check asks again with what we have: Meta's old token
and Google's refresh token stay good, and a platform that rotates refresh tokens goes on accepting the previous one
for a while. A refresh token that is refused right after an answer was lost is therefore refused for good only if it is
refused again a retry later: until then whoever got the answer may still be storing it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from aae.errors import AaeError, Bug, Reauthorize, Retry, Skip, Superseded
from aae.jobs import access
from aae.jobs.calls import on_record
from aae.jobs.context import Context, Stores
from aae.jobs.telling import tell_owner
from aae.model import Account, AccountStatus, Token
from aae.notify import messages
from aae.operate.processes import is_alive, this_process
from aae.platforms.base import TokenCheck, TokenState
from aae.storage import accounts, token_checks
from aae.storage.entities import lock_account
from aae.storage.token_checks import Busy, Check
from aae.storage.transact import look, transact

EXPIRING_HOURS = 24.0
"""A token that expires within this counts as failing (requirement 2.1)."""

USABLE_HOURS = 10 / 60
"""A fetch wants a token that outlives its first calls; Google's live one hour."""


ANSWER_SECONDS = 45.0
"""A platform that has not answered by then has not answered; less than the lease of a check."""

NO_ACCESS: Final = "no_access"
"""An outcome of a check: the token is good, and the account is still refused to it."""

_IN_DOUBT: Final = "in-doubt"
_FIRST_LOOK_SECONDS: Final = 0.1
_LONGEST_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class TokenResult:
    """What came of one check. ``outcome`` is as in table ``token_refreshes``, ``NO_ACCESS`` or as of :func:`preview`.

    ``code`` is the platform's own for a dead token, ``calls`` the API calls that a check for its own sake took.
    """

    account_id: int
    account: str
    name: str
    platform: str
    outcome: str
    expires_at: datetime | None
    detail: str | None = None
    code: str | None = None
    calls: int | None = None


async def check_account(
    context: Context, account: Account, *, now: datetime, run_id: str | None, within_hours: float = EXPIRING_HOURS
) -> TokenResult:
    """Check one account's token, refresh it if it expires soon, and record what happened and the calls that it took.

    If another process is checking it, its answer is ours: a token that it replaced is ``lost_race``.

    Raises:
        Retry: nobody can tell right now; recorded, the account untouched, worth trying again.
    """
    async with on_record(context, account, clock=lambda: now, run_id=run_id) as calls:
        result = await _check_in_turn(context, account, now=now, run_id=run_id, within_hours=within_hours)
    return replace(result, calls=calls.made.total())


async def _check_in_turn(
    context: Context, account: Account, *, now: datetime, run_id: str | None, within_hours: float
) -> TokenResult:
    token = await asyncio.to_thread(_read, context, account)
    nonce, pause = secrets.token_hex(8), _FIRST_LOOK_SECONDS
    while True:
        turn = await asyncio.to_thread(_take_turn, context, account, token, nonce, now=now, run_id=run_id)
        if isinstance(turn, Check):
            return await _check(context, account, token, turn, now=now, run_id=run_id, within_hours=within_hours)
        if turn is None:
            fresh = await asyncio.to_thread(_read, context, account)
            return _result(account, "lost_race", fresh.expires_at, "Its token was replaced meanwhile.")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_LOOK_SECONDS)
        other = await asyncio.to_thread(look, context.engine, token_checks.look_at, turn)
        if other.outcome == "permanent_failure":
            return _result(account, other.outcome, token.expires_at, other.detail, other.error_code)
        if other.outcome == "transient_failure":
            raise Retry(other.detail or "The token could not be checked.", code=other.error_code)


def _take_turn(
    stores: Stores, account: Account, token: Token, nonce: str, *, now: datetime, run_id: str | None
) -> Check | Busy | None:
    return transact(
        stores.engine,
        token_checks.begin,
        account.id,
        token_version=token.version,
        process=this_process(),
        nonce=nonce,
        is_alive=is_alive,
        now=now,
        run_id=run_id,
    )


async def _check(
    context: Context,
    account: Account,
    token: Token,
    check: Check,
    *,
    now: datetime,
    run_id: str | None,
    within_hours: float,
) -> TokenResult:
    """Ask the platform, once, and write down what it says."""
    connector = context.connectors[account.platform]
    try:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                checked = await connector.check_token(account, token, now, within_hours=within_hours)
        except TimeoutError:
            raise Retry(f"{account} did not answer within {ANSWER_SECONDS:g} s.", code="timeout") from None
        except Reauthorize as error:
            await asyncio.to_thread(_doubt, context, account, token, error, now=now)
            return await asyncio.to_thread(
                declare_dead, context, account, token, error, now=now, run_id=run_id, check=check
            )
    except AaeError as error:
        if not isinstance(error, Superseded):
            await asyncio.to_thread(_note_failure, context, token, check, error)
        raise
    result = await asyncio.to_thread(_keep, context, account, token, checked, check, now=now, run_id=run_id)
    return await _look_for_access(context, account, result, now=now, run_id=run_id)


def _doubt(context: Context, account: Account, token: Token, error: Reauthorize, *, now: datetime) -> None:
    """Refuse to believe the first refusal of a refresh token right after an answer was lost.

    Raises:
        Retry: it has to be said again, as much later as the steps leave between two tries.
    """
    if token.refresh is None:
        return  # what was lost, if anything, left the old token as it was

    def work(connection: Connection) -> tuple[bool, datetime | None]:
        lost = token_checks.lost_answer_since(connection, account.id, token_version=token.version)
        since = token_checks.first_with(connection, account.id, token_version=token.version, error_code=_IN_DOUBT)
        return lost, since

    lost, since = look(context.engine, work)
    # A little less than the pause: a try may come a moment early by the clock of another machine.
    enough = timedelta(seconds=0.8 * context.settings.limits.retry_delay_seconds)
    if lost and (since is None or now - since < enough):
        raise Retry(
            f"An earlier answer was lost and now the refresh is refused; it is tried again before that is believed: "
            f"{error}",
            code=_IN_DOUBT,
        )


def _keep(
    context: Context,
    account: Account,
    before: Token,
    checked: TokenCheck,
    check: Check,
    *,
    now: datetime,
    run_id: str | None,
) -> TokenResult:
    """Store the token that a check came back with, log it, and notice a recovery."""

    def work(connection: Connection) -> tuple[str, bool]:
        outcome, version = str(checked.state), before.version
        if checked.state is TokenState.REFRESHED:
            stored = _store(connection, context, account, check, before=before, fresh=checked.token, now=now)
            outcome, version = ("lost_race", version) if stored is None else ("refreshed", stored)
        token_checks.conclude(
            connection, check, outcome=outcome, token_version=version, expires_at=checked.token.expires_at
        )
        return outcome, outcome != "lost_race" and _notice_recovery(
            connection, context, account, version, now=now, run_id=run_id
        )

    # A refreshed token exists nowhere else yet, and the old one may be dead: this write is tried for long.
    outcome, recovered = transact(context.engine, work)
    return _result(account, "recovered" if recovered else outcome, checked.token.expires_at)


def _store(
    connection: Connection,
    context: Context,
    account: Account,
    check: Check,
    *,
    before: Token,
    fresh: Token,
    now: datetime,
) -> int | None:
    """Store a refreshed token; its version, or None if the account has another one that we may not replace."""
    # In the log already: this transaction has happened before, and nobody was told.
    if (stored := token_checks.stored_version(connection, check)) is not None:
        return stored
    expected = before.version
    if token_checks.stored_by_older(connection, account.id, check, version=expected + 1):
        expected += 1
    replaced = accounts.replace_token(connection, context.vault, account.id, fresh, expected_version=expected, now=now)
    return expected + 1 if replaced else None


def preview(stores: Stores, account: Account, *, now: datetime, within_hours: float) -> TokenResult:
    """What a check would do with the token (``would_refresh`` or ``would_probe``); nothing is asked or stored."""
    token = _read(stores, account)
    soon = token.expires_at is not None and token.expires_at <= now + timedelta(hours=within_hours)
    return _result(account, "would_refresh" if soon else "would_probe", token.expires_at)


async def usable_token(context: Context, account: Account, *, now: datetime, run_id: str | None) -> Token:
    """The account's token, checked first if it ends within minutes or if its owner still believes it of no use.

    Raises:
        Reauthorize: it is dead; the account is paused and its owner told.
        Retry: it needs a refresh and the platform cannot be reached.
    """
    token, believed_dead = await asyncio.to_thread(_read_with_doubt, context, account)
    lasts = token.expires_at is None or (token.expires_at - now).total_seconds() > USABLE_HOURS * 3600
    return token if lasts and not believed_dead else await renewed_token(context, account, now=now, run_id=run_id)


async def renewed_token(context: Context, account: Account, *, now: datetime, run_id: str | None) -> Token:
    """The account's token after a check, which refreshes it if it ends within minutes or its platform refuses it.

    The calls are those of whoever wants the token.

    Raises:
        Reauthorize, Retry: as :func:`usable_token`.
    """
    result = await _check_in_turn(context, account, now=now, run_id=run_id, within_hours=USABLE_HOURS)
    if result.outcome == "permanent_failure":
        raise Reauthorize(result.detail or "The account must be connected again.", code=result.code)
    return await asyncio.to_thread(_read, context, account)


def declare_dead(
    context: Context,
    account: Account,
    token: Token,
    error: Reauthorize,
    *,
    now: datetime,
    run_id: str | None,
    check: Check | None = None,
) -> TokenResult:
    """Pause the account and tell its owner, once, in one transaction; unless ``token`` has been replaced meanwhile.

    ``check`` is the one that found out, if it was a check.
    """
    expired = token.expires_at is not None and token.expires_at <= now
    status = AccountStatus.EXPIRED if expired else AccountStatus.REVOKED

    def work(connection: Connection) -> bool:
        paused = accounts.pause_dead(connection, account.id, status, str(error), token_version=token.version, now=now)
        if not paused:
            end(connection, "lost_race")
            return False
        loss = accounts.last_loss(connection, account.id)
        if loss is not None and (loss.outcome, loss.token_version) == ("permanent_failure", token.version):
            end(connection, None)
            return True
        end(connection, "permanent_failure")
        note = messages.token_expired(
            account, reason=str(error), token_version=token.version, public_url=context.settings.public_url
        )
        tell_owner(connection, account, note, now=now)
        return True

    def end(connection: Connection, outcome: str | None) -> None:
        """Into the log, over the check if it was one; without an outcome it is there already."""
        found: dict[str, Any] = {
            "token_version": token.version,
            "expires_at": token.expires_at,
            "error_code": error.code,
            "detail": str(error),
        }
        if check is not None and outcome is None:
            token_checks.forget(connection, check)
        elif check is not None and outcome is not None:
            token_checks.conclude(connection, check, outcome=outcome, **found)
        elif outcome == "permanent_failure":
            accounts.log_refresh(connection, account_id=account.id, at=now, outcome=outcome, run_id=run_id, **found)

    if not transact(context.engine, work):
        return _result(account, "lost_race", None, "The account was connected again meanwhile.")
    return _result(account, "permanent_failure", token.expires_at, str(error), error.code)


async def _look_for_access(
    context: Context, account: Account, result: TokenResult, *, now: datetime, run_id: str | None
) -> TokenResult:
    """Of an account that was refused to a good token: whether it is given again."""
    loss = await asyncio.to_thread(look, context.engine, accounts.last_loss, account.id)
    if loss is None or loss.outcome != accounts.REFUSED:
        return result
    token = await asyncio.to_thread(_read, context, account)
    try:
        await access.probe(context.connectors[account.platform], account, token, now=now)
    except Reauthorize as error:  # a refresh alone does not show that nobody is behind the token any more
        return await asyncio.to_thread(declare_dead, context, account, token, error, now=now, run_id=run_id)
    except (Skip, Bug) as error:
        return replace(result, outcome=NO_ACCESS, detail=str(error), code=error.code)
    well = await asyncio.to_thread(
        transact,
        context.engine,
        _notice_recovery,
        context,
        account,
        token.version,
        now=now,
        run_id=run_id,
        has_access=True,
    )
    return replace(result, outcome="recovered") if well else result


def _notice_recovery(
    connection: Connection,
    context: Context,
    account: Account,
    version: int,
    *,
    now: datetime,
    run_id: str | None,
    has_access: bool = False,
) -> bool:
    """The token works: if its owner had been told that it was dead, resume the account and say so, once.

    Where the token had been good all along, what counts is that it ``has_access``.
    """
    lock_account(connection, account.id)
    if accounts.is_logged(connection, account.id, at=now, outcome="recovered", token_version=version, run_id=run_id):
        return True  # this transaction has happened before
    loss = accounts.last_loss(connection, account.id)
    if loss is None:
        return False
    works = has_access if loss.outcome == accounts.REFUSED else version > loss.token_version
    if not works or not accounts.resume(connection, account.id, token_version=version, now=now):
        return False
    accounts.log_refresh(
        connection, account_id=account.id, at=now, outcome="recovered", token_version=version, run_id=run_id
    )
    note = messages.token_recovered(account, failure=loss.id, public_url=context.settings.public_url)
    tell_owner(connection, account, note, now=now)
    return True


def _read(stores: Stores, account: Account) -> Token:
    return look(stores.engine, accounts.read_token, stores.vault, account.id)


def _read_with_doubt(stores: Stores, account: Account) -> tuple[Token, bool]:
    """The token, and whether its owner was told that it is of no use and not yet that it is again."""

    def work(connection: Connection) -> tuple[Token, bool]:
        token = accounts.read_token(connection, stores.vault, account.id)
        return token, accounts.last_loss(connection, account.id) is not None

    return look(stores.engine, work)


def _note_failure(stores: Stores, token: Token, check: Check, error: AaeError) -> None:
    transact(
        stores.engine,
        token_checks.conclude,
        check,
        outcome="transient_failure",
        token_version=token.version,
        expires_at=token.expires_at,
        error_code=error.code,
        detail=str(error),
    )


def _result(
    account: Account, outcome: str, expires_at: datetime | None, detail: str | None = None, code: str | None = None
) -> TokenResult:
    return TokenResult(account.id, str(account), account.name, account.platform, outcome, expires_at, detail, code)
