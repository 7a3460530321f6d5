"""Connecting ad accounts: the platforms are asked for what a list leaves out, then all is stored in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Engine

from aae.errors import AaeError, Retry, UserError
from aae.operate.account_files import AccountRow, describe_problems
from aae.platforms import connectors
from aae.platforms.transport import Transport
from aae.settings import Settings
from aae.storage import accounts
from aae.vault import Vault

_QUESTIONS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Connected:
    """What connecting came to: how many users the list names, how many accounts are new, how many connected again."""

    users: int
    new: int
    renewed: int


def connect_all(
    rows: Sequence[AccountRow],
    source: str,
    *,
    settings: Settings,
    engine: Engine,
    vault: Vault,
    clock: Callable[[], datetime],
) -> Connected:
    """Complete the rows by asking their platforms, then store all of them or none.

    Raises:
        UserError: a platform does not know an account or refuses its token; one line per account.
        Retry: a platform could not be asked; nothing was stored.
    """
    complete = asyncio.run(_complete(rows, source, settings, clock))
    now = clock()
    users: dict[str, int] = {}
    new = 0
    with engine.begin() as connection:
        for row in complete:
            email = row.user_email.casefold()
            if email not in users:
                users[email] = accounts.add_user(connection, email=row.user_email, name=row.user_name, now=now)
            _, is_new = accounts.connect_account(
                connection,
                vault,
                user_id=users[email],
                platform=row.platform,
                external_id=row.external_id,
                name=row.name or str(row),
                currency=row.currency or "",
                timezone=row.timezone or "",
                login_customer_id=row.login_customer_id,
                access_token=row.token.access,
                refresh_token=row.token.refresh,
                expires_at=row.token.expires_at,
                now=now,
            )
            new += is_new
    return Connected(users=len(users), new=new, renewed=len(complete) - new)


async def _complete(
    rows: Sequence[AccountRow], source: str, settings: Settings, clock: Callable[[], datetime]
) -> list[AccountRow]:
    """The same rows, with nothing left out."""
    if all(row.is_complete for row in rows):
        return list(rows)
    gate = asyncio.Semaphore(_QUESTIONS_AT_ONCE)
    async with Transport(settings.fetch.request_timeout_seconds, clock=clock) as transport:
        platforms = connectors(settings, transport)

        async def ask(row: AccountRow) -> AccountRow | AaeError:
            if row.is_complete:
                return row
            async with gate:
                try:
                    remote = await platforms[row.platform].describe(row.external_id, row.token, row.login_customer_id)
                except AaeError as error:
                    return error
            return replace(
                row,
                name=row.name or remote.name,
                currency=row.currency or remote.currency,
                timezone=row.timezone or remote.timezone,
                login_customer_id=row.login_customer_id or remote.login_customer_id,
            )

        answers = await asyncio.gather(*(ask(row) for row in rows))
    failures = [(row, answer) for row, answer in zip(rows, answers, strict=True) if isinstance(answer, AaeError)]
    if failures:
        problems = [f"row {row.row}: {row}: {error}" for row, error in failures]
        kind = Retry if all(isinstance(error, Retry) for _, error in failures) else UserError
        raise kind(describe_problems(problems, source))
    return [answer for answer in answers if isinstance(answer, AccountRow)]
