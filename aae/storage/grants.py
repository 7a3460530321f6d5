"""Who may do what in the shared tables: one MySQL user per purpose, each with what it needs and nothing more.

The rights are derived from the schema, so that they cannot go stale: a column that holds tokens is readable where this
file says so and nowhere else, and a table that is new is nobody's until it is named here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from aae.errors import UserError
from aae.storage.schema import metadata

_NOT_READ: Final = {
    "ad_accounts": frozenset({"access_token", "refresh_token"}),
    "users": frozenset({"email", "preferences"}),
}
"""Columns that only a right named in full gives: secrets, and what identifies a person."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SCHEMA_VERSION: Final = "alembic_version"


@dataclass(frozen=True, slots=True)
class Role:
    """A database user and its rights.

    ``tables``: table to rights such as ``"SELECT, INSERT"``; ``READ`` is SELECT on all columns but the guarded ones,
    and a right may name columns: ``"UPDATE (read_at)"``. ``everywhere`` are rights on the whole database.
    """

    name: str
    purpose: str
    tables: Mapping[str, str] = field(default_factory=dict)
    everywhere: str = ""


_FACTS: Final = ("entities", "ad_metrics_daily", "ad_metrics_hourly", "daily_summary")
_LOGS: Final = ("token_refreshes", "metric_revisions", "fetches", "api_calls", "incident_events")
_PLAIN: Final = dict.fromkeys((*_FACTS, *_LOGS, "incidents", "reports"), "SELECT")

# Nobody, the jobs included, may change what a log says; the jobs remove what is over its time. The log of refreshes is
# written ahead: its row begins as a check that is under way and is then given its outcome.
_JOBS: Final = MappingProxyType(
    {
        "users": "SELECT",
        "ad_accounts": "SELECT, UPDATE",
        **dict.fromkeys(_LOGS, "SELECT, INSERT, DELETE"),
        "token_refreshes": "SELECT, INSERT, UPDATE, DELETE",
        "entities": "SELECT, INSERT, UPDATE",
        "ad_metrics_daily": "SELECT, INSERT, UPDATE, DELETE",
        "ad_metrics_hourly": "SELECT, INSERT, UPDATE, DELETE",
        "daily_summary": "SELECT, INSERT, UPDATE, DELETE",
        "incidents": "SELECT, INSERT, UPDATE, DELETE",
        "reports": "SELECT, INSERT, DELETE",
        "notifications": "SELECT, INSERT, UPDATE, DELETE",
        "attempts": "SELECT, INSERT, UPDATE, DELETE",
        "attempt_beats": "SELECT, INSERT, UPDATE, DELETE",
        _SCHEMA_VERSION: "SELECT",
    }
)

ROLES: Final[tuple[Role, ...]] = (
    Role(
        "aae_migrate",
        "makes and changes the tables: aae db upgrade, and nothing else",
        everywhere="SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES",
    ),
    Role(
        "aae_jobs",
        "the worker, the watch and every command that only looks",
        tables=_JOBS,
        # Slices are staged in tables that only their own connection sees.
        everywhere="CREATE TEMPORARY TABLES",
    ),
    Role(
        "aae_operator",
        "commands that a person gives: aae accounts import and add, aae keys rotate",
        tables={**_JOBS, "users": "SELECT, INSERT, UPDATE", "ad_accounts": "SELECT, INSERT, UPDATE"},
        everywhere="CREATE TEMPORARY TABLES",
    ),
    Role(
        "aae_web",
        "the web platform: connects accounts, shows everything, marks as read and snoozes; it never reads a token",
        tables={
            **_PLAIN,
            "users": "SELECT, INSERT, UPDATE",
            "ad_accounts": "READ, INSERT, UPDATE",
            "incidents": "SELECT, UPDATE (snoozed_until)",
            "notifications": "SELECT, UPDATE (read_at)",
            _SCHEMA_VERSION: "SELECT",
        },
    ),
    Role(
        "aae_read",
        "analyses and dashboards: no token, no address, no message",
        tables={**_PLAIN, "users": "READ", "ad_accounts": "READ", _SCHEMA_VERSION: "SELECT"},
    ),
)


def chosen(names: Sequence[str]) -> list[Role]:
    """The roles of these names; all of them if none is named.

    Raises:
        UserError: there is none of that name.
    """
    known = {role.name: role for role in ROLES}
    for name in names:
        if name not in known:
            raise UserError(f"There is no database user {name!r}: known are {', '.join(known)}.")
    return [known[name] for name in names] or list(ROLES)


def statements(role: Role, database: str, host: str) -> Iterator[str]:
    """The SQL that makes the user and gives it its rights, for MySQL 8 and MariaDB; may be repeated.

    The user comes locked, so that no default password ever lets anybody in. From another machine it must speak TLS.

    Raises:
        UserError: ``host`` or ``database`` is not a name.
    """
    user, schema = f"'{role.name}'@'{_plain(host, 'host')}'", _plain(database, "database")
    tls = "" if host in _LOOPBACK else " REQUIRE SSL"
    yield f"CREATE USER IF NOT EXISTS {user}{tls} ACCOUNT LOCK"
    if role.everywhere:
        # In rights on a whole database, _ stands for any character.
        yield f"GRANT {role.everywhere} ON `{schema.replace('_', chr(92) + '_')}`.* TO {user}"
    for table, rights in role.tables.items():
        yield f"GRANT {_expanded(table, rights)} ON `{schema}`.`{table}` TO {user}"


def unlock(role: Role, host: str) -> str:
    """The SQL, but for the password, that lets the user in."""
    return f"ALTER USER '{role.name}'@'{_plain(host, 'host')}' IDENTIFIED BY '...' ACCOUNT UNLOCK"


def _expanded(table: str, rights: str) -> str:
    if not re.search(r"\bREAD\b", rights):
        return rights
    columns = (column.name for column in metadata.tables[table].columns if column.name not in _NOT_READ[table])
    return rights.replace("READ", f"SELECT ({', '.join(f'`{name}`' for name in columns)})")


def _plain(text: str, what: str) -> str:
    """A name that needs no quoting in SQL but quotes; anything else would be a way to say more."""
    if not re.fullmatch(r"[A-Za-z0-9_.:%$/-]{1,255}", text):
        raise UserError(f"The {what} may only have letters, digits and _.:%$/- in it.")
    return text
