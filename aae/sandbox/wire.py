"""What passes between the HTTP server and the platforms: a call in, an answer out, and exact numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import parse_qsl

import orjson

from aae.model import Platform


class Purpose(StrEnum):
    """Why a call is made; faults can be limited to one."""

    LISTING = "listing"
    METRICS = "metrics"
    TOTALS = "totals"
    POLL = "poll"
    AUTH = "auth"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Header names are lower case; ``query`` holds the last value of each name.

    ``now`` is the sandbox's moment (aware); ``troubles`` maps the names of the faults that change the shape of the
    answer to their value (None where a fault has no value).
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    base_url: str
    now: datetime
    troubles: Mapping[str, float | None] = field(default_factory=dict)

    def form(self) -> dict[str, str]:
        """The body as a urlencoded form, over the query."""
        return {**self.query, **dict(parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True))}

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}

    def first_of_page(self, start: int) -> int:
        """The row that a page begins with which should begin with the row ``start``: pages overlap if they shift."""
        return start - 1 if start and "pages_overlap" in self.troubles else start


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"

    @classmethod
    def of(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """A JSON answer."""
        return cls(orjson.dumps(value), status, headers or {})


@dataclass(frozen=True, slots=True)
class Subject:
    """What a call is about: its purpose, and the account it names, if any."""

    purpose: Purpose
    account: str | None = None


class Api(Protocol):
    """One platform's API."""

    platform: Platform

    def subject(self, call: Call) -> Subject:
        """What a call is about, without answering it."""

    def answer(self, call: Call) -> Answer:
        """The platform's answer."""


def plain_decimal(micros: int) -> str:
    """The exact amount with no more decimals than it needs: 26_782_400 is ``26.7824``, 5_000_000 is ``5``."""
    text = f"{Decimal(micros).scaleb(-6):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money_decimal(micros: int) -> str:
    """The exact amount with at least two decimals: 49_900_000 is ``49.90``, 26_782_400 is ``26.7824``."""
    text = plain_decimal(micros)
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<2}"


def ratio(numerator: int, denominator: int, *, scale: int = 1) -> int | None:
    """``scale`` x numerator / denominator in micros, rounded half up; None where the denominator is zero."""
    if not denominator:
        return None
    return (2 * scale * 1_000_000 * numerator + denominator) // (2 * denominator)
