"""Many rows at once: by file or by INSERT, what goes in comes out, and no server gets a file that it asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, Connection, Date, DateTime, Engine, Table, select
from sqlalchemy.exc import ProgrammingError

from aae.storage import loading
from aae.storage.loading import load, refill, temporary, unload
from aae.storage.schema import Micros
from aae.storage.transact import transact
from tests.servers import connected


def at(second: int) -> datetime:
    """A moment as the tables have it, by its seconds since 1970."""
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None)


MICROS = st.integers(-(10**17), 10**17)
ROWS = st.lists(
    st.tuples(
        st.dates(date(1971, 1, 1), date(2100, 1, 1)),
        st.integers(0, 4 * 10**9).map(at),
        st.integers(-(2**63), 2**63 - 1),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        MICROS,
        st.none() | MICROS,
    ),
    max_size=30,
)
ROW = (date(2026, 11, 1), at(1_793_500_000), 1, None, 1_500_000, None)
NAMES = ("day", "moment", "whole", "maybe", "amount", "maybe_amount")

stage = temporary(
    "aae_bulk_test",
    Column("day", Date, nullable=False),
    Column("moment", DateTime, nullable=False),
    Column("whole", BigInteger, nullable=False),
    Column("maybe", BigInteger),
    Column("amount", Micros, nullable=False),
    Column("maybe_amount", Micros),
    Column("shared", BigInteger),
)


def frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    kinds = ("datetime64[s]", "datetime64[s]", "int64", "Int64", "int64", "Int64")
    return pd.DataFrame(
        {
            name: pd.Series([row[place] for row in rows], dtype="object").astype(kind)
            for place, (name, kind) in enumerate(zip(NAMES, kinds, strict=True))
        }
    )


def stored(connection: Connection) -> list[tuple[Any, ...]]:
    return sorted(map(tuple, connection.execute(select(stage))), key=str)


@pytest.fixture
def by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the rows, they go by file where the database takes one."""
    monkeypatch.setattr(loading, "_WORTH_A_FILE", 1)


@pytest.fixture
def plain(mysql_url: str) -> Iterator[Engine]:
    """MariaDB without our tables."""
    with connected(mysql_url) as engine:
        yield engine


