"""How the Graph API is addressed, paged and understood when it says no.

Error codes and headers: Meta's Marketing API error reference, "Insights API error codes" and "Rate limiting" pages
(2026). There is no Retry-After; usage headers say how much is left, and calling while blocked prolongs the block.

A version that is over may be served by a later one without a word but a header, which is said in the log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from msgspec import UNSET, UnsetType

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Skip, Throttled
from aae.model import Platform
from aae.platforms.reading import MOST_PAGES, MOST_ROWS, Reader
from aae.platforms.shapes import Shape
from aae.platforms.transport import Advice, Answer, Blip, Call, Caller, Purpose, Transport, unjudged
from aae.settings import MetaSettings

read: Final = Reader(Platform.META)

_log = logging.getLogger(__name__)

LARGEST_PAGE: Final = 500
SMALLEST_PAGE: Final = 25
"""Below this a smaller page no longer helps: it is the question that is too large."""

SLOW_AT: Final = 75.0
STOP_AT: Final = 85.0
"""Percent of a quota from which calls are spaced, and not made for a while."""

_REAUTHORIZE: Final = frozenset({102, 190})
_PERMISSION: Final = frozenset({3, 10, *range(200, 300)})
_THROTTLED_APP: Final = frozenset({4, 32, 341})
_THROTTLED_ACCOUNT: Final = frozenset({17, 368, 613, *range(80000, 80015)})
_THROTTLED_USER: Final = (17, None)
"""With a subcode 17 is about the ad account, though its words are the same."""
_REDUCE: Final = frozenset({(100, 1487534), (100, 1504018), (2, 1504038)})
_REQUEST: Final = frozenset({(2, 1504041), (2, 1504042)})
_OUR_APP: Final = "does not accept our app; check AAE_META__APP_ID and AAE_META__APP_SECRET"
_VERSION_IS_OVER: Final = 2635
_VERSION: Final = re.compile(r"v\d{1,3}\.\d{1,2}")
_TRANSIENT: Final = frozenset({1, 2, 960})
_TRANSIENT_PAIRS: Final = frozenset({(-2, 2490547)})


R = TypeVar("R")


class Page(Shape, Generic[R]):
    """One page of rows. Whatever else Meta sends beside an ``error``, it is no page."""

    data: list[R]
    paging: Any = None
    error: UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Graph:
    """The Graph API: one GET, one POST, and pages."""

    settings: MetaSettings
    transport: Transport

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        caller: Caller,
        purpose: Purpose,
        *,
        fresh: bool = False,
        secret_params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The object at ``path``, for instance ``act_1001/insights``."""
        call = self._call("GET", path, caller, purpose, params=params, fresh=fresh, secret_params=secret_params)
        return read.record(await self._ask(call), "an answer")

    async def post(self, path: str, form: Mapping[str, str], caller: Caller, purpose: Purpose) -> dict[str, Any]:
        """What posting ``form`` to ``path`` answers; never sent twice."""
        call = self._call("POST", path, caller, purpose, form=form, fresh=True, repeatable=False)
        return read.record(await self._ask(call), "an answer")

    async def pages(
        self, path: str, params: Mapping[str, str], caller: Caller, purpose: Purpose, *, row: type[R]
    ) -> AsyncIterator[list[R]]:
        """Every page of rows that is not empty; ``row`` is their shape.

        The end is a page without ``next``, never a short one: filtered pages may be empty in the middle. ``next``
        itself is not followed, since it carries the token; its cursor is. A page that is too much is asked for in
        halves.
        """
        limit, after, cursors, got = LARGEST_PAGE, "", set[str](), 0
        while True:
            asked = {**params, "limit": str(limit)} | ({"after": after} if after else {})
            call = self._call("GET", path, caller, purpose, params=asked, shape=Page[row])  # type: ignore[valid-type]
            try:
                page: Page[R] = await self._ask(call)
            except Reduce:
                limit //= 2
                if limit < SMALLEST_PAGE:
                    raise
                continue
            got += len(page.data)
            if got > MOST_ROWS or len(cursors) >= MOST_PAGES:
                raise read.bug("more rows or pages than can be")
            if page.data:
                yield page.data
            after = _cursor(page.paging)
            if not after:
                return
            if after in cursors:
                raise read.bug("the same cursor twice")
            cursors.add(after)

    async def _ask(self, call: Call) -> Any:
        answer = await self.transport.request(call)
        asked, served = self.settings.version, answer.headers.get("facebook-api-version", "")
        if not _VERSION.fullmatch(served):
            served = asked
        if served != asked or "x-ad-api-version-warning" in answer.headers:
            _say_version(asked, served)
        return answer.data

    def _call(self, method: str, path: str, caller: Caller, purpose: Purpose, **more: Any) -> Call:
        token = caller.token.get_secret_value()
        secret_params = dict(more.pop("secret_params", None) or {})
        if secret := self.settings.app_secret.get_secret_value():
            secret_params["appsecret_proof"] = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        return Call(
            platform=Platform.META,
            account=caller.account,
            owner=caller.owner,
            purpose=purpose,
            method=method,
            url=f"{self.settings.base_url}/{self.settings.version}/{quote(path)}",
            judge=partial(judge, caller),
            scopes=("meta:app", *(f"meta:{scope}" for scope in dict.fromkeys((caller.scope, caller.user)))),
            paces=dict.fromkeys(("meta:app", f"meta:{caller.scope}"), 0.0),
            secret_headers={"Authorization": f"Bearer {token}"},
            secret_params=secret_params,
            **more,
        )


