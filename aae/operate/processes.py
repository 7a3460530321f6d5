"""Processes: whether one of some machine still lives (known for this machine only), and how to start a mortal one."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from aae.model import Process

# Runs before the command itself in the same process: the kernel shall send a signal when the parent is gone, and if it
# went before we could ask, there is nothing to start. (``preexec_fn`` would run Python in a forked, perhaps threaded
# process.) Linux only. A shell's background jobs ignore Ctrl-C, and so would their children for ever: Prefect turns
# SIGTERM into SIGINT and would never stop. No core dump: a process that crashes must not write its secrets to a file;
# and what it does write is for its user alone, whoever starts it.
_LAUNCHER: Final = (
    "import ctypes,os,resource,signal,sys\n"
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    "os.umask(0o077)\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_DFL)\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, int(sys.argv[2]))\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


def mortal(command: Sequence[str], by: signal.Signals = signal.SIGTERM) -> list[str]:
    """The command (its first word a path) as a child that hears signals and gets the signal ``by`` when we die.

    Linux ties "the parent died" to the thread that started the child.
    """
    return [sys.executable, "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(by)), *command]


def leave_no_core_dump() -> None:
    """If this process crashes, or a child of it, its memory is not written to a file: there are secrets in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def this_process() -> Process:
    """The process that asks."""
    return process(os.getpid())


def process(pid: int) -> Process:
    """The process of this machine that has this number now."""
    return Process(_here(), pid, _born(pid) or 0)


def parent(pid: int) -> int | None:
    """The number of a process's parent; None if there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


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
    fields = _stat(pid)
    return None if not fields or fields[0] in {"Z", "X"} else int(fields[19])


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing if there is none."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
