"""Reading what a platform sent without trusting it: the right shape and an exact number, or a ``Bug`` in one sentence.

No message ever holds the value itself: it may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import SecretStr

from aae.errors import Bug
from aae.model import Platform

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
_SIX_PLACES: Final = Decimal("0.000001")
_CONTEXT: Final = Context(prec=400, rounding=ROUND_HALF_EVEN)
"""Roomy enough for any amount that passes the limit with as many decimals as a platform may send."""


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

    def records(self, value: object, what: str) -> list[dict[str, Any]]:
        """A JSON array of objects."""
        rows = self.items(value, what)
        if not all(isinstance(row, dict) for row in rows):
            raise self.bug(f"something other than objects in {what}")
        return rows

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
        if hour > 23:
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

    def _amount(self, value: object, what: str, limit: int = _LIMIT) -> Decimal:
        if isinstance(value, str) and len(value) <= 64:
            try:
                value = Decimal(value)
            except ArithmeticError:
                raise self.bug(f"no amount as {what}") from None
        elif type(value) is int and abs(value) < limit:
            value = Decimal(value)
        # The exponent is looked at before any arithmetic: 1e999999999 would be a very long integer.
        if not isinstance(value, Decimal) or not value.is_finite() or not -300 < value.adjusted() < 19:
            raise self.bug(f"no amount as {what}")
        if abs(value) >= limit:
            raise self.bug(f"too large an amount as {what}")
        return value


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
