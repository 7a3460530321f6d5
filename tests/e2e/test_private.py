"""``aae up``, by somebody whose new files are open to all: only this machine reaches it, only its user reads it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from aae.local.stack import _marked
from tests.e2e.conftest import Product
from tests.e2e.test_recovery import at_work, backfill, finished, is_running, slow_platforms, start, until
from tests.listening import addresses, for_others, written_files

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc"),
]


@pytest.fixture(scope="module")
def busy(product: Product) -> Iterator[list[int]]:
    """All the product's processes, a job's among them."""
    with slow_platforms(product, 3):
        run = start(product, "fetch-ad-data/six-hourly", **backfill())
        until(lambda: is_running(product, run))
        assert at_work(product)
        yield [product.process.pid, *_marked(product.stack.state_dir)]
    finished(product, run)


def test_all_its_processes_listen_on_loopback_only(product: Product, busy: list[int]) -> None:
    found = addresses(busy)
    ports = {port for _, port in found}
    memory = product.stack.memory
    assert {memory.server_port, memory.cache_port, memory.sandbox_port} <= ports, "or we do not see what there is"
    assert [(str(address), port) for address, port in found if not address.is_loopback] == []


def test_a_socket_that_is_open_to_others_would_be_seen() -> None:
    with ExitStack() as held:
        ours = set()
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"), (socket.AF_INET6, "::1")):
            one = held.enter_context(socket.socket(family))
            one.bind((address, 0))
            one.listen()
            ours.add((ip_address(address), int(one.getsockname()[1])))
        assert ours <= set(addresses([os.getpid()]))


def test_every_file_and_folder_it_keeps_is_for_its_user_alone(product: Product, busy: list[int]) -> None:
    kept = {path.name for path in product.state.rglob("*")}
    assert {"aae.db", "encryption.key", "server.key", "stack.json", "up.lock", "prefect.db", "server.log"} <= kept
    assert any(name.endswith(".eml") for name in kept)
    assert any(name.endswith(".html") for name in kept)
    assert for_others(product.state) == {}


def test_so_is_every_other_file_that_its_processes_write_to(product: Product, busy: list[int]) -> None:
    # What it says goes where its caller wants it.
    written = {path: mode for path, mode in written_files(busy).items() if path != str(product.output)}
    assert str(product.stack.logs_dir / "worker.log") in written, "or we do not see what there is"
    assert {path: oct(mode) for path, mode in written.items() if mode & 0o077} == {}


def test_its_server_reads_no_settings_of_a_real_one(product: Product) -> None:
    """Prefect reads a .env where it is started, and the project's may name a production database or a login."""
    home = product.stack.state_dir / "prefect"
    found = addresses(_marked(product.stack.state_dir))
    servers = {pid for (_, port), pids in found.items() if port == product.stack.memory.server_port for pid in pids}
    assert {Path(f"/proc/{pid}/cwd").readlink() for pid in servers} == {home}
    assert not [name for name in (".env", "prefect.toml", "pyproject.toml") if (home / name).exists()]
