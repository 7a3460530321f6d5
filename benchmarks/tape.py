"""A tape of the wire between a client and the sandbox, played back from memory as fast as that goes.

The sandbox computes its answers, at about the pace at which a plain script takes them: what is measured against it is
the sandbox. So each client is first let through to it, untimed, for a few template accounts, and every answer is kept;
from then on a process of its own gives out the kept ones, for any number of accounts: each further account is a copy
of a template under an id of its own, which is put into what is sent in place of the template's.

Kept is what is asked of an account and has one answer for ever: reading, and Google's queries. All else (tokens,
report runs, what no account is named in) goes through to the sandbox each time, and is counted as passed on: a timed
run in which much was passed on has measured the sandbox again. The sandbox's own headers come along. Nothing is
compressed, since the sandbox compresses nothing.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Final
from urllib.parse import urlsplit

import httpx

LOOPBACK: Final = "127.0.0.1"

_ACCOUNT: Final = re.compile(rb"(?<=act_)\d+|(?<=customers/)\d+|(?<=advertiser_id=)\d+|(?<=advertiser_ids=%5B%22)\d+")
"""Where a request names the account that it is about, on each platform."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_OF_THE_CONNECTION: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as it came."""

    method: str
    target: str
    body: str

    @property
    def wire(self) -> bytes:
        """The same, to be sent again."""
        body = self.body.encode()
        head = f"{self.method} {self.target} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class Heard:
    """What the tape was asked since it was told to forget: every request, and how many it had to pass on."""

    asked: tuple[Asked, ...]
    passed: int


@dataclass(frozen=True, slots=True)
class Tape:
    """A tape that runs. It stands in for the sandbox, whose control API is reached through it as well."""

    url: str

    def copy(self, templates: Mapping[str, str]) -> None:
        """Answer for further accounts: the id of each, as long as its template's, and the template's."""
        httpx.post(f"{self.url}/_tape", json=dict(templates)).raise_for_status()

    def forget(self) -> None:
        """Begin to count anew; the answers stay."""
        httpx.delete(f"{self.url}/_tape").raise_for_status()

    def heard(self) -> Heard:
        """What it was asked."""
        told = httpx.get(f"{self.url}/_tape", timeout=60).raise_for_status().json()
        return Heard(tuple(Asked(*each) for each in told["asked"]), told["passed"])


@contextmanager
def running(upstream: str) -> Iterator[Tape]:
    """A tape before the sandbox at ``upstream``, in a process of its own."""
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe(duplex=False)
    process = fresh.Process(target=_serve, args=(theirs, upstream), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Tape(ours.recv())
    finally:
        ours.close()
        process.terminate()
        process.join(timeout=10)


def replay(url: str, asked: Sequence[Asked], connections: int = 4) -> int:
    """Ask the same again and throw the answers away; returns how long they were.

    Faster than this no client can be.
    """
    port = urlsplit(url).port
    assert port is not None
    with ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(lambda start: _drain(port, asked[start::connections]), range(connections)))


def _drain(port: int, asked: Sequence[Asked]) -> int:
    size, room = 0, bytearray(1 << 20)
    with socket.create_connection((LOOPBACK, port)) as line:
        for each in asked:
            line.sendall(each.wire)
            head = bytearray()
            while (end := head.find(b"\r\n\r\n")) < 0:
                head += line.recv(1 << 16) or _cut()
            length = _LENGTH.search(head)
            whole = int(length[1]) if length else 0
            left = whole - (len(head) - end - 4)
            size += whole
            while left:
                left -= line.recv_into(room, min(left, len(room))) or len(_cut())
    return size


def _cut() -> bytes:
    raise ConnectionError("the tape closed the connection")


# The process


def _serve(ready: Pipe, upstream: str) -> None:
    asyncio.run(_listen(ready, upstream))


