"""Connecting ad accounts: the platforms are asked for what a list leaves out, then all is stored in one transaction.

They are asked at the pace of everybody, and left alone while they have asked for that, if Redis answers. The calls are
the account's, on record with it; those for accounts that are not stored in the end are nobody's and are not counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, Engine, select

from aae.errors import AaeError, Retry, UserError
from aae.jobs.context import open_transport
from aae.operate.account_files import AccountRow, describe_problems
from aae.platforms import connectors
from aae.platforms.transport import counting
from aae.settings import Settings
from aae.storage import accounts, fetches
from aae.storage import engine as database
from aae.storage.schema import ad_accounts
from aae.vault import Vault, key_id

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
        UserError: a platform does not know an account or refuses its token, one line per account; or the vault does not
            open what is stored already.
        Retry: a platform could not be asked; nothing was stored.
    """
    prove(engine, vault)
    complete = asyncio.run(_complete(rows, source, settings, clock))
    now = clock()
    users: dict[str, int] = {}
    new = 0
    with engine.begin() as connection:
        for row, calls in complete:
            email = row.user_email.casefold()
            if email not in users:
                users[email] = accounts.add_user(connection, email=row.user_email, name=row.user_name, now=now)
            account_id, is_new = accounts.connect_account(
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
            fetches.record_calls(connection, account_id, calls, at=now, run_id=None)
            new += is_new
    return Connected(users=len(users), new=new, renewed=len(complete) - new)


def open_vault(settings: Settings, engine: Engine) -> Vault:
    """The vault to store tokens with; its key is made if none is set and the database holds no token yet.

    Raises:
        UserError: the keys are malformed, or are not those that the stored tokens were sealed with.
    """
    vault = Vault.from_settings(settings)
    prove(engine, vault)
    return vault if vault.has_key else Vault.from_settings(settings, make=True)


def prove(engine: Engine, vault: Vault) -> None:
    """See that ``vault`` has every key that stored tokens were sealed with: of each key one token must open.

    Storing with another key would leave a mixture that nobody can open whole.

    Raises:
        UserError: a key is missing, or is not the one of that id.
    """
    with database.reading(engine) as connection:
        query = select(ad_accounts.c.id, ad_accounts.c.access_token).where(ad_accounts.c.access_token.is_not(None))
        sealed_with: dict[str | None, list[int]] = {}
        for account_id, sealed in connection.execute(query.order_by(ad_accounts.c.id)):
            sealed_with.setdefault(key_id(sealed), []).append(account_id)
        # What has no key id is damaged; connecting its account again is what heals it.
        sealed_with.pop(None, None)
        for stored in sealed_with.values():
            _open_one(connection, vault, stored)


def _open_one(connection: Connection, vault: Vault, stored: Sequence[int]) -> None:
    """A single token may be damaged; a key that opens none of its tokens is the wrong one."""
    first: UserError | None = None
    for account_id in stored:
        try:
            accounts.read_token(connection, vault, account_id)
        except UserError as error:
            first = first or error
        else:
            return
    if first:
        raise first


async def _complete(
    rows: Sequence[AccountRow], source: str, settings: Settings, clock: Callable[[], datetime]
) -> list[tuple[AccountRow, Counter[str]]]:
    """The same rows, with nothing left out, and the calls by purpose that each took."""
    if all(row.is_complete for row in rows):
        return [(row, Counter()) for row in rows]
    gate = asyncio.Semaphore(_QUESTIONS_AT_ONCE)
    async with open_transport(settings, clock) as transport:
        platforms = connectors(settings, transport)

        async def ask(row: AccountRow) -> tuple[AccountRow, Counter[str]] | AaeError:
            if row.is_complete:
                return row, Counter()
            async with gate:
                try:
                    with counting() as calls:
                        remote = await platforms[row.platform].describe(
                            row.external_id, row.token, row.login_customer_id
                        )
                except AaeError as error:
                    return error
            complete = replace(
                row,
                name=row.name or remote.name,
                currency=row.currency or remote.currency,
                timezone=row.timezone or remote.timezone,
                login_customer_id=row.login_customer_id or remote.login_customer_id,
            )
            return complete, calls

        answers = await asyncio.gather(*(ask(row) for row in rows))
    failures = [(row, answer) for row, answer in zip(rows, answers, strict=True) if isinstance(answer, AaeError)]
    if failures:
        problems = [f"row {row.row}: {row}: {error}" for row, error in failures]
        kind = Retry if all(isinstance(error, Retry) for _, error in failures) else UserError
        raise kind(describe_problems(problems, source))
    return [answer for answer in answers if not isinstance(answer, AaeError)]
