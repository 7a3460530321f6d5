"""A parser for the part of the Google Ads Query Language that reporting needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

_TOKEN: Final = re.compile(r"""\s*(?:('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(<=|>=|!=|[=<>(),])|([A-Za-z0-9_.\-*]+))""")


class QueryError(Exception):
    """The query is wrong; ``code`` is Google's own queryError value."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Condition:
    """``field operator values``; a single value is a list of one."""

    field: str
    operator: str
    values: tuple[str, ...]

    def holds(self, actual: Any) -> bool:
        """Whether a row's value meets the condition; numbers compare as numbers."""
        if self.operator in {"IS NULL", "IS NOT NULL"}:
            return (actual is None) == (self.operator == "IS NULL")
        number = isinstance(actual, int | float) and not isinstance(actual, bool)
        convert: Callable[[str], Any] = float if number else str
        left = str(actual).lower() if isinstance(actual, bool) else actual
        try:
            right = [convert(value) for value in self.values]
        except ValueError:
            raise QueryError("BAD_NUMBER", f"Not a number in the condition on '{self.field}'.") from None
        return _OPERATORS[self.operator](left, right)


_OPERATORS: Final[dict[str, Callable[[Any, list[Any]], bool]]] = {
    "=": lambda left, right: bool(left == right[0]),
    "!=": lambda left, right: bool(left != right[0]),
    "<": lambda left, right: bool(left < right[0]),
    "<=": lambda left, right: bool(left <= right[0]),
    ">": lambda left, right: bool(left > right[0]),
    ">=": lambda left, right: bool(left >= right[0]),
    "IN": lambda left, right: left in right,
    "NOT IN": lambda left, right: left not in right,
    "BETWEEN": lambda left, right: bool(right[0] <= left <= right[1]),
}


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. ``order`` holds (field, descending)."""

    fields: tuple[str, ...]
    resource: str
    conditions: tuple[Condition, ...]
    order: tuple[tuple[str, bool], ...] = ()
    limit: int | None = None

    @property
    def used(self) -> tuple[str, ...]:
        """Every field that occurs anywhere."""
        return (*self.fields, *(one.field for one in self.conditions), *(name for name, _ in self.order))

    @property
    def on_dates(self) -> tuple[Condition, ...]:
        """The conditions on ``segments.date`` that compare (``DURING`` only gives a range)."""
        return tuple(one for one in self.conditions if one.field == "segments.date" and one.operator != "DURING")

    def dates(self, today: date) -> tuple[date, date] | None:
        """The days that the conditions on ``segments.date`` leave, both inclusive, or None without such.

        Raises QueryError where only one end is given.
        """
        since, until = date.min, date.max
        mine = [one for one in self.conditions if one.field == "segments.date"]
        for condition in mine:
            first, last = _span(condition, today)
            since, until = max(since, first), min(until, last)
        if mine and (since == date.min or until == date.max):
            raise QueryError("EXPECTED_FILTERS_ON_DATE_RANGE", "Core date segments need a finite date range.")
        return (since, until) if mine else None


def parse(text: str) -> Query:
    """Reads a query.

    Raises:
        QueryError: it is not one.
    """
    return _Parser(text).query()


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position, text = 0, text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise QueryError("BAD_SYMBOL", f"Unexpected symbol at {position}.")
            self.tokens.append(match.group().strip())
            position = match.end()
        self.at = 0

    def query(self) -> Query:
        self.expect("SELECT", "EXPECTED_SELECT")
        fields = self.names()
        self.expect("FROM", "EXPECTED_FROM")
        resource = self.take()
        conditions: list[Condition] = []
        if self.accept("WHERE"):
            conditions.append(self.condition())
            while self.accept("AND"):
                conditions.append(self.condition())
        order: list[tuple[str, bool]] = []
        if self.accept("ORDER"):
            self.expect("BY", "EXPECTED_BY")
            order.append(self.ordering())
            while self.accept(","):
                order.append(self.ordering())
        limit = self.number() if self.accept("LIMIT") else None
        if self.accept("PARAMETERS"):
            self.at = len(self.tokens)
        if self.at < len(self.tokens):
            raise QueryError("UNEXPECTED_INPUT", f"Error in query: unexpected input {self.tokens[self.at]}.")
        return Query(tuple(fields), resource, tuple(conditions), tuple(order), limit)

    def names(self) -> list[str]:
        names = [self.take()]
        while self.accept(","):
            names.append(self.take())
        return names

    def condition(self) -> Condition:
        field, operator = self.take(), self.take().upper()
        if operator == "NOT":
            self.expect("IN", "BAD_OPERATOR")
            operator = "NOT IN"
        if operator == "IS":
            operator = "IS NOT NULL" if self.accept("NOT") else "IS NULL"
            self.expect("NULL", "BAD_VALUE")
            return Condition(field, operator, ())
        if operator in {"IN", "NOT IN"}:
            self.expect("(", "EXPECTED_LIST")
            values = [self.value()]
            while self.accept(","):
                values.append(self.value())
            self.expect(")", "EXPECTED_LIST")
            return Condition(field, operator, tuple(values))
        if operator == "BETWEEN":
            first = self.value()
            self.expect("AND", "EXPECTED_VALUE_WITH_BETWEEN_OPERATOR")
            return Condition(field, operator, (first, self.value()))
        if operator not in {*_OPERATORS, "DURING"}:
            raise QueryError("BAD_OPERATOR", f"Error in query: bad operator {operator}.")
        return Condition(field, operator, (self.value(),))

    def ordering(self) -> tuple[str, bool]:
        name = self.take()
        descending = self.accept("DESC")
        if not descending:
            self.accept("ASC")
        return name, descending

    def number(self) -> int:
        word = self.take()
        if not word.isdigit() or word == "0":
            raise QueryError("BAD_LIMIT_VALUE", "LIMIT must be a positive number.")
        return int(word)

    def value(self) -> str:
        token = self.take()
        if token[0] in "'\"":
            return re.sub(r"\\(.)", r"\1", token[1:-1])
        return token

    def take(self) -> str:
        if self.at >= len(self.tokens):
            raise QueryError("UNEXPECTED_END_OF_QUERY", "Error in query: unexpected end.")
        self.at += 1
        return self.tokens[self.at - 1]

    def accept(self, word: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at].upper() == word:
            self.at += 1
            return True
        return False

    def expect(self, word: str, code: str) -> None:
        if not self.accept(word):
            raise QueryError(code, f"Error in query: expected {word}.")


def _span(condition: Condition, today: date) -> tuple[date, date]:
    if condition.operator == "DURING":
        return _during(condition.values[0].upper(), today)
    try:
        days = [date.fromisoformat(value) for value in condition.values]
    except ValueError:
        raise QueryError("INVALID_DATE_FORMAT", "Dates must be YYYY-MM-DD.") from None
    one_day = timedelta(days=1)
    match condition.operator:
        case "=" | "BETWEEN" | "IN":
            return (days[0], days[-1]) if condition.operator != "IN" else (min(days), max(days))
        case ">=":
            return days[0], date.max
        case ">":
            return days[0] + one_day, date.max
        case "<=":
            return date.min, days[0]
        case "<":
            return date.min, days[0] - one_day
    raise QueryError("BAD_OPERATOR", f"{condition.operator} does not apply to segments.date.")


def _during(name: str, today: date) -> tuple[date, date]:
    if name == "TODAY":
        return today, today
    days = {"YESTERDAY": 1, "LAST_7_DAYS": 7, "LAST_14_DAYS": 14, "LAST_30_DAYS": 30}.get(name)
    if days is None:
        raise QueryError("BAD_VALUE", f"Unknown date range {name}.")
    return today - timedelta(days=days), today - timedelta(days=1)
