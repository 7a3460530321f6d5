"""How the tables are reached: engines for SQLite and MySQL/MariaDB, their health, and the migrations.

Write inside ``engine.begin()``, read inside :func:`reading`. Every transaction is as short as its purpose; nothing that
waits for a network happens inside one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aae import tls
from aae.errors import UserError

# Alembic takes as long to import as SQLAlchemy, and only migrations need it.
if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_READING: Final = "aae_reading"
_SQLITE_PATIENCE_MS: Final = 30_000
_UPGRADE_PATIENCE_SECONDS: Final = 120
# Rejecting beats truncating; the engine is fixed so that a server's own default cannot bring in tables without
# transactions. An hour of 200,000 ads fits into one row (aae.storage.loading); MySQL's own default is a dozen ads.
_MYSQL_SESSION: Final = (
    "SET SESSION time_zone = '+00:00', group_concat_max_len = 16777216, sql_mode = "
    "'STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"
)
_REFUSED: Final = 1045
"""Wrong user, wrong password, or in clear a user who must come by TLS: the server does not say which."""

_MYSQL_REMEDIES: Final = {
    1044: "The database user {user!r} may not use the database {database!r} on {where}: grant it access.",
    _REFUSED: "The database on {where} refused the user {user!r} or its password: correct AAE_DATABASE_URL.",
    1049: "There is no database {database!r} on {where}: create it (CREATE DATABASE ... CHARACTER SET utf8mb4) "
    "or correct AAE_DATABASE_URL.",
    1698: "The database on {where} refused the user {user!r}: it may not log in with a password; use another user.",
    2002: "No database answers at {where}: start it or correct AAE_DATABASE_URL.",
    2003: "No database answers at {where}: start it or correct AAE_DATABASE_URL.",
    2026: "The database on {where} does not offer TLS, which AAE_DATABASE_URL asks for.",
    3159: "The database on {where} takes TLS only: add ?ssl_ca=/path/to/ca.pem to AAE_DATABASE_URL.",
}
_DENIED: Final = frozenset({1044, 1142, 1143, 1227})
"""A statement lacks a right: on the database, a table, a column, the server."""


def connect(url: str, *, timeout: int = 120) -> Engine:
    """An engine for ``url``; nothing is dialled yet (see :func:`check`). ``timeout`` (seconds) bounds every wait.

    SQLite's parent folder is created, readable by its owner only. On MySQL every session speaks UTC, utf8mb4 and strict
    SQL at READ COMMITTED, and no call waits for ever.

    Raises:
        UserError: the URL is not one of ``sqlite:///...`` and ``mysql+pymysql://...``, or SQLite's folder cannot be
            made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _connect_sqlite(url, parsed.database, timeout)
        if parsed.drivername == "mysql+pymysql":
            return _connect_mysql(url, timeout)
    except (SQLAlchemyError, ValueError, ImportError) as error:
        if isinstance(error, NoSuchModuleError | ImportError):
            raise UserError(f"The database driver for this URL is not installed ({error}).") from None
    raise UserError("AAE_DATABASE_URL must begin with mysql+pymysql:// or sqlite:///.")


@contextmanager
def reading(engine: Engine, *, snapshot: bool = False) -> Iterator[Connection]:
    """A connection to read with: on SQLite it takes no write lock, so it never waits for a writer nor stops one.

    ``snapshot``: all queries see the database as it was at the first one (which on SQLite they always do).

    Writing through it may fail with "database is locked"; use ``engine.begin()`` for that.
    """
    options: dict[str, Any] = {_READING: True}
    if snapshot and engine.dialect.name != "sqlite":
        options["isolation_level"] = "REPEATABLE READ"
    with engine.connect().execution_options(**options) as connection:
        yield connection