async def _listen(ready: Pipe, upstream: str) -> None:
    async with httpx.AsyncClient(base_url=upstream, timeout=120) as client:
        player = _Player(client)
        server = await asyncio.get_running_loop().create_server(lambda: _Conversation(player), LOOPBACK, 0)
        ready.send(f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


Kept = tuple[bytes, ...]
"""A whole answer, cut where the template's id stood."""


class _Player:
    """The kept answers, by method, target under the template's id, and body."""

    def __init__(self, sandbox: httpx.AsyncClient) -> None:
        self._sandbox = sandbox
        self._kept: dict[tuple[bytes, bytes, bytes], Kept] = {}
        self._templates: dict[bytes, bytes] = {}
        self._asked: list[tuple[bytes, bytes, bytes]] = []
        self._passed = 0

    def at_once(self, method: bytes, target: bytes, body: bytes) -> bytes | None:
        """The answer, if it is kept."""
        if target.startswith((b"/_tape", b"/_sandbox")):
            return None
        self._asked.append((method, target, body))
        account, key = self._key(method, target, body)
        kept = self._kept.get(key) if account else None
        return account.join(kept) if kept else None

    async def passed_on(self, method: bytes, target: bytes, body: bytes, head: bytes) -> bytes:
        """The sandbox's answer, kept from now on if it is one for ever."""
        if target.startswith(b"/_tape"):
            return self._control(method, body)
        self._passed += not target.startswith(b"/_sandbox")
        account, key = self._key(method, target, body)
        response = await self._sandbox.request(
            method.decode(), key[1].decode(), content=body, headers=_headers(head) | {"accept-encoding": "identity"}
        )
        lines = [f"{name}: {value}" for name, value in response.headers.items() if name not in _OF_THE_CONNECTION]
        answer = _answer(response.status_code, lines, response.content)
        if not account:
            return answer
        template = self._templates.get(account, account)
        parts = tuple(re.split(rb"(?<!\d)" + template + rb"(?!\d)", answer))
        if response.status_code == 200 and (method == b"GET" or target.endswith(b"searchStream")):
            self._kept[key] = parts
        return account.join(parts)

    def _key(self, method: bytes, target: bytes, body: bytes) -> tuple[bytes, tuple[bytes, bytes, bytes]]:
        """The account that a request names (empty: none), and what its answer is kept under."""
        found = _ACCOUNT.search(target)
        if found is None:
            return b"", (method, target, body)
        account = found[0]
        template = self._templates.get(account, account)
        return account, (method, target[: found.start()] + template + target[found.end() :], body)

    def _control(self, method: bytes, body: bytes) -> bytes:
        told: object = {}
        if method == b"POST":
            self._templates = {copy.encode(): template.encode() for copy, template in json.loads(body).items()}
        elif method == b"DELETE":
            self._asked, self._passed = [], 0
        else:
            asked = [[part.decode() for part in each] for each in self._asked]
            told = {"asked": asked, "passed": self._passed}
        return _answer(200, ["content-type: application/json"], json.dumps(told).encode())


class _Conversation(asyncio.Protocol):
    """One connection: as much of HTTP/1.1 as clients on the same machine use, one request after the other."""

    def __init__(self, player: _Player) -> None:
        self._player = player
        self._buffer = b""
        self._transport: asyncio.Transport
        self._passing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        self._buffer += data
        if self._passing is None:
            self._go_on()

    def _go_on(self) -> None:
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < stop:
                return
            body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
            answer = self._player.at_once(method, target, body)
            if answer is None:
                self._passing = asyncio.ensure_future(self._pass_on(method, target, body, head))
                return
            self._transport.write(answer)

    async def _pass_on(self, method: bytes, target: bytes, body: bytes, head: bytes) -> None:
        try:
            answer = await self._player.passed_on(method, target, body, head)
        except httpx.HTTPError as error:
            answer = _answer(502, [], repr(error).encode())
        self._transport.write(answer)
        self._passing = None
        self._go_on()


def _answer(status: int, headers: Sequence[str], body: bytes) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} OK", *headers, f"content-length: {len(body)}"])
    return f"{head}\r\n\r\n".encode("latin-1") + body


def _headers(head: bytes) -> dict[str, str]:
    """What the sandbox is to hear: the address too, so that links to further pages lead back here."""
    pairs = (line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.lower(): value for name, value in pairs if name.lower() not in _OF_THE_CONNECTION}
