"""The sandbox, except that for some accounts its answers are not to be trusted: over real HTTP, byte by byte."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Chunks = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True)
class Kind:
    """One way to be hostile: ``damage`` done to a good answer, or whole ``chunks`` of a body instead of it."""

    damage: Callable[[bytes], bytes] | None = None
    chunks: Chunks | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


def _of(*parts: bytes) -> Chunks:
    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return chunks


def _many(chunk: bytes, times: int | None = None) -> Chunks:
    """``chunk`` so many times, or until nobody listens any more."""

    async def chunks() -> AsyncIterator[bytes]:
        sent = 0
        while times is None or sent < times:
            sent += 1
            yield chunk
            await asyncio.sleep(0)

    return chunks


def _numbers(value: str) -> Callable[[bytes], bytes]:
    """Every measure of an answer replaced by ``value``, raw JSON."""
    named = rb'"(impressions|clicks|spend|costMicros|cost_micros|daily_budget|budget)":\s*("[^"]*"|[-0-9.eE+]+)'
    return lambda body: re.sub(named, lambda found: b'"%s":%s' % (found[1], value.encode()), body)


def _walk(change: Callable[[str, Any], Any]) -> Callable[[bytes], bytes]:
    """Every value of an answer's objects as ``change`` makes it of name and value."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: change(name, walk(inner)) for name, inner in value.items()}
        return [walk(inner) for inner in value] if isinstance(value, list) else value

    return lambda body: json.dumps(walk(json.loads(body))).encode()


_DAYS = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?")
_GZIP = ((b"content-encoding", b"gzip"),)


def _elsewhen(name: str, value: Any) -> Any:
    return "1999-12-31 00:00:00"[: len(value)] if isinstance(value, str) and _DAYS.fullmatch(value) else value


def _odd_id(name: str, value: Any) -> Any:
    return "../../\u202e%00" if name == "id" or name.endswith("_id") else value


def _bomb(times: int) -> bytes:
    """128 MiB of nothing, compressed so many times."""
    body = _compressed(b" " * (1 << 20) for _ in range(128))
    return body if times == 1 else _compressed([body])


def _compressed(parts: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join([*map(packer.compress, parts), packer.flush()])


KINDS: dict[str, Kind] = {
    "nothing": Kind(chunks=_of(b"")),
    "a number": Kind(chunks=_of(b"5")),
    "a list of everything": Kind(chunks=_of(b'[null, 1, "x", [], {}]')),
    "another shape": Kind(chunks=_of(b'{"data": {"list": 5, "data": []}, "code": 0, "paging": [], "results": {}}')),
    "nesting": Kind(chunks=_of(b"[" * 100_000)),
    "NaN": Kind(damage=_numbers("NaN")),
    "Infinity": Kind(damage=_numbers("-Infinity")),
    "1e400": Kind(damage=_numbers("1e400")),
    "ten thousand digits": Kind(damage=_numbers("9" * 10_000)),
    "2**63": Kind(damage=_numbers(str(2**63))),
    "negative": Kind(damage=_numbers('"-7"')),
    "other days": Kind(damage=_walk(_elsewhen)),
    "odd ids": Kind(damage=_walk(_odd_id)),
    "every row twice": Kind(damage=_walk(lambda _, value: value * 2 if isinstance(value, list) else value)),
    "everything text": Kind(damage=_walk(lambda name, value: "=1+1" if isinstance(value, str | int) else value)),
    "100 MB": Kind(chunks=_many(b" " * (1 << 20), 100)),
    "without end": Kind(chunks=_many(b'{"data": [' * 100_000)),
    "a bomb": Kind(chunks=_of(_bomb(1)), headers=_GZIP),
    "a bomb in a bomb": Kind(chunks=_of(_bomb(2)), headers=((b"content-encoding", b"gzip, gzip"),)),
    "millions of values": Kind(chunks=_of(b"[" + b"[]," * 7_000_000 + b"[]]")),
}


@dataclass
class Hostile:
    """Hands requests on to ``app``, those about one of the ``victims`` (ids of the platforms) as ``kind`` says."""

    app: ASGIApp
    victims: set[str] = field(default_factory=set)
    kind: Kind | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = f"{scope.get('path', '')}?{scope.get('query_string', b'').decode()}"
        if self.kind is None or "_sandbox" in asked or not any(victim in asked for victim in self.victims):
            await self.app(scope, receive, send)
        elif self.kind.damage is not None:
            await self.app(scope, receive, _damaged(send, self.kind.damage))
        elif self.kind.chunks is not None:
            headers = [(b"content-type", b"application/json"), *self.kind.headers]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            gone = asyncio.create_task(_gone(receive))
            async for chunk in self.kind.chunks():
                if gone.done():
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _damaged(send: Send, damage: Callable[[bytes], bytes]) -> Send:
    """Sends a whole answer of the sandbox, damaged."""
    begun: list[Message] = []

    async def instead(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.append(message)
            return
        body = damage(message["body"])
        kept = [(name, value) for name, value in begun[0]["headers"] if name.lower() != b"content-length"]
        await send({**begun[0], "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await send({**message, "body": body})

    return instead
