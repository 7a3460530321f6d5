"""Reading what a platform sent without trusting it: the right shape and an exact number, or a ``Bug`` in one sentence.

No message ever holds the value itself: it may be anything.

What comes by the million is read a column at a time (``counts``, ``exacts``, ``ids``, ...). Such a reader recognizes
the usual column, plain ASCII text of a bounded length, by its bytes, and converts it as a whole; a column that is
unusual in any way is read value by value by the reader of the singular name, which alone decides what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import SecretStr

from aae.errors import Bug
from aae.model import Platform

T = TypeVar("T")
Integers = npt.NDArray[np.int64]

_LIMIT: Final = 10**12
"""Amounts stay below a million million, which is what ``DECIMAL(18,6)`` holds."""

_COUNT_LIMIT: Final = 10**12
"""The ledger of changes keeps counts as such amounts too, and a million of them still add up to a BIGINT."""

MOST_PAGES: Final = 10_000
MOST_ROWS: Final = 1_000_000
"""Pages and rows of one listing, report or slice, which is held in memory; more are no end, but a platform that has
lost its way."""

_ID: Final = re.compile(r"[0-9A-Za-z_.~-]{1,64}")
_NAME_LENGTH: Final = 400
_LAST_HOUR: Final = 23
_SIX_PLACES: Final = Decimal("0.000001")
_CONTEXT: Final = Context(prec=400, rounding=ROUND_HALF_EVEN)
"""Roomy enough for any amount that passes the limit with as many decimals as a platform may send."""


_DIGITS: Final = b"0123456789"
_SIGNED_DIGITS: Final = b"-0123456789"
_DECIMAL: Final = b"-.0123456789"
_ID_CHARACTERS: Final = bytes(code for code in range(128) if _ID.fullmatch(chr(code)))
_COUNT_DIGITS: Final = len(str(_COUNT_LIMIT)) - 1
_MICROS_DIGITS: Final = len(str(_LIMIT * 10**6)) - 1
_AMOUNT: Final = pa.decimal128(_MICROS_DIGITS, 6)
"""As the tables have it. What does not fit without a loss is an error in Arrow too."""

_NOT_PLAIN: Final = (pa.ArrowException, ValueError, TypeError, OverflowError)
"""What Arrow makes of values that are not of the type."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one platform's answers. ``what`` names the field in the sentence of the ``Bug``."""

    platform: Platform

    def bug(self, sentence: str) -> Bug:
        """A ``Bug`` that names the platform."""
        return Bug(f"{self.platform.capitalize()} sent {sentence}.", code="malformed")

    def record(self, value: object, what: str) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(value, dict):
            raise self.bug(f"no object as {what}")
        return value

    def items(self, value: object, what: str) -> list[Any]:
        """A JSON array."""
        if not isinstance(value, list):
            raise self.bug(f"no list as {what}")
        return value

    def id(self, value: object, what: str) -> str:
        """An id as text; numbers are accepted because some clients' proxies turn digits into them."""
        if type(value) is int and 0 < value < 10**64:
            return str(value)
        if isinstance(value, str) and _ID.fullmatch(value):
            return value
        raise self.bug(f"no usable id as {what}")

    def text(self, value: object, what: str) -> str:
        """Text that any table and terminal can hold: no lone surrogates, no NUL, at most 400 characters."""
        if not isinstance(value, str):
            raise self.bug(f"no text as {what}")
        return value[:_NAME_LENGTH].encode("utf-8", "replace").decode().replace("\x00", "")

    def secret(self, value: object, what: str) -> SecretStr:
        """A token: printable ASCII, as it must fit in a header."""
        if isinstance(value, str) and 0 < len(value) <= 8192 and value.isascii() and value.isprintable():
            return SecretStr(value)
        raise self.bug(f"no token as {what}")

    def count(self, value: object, what: str) -> int:
        """A whole number that is not negative, sent as a number or as text."""
        number: object = value
        if isinstance(value, str) and len(value) <= 19 and value.isascii() and value.isdigit():
            number = int(value)
        if type(number) is not int or number < 0:
            raise self.bug(f"no count as {what}")
        if number >= _COUNT_LIMIT:
            raise self.bug(f"too large a count as {what}")
        return number

    def exact(self, value: object, what: str) -> int:
        """Money in micros, not a digit lost; more than six decimals are a ``Bug``."""
        amount = self._amount(value, what)
        micros = amount.scaleb(6, _CONTEXT)
        if micros != (whole := int(micros)):
            raise self.bug(f"more than six decimals as {what}")
        return whole

    def rounded(self, value: object, what: str) -> int:
        """Micros of a number that a platform computes in floating point, rounded half to even."""
        return int(self._amount(value, what).quantize(_SIX_PLACES, context=_CONTEXT).scaleb(6, _CONTEXT))

    def micros(self, value: object, what: str) -> int:
        """Micros sent as such: a whole number, possibly negative, as text or number."""
        amount = self._amount(value, what, limit=_LIMIT * 10**6)
        if amount != (whole := int(amount)):
            raise self.bug(f"a fraction of a micro as {what}")
        return whole

    def day(self, value: object, what: str, days: Sequence[date]) -> str:
        """A calendar day among ``days``, as ISO text."""
        if not isinstance(value, str) or len(value) != 10:
            raise self.bug(f"no day as {what}")
        if not _within(value, days[0], days[-1]):
            raise self.bug(f"a day that was not asked for as {what}")
        return value

    def hour(self, value: object, what: str) -> int:
        """An hour of the day, 0 to 23."""
        hour = self.count(value, what)
        if hour > _LAST_HOUR:
            raise self.bug(f"no hour of the day as {what}")
        return hour

    def currency(self, value: object, what: str) -> str:
        """A three-letter code."""
        if isinstance(value, str) and re.fullmatch(r"[A-Z]{3}", value):
            return value
        raise self.bug(f"no currency as {what}")

    def timezone(self, value: object, what: str) -> str:
        """An IANA zone that this machine knows."""
        if isinstance(value, str) and len(value) <= 64 and _is_zone(value):
            return value
        raise self.bug(f"no known time zone as {what}")

    # Columns

    def ids(self, values: list[Any], what: str) -> pa.Array:
        """A column of ids, as text."""
        plain = _plain(values, _ID_CHARACTERS, longest=64)
        return pa.array([self.id(value, what) for value in values], pa.string()) if plain is None else plain

    def counts(self, values: list[Any], what: str) -> Integers:
        """A column of whole numbers that are not negative."""
        return _whole(values, _DIGITS, _COUNT_DIGITS, lambda value: self.count(value, what))

    def hours(self, values: list[Any], what: str) -> Integers:
        """A column of hours of the day."""
        if set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= _LAST_HOUR:
            return np.array(values, np.int64)
        codes, found = distinct(values, lambda value: self.hour(value, what))
        return np.array(found, np.int64)[codes]

    def micros_of(self, values: list[Any], what: str) -> Integers:
        """A column of micros sent as such."""
        return _whole(values, _SIGNED_DIGITS, _MICROS_DIGITS, lambda value: self.micros(value, what))

    def exacts(self, values: list[Any], what: str) -> Integers:
        """A column of money, in micros."""
        return _amounts(values, lambda value: self.exact(value, what))

    def roundeds(self, values: list[Any], what: str) -> Integers:
        """A column of numbers computed in floating point, in micros."""
        return _amounts(values, lambda value: self.rounded(value, what))

    def days(self, values: list[Any], what: str, days: Sequence[date]) -> npt.NDArray[np.datetime64]:
        """A column of calendar days among ``days``."""
        codes, found = distinct(values, lambda value: self.day(value, what, days))
        return np.array(found, "datetime64[D]")[codes]

    def _amount(self, value: object, what: str, limit: int = _LIMIT) -> Decimal:
        if isinstance(value, str) and len(value) <= 64:
            try:
                value = Decimal(value)
            except ArithmeticError:
                raise self.bug(f"no amount as {what}") from None
        elif type(value) is int and abs(value) < limit:
            value = Decimal(value)
        if isinstance(value, Decimal) and not value:
            return Decimal(0)  # however it is written
        # The exponent is looked at before any arithmetic: 1e999999999 would be a very long integer.
        if not isinstance(value, Decimal) or not value.is_finite() or not -300 < value.adjusted() < 19:
            raise self.bug(f"no amount as {what}")
        if abs(value) >= limit:
            raise self.bug(f"too large an amount as {what}")
        return value


