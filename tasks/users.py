"""Choosing the users that a run is about."""

from __future__ import annotations

from aae.errors import UserError
from aae.storage import accounts
from aae.storage.accounts import User
from aae.storage.engine import reading
from tasks.limits import step
from tasks.resources import stores


@step(name="choose-users", description="The active users that this run is about.")
async def choose_users(ids: list[int] | None) -> list[User]:
    """Users by their ids; all active ones without any.

    Raises:
        UserError: no active user has one of the ids.
    """
    with reading(stores().engine) as connection:
        found = accounts.list_users(connection, ids=ids)
    if missing := set(ids or ()) - {user.id for user in found}:
        raise UserError(f"No active user has the id {', '.join(map(str, sorted(missing)))}.")
    return found
