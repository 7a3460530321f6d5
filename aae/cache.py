"""What several processes share through Redis: hot frames, throttle state, API answers, leases.

It is a cache: wiping it at any moment loses nothing but time. When Redis is away every method behaves as on an empty
cache, one warning is logged, and for a while, from seconds up to a minute, Redis is not even dialled, so that a dead
server does not cost a time-out per call. Only :meth:`Cache.ping` raises.

Every key begins with ``aae:``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from aae import tls
from aae.errors import UserError
from aae.frames import DAILY, ENTITIES, HOURLY, AccountFrames, Reach
from aae.model import Account
from aae.patience import IN_A_ROW, KEPT_AFTER, PACE_SECONDS, SLOWEST, LocalState, Pause

_log = logging.getLogger(__name__)

_PREFIX: Final = "aae:"
_TIMEOUT_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 5.0
_LONGEST_QUIET_SECONDS: Final = 60.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_AWAY: Final = (RedisError, OSError, TimeoutError)
_UNREADABLE: Final = (
    *(pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RecursionError, MemoryError, OSError),
)
"""What comes of reading bytes that anybody may have written."""

_MAGIC: Final = b"AAEF1"
_DIGEST_BYTES: Final = 16
_PARTS: Final = {"entities": ENTITIES, "daily": DAILY, "hourly": HOURLY}

# Deletes a lease only if it is still ours.
_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"
# Moves a block only forward, and counts the refusals that led to it: those within a block are one.
_BLOCK: Final = """
local known = tonumber(redis.call('get', KEYS[1]) or '') or -1
local refusals = tonumber(redis.call('get', KEYS[2]) or '') or 0
if ARGV[4] == '1' and (known <= tonumber(ARGV[3]) or refusals < 1) then
  redis.call('set', KEYS[2], string.format('%.0f', refusals + 1), 'PX', ARGV[5])
end
if tonumber(ARGV[1]) > known then
  redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
"""
# Takes the next turn in every scope: two keys for each, its pace as it was told and its next free moment, both in
# milliseconds, of this server's clock, so that no clocks have to agree. A turn beyond what can have been given is none:
# the clock has been set back, or another server has taken over.
_TURN: Final = """
local time, longest, slowest = redis.call('TIME'), tonumber(ARGV[1]), tonumber(ARGV[2])
local now, wait, turns = time[1] * 1000 + math.floor(time[2] / 1000), 0, {}
for i = 1, #KEYS / 2 do
  local turn = tonumber(redis.call('get', KEYS[2 * i]) or '') or now
  if not (turn >= now and turn <= now + longest + slowest) then turn = now end
  turns[i], wait = turn, math.max(wait, turn - now)
end
if wait > longest then return wait end
for i = 1, #KEYS / 2 do
  local told = tonumber(redis.call('get', KEYS[2 * i - 1]) or '') or 0
  if not (told > 0) then told = 0 end
  local pace = math.max(tonumber(ARGV[2 + i]), math.floor(math.min(told, slowest)))
  if pace > 0 then
    redis.call('set', KEYS[2 * i], string.format('%.0f', turns[i] + pace), 'PX', turns[i] - now + pace)
  end
end
return wait
"""


class _Health:
    """Whether Redis is worth dialling; says once when it goes away and once when it is back."""

    def __init__(self, url: str) -> None:
        self._where = _where(url)
        self._quiet = _QUIET_SECONDS
        self._quiet_until = 0.0
        self._away = False

    def worth_trying(self) -> bool:
        return time.monotonic() >= self._quiet_until

    def failed(self, error: Exception) -> None:
        self._quiet_until = time.monotonic() + self._quiet
        self._quiet = min(2 * self._quiet, _LONGEST_QUIET_SECONDS)
        if not self._away:
            reason = tls.trouble(error) or type(error).__name__
            _log.warning("the cache at %s is away (%s); going on without it", self._where, reason)
        self._away = True

    def answered(self) -> None:
        if self._away:
            _log.info("the cache at %s is back", self._where)
        self._away = False
        self._quiet = _QUIET_SECONDS


class Cache:
    """The synchronous side: frames and leases. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """``url``: ``redis://``, ``rediss://`` or ``unix://``; nothing is dialled yet."""
        self._url = url
        self._client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1), **_options())
        self._health = _Health(url)

    def ping(self) -> None:
        """Dial Redis once.

        Raises:
            UserError: it does not answer or refuses us; the message has no password.
        """
        try:
            self._client.ping()
        except redis.AuthenticationError:
            raise UserError(f"Redis at {_where(self._url)} refused the password: correct AAE_REDIS_URL.") from None
        except _AWAY as error:
            if (reason := tls.trouble(error)) is not None:
                raise UserError(
                    f"The Redis at {_where(self._url)} cannot be trusted: {reason}. See ssl_ca_certs in AAE_REDIS_URL."
                ) from None
            raise UserError(
                f"No Redis answers at {_where(self._url)} ({type(error).__name__}): start it or correct AAE_REDIS_URL."
            ) from None

    def put_frames(self, frames: AccountFrames, ttl: float) -> None:
        """Publish an account's hot window for ``ttl`` seconds, in place of the one before."""
        if self._health.worth_trying():
            with self._degrading():
                self._client.set(_frames_key(frames.account.id), _pack(frames), px=_milliseconds(ttl))

    def get_frames(self, account: Account, version: int) -> AccountFrames | None:
        """The account's hot window if it is there, whole, and of exactly this data version."""
        payload = None
        if self._health.worth_trying():
            with self._degrading():
                payload = self._client.get(_frames_key(account.id))
        if not isinstance(payload, bytes):
            return None
        try:
            return _unpack(payload, account, version)
        except _UNREADABLE as error:
            _log.warning("the cached frames of account %d cannot be read (%s)", account.id, type(error).__name__)
            return None

    @contextmanager
    def lock(self, name: str, ttl: float) -> Iterator[bool]:
        """A lease of at most ``ttl`` seconds; yields whether we hold it.

        It saves double work, it does not make anything correct: when Redis is away everybody holds it, and the unique
        keys of the tables decide.
        """
        key, token = f"{_PREFIX}lock:{name}", secrets.token_hex(16)
        ours: Any = True
        if self._health.worth_trying():
            with self._degrading():
                ours = self._client.set(key, token, nx=True, px=_milliseconds(ttl))
        try:
            yield bool(ours)
        finally:
            if ours and self._health.worth_trying():
                with self._degrading():
                    self._client.eval(_RELEASE, 1, key, token)

    def close(self) -> None:
        """Close the connections."""
        with suppress(*_AWAY):
            self._client.close()

    @contextmanager
    def _degrading(self) -> Iterator[None]:
        try:
            yield
        except _AWAY as error:
            self._health.failed(error)
        else:
            self._health.answered()


