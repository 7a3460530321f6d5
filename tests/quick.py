"""The test configuration: what is lost is found within seconds; and how a stack's processes are found."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from aae.local.stack import Stack, _marked

QUICK: Final = {
    "AAE_RECOVERY__BEAT_SECONDS": "1",
    "AAE_RECOVERY__LOST_SECONDS": "8",
    "AAE_RECOVERY__PENDING_SECONDS": "20",
    "AAE_RECOVERY__SETTLE_SECONDS": "2",
    "AAE_RECOVERY__WATCH_SECONDS": "0.5",
    "AAE_RECOVERY__TURN_SECONDS": "5",
    "AAE_LIMITS__RETRY_DELAY_SECONDS": "2",
    # Every watch serves its metrics beside its work, on a port of its own.
    "AAE_METRICS__LISTEN": "127.0.0.1:0",
}


def processes(stack: Stack, *words: str) -> list[int]:
    """The stack's processes whose command line holds all these words."""
    found = []
    for pid in _marked(stack.state_dir):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if all(word in line for word in words):
                found.append(pid)
    return found