def judge(caller: Caller, answer: Answer) -> Advice:
    """What an answer to ``caller`` means.

    Returns how to go on with the scopes whose usage is high: slowly, or not for a while.

    Raises:
        AaeError: see :func:`meaning`; HTTP 200 may carry an error too.
    """
    if isinstance(answer.data, dict) and isinstance(error := answer.data.get("error"), dict):
        raise meaning(error, caller, answer)
    if answer.status == 401:
        raise Reauthorize("Meta no longer accepts this token.", code="401")
    unjudged(Platform.META, answer)
    return _advice(caller, answer)


def meaning(error: Mapping[str, Any], caller: Caller, answer: Answer) -> AaeError:
    """Meta's error object as one of ours."""
    code, subcode = _integer(error.get("code")), _integer(error.get("error_subcode"))
    name = f"{code}/{subcode}" if subcode is not None else str(code)
    words = error.get("message")
    text = words if isinstance(words, str) else ""
    said = f"{answer.quote(text)} ({name})"
    pair = (code, subcode)

    # The first that holds decides; the order matters where a code means one thing with and another without its subcode.
    kinds: tuple[tuple[type[AaeError], str, bool], ...] = (
        (Reauthorize, "no longer accepts this token", code in _REAUTHORIZE),
        (Reduce, "asks for less data", pair in _REDUCE or "reduce the amount of data" in text.lower()),
        (Throttled, "asks for patience", code in _THROTTLED_APP or code in _THROTTLED_ACCOUNT),
        (Bug, "does not understand the request", pair in _REQUEST),
        (Bug, "serves this version no more; set AAE_META__VERSION to a later one", code == _VERSION_IS_OVER),
        (Bug, _OUR_APP, code == 101 or "validating client secret" in text),  # the latter comes with code 1
        (Blip, "hiccuped", error.get("is_transient") is True or code in _TRANSIENT or pair in _TRANSIENT_PAIRS),
        (Blip, "hiccuped", "summary param" in text),
        (Skip, "does not permit this", code in _PERMISSION or pair == (100, 33)),
        (Skip, "does not permit this", code == 100 and "missing permission" in text.lower()),
        (Blip, "hiccuped", answer.status >= 500),
        (Bug, "refused the request", True),
    )
    kind, verb = next((kind, verb) for kind, verb, holds in kinds if holds)
    if kind is Throttled:
        own = caller.user if pair == _THROTTLED_USER else caller.scope
        scope = "app" if code in _THROTTLED_APP else own
        until = answer.pause(_regain(caller, answer))
        return Throttled(f"Meta {verb}: {said}", until=until, scope=f"meta:{scope}", code=name)
    return kind(f"Meta {verb}: {said}", code=name)


