"""Whether a process of some machine still lives: known for this machine, unknown for others."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

from aae.storage.attempts import Process


def leave_no_core_dump() -> None:
    """If this process crashes, or a child of it, its memory is not written to a file: there are secrets in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(_here(), pid, _born(pid) or 0)


def is_alive(process: Process) -> bool | None:
    """Whether it still runs; ``None`` if it is (or was) on another machine, in another container or before a reboot."""
    if process.place != _here() or not process.born:
        return None
    return _born(process.pid) == process.born


@cache
def _here() -> str:
    """This machine since its last start, and the space in which its process ids mean something."""
    parts = [socket.gethostname()[:64]]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _born(pid: int) -> int | None:
    """When the process started, in the kernel's ticks; None if there is none or only its exit code is left."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
