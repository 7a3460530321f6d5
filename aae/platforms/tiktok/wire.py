"""How the TikTok Business API is addressed, paged and understood when it says no.

Nearly everything arrives with HTTP 200 in an envelope ``{code, message, request_id, data}``; only code 0 is success.
Codes: TikTok's own SDK and return-code reference (v1.3). There are no usage headers and no Retry-After; after a
throttle the documented recovery is the next second, five minutes, or midnight UTC, whichever limit was hit.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Platform
from aae.platforms.reading import MOST_PAGES, MOST_ROWS, Reader
from aae.platforms.shapes import Shape
from aae.platforms.transport import (
    TIMED_OUT,
    Advice,
    Answer,
    Blip,
    Call,
    Caller,
    Purpose,
    TimedOut,
    Transport,
    unjudged,
)
from aae.settings import TikTokSettings

read: Final = Reader(Platform.TIKTOK)

SPACING: Final = 0.1
"""Seconds between two calls of the app, by all processes: the lowest tier allows ten a second, 600 a minute and 864,000
a day, which are all the same. There are no usage headers to pace oneself by."""

NOT_AGAIN: Final = timedelta(minutes=10)
"""TikTok blocks a request that has timed out three times within this: narrow it, don't repeat it."""

PAGE_SIZE: Final = 1000
SMALLEST_PAGE: Final = 125

_REAUTHORIZE: Final = frozenset({40102, 40103, 40104, 40105, 40106, 40107, 40110, 40114})
_PERMISSION: Final = frozenset({40001, 40003, 40130, 40300, 40301, 40302})
_THROTTLED_APP: Final = frozenset({40016, 40100, 40132, 61000})  # 40100 is a throttle amid the token codes 401xx
_THROTTLED_ACCOUNT: Final = frozenset({40133})
_TRANSIENT: Final = frozenset({40200, 40201, 40202, 40700, 60001, *range(50000, 60000)})
_TIMED_OUT: Final = 51010
_OUR_APP: Final = frozenset({40101, 40108, 40113, 40117, 40118, 40119, 40124, 40125, 41000})
_NO_SUCH_VERSION: Final = frozenset({40006, 40051})
_PATIENCE_SECONDS: Final = (1, 5, 60, 300)


T = TypeVar("T")


class Envelope(Shape, Generic[T]):
    """A success: nothing with another code has this shape."""

    code: Literal[0]
    data: T


class Page(Shape, Generic[T]):
    """One page of rows."""

    rows: list[T] = msgspec.field(name="list")
    page_info: Any = msgspec.field(default_factory=dict)


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
        shape: type[T],
        fresh: bool = False,
        secret_params: Mapping[str, str] | None = None,
    ) -> T:
        """The ``data`` of the envelope at ``path``, for instance ``campaign/get``, in its ``shape``.

        Lists and objects travel as JSON.
        """
        call = Call(
            platform=Platform.TIKTOK,
            account=caller.account,
            owner=caller.owner,
            purpose=purpose,
            method="GET",
            # Without the trailing slash TikTok knows no such page.
            url=f"{self.settings.base_url}/open_api/{self.settings.version}/{path}/",
            judge=partial(judge, caller),
            scopes=("tiktok:app", f"tiktok:{caller.scope}"),
            params={name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()},
            secret_headers={"Access-Token": caller.token.get_secret_value()},
            secret_params=secret_params or {},
            fresh=fresh,
            paces={"tiktok:app": SPACING},
            # A probe of a token cannot be narrowed, nor what must be fresh: who or what an account is.
            not_again=timedelta(0) if fresh or purpose is Purpose.AUTH else NOT_AGAIN,
            shape=Envelope[shape],  # type: ignore[valid-type]
        )
        envelope: Envelope[T] = (await self.transport.request(call)).data
        return envelope.data

    async def pages(
        self, path: str, params: Mapping[str, Any], caller: Caller, purpose: Purpose, *, row: type[T]
    ) -> AsyncIterator[list[T]]:
        """Every page of rows that is not empty; ``row`` is their shape.

        A listing's page that timed out is asked for in halves.

        Raises:
            Reduce: it timed out, and a smaller question must be asked.
            Retry: fewer rows arrived than TikTok itself counted: it cut the listing, or it shifted while being read.
        """
        got, number, size = 0, 1, PAGE_SIZE
        for _ in range(MOST_PAGES):
            asked = {**params, "page": number, "page_size": size}
            try:
                page: Page[T] = await self.get(path, asked, caller, purpose, shape=Page[row])  # type: ignore[valid-type]
            except Reduce as reduce:
                if purpose is not Purpose.LISTING or reduce.code != TIMED_OUT or size <= SMALLEST_PAGE:
                    raise
                number, size = 2 * number - 1, size // 2
                continue
            got += len(page.rows)
            if got > MOST_ROWS:
                raise read.bug("more rows than can be")
            if page.rows:
                yield page.rows
            if _is_last(page, number, size, got, caller.account):
                return
            number += 1
        raise read.bug("more pages than can be")


