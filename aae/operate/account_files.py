"""Lists of ad accounts as people bring them: a JSON array, JSON lines or CSV, checked whole before anything happens.

All problems are reported at once, each with its row, and never with a token in it. Rows of a CSV file are numbered as a
spreadsheet shows them (the header is row 1), those of JSON from 1.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import SecretStr

from aae.errors import UserError
from aae.model import Platform, Token

REQUIRED: Final = ("user_email", "user_name", "platform", "external_id", "access_token")
OPTIONAL: Final = ("refresh_token", "expires_at", "login_customer_id", "name", "currency", "timezone")
_SHOWN_PROBLEMS: Final = 30


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account of such a list, checked.

    ``external_id`` and ``login_customer_id`` are bare digits; ``name``, ``currency`` and ``timezone`` are None where
    the list does not say and the platform must be asked. ``row`` is its number for messages.
    """

    row: int
    user_email: str
    user_name: str
    platform: Platform
    external_id: str
    token: Token
    login_customer_id: str | None
    name: str | None
    currency: str | None
    timezone: str | None

    @property
    def is_complete(self) -> bool:
        """Whether the platform need not be asked."""
        return None not in (self.name, self.currency, self.timezone)

    def __str__(self) -> str:
        return f"{self.platform}:{self.external_id}"


def read_accounts(text: str, source: str) -> list[AccountRow]:
    """Every account in ``text``; ``source`` names it in messages.

    Raises:
        UserError: something is wrong; the message has one line per problem. There is then no other result.
    """
    rows: list[AccountRow] = []
    problems: list[str] = []
    for number, fields in _records(text.removeprefix("\ufeff"), source):
        wrong: list[str] = []
        row = _check(number, fields, wrong)
        problems += [f"row {number}: {problem}" for problem in wrong]
        if row:
            rows.append(row)
    problems += _contradictions(rows)
    if problems:
        raise UserError(describe_problems(problems, source))
    if not rows:
        raise UserError(f"There is no account in {source}.")
    return rows


