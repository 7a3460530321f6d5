"""Columns of numbers into tables and out of them, by the quickest way that the database has.

To MySQL that is ``LOAD DATA LOCAL INFILE`` where a server permits it (``local_infile``), and INSERT where it does not.
The "file" is memory of this process. A server may answer that statement by asking for any file it likes, so the driver
gives files out only while one of ours is under way. Everything here runs inside the caller's transaction.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import URL, Column, Connection, Date, MetaData, Select, Table, delete, func
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.elements import ColumnElement

from aae.storage.bulk import add, conversion
from aae.storage.schema import Micros

_log = logging.getLogger(__name__)

_WORTH_A_FILE: Final = 50
"""Fewer rows than this are in one INSERT before a file is even asked for."""

_TAKES_FILES: Final = "aae_takes_files"


def temporary(name: str, *columns: Column[Any]) -> Table:
    """A temporary table, private to its connection; :func:`refill` makes and empties it."""
    return Table(name, MetaData(), *columns, prefixes=["TEMPORARY"])


def refill(connection: Connection, stage: Table, rows: pd.DataFrame | None = None) -> None:
    """Make the temporary table ``stage`` hold exactly ``rows`` (none without), as :func:`load` takes them."""
    if connection.dialect.name == "sqlite":
        connection.execute(CreateTable(stage, if_not_exists=True))
        connection.execute(delete(stage))  # of all rows, which is quick there
    else:
        # Made anew: emptying takes as long as filling, and TRUNCATE would commit on MySQL, as this does not.
        connection.exec_driver_sql(
            f"DROP TEMPORARY TABLE IF EXISTS {connection.dialect.identifier_preparer.quote(stage.name)}"
        )
        connection.execute(CreateTable(stage))
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
    add(connection, table, [*rows.columns, *constants], list(zip(*columns, strict=True)))


def _as_driver(connection: Connection, column: Column[Any], values: pd.Series[Any]) -> list[Any]:
    """A column as the driver takes it; what many rows share is converted once."""
    convert = conversion(connection, column)
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


def unload(
    connection: Connection, query: Select[Any], kinds: Mapping[str, str], *, together: Sequence[Column[Any]] = ()
) -> pd.DataFrame:
    """The rows of ``query`` as a frame with the names and pandas types ``kinds``; only ``Int64`` and text may be null.

    PyMySQL takes a row apart in Python, value by value, which costs more than everything else that is done with it. So
    where all are numbers and moments, the server writes each row as one line, all lines that are equal in the columns
    ``together`` at once, and Arrow reads the lines. With ``together`` the rows may come in any order.
    """
    if connection.dialect.name == "sqlite" or "str" in kinds.values():
        rows = connection.execute(query).all()
        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(kinds)
        return pd.DataFrame(
            {name: _as_pandas(values, kind) for (name, kind), values in zip(kinds.items(), columns, strict=True)}
        )
    told = zip(query.selected_columns, kinds.values(), strict=True)
    fields = [func.coalesce(column, "") if kind == "Int64" else column for column, kind in told]
    lines = _lines(connection, query, func.concat(func.concat_ws(",", *fields), "\n"), together)
    types = {name: _ARROW.get(kind, pa.int64()) for name, kind in kinds.items()}
    if not lines:
        return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in kinds.items()})
    read = csv.read_csv(
        pa.py_buffer(lines.encode()),
        csv.ReadOptions(column_names=list(kinds), use_threads=False),
        convert_options=csv.ConvertOptions(column_types=types, null_values=[""]),
    )
    return pd.DataFrame({name: _from_arrow(read[name], kind) for name, kind in kinds.items()})


def _lines(
    connection: Connection, query: Select[Any], line: ColumnElement[str], together: Sequence[Column[Any]]
) -> str:
    """The rows as text, each told by ``line``, which ends it."""
    if together:
        joined = query.with_only_columns(func.count(), func.aggregate_strings(line, "")).order_by(None)
        blocks = connection.execute(joined.group_by(*together)).all()
        # What is longer than group_concat_max_len or max_allowed_packet is cut, or missing, without an error.
        if all((text or "").count("\n") == rows for rows, text in blocks):
            return "".join(text for _, text in blocks)
    return "".join(connection.scalars(query.with_only_columns(line)))


_ARROW: Final = {"datetime64[s]": pa.timestamp("us")}
_NULLABLE: Final[Any] = pd.Int64Dtype()


def _from_arrow(column: pa.ChunkedArray, kind: str) -> Any:
    return _NULLABLE.__from_arrow__(column) if kind == "Int64" else column.to_numpy().astype(kind, copy=False)


def _as_pandas(values: Sequence[Any], kind: str) -> Any:
    if kind == "str":
        return pd.array(list(values), dtype="str")
    if kind == "Int64":
        missing = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
        known = np.fromiter((value or 0 for value in values), dtype=np.int64, count=len(values))
        return pd.arrays.IntegerArray(known, missing)
    return np.array(values, dtype=kind)


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
    with _as_file(table, rows) as name, _giving_out_files(connection):
        taken = connection.exec_driver_sql(statement, (name, *constants.values())).rowcount
    # With LOCAL the server only warns where a value does not fit or a key is there already.
    if taken != len(rows) or connection.exec_driver_sql("SELECT @@warning_count").scalar():
        raise ValueError(f"the database took only {taken} of {len(rows)} rows as they are")


@contextmanager
def _as_file(table: Table, rows: pd.DataFrame) -> Iterator[str]:
    """The rows as comma-separated text, nothing for what is missing; the name to open it by."""
    with _memory() as file:
        days = {name for name in rows.columns if isinstance(table.c[name].type, Date)}
        kinds = {name: pa.date32() if name in days else None for name in rows.columns}
        columns = pa.table({name: pa.Array.from_pandas(rows[name], type=kind) for name, kind in kinds.items()})
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
