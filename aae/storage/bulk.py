"""Many rows at once, and one row at most once: the few statements that differ between SQLite and MySQL.

Everything here runs inside the caller's transaction and is understood by MySQL 8, MariaDB 10.11 and SQLite alike:
no RETURNING, no row aliases, and no temporary table named twice in one query. Columns of numbers go another way:
:mod:`aae.storage.loading`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, CursorResult, Table, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

Row = Sequence[Any]

# PyMySQL joins the rows into statements of about 1 MB, well below any max_allowed_packet (MariaDB 16 MB, MySQL 64 MB);
# this only bounds the memory that one call needs.
_ROWS_AT_ONCE: Final = 20_000


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


def add(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], suffix: str = "") -> None:
    """Insert ``rows``, whose values are as the driver takes them (:func:`conversion`)."""
    quote = connection.dialect.identifier_preparer.quote
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    statement = (
        f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, columns))}) "
        f"VALUES ({', '.join([mark] * len(columns))}){suffix}"
    )
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        connection.exec_driver_sql(statement, list(map(tuple, rows[start : start + _ROWS_AT_ONCE])))


def conversion(connection: Connection, column: Column[Any]) -> Any:
    """What turns a value into one that the driver takes, or None."""
    return column.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)


def _exists(connection: Connection, table: Table, key: ColumnElement[bool]) -> bool:
    return connection.execute(table.select().with_only_columns(table.c.id).where(key).limit(1)).first() is not None


def _many(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], suffix: str) -> None:
    by_column = list(zip(*rows, strict=True))
    for position, name in enumerate(columns[: len(by_column)]):
        # Columns that need nothing, most of them, cost nothing.
        convert = conversion(connection, table.c[name])
        if convert is not None:
            by_column[position] = tuple(convert(value) for value in by_column[position])
    add(connection, table, columns, list(zip(*by_column, strict=True)), suffix)
