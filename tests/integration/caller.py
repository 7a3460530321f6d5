"""A real process that calls TikTok as fast as it is let, and says when each call went out.

``python -m tests.integration.caller REDIS_URL CALLS`` prints ``ready``, begins when a line comes in, and ends with the
moments of its calls (Unix time, JSON).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

import httpx
from pydantic import SecretStr

from aae.cache import SharedState
from aae.platforms.shapes import Fields
from aae.platforms.tiktok.wire import Business
from aae.platforms.transport import Caller, Purpose, Transport
from aae.settings import TikTokSettings


async def main(redis_url: str, calls: int) -> None:
    """Make the calls, all at once."""
    sent: list[float] = []

    def answer(_: httpx.Request) -> httpx.Response:
        sent.append(time.time())
        return httpx.Response(200, json={"code": 0, "data": {}})

    store = SharedState(redis_url, answer_ttl_seconds=0)
    network = httpx.MockTransport(answer)
    async with Transport(10, lambda: datetime.now(UTC), store=store, handler=network) as transport:
        business = Business(TikTokSettings(base_url="http://tiktok.test"), transport)
        caller = Caller(SecretStr("token"), "7001")
        _say("ready")
        sys.stdin.readline()
        asked = (business.get("campaign/get", {"page": n}, caller, Purpose.LISTING, shape=Fields) for n in range(calls))
        await asyncio.gather(*asked)
    await store.aclose()
    _say(json.dumps(sent))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