def database_clock(connection: Connection) -> datetime:
    """What time it is for the database (aware UTC): the one clock that several machines share."""
    if connection.dialect.name == "sqlite":
        return datetime.fromisoformat(connection.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")))
    told: datetime = connection.scalar(text("SELECT UTC_TIMESTAMP(6)"))
    return told.replace(tzinfo=UTC)


def check(engine: Engine) -> None:
    """Dial the database once.

    Raises:
        UserError: it cannot be used; the message says why and what to do, without the password.

    A SQLite file that does not exist yet is not made by this: only :func:`upgrade` does, and its folder is looked at.
    """
    try:
        if absent := absent_file(engine):
            with TemporaryFile(dir=absent.parent):
                return
        with reading(engine) as connection:
            connection.execute(select(1))
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise UserError(_remedy(engine, error)) from None


def upgrade(engine: Engine) -> list[str]:
    """Bring the tables to this program's version; returns the revisions applied, oldest first (often none).

    Several processes may do this at once: one does the work, the others wait for it and find nothing left to do.
    """
    from alembic import command  # noqa: PLC0415

    config = _alembic()
    script = _script(config)
    with engine.connect() as connection, _one_at_a_time(connection):
        before = _revision(connection)
        _refuse_newer(script, before)
        pending = [step.revision for step in script.iterate_revisions("head", before or "base")]
        config.attributes["connection"] = connection
        if pending:
            command.upgrade(config, "head")
        connection.commit()
    return pending[::-1]


def current(engine: Engine) -> str | None:
    """The revision the tables are at; ``None`` on a database that has none yet."""
    if absent_file(engine):
        return None
    with reading(engine) as connection:
        return _revision(connection)


def head() -> str:
    """The revision this program needs."""
    revision = _script(_alembic()).get_current_head()
    assert revision is not None, "the package ships its migrations"  # noqa: S101 - a fact about the package
    return revision


def require_current(engine: Engine) -> None:
    """Refuse to work on tables of another version.

    Raises:
        UserError: they are older (``aae db upgrade`` helps) or newer than this program.
    """
    revision = current(engine)
    _refuse_newer(_script(_alembic()), revision)
    if revision != head():
        state = f"at version {revision}" if revision else "empty"
        raise UserError(f"The database is {state} and this program needs version {head()}: run aae db upgrade.")


def _connect_sqlite(url: str, database: str | None, timeout: int) -> Engine:
    if database and not database.startswith((":memory:", "file:")):
        folder = Path(database).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The database's folder {folder} cannot be used ({error.strerror}): make it a writable folder, or set "
                "AAE_STATE_DIR (or AAE_DATABASE_URL) to another place."
            ) from None
    engine = create_engine(url, json_serializer=_to_json, json_deserializer=orjson.loads)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by its own rules: _begin below does.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {min(_SQLITE_PATIENCE_MS, timeout * 1000)}")
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for another writer: SQLite fails it at once.
        # Taking the write lock at the beginning is what makes several processes queue up instead.
        reads = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: Any) -> None:
    """Switch to the write-ahead log, which for a new file SQLite refuses at once while others are doing the same."""
    for left in reversed(range(100)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if left == 0 or "locked" not in str(error):
                raise
            time.sleep(0.05)
        else:
            return


def absent_file(engine: Engine) -> Path | None:
    """The SQLite file that the engine would make, if it is not there yet."""
    name = engine.url.database if engine.dialect.name == "sqlite" else None
    if not name or name.startswith((":memory:", "file:")) or Path(name).exists():
        return None
    return Path(name)


def _connect_mysql(url: str, timeout: int) -> Engine:
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_size=10,
        max_overflow=20,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": min(10, timeout),
            "read_timeout": timeout,
            "write_timeout": timeout,
            "init_command": _MYSQL_SESSION,
            "local_infile": True,
        },
    )

    @event.listens_for(engine, "connect")
    def _give_out_no_files(connection: Any, _record: Any) -> None:
        # The session may load files; which and when is for aae.storage.loading to say, not for the server.
        connection._local_infile = False

    event.listen(engine, "handle_error", _tell_denial)
    return engine


def _tell_denial(context: ExceptionContext) -> None:
    """A right that the user lacks is for a person to give; waiting or trying again does not help."""
    number, *said = getattr(context.original_exception, "args", ()) or (0,)
    if number in _DENIED and context.statement is not None:
        # "INSERT command denied to user 'aae_read'@'localhost' for table `aae`.`users`": no value is in it.
        words = " ".join(map(str, said))
        raise UserError(f"The database says: {words}. Use the user that is for this, or see aae db grants.") from None


def _to_json(value: Any) -> str:
    # NaN becomes null: MySQL refuses the former as JSON.
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _remedy(engine: Engine, error: Exception) -> str:
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return f"The database file {url.database} cannot be used: check that its folder is writable and it is SQLite's."
    where = f"{url.host or 'localhost'}:{url.port or 3306}"
    if (reason := tls.trouble(error)) is not None:
        return f"The database on {where} cannot be trusted: {reason}. See ssl_ca in AAE_DATABASE_URL."
    if isinstance(error, FileNotFoundError):
        return "The certificate file that AAE_DATABASE_URL names (ssl_ca, ssl_cert or ssl_key) does not exist."
    arguments = error.orig.args if isinstance(error, DBAPIError) and error.orig else ()
    number = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    remedy = _MYSQL_REMEDIES.get(number, "The database on {where} cannot be used (error {number}): see its log.")
    if number == _REFUSED and not any(option.startswith("ssl_") for option in url.query):
        remedy += " If the user may come by TLS only (aae db grants without --host), add ?ssl_ca=/path/to/ca.pem to it."
    return remedy.format(where=where, user=url.username, database=url.database, number=number)


def _alembic() -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    location = Path(__file__).with_name("migrations")
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _script(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return ScriptDirectory.from_config(config)


def _revision(connection: Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(script: ScriptDirectory, revision: str | None) -> None:
    if revision is not None and revision not in {step.revision for step in script.walk_revisions()}:
        raise UserError(f"The database is at version {revision}, which this program does not know: update the program.")


@contextmanager
def _one_at_a_time(connection: Connection) -> Iterator[None]:
    """Only one process migrates a database. SQLite's write lock does it; MySQL commits at every CREATE TABLE."""
    if connection.dialect.name == "sqlite":
        yield
        return
    name = func.concat("aae-upgrade-", func.left(func.sha1(func.database()), 32))
    if not connection.scalar(select(func.get_lock(name, _UPGRADE_PATIENCE_SECONDS))):
        raise UserError("Another process has been upgrading this database for minutes: wait for it, then try again.")
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(select(func.release_lock(name)))
        connection.execute(text("COMMIT"))