def distinct(values: list[Any], read: Callable[[Any], T]) -> tuple[Integers, list[T]]:
    """What ``read`` makes of each value, as places in a list; it sees a text that many rows share once."""
    try:
        shared = pa.array(values, pa.string()).dictionary_encode()
    except _NOT_PLAIN:
        shared = None
    if shared is None or shared.null_count:
        return np.arange(len(values)), [read(value) for value in values]
    return shared.indices.to_numpy().astype(np.int64), [read(value) for value in shared.dictionary.to_pylist()]


def _plain(values: list[Any], allowed: bytes, longest: int) -> pa.Array | None:
    """The values as text if each is one of 1 to ``longest`` bytes, all of them allowed; else None.

    Arrow takes bytes for text as well, but JSON has none.
    """
    try:
        column = pa.array(values, pa.string())
    except _NOT_PLAIN:
        return None
    if column.null_count or not values:
        return None
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32, len(values) + 1)
    lengths = np.diff(ends)
    if lengths.min() < 1 or lengths.max() > longest:
        return None
    return None if data[: int(ends[-1])].to_pybytes().translate(None, allowed) else column


def _whole(values: list[Any], allowed: bytes, longest: int, one: Callable[[object], int]) -> Integers:
    """Integers by ``one``, or all at once where it could only say the same."""
    plain = _plain(values, allowed, longest)
    if plain is not None:
        try:
            return np.asarray(plain.cast(pa.int64()), np.int64)
        except _NOT_PLAIN:  # "-", say
            pass
    return np.array([one(value) for value in values], np.int64)


def _amounts(values: list[Any], one: Callable[[object], int]) -> Integers:
    """Micros of decimal numbers by ``one``, or all at once where none has more than six decimals."""
    plain: Any = _plain(values, _DECIMAL, longest=64)
    try:
        if plain is not None:
            return _micros(plain.cast(_AMOUNT))
        if values and set(map(type, values)) <= {int, Decimal}:
            return _micros(pa.array(values, _AMOUNT))
    except _NOT_PLAIN:
        pass
    return np.array([one(value) for value in values], np.int64)


def _micros(amounts: pa.Array) -> Integers:
    """Decimals of six places without their point; of the 128 bits of each, the lower half holds all there is."""
    return np.frombuffer(amounts.buffers()[1], "<i8", 2 * len(amounts))[::2].astype(np.int64)


@lru_cache(maxsize=4096)
def _within(day: str, since: date, until: date) -> bool:
    try:
        found = date.fromisoformat(day)
    except ValueError:
        return False
    return since <= found <= until and found.isoformat() == day  # week dates are ISO 8601 too


@lru_cache(maxsize=1024)
def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return False
    return True
