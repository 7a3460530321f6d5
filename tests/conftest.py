"""Private servers and clean databases for every test. Nothing of this machine is used or changed.

``engine`` runs a test on SQLite and on MariaDB; ``mysql_url`` and ``redis_url`` are for tests that need just a server.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine

from aae import settings
from aae.storage import engine as database
from aae.vault import Vault
from tests import servers

# On a busy machine an example may take any time; that says nothing about the code.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

NEEDS_MARIADB = "no mariadbd or mysqld here; to run this test: apt-get install mariadb-server"


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
    daemon = servers.mysql_daemon()
    if daemon is None:
        pytest.skip(NEEDS_MARIADB)
    with servers.mysql_server(daemon) as url:
        yield url


@pytest.fixture
def mysql_url(_mysql_server: str) -> Iterator[str]:
    """The URL of an empty database of its own."""
    with servers.database_on(_mysql_server) as url:
        yield url


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[str]:
    """The URL of a private Valkey server."""
    with servers.redis_server() as url:
        yield url


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
    with servers.connected(f"sqlite:///{path}") as engine:
        database.upgrade(engine)
    # Closing the last connection has moved everything from the write-ahead log into the file.
    return path


@pytest.fixture(scope="session")
def _mysql_migrated(_mysql_server: str) -> Iterator[Engine]:
    with servers.database_on(_mysql_server) as url, servers.connected(url) as engine:
        database.upgrade(engine)
        yield engine


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on migrated, empty tables: the test runs once on SQLite and once on MariaDB."""
    if request.param == "sqlite":
        path = request.getfixturevalue("tmp_path") / "aae.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        with servers.connected(f"sqlite:///{path}") as engine:
            yield engine
    else:
        engine = request.getfixturevalue("_mysql_migrated")
        yield engine
        servers.empty(engine)
