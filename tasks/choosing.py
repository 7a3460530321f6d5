"""Choosing what a run is about, by its parameters."""

from __future__ import annotations

from collections.abc import Collection

from prefect.logging import get_run_logger

from aae import shares
from aae.errors import UserError
from aae.model import Account, AccountStatus, Platform
from aae.storage import accounts
from aae.storage.accounts import User
from aae.storage.transact import look
from tasks.limits import step
from tasks.resources import stores

_TOLD = 10
"""So many wrong ids are named."""


@step(name="choose-accounts", description="The ad accounts that this run is about.")
async def choose_accounts(
    ids: list[int] | None = None,
    users: list[int] | None = None,
    platforms: list[Platform] | None = None,
    share: str | None = None,
    refused: bool = False,
) -> list[Account]:
    """Active accounts, and paused ones whose owner has connected them again since; every parameter given must hold.

    ``refused``: also those that their platform refuses to a good token, which is looked at again.

    A user's accounts are all in one share (:mod:`aae.shares`). An account asked for that is no longer active is
    left out, and said: a run that was planned for it may begin after it was paused.

    Raises:
        UserError: an account was asked for that does not exist or is another user's, or a user who is not active.
    """
    engine = stores().engine
    found = look(engine, accounts.accounts_to_check, ids=ids or None, user_ids=users or None, refused=refused)
    known = look(engine, accounts.list_users, ids=users or None)
    _refuse_unknown("user", users, {user.id for user in known})
    active = {account.id for account in found}
    missing = set(ids or ()) - active
    others = look(engine, accounts.list_accounts, ids=missing, user_ids=users or None, statuses=None) if missing else []
    paused = [account for account in others if account.status is not AccountStatus.ACTIVE]
    _refuse_unknown("account", ids, active | {account.id for account in paused})
    for account in paused:
        get_run_logger().warning("%s is left out: it is %s", account, account.status)
    chosen = [account for account in found if not platforms or account.platform in platforms]
    return chosen if share is None else shares.take(chosen, share)


@step(name="choose-users", description="The active users that this run is about.")
async def choose_users(ids: list[int] | None) -> list[User]:
    """Users by their ids; all active ones without any.

    Raises:
        UserError: no active user has one of the ids.
    """
    found = look(stores().engine, accounts.list_users, ids=ids or None)
    _refuse_unknown("user", ids, {user.id for user in found})
    return found


def _refuse_unknown(kind: str, wanted: list[int] | None, found: Collection[int]) -> None:
    if missing := set(wanted or ()) - set(found):
        ids = ", ".join(map(str, sorted(missing)[:_TOLD])) + (" and more" if len(missing) > _TOLD else "")
        raise UserError(f"No active {kind} has the id {ids}; see 'aae accounts list'.")
