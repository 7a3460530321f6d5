"""What is read back from Redis as the result of a step: data that we wrote, or nothing.

A record of Prefect names the serializer to read it with, pickle among them, and JSON in its way may name any function
to be called. Whoever can write to Redis could so run code in the worker. :func:`guard` lets only such records through
as this project writes; every other one counts as not there, and its step is simply made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import wraps
from typing import Any, Final

from prefect._internal.result_records import ResultRecord
from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import from_qualified_name

_OURS: Final = JSONSerializer().model_dump()
_PLAIN: Final = {f"{kind.__module__}.{kind.__name__}" for kind in (datetime, date, timedelta, Decimal)}


class ForeignResult(Exception):
    """A record that this project has not written; nothing of it has been used."""


def check(content: bytes) -> None:
    """See that a record holds nothing but data.

    Raises:
        ForeignResult: it is read with anything but plain JSON, or would make other objects than this project's data.
    """
    try:
        record = json.loads(content, object_hook=_only_data)
        plain = set(record) == {"metadata", "result"} and record["metadata"]["serializer"] == _OURS
        if not plain or not isinstance(record["result"], str):
            raise ForeignResult("a record of another shape or serializer")
        json.loads(record["result"], object_hook=_only_data)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ForeignResult(f"no record of a result ({type(error).__name__})") from None


def _only_data(found: dict[str, Any]) -> Mapping[str, Any]:
    if "__exc_type__" in found or not _is_data(found.get("__class__", "datetime.datetime")):
        raise ForeignResult("a record that names what is to be called")
    return found


def _is_data(name: object) -> bool:
    """Whether it is one of the kinds of data our steps return. A function of ours is not: reading would call it."""
    if not isinstance(name, str) or name in _PLAIN:
        return isinstance(name, str)
    if not name.startswith("aae."):
        return False
    try:
        kind = from_qualified_name(name)
    except (ImportError, AttributeError):
        return False
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Enum))


def guard() -> None:
    """Check every record before Prefect reads it, in this process from now on. May be called again."""
    unguarded = ResultRecord.deserialize
    if getattr(unguarded, "__wrapped__", None) is not None:
        return

    @wraps(unguarded)
    def checked(data: bytes, backup_serializer: Any = None) -> ResultRecord[Any]:
        check(data)
        return unguarded(data, backup_serializer)

    ResultRecord.deserialize = staticmethod(checked)  # type: ignore[method-assign]