def describe_problems(problems: list[str], source: str) -> str:
    """All problems of one list as a message."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    lines = [f"{count} in {source}; nothing was imported:", *(f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS])]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  ... and {len(problems) - _SHOWN_PROBLEMS} more")
    return "\n".join(lines)


class _Crooked(str):
    """What is wrong with a row that could not be split into fields; in our own words, unlike a string of the list."""


def _records(text: str, source: str) -> Iterator[tuple[int, object]]:
    start = text.lstrip()[:1]
    if start == "[":
        yield from enumerate(_json(text, source), 1)
    elif start == "{":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        yield from ((number, _json(line, f"line {number} of {source}")) for number, line in lines)
    else:
        yield from _csv_records(text, source)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        # The position, never the text: it may hold a token.
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"What begins like JSON in {what} is not valid JSON{where}; nothing was imported.") from None
    except RecursionError:
        raise UserError(
            f"The JSON in {what} is nested too deeply for a list of accounts; nothing was imported."
        ) from None


def _csv_records(text: str, source: str) -> Iterator[tuple[int, object]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in REQUIRED if name not in header]
        if missing:
            raise UserError(f"The first row of {source} must name the columns; missing: {', '.join(missing)}.")
        for number, cells in enumerate(reader, 2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                yield number, _Crooked(f"has {len(cells)} columns, the header has {len(header)}")
            else:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{source} is not valid CSV near row {reader.line_num}: {error}; nothing was imported."
        ) from None


def _check(number: int, fields: object, wrong: list[str]) -> AccountRow | None:
    """One row, or None with what is wrong about it added to ``wrong``."""
    if not isinstance(fields, Mapping):
        wrong.append(fields if isinstance(fields, _Crooked) else "is not an object with named fields")
        return None
    unknown = [str(name) for name in fields if name not in (*REQUIRED, *OPTIONAL)]
    if unknown:
        # Where columns are mixed up, the name of a field may be a token: it is hinted at, never repeated.
        meant = sorted({near for name in unknown for near in get_close_matches(name, (*REQUIRED, *OPTIONAL), 1)})
        count = "1 unknown field" if len(unknown) == 1 else f"{len(unknown)} unknown fields"
        hint = f" (perhaps {', '.join(meant)} misspelt)" if meant else ""
        wrong.append(f"has {count}{hint}; known are {', '.join((*REQUIRED, *OPTIONAL))}")

    def take(name: str, check: Callable[[str], Any]) -> Any:
        value = fields.get(name)
        value = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else value
        if value in (None, ""):
            if name in REQUIRED:
                wrong.append(f"{name} is missing")
            return None
        if not isinstance(value, str):
            wrong.append(f"{name} must be text")
            return None
        try:
            return check(value)
        except ValueError as error:
            wrong.append(f"{name} {error}")
            return None

    platform = take("platform", _platform)
    values = {
        "user_email": take("user_email", _email),
        "user_name": take("user_name", _line(200)),
        "external_id": take("external_id", lambda value: bare_id(value, platform)),
        "login_customer_id": take("login_customer_id", lambda value: bare_id(value, platform)),
        "name": take("name", _line(400)),
        "currency": take("currency", _currency),
        "timezone": take("timezone", _timezone),
    }
    access, refresh = take("access_token", _secret), take("refresh_token", _secret)
    expires = take("expires_at", moment)
    if values["login_customer_id"] and platform is not None and platform is not Platform.GOOGLE:
        wrong.append("login_customer_id is for Google accounts only")
    if wrong:
        return None
    return AccountRow(row=number, platform=platform, token=Token(access, refresh, expires), **values)


def _contradictions(rows: list[AccountRow]) -> Iterator[str]:
    """What is wrong between rows: an account twice, a user with two names."""
    seen: dict[tuple[str, Platform, str], int] = {}
    names: dict[str, AccountRow] = {}
    for row in rows:
        email = row.user_email.casefold()
        first = seen.setdefault((email, row.platform, row.external_id), row.row)
        if first != row.row:
            yield f"row {row.row}: {row} of {row.user_email} is already in row {first}"
        known = names.setdefault(email, row)
        if known.user_name != row.user_name:
            yield f"row {row.row}: {row.user_email} has another user_name than in row {known.row}"


def bare_id(text: str, platform: Platform | None) -> str:
    """A platform's account id as bare digits, however people write it: ``act_17``, ``123-456-7890``.

    Of an unknown platform (None) any id is taken as it is: that the platform is unknown is said elsewhere.

    Raises:
        ValueError: it is not one.
    """
    bare = text.strip()
    if platform is None:
        return bare
    if platform is Platform.META:
        bare = bare.removeprefix("act_")
    if platform is Platform.GOOGLE:
        bare = bare.replace("-", "")
    if not re.fullmatch(r"[0-9]{1,64}", bare):
        raise ValueError("must be the platform's numeric account id")
    return bare


def moment(text: str) -> datetime:
    """An aware moment from ISO 8601.

    Raises:
        ValueError: it is not one, or has no offset.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a moment like 2026-11-22T06:00:00Z") from None
    if value.tzinfo is None:
        raise ValueError("needs its offset from UTC, like 2026-11-22T06:00:00Z")
    return value


def _platform(text: str) -> Platform:
    try:
        return Platform(text.casefold())
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Platform)}") from None


def _email(text: str) -> str:
    if len(text) > 254 or not re.fullmatch(r"[^\s@,;<>\"\x00-\x1f\x7f]+@[^\s@,;<>\"\x00-\x1f\x7f]+", text):
        raise ValueError("is not an e-mail address")
    return text


def _line(longest: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text) > longest:
            raise ValueError(f"is longer than {longest} characters")
        if not text.isprintable():
            raise ValueError("must be one line of printable text")
        return text

    return check


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError("must be a code of three capital letters like EUR")
    return text


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (OSError, ValueError, KeyError):
        raise ValueError("must be an IANA name like Europe/Vienna") from None
    return text


def _secret(text: str) -> SecretStr:
    if len(text) > 4096 or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("must be at most 4096 visible ASCII characters")
    return SecretStr(text)