@pytest.mark.usefixtures("by_file")
@given(rows=ROWS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_what_goes_in_comes_out_to_the_last_micro(engine: Engine, rows: list[tuple[Any, ...]]) -> None:
    with engine.begin() as connection:
        refill(connection, stage)
        load(connection, stage, frame(rows), shared=7)
        assert stored(connection) == sorted([(*row, 7) for row in rows], key=str)


@pytest.mark.mysql
@given(rows=ROWS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_by_file_and_by_insert_is_the_same(plain: Engine, rows: list[tuple[Any, ...]]) -> None:
    found = []
    for worth in (1, 10**9):
        with pytest.MonkeyPatch.context() as patch, plain.begin() as connection:
            patch.setattr(loading, "_WORTH_A_FILE", worth)
            refill(connection, stage, frame(rows))
            found.append(stored(connection))
    assert found[0] == found[1]


NUMBERS = {"moment": "datetime64[s]", "day": "datetime64[s]", "whole": "int64", "maybe": "Int64"}


@pytest.mark.mysql
@given(rows=ROWS, longest=st.sampled_from([4, 40, 10**6]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_lines_that_come_together_are_the_same_as_one_by_one_also_where_they_do_not_fit(
    plain: Engine, rows: list[tuple[Any, ...]], longest: int
) -> None:
    """A server that may only tell the beginning of a block says so nowhere: no number may be half of one."""
    query = select(*(stage.c[name] for name in NUMBERS))
    with plain.connect() as connection:
        refill(connection, stage, frame(rows))
        connection.exec_driver_sql(f"SET SESSION group_concat_max_len = {longest}")
        together = unload(connection, query, NUMBERS, together=[stage.c.day])
        one_by_one = unload(connection, query.order_by(stage.c.day), NUMBERS)
        connection.invalidate()
    both = [each.sort_values(list(NUMBERS), ignore_index=True) for each in (together, one_by_one)]
    pd.testing.assert_frame_equal(*both)
    expected = frame(rows)[list(NUMBERS)].sort_values(list(NUMBERS), ignore_index=True)
    pd.testing.assert_frame_equal(both[0], expected, check_dtype=True)


@pytest.mark.mysql
def test_many_lines_really_come_together(plain: Engine) -> None:
    told: list[int] = []
    with plain.begin() as connection:
        refill(connection, stage, frame([ROW] * 5000))
        real = connection.execute

        def counted(*given: Any) -> Any:
            result = real(*given).all()
            told.append(len(result))
            return SimpleNamespace(all=lambda: result)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "execute", counted)
            read = unload(
                connection,
                select(stage.c.day, stage.c.whole),
                {name: NUMBERS[name] for name in ("day", "whole")},
                together=[stage.c.day],
            )
    assert len(read) == 5000
    assert told == [1]


@pytest.mark.mysql
@pytest.mark.usefixtures("by_file")
def test_many_rows_really_go_by_file(plain: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def insert(*_: Any, **__: Any) -> None:
        raise AssertionError("by INSERT")

    monkeypatch.setattr(loading, "add", insert)
    with plain.begin() as connection:
        refill(connection, stage, frame([ROW]))
        assert connection.scalar(select(stage.c.amount)) == 1_500_000
        assert connection.exec_driver_sql("SELECT amount FROM aae_bulk_test").scalar() == Decimal("1.500000")


@pytest.mark.mysql
@pytest.mark.usefixtures("by_file")
def test_a_server_that_takes_no_files_gets_inserts_and_that_is_said_once(
    plain: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        with plain.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL local_infile = OFF")
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                plain.dispose()
                with plain.begin() as connection:
                    refill(connection, stage, frame([ROW] * 3))
                    assert len(stored(connection)) == 3
    finally:
        with plain.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL local_infile = ON")
    assert [record.message for record in caplog.records if "local_infile is off" in record.message] == [
        "the database takes no files (local_infile is off): rows go in by INSERT, which is slower"
    ]


@pytest.mark.mysql
@pytest.mark.usefixtures("by_file")
def test_a_row_that_the_database_would_bend_is_an_error_and_not_a_warning(plain: Engine) -> None:
    narrow = temporary("aae_narrow_test", Column("whole", BigInteger, primary_key=True, autoincrement=False))
    with plain.begin() as connection, pytest.raises(ValueError, match="took only 1 of 2 rows"):
        refill(connection, narrow, pd.DataFrame({"whole": [5, 5]}))


@pytest.mark.mysql
def test_a_server_that_asks_for_a_file_of_its_choice_gets_none(plain: Engine, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\n")
    with plain.connect() as connection:
        refill(connection, stage, frame([]))
        # To the driver this is the server's wish for that file.
        with pytest.raises(RuntimeError, match="local_infile option is false"):
            connection.exec_driver_sql(f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE aae_bulk_test (whole)")
        connection.invalidate()


@pytest.mark.mysql
@pytest.mark.usefixtures("by_file")
def test_after_a_load_that_failed_no_file_is_given_out_either(plain: Engine) -> None:
    nowhere = temporary("aae_nowhere_test", Column("whole", BigInteger))
    with plain.connect() as connection:
        with pytest.raises(ProgrammingError, match="doesn't exist"):
            load(connection, nowhere, pd.DataFrame({"whole": [1]}))
        driver: Any = connection.connection.dbapi_connection
        assert driver._local_infile is False


@pytest.mark.mysql
@pytest.mark.usefixtures("by_file")
def test_a_connection_that_is_lost_in_the_middle_is_a_transaction_made_again(
    plain: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[int] = []
    real = loading._as_file

    @contextmanager
    def cut(table: Table, rows: pd.DataFrame) -> Iterator[str]:
        with real(table, rows) as name:
            if len(sessions) == 1:
                with plain.connect() as other:
                    other.exec_driver_sql(f"KILL {sessions[0]}")
            yield name

    def work(connection: Connection) -> list[tuple[Any, ...]]:
        sessions.append(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
        refill(connection, stage, frame([ROW] * 3))
        return stored(connection)

    monkeypatch.setattr(loading, "_as_file", cut)
    assert len(transact(plain, work)) == 3
    assert len(sessions) == 2
