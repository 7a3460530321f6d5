"""What a cluster of two real processes must get right besides the numbers: lost processes, lost attempts, strangers."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from aae.errors import Retry, Superseded, UserError
from aae.operate.processes import this_process
from aae.settings import FetchSettings, load
from aae.storage import attempts
from aae.storage.engine import connect
from aae.storage.transact import transact
from tasks import cluster
from tasks.cluster import Order, carried_out, carry_out
from tests.certificate import self_signed
from tests.clusters import needs_dask
from tests.servers import DIE_WITH_PARENT, free_port
from tests.sockets import LEAVES_SOCKETS, collected

__all__ = ["collected"]

pytestmark = list(LEAVES_SOCKETS)  # a connection to a scheduler that dies, or is not there yet

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


PAGE = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")


@contextmanager
def dask(program: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """One of Dask's own programs by its line in docs/running.md, on loopback; killed at the end."""
    (line,) = re.findall(rf"^\$run -- (dask {program} .*)$", PAGE, re.M)
    line = line.replace("scheduler.internal", "127.0.0.1").replace("8786", str(port)).replace("8787", "0")
    command = [sys.executable, "-m", *shlex.split(line), "--host", "127.0.0.1"]
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


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Give what is started from now on, and us, the certificate of that name, as docs/running.md does."""
    import dask.config

    with pytest.MonkeyPatch.context() as patch:

        def certify(name: str) -> None:
            folder = tmp_path / name
            folder.mkdir()
            certificate, key = self_signed(folder)
            (folder / "dask.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
            for variable, value in re.findall(r"^(DASK_\w+)=(.*)$", PAGE, re.M):
                patch.setenv(variable, value.replace("/etc/aae", str(folder)))
            dask.config.refresh()  # read once, when it is imported

        yield certify
    dask.config.refresh()


@needs_dask
@pytest.mark.timeout(900)  # three processes load everything, twice: seconds, but minutes on a busy machine
async def test_a_cluster_of_ones_own_is_used_and_its_loss_is_worth_another_try_that_finds_it_again(
    monkeypatch: pytest.MonkeyPatch, certified: Callable[[str], None]
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 300)
    certified("ours")
    port = free_port()
    own = FetchSettings(runner="dask", cluster=f"tls://127.0.0.1:{port}")
    with dask("scheduler", port) as first, dask("worker", port):
        async with cluster.cluster(own):
            assert await carried_out(pid) != os.getpid()
            lost = asyncio.create_task(carried_out(asyncio.sleep, 60))
            await asyncio.sleep(1)
            first.kill()
            with pytest.raises(Retry, match="The cluster did not do its part"):
                await lost
            # A worker of Dask's ends with its scheduler; whatever supervises it starts it again.
            with dask("scheduler", port), dask("worker", port):
                assert await carried_out(pid) != os.getpid()


@needs_dask
@pytest.mark.timeout(300)
async def test_a_cluster_of_ones_own_lets_in_nobody_without_its_certificate(certified: Callable[[str], None]) -> None:
    certified("ours")
    port = free_port()
    with dask("scheduler", port):
        await until_open(port)
        certified("theirs")
        with pytest.raises(UserError, match=r"cannot be reached: .*TLS certificate does not match"):
            async with cluster.cluster(FetchSettings(runner="dask", cluster=f"tls://127.0.0.1:{port}")):
                pass


async def until_open(port: int) -> None:
    """Wait until somebody listens there."""
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        await asyncio.sleep(0.1)
