"""Workers that are about to stop, told to the runs that they still take.

Prefect's worker knows no "take no new runs, but stay with those you have": told to stop, it ends at once, and its jobs
with it. So it goes on taking runs, and each of them (:mod:`tasks.process`) asks here first whether its worker is
leaving and gets in line again if it is, for another one. A file in the state folder names each such worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from aae.model import Process


@contextmanager
def leaving(state_dir: Path, workers: Collection[Process]) -> Iterator[None]:
    """Within this block these workers are about to stop."""
    marks = [_mark(state_dir, worker) for worker in workers]
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        yield
    finally:
        for mark in marks:
            with suppress(OSError):
                mark.unlink(missing_ok=True)


def is_leaving(state_dir: Path, worker: Process) -> bool:
    """Whether the worker is about to stop."""
    return _mark(state_dir, worker).exists()


def _mark(state_dir: Path, worker: Process) -> Path:
    # Several machines or containers may share the folder, and a number is given to a new process one day.
    name = sha256(f"{worker.place} {worker.pid} {worker.born}".encode()).hexdigest()[:16]
    return state_dir / "leaving" / name
