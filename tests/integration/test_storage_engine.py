"""Reaching the tables: migrations, health checks in one sentence, and several writers at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, func, insert, inspect, select, text

from aae.errors import UserError
from aae.model import Granularity, Slice
from aae.storage import accounts, fetches
from aae.storage import engine as database
from aae.storage.bulk import new_id
from aae.storage.schema import ad_accounts, api_calls, metadata, users

INSERT_USER = """
import sys
from datetime import UTC, datetime
from sqlalchemy import func, insert, select
from aae.storage import engine as database
from aae.storage.schema import users
engine = database.connect(sys.argv[1])
for number in range(20):
    with engine.begin() as connection:
        count = connection.scalar(select(func.count()).select_from(users))  # reads first, writes later
        connection.execute(insert(users).values(
            email=f"{sys.argv[2]}-{number}@example.com", name=str(count), created_at=datetime.now(UTC)))
"""


def test_the_migrated_tables_are_those_of_the_schema(engine: Engine) -> None:
    with database.reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrated_tables_have_the_details_that_comparing_overlooks(engine: Engine) -> None:
    """Alembic does not compare primary keys, nor lengths, precision and collation everywhere."""
    inspector = inspect(engine)
    for table in metadata.sorted_tables:
        key = inspector.get_pk_constraint(table.name)["constrained_columns"]
        assert key == [column.name for column in table.primary_key.columns], table.name
    if engine.dialect.name == "sqlite":
        return
    query = text(
        "SELECT table_name, column_name, column_type, collation_name FROM information_schema.columns "
        "WHERE table_schema = DATABASE()"
    )
    with engine.connect() as connection:
        columns = {(table, column): (kind, collation) for table, column, kind, collation in connection.execute(query)}
        engines = set(
            connection.scalars(text("SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE()"))
        )
    assert columns["ad_metrics_daily", "spend"] == ("decimal(18,6)", None)
    assert columns["ad_metrics_daily", "utc_start"] == ("datetime(6)", None)
    assert columns["entities", "external_id"] == ("varchar(64)", "ascii_bin")
    assert columns["entities", "name"][0] == "varchar(400)"
    assert columns["reports", "html"][0] == "mediumtext"
    assert engines == {"InnoDB"}


def test_upgrading_happens_once_and_can_be_undone(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    if engine.dialect.name != "sqlite":
        url = request.getfixturevalue("mysql_url")
    fresh = database.connect(url)
    assert database.current(fresh) is None
    with pytest.raises(UserError, match=r"is empty and this program needs .* run aae db upgrade"):
        database.require_current(fresh)
    assert database.upgrade(fresh)[-1] == database.head()
    assert database.upgrade(fresh) == []
    assert database.current(fresh) == database.head()
    database.require_current(fresh)
    with fresh.begin() as connection:
        config = database._alembic()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert set(inspect(fresh).get_table_names()) == {"alembic_version"}
    fresh.dispose()


def test_calls_that_were_counted_by_fetch_are_counted_by_account_after_an_upgrade(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest, now: datetime
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if engine.dialect.name != "sqlite":
        url = request.getfixturevalue("mysql_url")
    old = database.connect(url)
    database.upgrade(old)
    with old.begin() as connection:
        config = database._alembic()
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
        user = accounts.add_user(connection, email="a@example.com", name="A", now=now)
        values = {"user_id": user, "platform": "meta", "external_id": "1", "name": "Shop", "currency": "EUR"}
        more = {"timezone": "UTC", "status": "active", "created_at": now, "updated_at": now}
        account = new_id(connection.execute(insert(ad_accounts).values(**values, **more)))
        piece = Slice(account, Granularity.DAILY, now.date(), now.date())
        fetch = fetches.record(
            connection, account_id=account, piece=piece, started_at=now, finished_at=now, outcome="stored", run_id="run"
        )
        counted = text("INSERT INTO api_calls (fetch_id, purpose, calls) VALUES (:fetch, :purpose, :calls)")
        connection.execute(counted, {"fetch": fetch, "purpose": "metrics", "calls": 5})
    assert database.upgrade(old) == ["0005"]
    with database.reading(old) as connection:
        assert [tuple(row) for row in connection.execute(select(api_calls))] == [
            (1, account, now, "metrics", 5, "run", None)
        ]
    old.dispose()


def test_a_database_newer_than_the_program_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        for action in (database.require_current, database.upgrade):
            with pytest.raises(UserError, match="version 9999, which this program does not know"):
                action(engine)
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": database.head()})


def test_processes_that_upgrade_at_once_do_not_collide(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    if engine.dialect.name != "sqlite":
        url = request.getfixturevalue("mysql_url")

    def upgrade(_: int) -> list[str]:
        own = database.connect(url)
        try:
            return database.upgrade(own)
        finally:
            own.dispose()

    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(upgrade, range(4)))
    assert sorted(map(len, applied))[:3] == [0, 0, 0]
    assert max(applied)[-1] == database.head()


def test_processes_that_write_at_once_all_succeed(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    writers = [subprocess.Popen([sys.executable, "-c", INSERT_USER, url, str(n)]) for n in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with database.reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(users)) == 60


def test_a_reader_does_not_wait_for_a_writer(engine: Engine, now: datetime) -> None:
    with engine.begin() as writer:
        writer.execute(insert(users).values(email="a@example.com", name="A", created_at=now))
        with database.reading(engine) as reader:
            assert reader.scalar(select(func.count()).select_from(users)) == 0


def test_sessions_are_strict(engine: Engine, now: datetime) -> None:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
        else:
            assert connection.scalar(text("SELECT @@SESSION.time_zone")) == "+00:00"
            assert connection.scalar(text("SELECT @@SESSION.character_set_connection")) == "utf8mb4"
            assert "STRICT_ALL_TABLES" in connection.scalar(text("SELECT @@SESSION.sql_mode"))
            assert connection.get_isolation_level() == "READ COMMITTED"


def test_sqlites_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    database.connect(f"sqlite:///{tmp_path / 'state' / 'aae.db'}")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize("url", ["postgresql://u:secret@h/db", "nonsense", "", "mysql://u:secret@h/db"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(UserError) as caught:
        database.connect(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "aae.db"
    path.write_text("this is a text file, and quite a long one at that" * 100)
    with pytest.raises(UserError, match=r"aae\.db cannot be used"):
        database.check(database.connect(f"sqlite:///{path}"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="folder is writable"):
        database.check(database.connect(f"sqlite:///{tmp_path / 'aae.db'}"))


@pytest.mark.mysql
def test_what_is_wrong_with_mysql_is_said_in_one_sentence(mysql_url: str) -> None:
    url = database.make_url(mysql_url)
    wrong = {
        "No database answers at 127.0.0.1:1": url.set(port=1, password="secret"),
        "refused the user 'nobody' or its password": url.set(username="nobody", password="secret"),
        r"nobody.*If the user may come by TLS only .*add \?ssl_ca=": url.set(username="nobody", password="secret"),
        "There is no database 'missing'": url.set(database="missing"),
    }
    database.check(database.connect(mysql_url))
    for sentence, bad in wrong.items():
        with pytest.raises(UserError, match=sentence) as caught:
            database.check(database.connect(bad.render_as_string(hide_password=False)))
        assert "secret" not in str(caught.value)
