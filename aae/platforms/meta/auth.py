"""Meta tokens live about 60 days and are exchanged while still valid; there is no refresh token."""

from __future__ import annotations

from datetime import datetime, timedelta

from aae.errors import Bug
from aae.model import Account, Token
from aae.platforms.base import TokenCheck, TokenState
from aae.platforms.meta.wire import Graph, read
from aae.platforms.transport import Caller, Purpose


async def check_token(graph: Graph, account: Account, token: Token, now: datetime, within_hours: float) -> TokenCheck:
    """Exchange a token that expires within ``within_hours`` of ``now`` (aware UTC); ask Meta who we are otherwise.

    An expired token cannot be exchanged: Meta answers 190/463, which is ``Reauthorize``.
    """
    caller = Caller.of(account, token)
    if token.expires_at is not None and token.expires_at - now <= timedelta(hours=within_hours):
        return TokenCheck(TokenState.REFRESHED, await _exchange(graph, caller, token, now))
    me = await graph.get("me", {"fields": "id"}, caller, Purpose.AUTH, fresh=True)
    read.id(me.get("id"), "id")
    return TokenCheck(TokenState.STILL_VALID, token)


async def _exchange(graph: Graph, caller: Caller, token: Token, now: datetime) -> Token:
    settings = graph.settings
    if not settings.app_id or not settings.app_secret.get_secret_value():
        raise Bug("Meta tokens cannot be exchanged before AAE_META__APP_ID and AAE_META__APP_SECRET are set.")
    answer = await graph.get(
        "oauth/access_token",
        {"grant_type": "fb_exchange_token", "client_id": settings.app_id},
        caller,
        Purpose.AUTH,
        fresh=True,
        secret_params={
            "client_secret": settings.app_secret.get_secret_value(),
            "fb_exchange_token": token.access.get_secret_value(),
        },
    )
    access = read.secret(answer.get("access_token"), "access_token")
    lifetime = answer.get("expires_in")  # missing on tokens that never expire
    expires_at = None if lifetime is None else now + timedelta(seconds=min(read.count(lifetime, "expires_in"), 10**9))
    return Token(access, None, expires_at, token.version)
