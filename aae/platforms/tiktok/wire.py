"""How the TikTok Business API is addressed, paged and understood when it says no.

Nearly everything arrives with HTTP 200 in an envelope ``{code, message, request_id, data}``; only code 0 is success.
Codes: TikTok's own SDK and return-code reference (v1.3). There are no usage headers and no Retry-After; after a
throttle the documented recovery is the next second, five minutes, or midnight UTC, whichever limit was hit.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Platform
from aae.platforms.reading import MOST_PAGES, MOST_ROWS, Reader
from aae.platforms.transport import Answer, Blip, Call, Caller, Purpose, Transport, unjudged
from aae.settings import TikTokSettings

read: Final = Reader(Platform.TIKTOK)

SPACING: Final = 0.1
"""Seconds between two calls: the lowest tier allows ten a second. There are no usage headers to pace oneself by."""

PAGE_SIZE: Final = 1000

_REAUTHORIZE: Final = frozenset({40102, 40103, 40104, 40105, 40106, 40107, 40110, 40114})
_PERMISSION: Final = frozenset({40001, 40003, 40130, 40300, 40301, 40302})
_THROTTLED_APP: Final = frozenset({40016, 40100, 40132, 61000})  # 40100 is a throttle amid the token codes 401xx
_THROTTLED_ACCOUNT: Final = frozenset({40133})
_TRANSIENT: Final = frozenset({40200, 40201, 40202, 40700, 60001, *range(50000, 60000)})
_OUR_APP: Final = frozenset({40101, 40108, 40113, 40117, 40118, 40119, 40124, 40125, 41000})
_PATIENCE_SECONDS: Final = (1, 5, 60, 300)


@dataclass(frozen=True, slots=True)
class Business:
    """The Business API: one GET, and pages."""

    settings: TikTokSettings
    transport: Transport

    async def get(
        self,
        path: str,
        params: Mapping[str, Any],
        caller: Caller,
        purpose: Purpose,
        *,
        fresh: bool = False,
        secret_params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The ``data`` of the envelope at ``path``, for instance ``campaign/get``. Lists and objects travel as JSON."""
        call = Call(
            platform=Platform.TIKTOK,
            account=caller.account,
            owner=caller.owner,
            purpose=purpose,
            method="GET",
            # Without the trailing slash TikTok knows no such page.
            url=f"{self.settings.base_url}/open_api/{self.settings.version}/{path}/",
            judge=partial(judge, caller.account),
            scopes=("tiktok:app", f"tiktok:account:{caller.account}"),
            params={name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()},
            secret_headers={"Access-Token": caller.token.get_secret_value()},
            secret_params=secret_params or {},
            fresh=fresh,
            spacing=SPACING,
        )
        answer = await self.transport.request(call)
        return read.record(read.record(answer.data, "an answer").get("data"), "data")

    async def pages(
        self, path: str, params: Mapping[str, Any], caller: Caller, purpose: Purpose
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Every page of rows that is not empty.

        Raises:
            Retry: fewer rows arrived than TikTok itself counted: it cut the listing, or it shifted while being read.
        """
        got = 0
        for number in range(1, MOST_PAGES + 1):
            data = await self.get(path, {**params, "page": number, "page_size": PAGE_SIZE}, caller, purpose)
            rows = read.records(data.get("list"), "list")
            got += len(rows)
            if got > MOST_ROWS:
                raise read.bug("more rows than can be")
            if rows:
                yield rows
            info = read.record(data.get("page_info", {}), "page_info")
            if "total_page" not in info:  # without it a short page is the only sign of the end
                if len(rows) < PAGE_SIZE:
                    return
            elif number >= read.count(info["total_page"], "total_page"):
                if got < read.count(info.get("total_number", 0), "total_number"):
                    raise Retry(f"TikTok cut a listing short for account {caller.account}.", code="cut")
                return
            elif not rows:
                raise Retry(f"TikTok sent an empty page amid a listing for account {caller.account}.", code="cut")
        raise read.bug("more pages than can be")


def groups(ids: list[str], size: int) -> Iterator[list[str]]:
    """``ids`` in lists of at most ``size``, since TikTok bounds how many one request may name."""
    return (ids[first : first + size] for first in range(0, len(ids), size))


def judge(account: str, answer: Answer) -> dict[str, datetime]:
    """What an answer means; ``account`` is the advertiser id it is about.

    Raises:
        AaeError: by the envelope's code, or by the HTTP status where there is no envelope.
    """
    envelope = answer.data if isinstance(answer.data, dict) else {}
    code = envelope.get("code")
    if type(code) is not int:
        unjudged(Platform.TIKTOK, answer)
        raise read.bug("an answer without a code")
    if code == 0:
        unjudged(Platform.TIKTOK, answer)
        if "x-tt-ads-throttle" in answer.headers:
            raise Reduce("TikTok cut a report because it spans too many ids.", code="x-tt-ads-throttle")
        return {}
    raise _meaning(code, answer.quote(envelope.get("message")), account, answer)


def _meaning(code: int, words: str, account: str, answer: Answer) -> AaeError:
    name = str(code)[:16]
    said = f"{words} ({name})"
    if code in _THROTTLED_APP or code in _THROTTLED_ACCOUNT:
        step = min(answer.throttled_before, len(_PATIENCE_SECONDS) - 1)
        return Throttled(
            f"TikTok asks for patience: {said}",
            until=answer.pause(timedelta(seconds=_PATIENCE_SECONDS[step])),
            scope="tiktok:app" if code in _THROTTLED_APP else f"tiktok:account:{account}",
            code=name,
        )
    if code in _REAUTHORIZE:
        return Reauthorize(f"TikTok no longer accepts this token: {said}", code=name)
    if code in _PERMISSION:
        return Skip(f"TikTok does not permit this: {said}", code=name)
    if code in _TRANSIENT:
        return Blip(f"TikTok hiccuped: {said}", code=name)
    if code in _OUR_APP:
        return Bug(
            f"TikTok does not accept our app; check AAE_TIKTOK__APP_ID and AAE_TIKTOK__SECRET: {said}", code=name
        )
    return Bug(f"TikTok refused the request: {said}", code=name)