class SharedState:
    """The asynchronous side: :class:`aae.patience.SharedState` for every process that calls the platforms.

    Its own blocks each process remembers even without Redis; while Redis is away, each keeps its own pace.
    """

    def __init__(self, url: str, *, answer_ttl_seconds: float = 300) -> None:
        """``answer_ttl_seconds``: how long an API answer may be used again; 0 turns that off."""
        self._url = url
        self._answer_ttl = answer_ttl_seconds
        self._health = _Health(url)
        self._own = LocalState(lambda: datetime.now(UTC))
        self._client: redis.asyncio.Redis | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def pauses(self, scopes: Sequence[str]) -> dict[str, Pause]:
        """The last pause of each of the scopes that had one lately; the caller says whether it is over."""
        told = await self._own.pauses(scopes)
        keys = [key for scope in scopes for key in _pause_keys(scope)]
        found = (await self._try(lambda client: client.mget(keys)) if keys else None) or []
        for scope, until, refusals in zip(scopes, map(_moment, found[::2]), map(_small, found[1::2]), strict=False):
            own = told.get(scope, Pause(None))
            if until or refusals or own.until:
                # Redis has the last word on refusals: a call of another process may have gone well.
                known = [moment for moment in (until, own.until) if moment]
                told[scope] = Pause(max(known, default=None), refusals)
        return told

    async def block(self, scope: str, until: datetime, *, now: datetime, refused: bool = True) -> None:
        """Tell everybody that ``scope`` is blocked, by a clock that says ``now``. A block is never shortened."""
        # Rounded up: a moment too late is polite, a moment too early is another refusal.
        milliseconds = -((_EPOCH - until) // _MILLISECOND)
        await self._own.block(scope, _EPOCH + milliseconds * _MILLISECOND, now=now, refused=refused)
        lasts = max(until - now, timedelta(0))
        kept_for, in_a_row = (_milliseconds((lasts + more).total_seconds()) for more in (KEPT_AFTER, IN_A_ROW))
        arguments = (milliseconds, kept_for, (now - _EPOCH) // _MILLISECOND, int(refused), in_a_row)
        await self._try(lambda client: client.eval(_BLOCK, 2, *_pause_keys(scope), *map(str, arguments)))

    async def relieve(self, scope: str) -> None:
        """A call of the scope went well again: the next refusal is the first."""
        await self._own.relieve(scope)
        await self._try(lambda client: client.delete(_pause_keys(scope)[1]))

    async def set_pace(self, scope: str, seconds: float) -> None:
        """Leave so many seconds between any two calls of the scope, by whomever; it holds for some minutes."""
        await self._own.set_pace(scope, seconds)
        key, pace, ttl = _turn_keys(scope)[0], _milliseconds(seconds), _milliseconds(PACE_SECONDS)
        await self._try(lambda client: client.set(key, pace, px=ttl))

    async def take_turn(self, paces: Mapping[str, float], *, longest: float) -> float:
        """Seconds until the caller's turn among all processes; while Redis is away, among this one's calls."""
        keys = [key for scope in paces for key in _turn_keys(scope)]
        arguments = [_milliseconds(longest), _milliseconds(SLOWEST), *(int(pace * 1000) for pace in paces.values())]
        wait = await self._try(lambda client: client.eval(_TURN, len(keys), *keys, *map(str, arguments)))
        return wait / 1000 if isinstance(wait, int) else await self._own.take_turn(paces, longest=longest)

    async def get_answer(self, key: str) -> bytes | None:
        """The body stored for this request, if it is fresh."""
        if self._answer_ttl <= 0:
            return None
        found = await self._try(lambda client: client.get(f"{_PREFIX}answer:{key}"))
        return found if isinstance(found, bytes) else None

    async def put_answer(self, key: str, body: bytes) -> None:
        """Keep the body of an answer. ``key`` must identify the request and hold no secret."""
        if self._answer_ttl > 0:
            ttl = _milliseconds(self._answer_ttl)
            await self._try(lambda client: client.set(f"{_PREFIX}answer:{key}", body, px=ttl))

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client, self._client, self._loop = self._client, None, None
        if client is not None:
            with suppress(*_AWAY):
                await client.aclose()

    async def _try(self, call: Any) -> Any:
        if not self._health.worth_trying():
            return None
        try:
            answer = await call(self._connected())
        except _AWAY as error:
            self._health.failed(error)
            return None
        self._health.answered()
        return answer

    def _connected(self) -> redis.asyncio.Redis:
        # Connections belong to the event loop they were made in; a process may run several, one after the other.
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = redis.asyncio.Redis.from_url(self._url, retry=AsyncRetry(NoBackoff(), 1), **_options())
            self._loop = loop
        return self._client


def _options() -> dict[str, Any]:
    return {"socket_connect_timeout": _TIMEOUT_SECONDS, "socket_timeout": _TIMEOUT_SECONDS, "health_check_interval": 30}


def _where(url: str) -> str:
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _moment(value: object) -> datetime | None:
    """The moment that was stored; what is none (Redis may hold anything) was never stored."""
    if not isinstance(value, bytes) or len(value) > 20 or not value.isdigit():
        return None
    try:
        return _EPOCH + int(value) * _MILLISECOND
    except OverflowError:
        return None


def _small(value: object) -> int:
    """A count that was stored, 0 if it is none."""
    return int(value) if isinstance(value, bytes) and len(value) <= 6 and value.isdigit() else 0


def _pause_keys(scope: str) -> tuple[str, str]:
    return f"{_PREFIX}blocked:{scope}", f"{_PREFIX}refused:{scope}"


def _turn_keys(scope: str) -> tuple[str, str]:
    return f"{_PREFIX}pace:{scope}", f"{_PREFIX}turn:{scope}"


def _frames_key(account_id: int) -> str:
    return f"{_PREFIX}frames:{account_id}"


# Frames as bytes: magic | digest of the rest | length of the head (4 bytes) | head (JSON) | three Arrow IPC streams.
# Arrow, not pickle: reading it runs no code. The digest, because Arrow does not notice a flipped bit in a number.


def _pack(frames: AccountFrames) -> bytes:
    streams = [_to_arrow(getattr(frames, name)) for name in _PARTS]
    head = json.dumps(
        {
            "account": frames.account.id,
            "version": frames.version,
            "data_through": frames.data_through and frames.data_through.isoformat(),
            "lengths": [len(stream) for stream in streams],
            "reach": frames.reach and _reach_as_json(frames.reach),
        }
    ).encode()
    body = b"".join((len(head).to_bytes(4, "big"), head, *streams))
    return _MAGIC + _digest(body) + body


def _unpack(payload: bytes, account: Account, version: int) -> AccountFrames | None:
    start = len(_MAGIC) + _DIGEST_BYTES
    body = memoryview(payload)[start:]
    if payload[: len(_MAGIC)] != _MAGIC or payload[len(_MAGIC) : start] != _digest(body):
        _log.warning("the cached frames of account %d are damaged", account.id)
        return None
    end = 4 + int.from_bytes(body[:4], "big")
    head = json.loads(bytes(body[4:end]))
    if (head["account"], head["version"]) != (account.id, version):
        return None
    found: dict[str, pd.DataFrame] = {}
    for (name, dtypes), length in zip(_PARTS.items(), head["lengths"], strict=True):
        frame = _from_arrow(body[end : end + length])
        if {column: str(dtype) for column, dtype in frame.dtypes.items()} != dtypes:
            return None  # written by another version of this program
        found[name] = frame
        end += length
    through = head["data_through"]
    return AccountFrames(
        account=account,
        version=version,
        data_through=None if through is None else datetime.fromisoformat(through),
        reach=_reach(head.get("reach")),
        **found,
    )


def _reach_as_json(reach: Reach) -> list[Any]:
    return [reach.daily_since.isoformat(), reach.hourly_since.isoformat(), reach.fetch_id]


def _reach(told: list[Any] | None) -> Reach | None:
    if told is None:
        return None
    daily, hourly, fetch_id = told
    return Reach(date.fromisoformat(daily), date.fromisoformat(hourly), int(fetch_id))


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _to_arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _from_arrow(stream: memoryview) -> pd.DataFrame:
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        table = reader.read_all()
    # Offsets that lead outside their buffers end here and not in a crash.
    table.validate(full=True)
    frame = table.to_pandas()
    assert isinstance(frame, pd.DataFrame)  # noqa: S101 - for the type checker; pyarrow has no types
    return frame