@cache
def _say_version(asked: str, served: str) -> None:
    """Once per process."""
    _log.warning("AAE_META__VERSION=%s is over, or nearly so: Meta answered in %s", asked, served)


def _integer(value: object) -> int | None:
    if type(value) is int and abs(value) < 10**12:
        return value
    if isinstance(value, str) and len(value) <= 12 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    return None


def _cursor(paging: object) -> str:
    """The cursor of the next page, or "" on the last, which still has cursors but no ``next``."""
    if paging is None:
        return ""
    told = read.record(paging, "paging")
    following = told.get("next")
    if following is None:
        return ""
    cursors = told.get("cursors")
    after = cursors.get("after") if isinstance(cursors, dict) else None
    if after is None and isinstance(following, str):
        after = _query_value(following, "after")
    if not isinstance(after, str) or not 0 < len(after) <= 4096:
        raise read.bug("a next page without a cursor")
    return after.encode("utf-8", "replace").decode()


def _query_value(url: str, name: str) -> str | None:
    try:
        return parse_qs(urlsplit(url).query, max_num_fields=100).get(name, [None])[0]
    except ValueError:
        return None


# Usage headers. Percentages of what is allowed; regain times in minutes, reset times in seconds.


def _usage(caller: Caller, answer: Answer) -> Iterator[tuple[str, float, timedelta]]:
    """Each usage that the headers tell: scope, percentage, and time until there is room again (0: now, or unknown).

    An account's reset time is how long it takes to forget all its usage, so it counts for one that is used up only.
    """
    mine, none = f"meta:{caller.scope}", timedelta(0)
    app = _header(answer, "x-app-usage")
    yield "meta:app", max(map(_number, map(app.get, ("call_count", "total_time", "total_cputime")))), none
    own = _header(answer, "x-ad-account-usage")
    used, reset = _number(own.get("acc_id_util_pct")), timedelta(seconds=_number(own.get("reset_time_duration")))
    yield mine, used, reset if used >= 100 else none
    insights = _header(answer, "x-fb-ads-insights-throttle")
    yield "meta:app", _number(insights.get("app_id_util_pct")), none
    yield mine, _number(insights.get("acc_id_util_pct")), none
    entries = _header(answer, "x-business-use-case-usage").get(caller.account)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            used = max(map(_number, map(entry.get, ("call_count", "total_time", "total_cputime"))))
            yield mine, used, timedelta(minutes=_number(entry.get("estimated_time_to_regain_access")))


def _regain(caller: Caller, answer: Answer) -> timedelta:
    """How long a throttled caller waits: what the headers say, else 1 to 10 minutes, doubling each time in a row."""
    told = max((regain for _, _, regain in _usage(caller, answer)), default=timedelta(0))
    return told or timedelta(seconds=min(60 * 2 ** min(answer.throttled_before, 4), 600))


def _advice(caller: Caller, answer: Answer) -> Advice:
    """Slow down from 75 %, by a second between two calls for each percent; before the limit, stop for a while.

    At 85 % for 2 minutes, at 95 % for 10 (the thresholds that Airbyte settled on), or as long as Meta says.
    """
    paces: dict[str, timedelta] = {}
    pauses: dict[str, datetime] = {}
    for scope, used, regain in _usage(caller, answer):
        if used >= STOP_AT or regain:
            until = answer.pause(max(timedelta(minutes=10 if used >= 95 else 2), regain))
            pauses[scope] = max(until, pauses.get(scope, until))
        elif used >= SLOW_AT:
            pace = timedelta(seconds=1 + used - SLOW_AT)
            paces[scope] = max(pace, paces.get(scope, pace))
    return {**paces, **pauses}


def _header(answer: Answer, name: str) -> dict[str, Any]:
    try:
        value = json.loads(answer.headers.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float:
    """A share of a quota or a duration, 0 if it is not one. Never money."""
    sane = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1_000_000
    return float(value) if sane else 0.0  # type: ignore[arg-type]
