"""What processes listen at, and which files they write to, as the kernel tells it (Linux)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

Address = IPv4Address | IPv6Address

_LISTENS = {"tcp": "0A", "udp": "07"}
"""The kernel's numbers for "listens", and for "takes what comes from anybody"."""


def addresses(pids: Iterable[int]) -> dict[tuple[Address, int], set[int]]:
    """The addresses, with ports, at which others can reach these processes over a network, and who listens there."""
    sockets = dict(_sockets())
    found: dict[tuple[Address, int], set[int]] = {}
    for pid in pids:
        for entry in _descriptors(pid):
            with suppress(OSError):
                inode = str(entry.readlink()).removeprefix("socket:[").removesuffix("]")
                if inode in sockets:
                    found.setdefault(sockets[inode], set()).add(pid)
    return found


def written_files(pids: Iterable[int]) -> dict[str, int]:
    """The path of every file that these processes have open to write to, deleted ones too, and its mode."""
    found = {}
    for pid in pids:
        for entry in _descriptors(pid):
            with suppress(OSError):
                status = entry.stat()
                told = (Path("/proc") / str(pid) / "fdinfo" / entry.name).read_text().splitlines()
                flags = next(int(line.split()[1], 8) for line in told if line.startswith("flags"))
                if stat.S_ISREG(status.st_mode) and flags & os.O_ACCMODE != os.O_RDONLY:
                    found[str(entry.readlink())] = stat.S_IMODE(status.st_mode)
    return found


def for_others(folder: Path) -> dict[str, str]:
    """Everything in the folder, itself included, on which somebody else than its owner has a right, and its mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if mode & 0o077 and not stat.S_ISLNK(mode):
                found[str(path)] = oct(stat.S_IMODE(mode))
    return found


def _descriptors(pid: int) -> list[Path]:
    with suppress(OSError):
        return list((Path("/proc") / str(pid) / "fd").iterdir())
    return []


def _sockets() -> Iterator[tuple[str, tuple[Address, int]]]:
    for protocol, state in _LISTENS.items():
        for version in ("", "6"):
            for line in Path(f"/proc/net/{protocol}{version}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == state:
                    address, _, port = fields[1].partition(":")
                    yield fields[9], (_address(address), int(port, 16))


def _address(text: str) -> Address:
    # Words of four bytes, each in the machine's own order.
    raw = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
