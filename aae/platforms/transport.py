"""The one door to the network: quick retries, throttle state, answer cache, call counting, redaction.

A platform describes a request as a :class:`Call` and says what its answers mean with a :data:`Judge`; everything that
is the same for all three platforms happens here. The door keeps three promises:

- no exception and no log line that leaves it holds a secret, or an address that might hold one;
- a scope that asked for patience is left alone, by every process that shares the state, until the moment it named;
- an answer is bounded in size and time, and its numbers are exact (``int`` and ``Decimal``, never ``float``).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
import re
import ssl
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import count
from types import TracebackType
from typing import Any, Final, NoReturn, Self
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from aae.errors import Bug, Reduce, Retry, Throttled
from aae.model import Account, Platform, Token
from aae.patience import LocalState, SharedState
from aae.platforms.shapes import decode, shaped

TRIES: Final = 3
"""Tries of one request within one call: what is not over by then is left to the task's own retries."""

TIMEOUT_TRIES: Final = 2
"""The same for time-outs, which take long; see also ``Call.not_again``."""

TIMED_OUT: Final = "timeout"
"""The code of a time-out, and of a request that must not be sent again as it is because it timed out."""

AUTH_SECONDS: Final = 15.0
"""The most that a call about a token may take: others wait for it, and a second try must come soon after a first one
whose answer was lost, while a platform that rotates refresh tokens still takes the old one."""

NEAR: Final = timedelta(seconds=20)
"""A pause that ends this soon is waited for; a longer one is raised, so that no worker slot sleeps through it."""

LONGEST_TURN: Final = 60.0
"""Seconds to stand in line while a scope is called slowly. Whoever is further back comes again later, so that meanwhile
other accounts and other platforms have their places."""

LONGEST_PAUSE: Final = timedelta(hours=48)
"""No platform's quota lasts longer; whatever asks for more is cut to this."""

LARGEST_ANSWER: Final = 64 * 1024 * 1024
"""Bytes, after decompression. A larger answer is a request to ask for less."""

MOST_VALUES: Final = 6_000_000
"""Commas, colons and brackets of an answer that is read. A value takes a hundred times the memory of its two bytes:
64 MiB of them would be gigabytes. A platform's own answers have one in a dozen bytes."""

LARGEST_KEPT: Final = 8 * 1024 * 1024
"""Bytes of an answer worth keeping for reuse; more would crowd out what others share."""

_BACKOFF_SECONDS: Final = 0.5
_MESSAGE_LENGTH: Final = 200
_TELLING: Final = 8
"""So many characters of a secret in a row are not there by chance."""
_TOKEN_LIKE: Final = re.compile(r"(?=[\w\-.|%=+/]*\d)(?=[\w\-.|%=+/]*[A-Za-z])[\w\-.|%=+/]{24,}")
_HTTP_LOGGERS: Final = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")


class Purpose(StrEnum):
    """Why a call is made; calls are counted by it."""

    LISTING = "listing"
    METRICS = "metrics"
    TOTALS = "totals"
    POLL = "poll"
    AUTH = "auth"


_REUSABLE: Final = frozenset({Purpose.LISTING, Purpose.METRICS, Purpose.TOTALS})

_tally: ContextVar[Counter[str] | None] = ContextVar("tally", default=None)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """The requests that are sent within this block and by what it starts, by purpose; reused answers are none.

    Whoever works for an account counts all that it takes, also what is asked of the platform about no account at all.
    """
    tally: Counter[str] = Counter()
    mark = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(mark)


class Blip(Retry):
    """A hiccup that is worth a second try at once. Judges raise it; after the quick tries it is a plain ``Retry``."""

    tries: int = TRIES


