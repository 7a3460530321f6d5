"""However large an answer is, or becomes decompressed: reading it takes bounded memory, on every platform."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

import httpx
import pytest

from aae.errors import AaeError
from aae.model import Platform
from aae.platforms import connectors
from aae.platforms.transport import Transport
from tests.unit.platforms.support import SETTINGS, Clock, account, gather, piece, token

ROOM_MIB = 700
"""The largest answer is 64 MiB and has six million values; a bomb of those below would take gigabytes."""

MIB = 1 << 20


def packed(parts: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join([*map(packer.compress, parts), packer.flush()])


def bodies() -> dict[str, tuple[list[bytes], str]]:
    """Chunks and content encoding."""
    bomb = packed(b" " * MIB for _ in range(1024))
    return {
        "100 MB": ([b" " * MIB] * 100, ""),
        "a bomb": ([bomb], "gzip"),
        "a bomb in a bomb": ([packed([bomb])], "gzip, gzip"),
        "an end that is none": ([packed([b"5"])] + [b"\x00" * MIB] * 200, "gzip"),
        "millions of values": ([b"[" + b"[]," * (20 * MIB) + b"[]]"], ""),
    }


class Body(httpx.AsyncByteStream):
    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


class Network(httpx.AsyncBaseTransport):
    def __init__(self, chunks: list[bytes], encoding: str) -> None:
        self.chunks, self.encoding = chunks, encoding

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        headers = {"content-encoding": self.encoding} if self.encoding else {}
        return httpx.Response(200, headers=headers, stream=Body(self.chunks))


async def read_all(platform: Platform, chunks: list[bytes], encoding: str) -> str:
    clock = Clock(datetime(2026, 11, 22, 12, tzinfo=UTC))
    async with Transport(300, clock, clock.sleep, handler=Network(chunks, encoding)) as transport:
        connector, mine = connectors(SETTINGS, transport)[platform], account(platform)
        try:
            await gather(connector.fetch_metrics(mine, token(), piece()))
        except AaeError as error:
            return str(error)
    return "nothing was wrong with it"


def main(platform: str) -> None:
    """What each body ends in, and how many MiB all of them took more than nothing."""
    made = bodies()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, (chunks, encoding) in made.items():
        sys.stdout.write(f"{name}: {asyncio.run(read_all(Platform(platform), chunks, encoding))}\n")
    sys.stdout.write(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024}\n")


@pytest.mark.parametrize("platform", Platform)
def test_no_answer_takes_more_memory_than_there_is_room_for(platform: Platform) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.unit.hostile.test_memory import main; main({str(platform)!r})"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, grown = done.stdout.splitlines()
    assert len(said) == 5
    for line in said:
        assert platform.capitalize() in line, line
        assert len(line) < 300
    assert int(grown) < ROOM_MIB, done.stdout
