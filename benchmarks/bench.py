"""What the benchmarks share: private servers, work in a process of its own, and how figures are shown.

Speeds on a shared machine mean little by themselves, so every benchmark runs its peers and its limits beside the
product, on the same data, in the same run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from rich.console import Console
from rich.table import Table

from aae.sandbox import Clock, World, create_app, serve
from aae.settings import Settings
from benchmarks.cost import Cost, Measured, measured
from tests import servers

__all__ = ["Cost", "Measured", "measured"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Databases:
    """A server that gives empty databases. ``kind`` says which, in words."""

    kind: str
    fresh: Callable[[], str]


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """Do the work in a new process, so that memory and first-time costs are its own."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(work, *arguments).result()


def best_of(times: int, work: Callable[[], T]) -> Measured[T]:
    """The quickest of several goes: what the others took longer is the machine's doing."""
    return min((measured(work) for _ in range(times)), key=lambda one: one.cost.seconds)


@contextmanager
def sandbox(now: datetime, *, seed: int, users: int, days: int, campaigns: int, ads: int) -> Iterator[str]:
    """The URL of a sandbox in a process of its own, whose clock stands still at ``now``."""
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe(duplex=False)
    size = {"users": users, "days": days, "ahead": 1, "big_campaigns": campaigns, "ads_per_ad_set": ads}
    process = fresh.Process(target=_serve, args=(theirs, seed, now, size), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.terminate()
        process.join(timeout=10)


def _serve(ready: Pipe, seed: int, now: datetime, size: Mapping[str, int]) -> None:
    world = World.generate(seed, now, **size)
    serve(create_app(world, clock=Clock(now, frozen=True)), ready=ready.send)


@contextmanager
def databases(wanted: str, folder: Path) -> Iterator[Databases]:
    """Empty databases on a private server: ``mariadb``, ``sqlite``, or ``auto`` for the first that there is.

    Raises:
        SystemExit: MariaDB is wanted and not installed.
    """
    daemon = servers.mysql_daemon()
    if wanted == "mariadb" and daemon is None:
        raise SystemExit("There is no mariadbd or mysqld here: install mariadb-server or use --database sqlite.")
    with ExitStack() as stack:
        if daemon is not None and wanted != "sqlite":
            # Room for the data in memory: the machine's disk is not what is compared.
            server = stack.enter_context(servers.mysql_server(daemon, "--innodb-buffer-pool-size=256M"))
            yield Databases(
                f"a private {daemon.name} (no binary log, no flush at commit)",
                lambda: stack.enter_context(servers.database_on(server)),
            )
        else:
            why = "as asked" if wanted == "sqlite" else "mariadbd is not installed"
            numbers = iter(range(1000))
            yield Databases(f"SQLite ({why})", lambda: f"sqlite:///{folder / f'{next(numbers)}.db'}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="aae-bench-") as folder:
        yield Path(folder)


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that these variables make, and no others of the machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AAE_")}
    with mock.patch.dict(os.environ, {**kept, **environment}, clear=True):
        return Settings(_env_file=None)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> Table:
    """A table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left")
    for row in rows:
        made.add_row(*map(_text, row))
    return made


def show(*parts: Table | str) -> None:
    """Print to the reader."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=False)
    for part in parts:
        console.print(part)


def progress(line: str) -> None:
    """Say what is under way, where it is not in the way of the tables."""
    print(f"{datetime.now():%H:%M:%S} {line} ...", file=sys.stderr, flush=True)  # noqa: DTZ005 - of whoever waits


def conclude(figures: Mapping[str, Any]) -> None:
    """End with one line of JSON, for machines."""
    print(json.dumps(_rounded(figures)))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