class TimedOut(Blip):
    """No answer in time: the platform may have done it or not."""

    tries = TIMEOUT_TRIES


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    ``data`` is the decoded JSON, or None if the body is not JSON (``is_json`` tells the difference from ``null``). A
    judge sees it in the call's shape only if it has that; whoever made the call always does.
    Header names are lower case. ``at`` is the aware moment it arrived; ``throttled_before`` counts the refusals in a
    row that the call's scopes have met, in any process, for platforms that want ever more patience.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    data: Any = field(repr=False)  # may hold a new token
    is_json: bool
    at: datetime
    throttled_before: int = 0
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def quote(self, text: object) -> str:
        """A platform's own words, fit for a message: one short printable line without secrets."""
        if not isinstance(text, str):
            return "no message"
        line = "".join(char if char.isprintable() and char.isascii() else " " for char in text[:2000])
        line = _TOKEN_LIKE.sub("***", _without(self.secrets, line))
        return " ".join(line.split())[:_MESSAGE_LENGTH] or "no message"

    def pause(self, delay: timedelta) -> datetime:
        """The moment ``delay`` after this answer, within reason."""
        return self.at + min(max(delay, timedelta(seconds=1)), LONGEST_PAUSE)


Advice = Mapping[str, datetime | timedelta]
"""Scopes to be gentle with from now on: to leave alone until a moment, or to leave so much time between two calls."""

Judge = Callable[[Answer], Advice]
"""What an answer means: raises one of ``aae.errors``, or returns advice (often none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, described so that nothing secret can leak from it.

    ``account`` is the external id ("" where no single account is meant) and ``owner`` our own account row, so that
    answers are never shared between tenants. ``scopes`` are the pauses that the call respects. Secrets travel only in
    the three ``secret_`` fields; they are kept out of the cache key, of ``repr`` and of every message.
    ``repeatable`` is False for what must not be sent twice; ``fresh`` asks past the answer cache.
    ``shape`` is what a good answer looks like (:mod:`aae.platforms.shapes`); None stands for any JSON.
    ``paces`` are the scopes in which calls take turns, each with the seconds between two that are always left.
    ``not_again``: this long a request that found no answer in time is sent again by nobody as it is; it is raised as
    ``Reduce`` with the code ``TIMED_OUT``, to be asked for in smaller parts.
    """

    platform: Platform
    account: str
    purpose: Purpose
    method: str
    url: str
    judge: Judge
    scopes: tuple[str, ...] = ()
    owner: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_form: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    repeatable: bool = True
    fresh: bool = False
    paces: Mapping[str, float] = field(default_factory=dict)
    not_again: timedelta = timedelta(0)
    shape: Any = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret it carries, longest first; a bearer token also without its prefix."""
        values = [*self.secret_params.values(), *self.secret_form.values(), *self.secret_headers.values()]
        values += [value.removeprefix("Bearer ") for value in values]
        return tuple(sorted({value for value in values if value}, key=len, reverse=True))

    @property
    def cache_key(self) -> str | None:
        """Names the request without its secrets; None if its answer must not be reused."""
        if self.fresh or self.owner is None or self.purpose not in _REUSABLE:
            return None
        return self._digest(self.owner)

    @property
    def scope(self) -> str:
        """This very request as a scope of its own, whoever makes it."""
        return f"{self.platform}:request:{self._digest(None)}"

    def _digest(self, owner: int | None) -> str:
        parts = [
            self.platform,
            owner,
            self.account,
            self.method,
            self.url,
            sorted(self.params.items()),
            sorted((self.form or {}).items()),
            sorted(self.headers.items()),
            self.body,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf calls are made: the account's external id ("" for none), our row of it, and what authorizes us.

    ``login`` is the Google manager through which access goes.
    """

    token: SecretStr
    account: str = ""
    owner: int | None = None
    login: str | None = None

    @property
    def user(self) -> str:
        """Who gave us the token, as a scope: its digest, since the platforms' throttles name nobody."""
        return f"user:{hashlib.sha256(self.token.get_secret_value().encode()).hexdigest()[:16]}"

    @property
    def scope(self) -> str:
        """What a limit that is not the whole app's is about: the account, or of a call about none the user."""
        return f"account:{self.account}" if self.account else self.user

    @classmethod
    def of(cls, account: Account, token: Token) -> Caller:
        """The caller for one of our accounts."""
        return cls(token.access, account.external_id, account.id, account.login_customer_id)


