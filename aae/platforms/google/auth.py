"""Google access tokens live an hour and are renewed with a refresh token that lives until its owner takes it back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from pydantic import SecretStr

from aae.errors import Bug, Reauthorize, Retry
from aae.model import Account, Platform, Token
from aae.platforms.base import TokenCheck, TokenState
from aae.platforms.google.wire import EXPIRED, Ads, read
from aae.platforms.transport import Advice, Answer, Call, Caller, Purpose, unjudged

_OUR_APP: Final = ("invalid_client", "unauthorized_client", "deleted_client", "unsupported_grant_type")


async def check_token(ads: Ads, account: Account, token: Token, now: datetime, within_hours: float) -> TokenCheck:
    """Refresh an access token that expires within ``within_hours`` of ``now`` (aware UTC); probe it otherwise.

    A probe that finds it ended refreshes it at once. Without a refresh token nothing can be renewed: such a token is
    used while it lives.
    """
    soon = token.expires_at is not None and token.expires_at - now <= timedelta(hours=within_hours)
    if soon and token.refresh is not None:
        return TokenCheck(TokenState.REFRESHED, await _refresh(ads, account, token, token.refresh, now))
    try:
        await ads.reachable(Caller.of(account, token), Purpose.AUTH)
    except Retry as retry:
        if retry.code not in EXPIRED:
            raise
        if token.refresh is None:
            raise Reauthorize("The Google access token has ended and there is none to renew it with.") from None
        return TokenCheck(TokenState.REFRESHED, await _refresh(ads, account, token, token.refresh, now))
    return TokenCheck(TokenState.STILL_VALID, token)


async def _refresh(ads: Ads, account: Account, token: Token, refresh: SecretStr, now: datetime) -> Token:
    settings = ads.settings
    if not settings.client_id or not settings.client_secret.get_secret_value():
        raise Bug(
            "Google tokens cannot be refreshed before AAE_GOOGLE__CLIENT_ID and AAE_GOOGLE__CLIENT_SECRET are set."
        )
    call = Call(
        platform=Platform.GOOGLE,
        account=account.external_id,
        owner=account.id,
        purpose=Purpose.AUTH,
        method="POST",
        url=settings.token_url,
        judge=_judge,
        scopes=("google:app",),
        form={"grant_type": "refresh_token", "client_id": settings.client_id},
        secret_form={
            "client_secret": settings.client_secret.get_secret_value(),
            "refresh_token": refresh.get_secret_value(),
        },
    )
    answer = read.record((await ads.transport.request(call)).data, "an answer")
    lifetime = min(read.count(answer.get("expires_in"), "expires_in"), 10**9)
    renewed = answer.get("refresh_token")  # usually absent: the old one stays good
    return Token(
        access=read.secret(answer.get("access_token"), "access_token"),
        refresh=refresh if renewed is None else read.secret(renewed, "refresh_token"),
        expires_at=now + timedelta(seconds=lifetime),
        version=token.version,
    )


def _judge(answer: Answer) -> Advice:
    """OAuth's own error form (RFC 6749): ``{"error": "invalid_grant", "error_description": ...}``."""
    error = answer.data.get("error") if isinstance(answer.data, dict) else None
    if isinstance(error, str) and answer.status < 500 and answer.status != 429:
        said = f"{answer.quote(answer.data.get('error_description'))} ({answer.quote(error)[:64]})"
        if error == "invalid_grant":
            raise Reauthorize(f"Google no longer accepts the refresh token: {said}", code=error)
        if error in _OUR_APP:
            raise Bug(f"Google does not accept our client; check AAE_GOOGLE__CLIENT_ID and _SECRET: {said}", code=error)
        raise Bug(f"Google refused to refresh a token: {said}", code=answer.quote(error)[:64])
    unjudged(Platform.GOOGLE, answer)
    return {}