def _is_last(page: Page[T], number: int, size: int, got: int, account: str) -> bool:
    """Whether this page, with which ``got`` rows have come, is the last one."""
    info, rows = read.record(page.page_info, "page_info"), len(page.rows)
    if "total_page" not in info:  # without it a short page is the only sign of the end
        return rows < size
    if number >= read.count(info["total_page"], "total_page"):
        if got < read.count(info.get("total_number", 0), "total_number"):
            raise Retry(f"TikTok cut a listing short for account {account}.", code="cut")
        return True
    if not rows:
        raise Retry(f"TikTok sent an empty page amid a listing for account {account}.", code="cut")
    return False


def groups(ids: list[str], size: int) -> Iterator[list[str]]:
    """``ids`` in lists of at most ``size``, since TikTok bounds how many one request may name."""
    return (ids[first : first + size] for first in range(0, len(ids), size))


def judge(caller: Caller, answer: Answer) -> Advice:
    """What an answer to ``caller`` means.

    Raises:
        AaeError: by the envelope's code, or by the HTTP status where there is no envelope.
    """
    envelope = answer.data if isinstance(answer.data, dict) else {}
    code = answer.data.code if isinstance(answer.data, Envelope) else envelope.get("code")
    if type(code) is not int:
        unjudged(Platform.TIKTOK, answer)
        raise read.bug("an answer without a code")
    if code == 0:
        unjudged(Platform.TIKTOK, answer)
        if "x-tt-ads-throttle" in answer.headers:
            raise Reduce("TikTok cut a report because it spans too many ids.", code="x-tt-ads-throttle")
        return {}
    raise _meaning(code, answer.quote(envelope.get("message")), caller, answer)


def _meaning(code: int, words: str, caller: Caller, answer: Answer) -> AaeError:
    name = str(code)[:16]
    said = f"{words} ({name})"
    if code in _THROTTLED_APP or code in _THROTTLED_ACCOUNT:
        step = min(answer.throttled_before, len(_PATIENCE_SECONDS) - 1)
        return Throttled(
            f"TikTok asks for patience: {said}",
            until=answer.pause(timedelta(seconds=_PATIENCE_SECONDS[step])),
            scope="tiktok:app" if code in _THROTTLED_APP else f"tiktok:{caller.scope}",
            code=name,
        )
    if code in _REAUTHORIZE:
        return Reauthorize(f"TikTok no longer accepts this token: {said}", code=name)
    if code in _PERMISSION:
        return Skip(f"TikTok does not permit this: {said}", code=name)
    if code in _TRANSIENT:
        kind = TimedOut if code == _TIMED_OUT else Blip
        return kind(f"TikTok hiccuped: {said}", code=name)
    verb = "refused the request"
    if code in _OUR_APP:
        verb = "does not accept our app; check AAE_TIKTOK__APP_ID and AAE_TIKTOK__SECRET"
    elif code in _NO_SUCH_VERSION:
        verb = "does not serve this version; check AAE_TIKTOK__VERSION"
    return Bug(f"TikTok {verb}: {said}", code=name)