class Transport:
    """The door. An async context manager that owns its connections.

    ``client_timeout`` (seconds) bounds a whole request, body included. ``clock`` gives aware UTC datetimes. ``store``
    is what processes share; without one, throttle state lives in this object and answers are not reused. ``handler``
    replaces the network in tests.
    """

    def __init__(
        self,
        client_timeout: float,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        store: SharedState | None = None,
        *,
        handler: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self._timeout = client_timeout
        self._store: SharedState = store if store is not None else LocalState(clock)
        self._handler = handler
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        _quiet_http_logs()
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(self._timeout, connect=min(10.0, self._timeout)),
            verify=_certificates(),
            transport=self._handler,
            follow_redirects=False,  # a redirect would carry the token elsewhere
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "aae-pipelines"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def request(self, call: Call) -> Answer:
        """Make the call and return its judged answer.

        Raises:
            Throttled: the platform asks for patience, now or by an earlier answer to any process.
            Reduce: it is too much; or it timed out, now or a while ago, and must not be sent again as it is.
            Retry: it did not answer, or hiccuped through every quick try.
            AaeError: whatever else the call's judge makes of the answer.
        """
        key = call.cache_key
        if key is not None and (kept := await self._store.get_answer(key)) is not None:
            answer = self._answer(call, 200, {}, kept)
            if answer.is_json:  # what is stored outside may be damaged
                return _shaped(call, answer)
        for attempt in count(1):
            refusals = await self._respect_pauses(call)
            if await self._take_turn(call):  # meanwhile somebody may have been told to stop
                refusals = await self._respect_pauses(call)
            try:
                answer, body = await self._send(call)
                answer = replace(answer, throttled_before=max(refusals.values(), default=0))
                await self._judge(call, answer, refusals)
                answer = _shaped(call, answer)
                break
            except Throttled as throttled:  # a pause that is over soon is waited for in the next round
                if attempt >= TRIES or throttled.until - self.clock() > NEAR:
                    raise
            except Blip as blip:
                await self._back_off(call, blip, attempt)
        if key is not None and len(body) <= LARGEST_KEPT and not _holds_any(call.secrets, body):
            await self._store.put_answer(key, body)
        return answer

    async def _respect_pauses(self, call: Call) -> dict[str, int]:
        """Wait for a pause that is nearly over; raise a longer one. Gives the refusals in a row, by scope."""
        own = (call.scope,) if call.not_again else ()
        pauses = await self._store.pauses((*call.scopes, *own))
        now = self.clock()
        ends = {scope: pause.until for scope, pause in pauses.items() if pause.until and pause.until > now}
        if ends.keys() & {*own}:
            raise Reduce(f"{_name(call)} did not answer this in time a while ago.", code=TIMED_OUT)
        if ends:
            scope, until = max(ends.items(), key=lambda end: end[1])
            if until - now > NEAR:
                raise Throttled(
                    f"{_name(call)} asked for patience until {until:%Y-%m-%d %H:%M:%S} UTC.", until=until, scope=scope
                )
            await self.sleep((until - now).total_seconds())
        return {scope: pause.refusals for scope, pause in pauses.items() if pause.refusals}

    async def _take_turn(self, call: Call) -> bool:
        """Wait for the call's turn; whether that took any time."""
        if not call.paces:
            return False
        wait = await self._store.take_turn(call.paces, longest=LONGEST_TURN)
        if wait > LONGEST_TURN:
            until = self.clock() + timedelta(seconds=wait)
            raise Throttled(f"{_name(call)} is near its limit and called slowly.", until=until, scope=call.scopes[0])
        if wait > 0:
            await self.sleep(wait)
        return wait > 0

    async def _judge(self, call: Call, answer: Answer, refusals: Mapping[str, int]) -> None:
        """Let the platform say what its answer means, and let everybody know how gentle it wants us to be."""
        try:
            advice = call.judge(answer)
        except Throttled as throttled:
            await self._store.block(throttled.scope, throttled.until, now=answer.at)
            raise
        for scope in refusals:
            await self._store.relieve(scope)
        for scope, patience in advice.items():
            if isinstance(patience, timedelta):
                await self._store.set_pace(scope, patience.total_seconds())
            else:
                await self._store.block(scope, patience, now=answer.at, refused=False)

    async def _back_off(self, call: Call, blip: Blip, attempt: int) -> None:
        """Wait a little before the next try; raise what happened if there is to be none."""
        if call.not_again and isinstance(blip, TimedOut):
            now = self.clock()
            await self._store.block(call.scope, now + call.not_again, now=now, refused=False)
            raise Reduce(str(blip), code=TIMED_OUT) from None
        if attempt >= blip.tries or not (call.repeatable or isinstance(blip, _NotSent)):
            raise blip
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing
        await self.sleep(_BACKOFF_SECONDS * 2 ** (attempt - 1) * spread)

    async def _send(self, call: Call) -> tuple[Answer, bytes]:
        """One request over the wire. Errors are re-made outside the ``except``: httpx's own may hold the address."""
        if self._client is None:
            raise RuntimeError("the transport is used outside its context")
        if (tally := _tally.get()) is not None:
            tally[call.purpose.value] += 1
        problem: Retry | Bug
        limit = min(self._timeout, AUTH_SECONDS) if call.purpose is Purpose.AUTH else self._timeout
        try:
            async with asyncio.timeout(limit):
                return await self._exchange(self._client, call)
        except (TimeoutError, httpx.TimeoutException):
            problem = TimedOut(f"{_name(call)} did not answer within {limit:g} s.", code=TIMED_OUT)
        except httpx.ConnectError:
            problem = _NotSent(f"{_name(call)} could not be reached.", code="connect")
        except httpx.TransportError as error:
            problem = Blip(f"The connection to {_name(call)} broke ({type(error).__name__}).", code="connection")
        except zlib.error:
            problem = Blip(f"{_name(call)} sent a body that cannot be decompressed.", code="connection")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            problem = Bug(f"The request to {_name(call)} cannot be made ({type(error).__name__}).")
        raise problem

    async def _exchange(self, client: httpx.AsyncClient, call: Call) -> tuple[Answer, bytes]:
        form = {**(call.form or {}), **call.secret_form}
        request = client.build_request(
            call.method,
            call.url,
            params={**call.params, **call.secret_params},
            headers={**call.headers, **call.secret_headers},
            data=form or None,
            json=call.body,
        )
        response = await client.send(request, stream=True)
        try:
            body = await _read(response, call)
        finally:
            await response.aclose()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return self._answer(call, response.status_code, headers, body), body

    def _answer(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        data, is_json = decode(body, call.shape)
        return Answer(status, headers, data, is_json, self.clock(), secrets=call.secrets)


class _NotSent(Blip):
    """It never reached the platform, so it may be sent again whatever it was."""


def unjudged(platform: Platform, answer: Answer) -> None:
    """What an answer means by its HTTP status alone, where the platform's own error was not found in it.

    Raises:
        Blip: a server's trouble, or a body that is not JSON (a proxy's page, a cut stream).
        Throttled: 429, for a minute, doubling; the scope is the whole platform since nothing narrower is known.
        Bug: any other status that is not a success.
    """
    name, status = platform.capitalize(), answer.status
    if status >= 500:
        raise Blip(f"{name} answered with HTTP {status}.", code=str(status))
    if status == 429:
        delay = timedelta(seconds=60 * 2 ** min(answer.throttled_before, 4))
        raise Throttled(
            f"{name} answered with HTTP 429.", until=answer.pause(delay), scope=f"{platform}:app", code="429"
        )
    if not 200 <= status < 300:
        raise Bug(f"{name} answered with HTTP {status}.", code=str(status))
    if not answer.is_json:
        raise Blip(f"{name} sent something that is not JSON, or only a part of it.", code="not-json")


@cache
def _certificates() -> ssl.SSLContext:
    """The authorities to trust, read once per process: it takes a tenth of a second."""
    return httpx.create_ssl_context()


def _holds_any(secrets: Sequence[str], body: bytes) -> bool:
    """Whether an answer repeats a secret: Meta writes the token into the address of the next page."""
    return any(form.encode() in body for form in _forms(secrets))


def _without(secrets: Sequence[str], line: str) -> str:
    """The line with every part of a secret masked, plain or encoded, also where only a piece of it was repeated."""
    forms = _forms(secrets)
    hidden = [False] * len(line)
    for start in range(len(line) - _TELLING + 1):
        if any(line[start : start + _TELLING] in form for form in forms):
            hidden[start : start + _TELLING] = [True] * _TELLING
    shown = ("*" if mask else char for char, mask in zip(line, hidden, strict=True))
    return re.sub(r"\*{4,}", "***", "".join(shown))


def _forms(secrets: Sequence[str]) -> list[str]:
    """How each secret may be written."""
    # "Bearer " before a token is no secret, and is there without it as well.
    return [form for secret in secrets if " " not in secret for form in _forms_of(secret)]


def _forms_of(secret: str) -> tuple[str, ...]:
    raw = secret.encode()
    return (
        secret,
        quote(secret, safe=""),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        raw.hex(),
    )


def _shaped(call: Call, answer: Answer) -> Answer:
    if call.shape is None:
        return answer
    try:
        return replace(answer, data=shaped(answer.data, call.shape))
    except ValueError as error:
        raise Bug(
            f"{call.platform.capitalize()} sent something of another shape ({error}).", code="malformed"
        ) from None


async def _read(response: httpx.Response, call: Call) -> bytes:
    """The whole body, decompressed. Never more than :data:`LARGEST_ANSWER`, whatever is sent, at any moment.

    Not by httpx, which decompresses a chunk at a time and without a limit: one of 64 KiB becomes 64 MiB, and as many
    times as it says to have been compressed, a thousand times that.
    """
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for the type checker
    parts, size, sent = [], 0, 0
    inflate = _inflater(response.headers.get("content-encoding", ""))
    async for chunk in response.stream:
        sent += len(chunk)
        left = chunk
        while left:
            part = inflate.decompress(left, LARGEST_ANSWER + 1 - size) if inflate else left
            left = inflate.unconsumed_tail if inflate else b""
            parts.append(part)
            size += len(part)
            if max(size, sent) > LARGEST_ANSWER:
                _too_large(call)
        if inflate and inflate.eof:
            break
    body = b"".join(parts)
    # Counting takes as long as a tenth of the decoding, and a body of fewer bytes cannot have so many.
    if len(body) > MOST_VALUES and sum(map(body.count, (b",", b":", b"[", b"{"))) > MOST_VALUES:
        raise Reduce(f"{_name(call)} sent more than {MOST_VALUES:,} values in one answer.", code="too-large")
    return body


def _inflater(encoding: str) -> zlib._Decompress | None:
    """What decompresses a body; None for one that is not compressed.

    Raises:
        zlib.error: it is compressed in a way that was not asked for, or several times.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise zlib.error("an encoding that was not asked for")
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out by itself which of the two it is


def _too_large(call: Call) -> NoReturn:
    raise Reduce(f"{_name(call)} sent more than {LARGEST_ANSWER >> 20} MiB in one answer.", code="too-large")


def _name(call: Call) -> str:
    account = f" (account {call.account}, {call.purpose})" if call.account else f" ({call.purpose})"
    return f"{call.platform.capitalize()}{account}"


class _DropRequestLines(logging.Filter):
    """httpx logs every address at INFO and httpcore every header at DEBUG; both may hold secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Only what is at least a warning passes."""
        return record.levelno >= logging.WARNING


_drop_request_lines = _DropRequestLines()


def _quiet_http_logs() -> None:
    for name in _HTTP_LOGGERS:
        logging.getLogger(name).addFilter(_drop_request_lines)  # adding the same filter twice is once
