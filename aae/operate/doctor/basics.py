"""What everything stands on: the state folder, the database and its tables, the keys, the cache, the clocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Engine, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from aae.addresses import is_internal
from aae.errors import AaeError, UserError
from aae.operate import exposure
from aae.operate.doctor.findings import Check, attempt, failed, span
from aae.operate.prefect_api import PrefectApi
from aae.operate.redis_server import dial
from aae.settings import Settings
from aae.storage import engine as database
from aae.storage.accounts import read_token
from aae.storage.schema import ad_accounts
from aae.vault import Vault

LITTLE: Final = 500 * 1024 * 1024
"""Bytes; reports, logs and SQLite's journal need room."""

SKEW: Final = timedelta(seconds=30)
"""Clocks that are further apart than this make runs look late, lost or planned for the past."""

_KEYS: Final = "set AAE_ENCRYPTION_KEYS to the keys that the tokens were stored with"


def examine(
    settings: Settings, api: PrefectApi | None, clock: Callable[[], datetime]
) -> tuple[Engine | None, Iterator[Check]]:
    """The checks, and the database for those who come after; None unless its tables can be worked with.

    Whoever gets the engine disposes of it.
    """
    engine: Engine | None = None
    usable = False
    try:
        engine = database.connect(settings.resolved_database_url, timeout=10)
        database.check(engine)
        tables = attempt("tables", lambda: _version(engine), "aae db upgrade")
        if not tables.ok and "update the program" in tables.detail:
            tables = Check("tables", False, tables.detail, "git pull && make .venv/.runtime, then restart the workers")
        usable = tables.ok
        found = [on_one_machine(settings) or Check("database", True, engine.dialect.name), tables]
    except (AaeError, SQLAlchemyError, OSError) as error:
        found = [failed("database", error, "start the database, or correct AAE_DATABASE_URL")]

    def checks() -> Iterator[Check]:
        yield _state_dir(settings.state_dir)
        yield attempt("disk", lambda: _room(settings.state_dir), "make room, or set AAE_STATE_DIR to another disk")
        yield from found
        yield attempt("encryption key", lambda: _key(settings, engine if usable else None), _KEYS)
        yield attempt(
            "cache", lambda: _cache(settings.redis_url), "start the server that AAE_REDIS_URL names, or `aae up`"
        )
        yield attempt("clocks", lambda: _clocks(engine if usable else None, api, clock), "timedatectl set-ntp true")
        yield _links(settings)
        yield from _exposures(settings)

    if engine is not None and not usable:
        engine.dispose()
    return (engine if usable else None), checks()


def on_one_machine(settings: Settings) -> Check | None:
    """The finding that a fetch is to go beyond this machine while the database cannot; None where that fits."""
    shares, cluster = settings.fetch.shares, settings.fetch.cluster
    if make_url(settings.resolved_database_url).get_backend_name() != "sqlite" or not (cluster or shares > 1):
        return None
    asked = f"AAE_FETCH__CLUSTER={cluster}" if cluster else f"AAE_FETCH__SHARES={shares}"
    told = f"{asked} is for several machines, and the database is SQLite, a file that only one machine can write."
    return Check("database", False, told, "set AAE_DATABASE_URL to MySQL or MariaDB (docs/sizing.md)")


def _links(settings: Settings) -> Check:
    """Whether people can follow the links in their mails. By its text only: a name may mean another host out there."""
    url = settings.public_url
    if settings.email.smtp_url.get_secret_value() and is_internal(urlsplit(url).hostname or ""):
        told = f"Mails are sent, and their links lead to {url}, where nobody outside gets."
        return Check("links", False, told, "set AAE_PUBLIC_URL to the web platform's address and restart the workers")
    return Check("links", True, f"lead to {url}")


def _exposures(settings: Settings) -> Iterator[Check]:
    """What others could read or do; one sentence where that is nothing."""
    found = [*exposure.in_the_settings(settings), *exposure.in_files(settings), *exposure.on_the_api(settings)]
    for one in found:
        yield Check("exposure", False, f"{one.what}.", one.remedy)
    if not found:
        yield Check("exposure", True, "nothing goes beyond this machine in clear")


def _state_dir(folder: Path) -> Check:
    def work() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder.absolute())

    return attempt("state folder", work, f"make {folder.absolute()} writable, or set AAE_STATE_DIR")


def _room(folder: Path) -> str:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < LITTLE:
        raise UserError(f"Only {free / 1024**2:,.0f} MiB are free in the state folder {folder}.")
    return f"{free / 1024**3:,.1f} GiB free"


def _version(engine: Engine) -> str:
    database.require_current(engine)
    return f"at {database.head()}"


def _key(settings: Settings, engine: Engine | None) -> str:
    """What the key does with the tokens stored in ``engine``; None where they cannot be asked for. Makes no key."""
    vault = Vault.from_settings(settings)
    ready = "ready" if vault.has_key else "none yet; connecting the first account makes one"
    if engine is None:
        return ready
    with database.reading(engine) as connection:
        stored = connection.scalars(select(ad_accounts.c.id).where(ad_accounts.c.access_token.is_not(None))).all()
        for account_id in stored:
            read_token(connection, vault, account_id)
    return f"opens all {len(stored)} stored tokens" if stored else f"{ready}, no tokens stored yet"


def _cache(url: str) -> str:
    if not url:
        raise UserError("AAE_REDIS_URL is not set and no embedded cache runs.")
    return dial(url, "AAE_REDIS_URL")


def _clocks(engine: Engine | None, api: PrefectApi | None, clock: Callable[[], datetime]) -> str:
    """How far this machine's clock is from the database's and from the Prefect server's."""
    others: dict[str, timedelta] = {}
    # SQLite has no clock of its own.
    if engine is not None and engine.dialect.name != "sqlite":
        with database.reading(engine) as connection:
            others["the database's"] = database.database_clock(connection) - clock()
    told = api.clock() if api else None
    if told is not None:
        others["the Prefect server's"] = told - clock()
    for whose, apart in others.items():
        if abs(apart) > SKEW:
            way = "behind" if apart > timedelta(0) else "ahead of"
            raise UserError(f"This machine's clock is {span(abs(apart))} {way} {whose}.")
    return f"agree with {' and '.join(others)}" if others else "this machine's only"
