"""TikTok advertiser tokens have no timed expiry and no refresh token: they live until the advertiser revokes them.

So checking one is asking whether it still reaches the account. (The refresh endpoint of the API belongs to the tokens
of TikTok *creators*, another product; with an advertiser's token it answers 40107.)
"""

from __future__ import annotations

from aae.errors import Bug, Reauthorize
from aae.model import Account, Token
from aae.platforms.base import TokenCheck, TokenState
from aae.platforms.shapes import Fields
from aae.platforms.tiktok.wire import Business, Page, read
from aae.platforms.transport import Caller, Purpose


async def check_token(business: Business, account: Account, token: Token) -> TokenCheck:
    """Probe the token.

    Raises:
        Reauthorize: it is revoked, or the advertiser took this account away from it.
    """
    if account.external_id not in await advertisers(business, Caller.of(account, token), Purpose.AUTH):
        raise Reauthorize(f"The TikTok token no longer reaches account {account.external_id}.", code="not-listed")
    return TokenCheck(TokenState.STILL_VALID, token)


async def advertisers(business: Business, caller: Caller, purpose: Purpose) -> list[str]:
    """The ids of the advertiser accounts that the token reaches."""
    settings = business.settings
    if not settings.app_id or not settings.secret.get_secret_value():
        raise Bug("TikTok tokens cannot be probed before AAE_TIKTOK__APP_ID and AAE_TIKTOK__SECRET are set.")
    page = await business.get(
        "oauth2/advertiser/get",
        {"app_id": settings.app_id},
        caller,
        purpose,
        shape=Page[Fields],
        fresh=True,
        secret_params={"secret": settings.secret.get_secret_value()},
    )
    return [read.id(row.get("advertiser_id"), "advertiser_id") for row in page.rows]
