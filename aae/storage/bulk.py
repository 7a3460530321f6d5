"""Many rows at once, and one row at most once: the few statements that differ between SQLite and MySQL.

Everything here runs inside the caller's transaction and is understood by MySQL 8, MariaDB 10.11 and SQLite alike:
no RETURNING, no row aliases, and no temporary table named twice in one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, CursorResult, MetaData, Table, delete, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.elements import ColumnElement

Row = Sequence[Any]

# PyMySQL joins the rows into statements of about 1 MB, well below any max_allowed_packet (MariaDB 16 MB, MySQL 64 MB);
# this only bounds the memory that one call needs.
_ROWS_AT_ONCE: Final = 20_000


def temporary(name: str, *columns: Column[Any]) -> Table:
    """A temporary table, private to its connection; :func:`refill` makes and empties it."""
    return Table(name, MetaData(), *columns, prefixes=["TEMPORARY"])


def refill(connection: Connection, stage: Table, rows: Sequence[Row] = ()) -> None:
    """Make the temporary table ``stage`` hold exactly ``rows``, given in the order of its columns.

    This is the seam for LOAD DATA: whatever puts the rows there, the merge after it is the same.
    """
    connection.execute(CreateTable(stage, if_not_exists=True))
    # Not TRUNCATE, which would commit on MySQL.
    connection.execute(delete(stage))
    add(connection, stage, [column.name for column in stage.columns], rows)


def add(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert ``rows``, each in the order of ``columns``."""
    _many(connection, table, columns, rows, suffix="")


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
    if not rows:
        return
    quote = connection.dialect.identifier_preparer.quote
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    statement = (
        f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, columns))}) "
        f"VALUES ({', '.join([mark] * len(columns))}){suffix}"
    )
    adapted = _adapt(connection, table, columns, rows)
    for start in range(0, len(adapted), _ROWS_AT_ONCE):
        connection.exec_driver_sql(statement, adapted[start : start + _ROWS_AT_ONCE])


def _adapt(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """The rows as the driver takes them. Columns that need nothing, most of them, cost nothing."""
    by_column = list(zip(*rows, strict=True))
    for position, name in enumerate(columns):
        kind = table.c[name].type
        convert = kind.dialect_impl(connection.dialect).bind_processor(connection.dialect)
        if convert is not None:
            by_column[position] = tuple(convert(value) for value in by_column[position])
    return list(zip(*by_column, strict=True))
