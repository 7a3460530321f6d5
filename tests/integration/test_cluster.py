"""What a cluster of two real processes must get right besides the numbers: lost processes, lost attempts, strangers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from aae.errors import Retry, Superseded
from aae.operate.processes import this_process
from aae.settings import FetchSettings, load
from aae.storage import attempts
from aae.storage.engine import connect
from aae.storage.transact import transact
from tasks import cluster
from tasks.cluster import Order, carried_out, carry_out
from tests.clusters import needs_dask
from tests.servers import DIE_WITH_PARENT, free_port

PAIR = FetchSettings(runner="dask", accounts_at_once=2)


async def write(mark: str) -> str:
    """Something written under the attempt that it is done for."""
    engine = connect(load().resolved_database_url)
    try:
        return transact(engine, lambda _: mark)
    finally:
        engine.dispose()


async def whose(mark: str) -> int:
    """The process that does it; the first that comes by this file dies there."""
    path = Path(mark)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.5)
    return os.getpid()


async def both(mark: str) -> set[int]:
    async with cluster.cluster(PAIR):
        return set(await asyncio.gather(*(carried_out(whose, mark) for _ in range(4))))


@needs_dask
async def test_work_whose_process_dies_is_done_all_the_same_and_by_others_than_us(tmp_path: Path) -> None:
    pids = await both(str(tmp_path / "died"))
    assert os.getpid() not in pids
    assert len(pids) in {1, 2}
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)], indirect=True)
def test_work_for_an_attempt_that_is_over_writes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AAE_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    load.cache_clear()
    with engine.begin() as connection:
        token = attempts.take(connection, "job", run_id="r-1", process=this_process())
    assert carry_out(order(write, "written", token)).value == "written"
    with engine.begin() as connection:
        assert token is not None
        attempts.end(connection, token, "lost")
    assert isinstance(carry_out(order(write, "written", token)).error, Superseded)


def order(function: Any, argument: str, token: int | None) -> Order:
    return Order(function, (argument,), "r-1", token, {}, "a test")


async def scheduler() -> str:
    """Where the process that does it belongs to."""
    from distributed.worker import Worker

    return str(next(iter(Worker._instances)).scheduler.address)


@needs_dask
async def test_nobody_without_the_runs_own_keys_gets_into_the_processes_that_it_starts() -> None:
    from distributed import Client, Security

    async with cluster.cluster(PAIR):
        address = await carried_out(scheduler)
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match="TLS certificate does not match"):
            await Client(address, security=Security.temporary(), asynchronous=True, timeout=3, set_as_default=False)


@contextmanager
def dask(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of Dask's own programs, as docs/running.md starts it; killed at the end."""
    command = [sys.executable, "-m", "dask", *words, "--no-dashboard", "--host", "127.0.0.1"]
    with subprocess.Popen(
        [sys.executable, "-c", DIE_WITH_PARENT, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def pid() -> int:
    return os.getpid()


@needs_dask
@pytest.mark.timeout(900)  # three processes load everything, twice: seconds, but minutes on a busy machine
async def test_a_cluster_of_ones_own_is_used_and_its_loss_is_worth_another_try_that_finds_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 300)
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = ("scheduler", "--port", address.rpartition(":")[2])
    worker = ("worker", address, "--nworkers", "2", "--nthreads", "1")
    with dask(*scheduler) as first, dask(*worker):
        async with cluster.cluster(FetchSettings(runner="dask", cluster=address)):
            assert await carried_out(pid) != os.getpid()
            lost = asyncio.create_task(carried_out(asyncio.sleep, 60))
            await asyncio.sleep(1)
            first.kill()
            with pytest.raises(Retry, match="The cluster did not do its part"):
                await lost
            # A worker of Dask's ends with its scheduler; whatever supervises it starts it again.
            with dask(*scheduler), dask(*worker):
                assert await carried_out(pid) != os.getpid()
