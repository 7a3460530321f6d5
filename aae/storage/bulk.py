"""Many rows at once, and one row at most once: the few statements that differ between SQLite and MySQL.

Everything here runs inside the caller's transaction and is understood by MySQL 8, MariaDB 10.11 and SQLite alike:
no RETURNING, no row aliases, and no temporary table named twice in one query.

Columns of numbers go to MySQL by its own quickest way, ``LOAD DATA LOCAL INFILE``, where the server permits it
(``local_infile``), and by INSERT where it does not. The "file" is memory of this process. A server may answer that
statement by asking for any file it likes, so the driver gives files out only while one of ours is under way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

import pandas as pd
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import URL, Column, Connection, CursorResult, Date, MetaData, Table, delete, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.elements import ColumnElement

from aae.storage.schema import Micros

_log = logging.getLogger(__name__)

Row = Sequence[Any]

# PyMySQL joins the rows into statements of about 1 MB, well below any max_allowed_packet (MariaDB 16 MB, MySQL 64 MB);
# this only bounds the memory that one call needs.
_ROWS_AT_ONCE: Final = 20_000

_WORTH_A_FILE: Final = 500
"""Fewer rows than this are in one INSERT before a file is even asked for."""

_TAKES_FILES: Final = "aae_takes_files"


def temporary(name: str, *columns: Column[Any]) -> Table:
    """A temporary table, private to its connection; :func:`refill` makes and empties it."""
    return Table(name, MetaData(), *columns, prefixes=["TEMPORARY"])


def refill(connection: Connection, stage: Table, rows: pd.DataFrame | None = None) -> None:
    """Make the temporary table ``stage`` hold exactly ``rows`` (none without), as :func:`load` takes them."""
    connection.execute(CreateTable(stage, if_not_exists=True))
    # Not TRUNCATE, which would commit on MySQL.
    connection.execute(delete(stage))
    if rows is not None:
        load(connection, stage, rows)


def load(connection: Connection, table: Table, rows: pd.DataFrame, **constants: Any) -> None:
    """Insert ``rows``, whose columns are numbers and moments under the names of the table's; ``constants`` in each.

    Integers, missing ones as ``Int64``; amounts in micros, whatever the column makes of them; moments without a zone,
    UTC, in whole seconds.

    Raises:
        ValueError: the database did not take every row as it is.
    """
    if len(rows) >= _WORTH_A_FILE and connection.dialect.name != "sqlite" and _takes_files(connection):
        _load_file(connection, table, rows, constants)
        return
    columns = [_as_driver(connection, table.c[name], rows[name]) for name in rows.columns]
    columns += [[value] * len(rows) for value in constants.values()]
    _insert(connection, table, [*rows.columns, *constants], list(zip(*columns, strict=True)), suffix="")


def put(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: Sequence[str],
    update: Sequence[str],
) -> None:
    """Insert ``rows``; where the unique ``key`` is there already, set the columns ``update`` instead."""
    quote = connection.dialect.identifier_preparer.quote
    if connection.dialect.name == "sqlite":
        changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in update)
        suffix = f" ON CONFLICT ({', '.join(map(quote, key))}) DO UPDATE SET {changes}"
    else:
        # MariaDB has no other form, and MySQL still takes it.
        changes = ", ".join(f"{quote(name)} = VALUES({quote(name)})" for name in update)
        suffix = f" ON DUPLICATE KEY UPDATE {changes}"
    _many(connection, table, columns, rows, suffix)


def add_once(connection: Connection, table: Table, values: dict[str, Any], key: ColumnElement[bool]) -> int | None:
    """Insert one row unless ``key`` (a condition on unique columns) finds it; its id, or None if it was there.

    Of several transactions doing this at once exactly one gets the id: the unique index decides, not the look before.
    """
    if _exists(connection, table, key):
        return None
    try:
        with connection.begin_nested():
            return new_id(connection.execute(insert(table).values(values)))
    except IntegrityError:
        if _exists(connection, table, key):
            return None
        raise


def new_id(result: CursorResult[Any]) -> int:
    """The id that the database gave to the one row just inserted."""
    key = result.inserted_primary_key
    assert key is not None, "every insert of one row has a key"  # noqa: S101 - for the type checker
    return int(key[0])


def fit(value: str, length: int) -> str:
    """At most ``length`` characters, the last one an ellipsis if something was cut, and always encodable as UTF-8.

    Platforms hand out names with lone surrogates (``"\\ud800"`` in JSON), which no database takes.
    """
    value = value.encode("utf-8", "replace").decode()
    return value if len(value) <= length else value[: length - 1] + "…"


def _exists(connection: Connection, table: Table, key: ColumnElement[bool]) -> bool:
    return connection.execute(table.select().with_only_columns(table.c.id).where(key).limit(1)).first() is not None


def _many(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], suffix: str) -> None:
    by_column = list(zip(*rows, strict=True))
    for position, name in enumerate(columns[: len(by_column)]):
        # Columns that need nothing, most of them, cost nothing.
        convert = _conversion(connection, table.c[name])
        if convert is not None:
            by_column[position] = tuple(convert(value) for value in by_column[position])
    _insert(connection, table, columns, list(zip(*by_column, strict=True)), suffix)


def _insert(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], suffix: str) -> None:
    """Rows as the driver takes them."""
    quote = connection.dialect.identifier_preparer.quote
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    statement = (
        f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, columns))}) "
        f"VALUES ({', '.join([mark] * len(columns))}){suffix}"
    )
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        connection.exec_driver_sql(statement, list(map(tuple, rows[start : start + _ROWS_AT_ONCE])))


def _conversion(connection: Connection, column: Column[Any]) -> Any:
    """What turns a value into one that the driver takes, or None."""
    return column.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)


def _as_driver(connection: Connection, column: Column[Any], values: pd.Series[Any]) -> list[Any]:
    """A column as the driver takes it; what many rows share is converted once."""
    convert = _conversion(connection, column)
    if values.dtype.kind != "M":
        plain = (
            values.tolist() if values.dtype == "int64" else values.astype(object).where(values.notna(), None).tolist()
        )
        return plain if convert is None else list(map(convert, plain))
    codes, shared = pd.factorize(values)
    moments = [moment.to_pydatetime().replace(tzinfo=UTC) for moment in pd.DatetimeIndex(shared)]
    told = [moment.date() if isinstance(column.type, Date) else moment for moment in moments]
    known = [each if convert is None else convert(each) for each in told]
    return [known[code] for code in codes.tolist()]


# LOAD DATA


def _takes_files(connection: Connection) -> bool:
    """Whether the server permits it; asked once per connection, and told once per engine if not."""
    if _TAKES_FILES not in connection.info:
        takes = bool(connection.exec_driver_sql("SELECT @@local_infile").scalar())
        connection.info[_TAKES_FILES] = takes
        if not takes and connection.engine.url not in _told:
            _told.add(connection.engine.url)
            _log.warning("the database takes no files (local_infile is off): rows go in by INSERT, which is slower")
    return bool(connection.info[_TAKES_FILES])


_told: Final[set[URL]] = set()


def _load_file(connection: Connection, table: Table, rows: pd.DataFrame, constants: dict[str, Any]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    fields, settings = [], [f"{quote(name)} = %s" for name in constants]
    for name in rows.columns:
        given = f"@aae_{name}"
        if isinstance(table.c[name].type, Micros):
            # Through DECIMAL: a piece of a file times a number would be floating point.
            settings.append(f"{quote(name)} = CAST(NULLIF({given}, '') AS DECIMAL(24)) * 0.000001")
        elif rows[name].dtype == "Int64":
            settings.append(f"{quote(name)} = NULLIF({given}, '')")
        else:
            given = quote(name)
        fields.append(given)
    statement = (
        f"LOAD DATA LOCAL INFILE %s INTO TABLE {quote(table.name)} FIELDS TERMINATED BY ',' ({', '.join(fields)})"
    )
    if settings:
        statement += f" SET {', '.join(settings)}"
    with _as_file(rows) as name, _giving_out_files(connection):
        taken = connection.exec_driver_sql(statement, (name, *constants.values())).rowcount
    # With LOCAL the server only warns where a value does not fit or a key is there already.
    if taken != len(rows) or connection.exec_driver_sql("SELECT @@warning_count").scalar():
        raise ValueError(f"the database took only {taken} of {len(rows)} rows as they are")


@contextmanager
def _as_file(rows: pd.DataFrame) -> Iterator[str]:
    """The rows as comma-separated text, nothing for what is missing; the name to open it by."""
    with _memory() as file:
        columns = pa.Table.from_pandas(rows, preserve_index=False)
        csv.write_csv(columns, file, csv.WriteOptions(include_header=False, quoting_style="none"))
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if file.name == file.fileno() else str(file.name)


def _memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("aae-rows"), "wb")
    return NamedTemporaryFile()


@contextmanager
def _giving_out_files(connection: Connection) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    driver._local_infile = True
    try:
        yield
    finally:
        driver._local_infile = False
