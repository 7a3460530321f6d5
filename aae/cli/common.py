"""What the commands share: where they print, what they work on, options that mean the same everywhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aae import logs
from aae.local.steps import shown

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aae.operate.prefect_api import PrefectApi
    from aae.settings import Settings

# What goes to a file or a pipe is not folded at 80 columns.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, soft_wrap=True)

Seed = Annotated[int, typer.Option(help="Which world the sandbox plays; the same seed, the same numbers.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of a table.")]


def now() -> datetime:
    """The wall clock, aware UTC: where commands ask what time it is."""
    return datetime.now(UTC)


def settings() -> Settings:
    """The settings, as :func:`aae.local.stack.settings_here` finds them."""
    from aae.local.stack import settings_here  # noqa: PLC0415

    return settings_here()


def tables(settings: Settings) -> Engine:
    """The database, after seeing that it answers and is at this program's version."""
    from aae.storage import engine as database  # noqa: PLC0415

    engine = database.connect(settings.resolved_database_url)
    database.check(engine)
    database.require_current(engine)
    return engine


def prefect(settings: Settings) -> PrefectApi:
    """The API of the Prefect server that the settings name."""
    from aae.operate.prefect_api import open_api  # noqa: PLC0415

    return open_api(settings)


def enter(settings: Settings) -> None:
    """Before a program that is to run for long: the Prefect server lets us in, and nobody whom it does not know.

    One that does not answer is waited for later; one that lets anybody in is told.

    Raises:
        Reauthorize: it does not let us in.
    """
    from aae.operate.exposure import on_the_api  # noqa: PLC0415

    if settings.prefect_api_url:
        with prefect(settings) as api:
            api.require_entry()
    for one in on_the_api(settings):
        logs.announce(f"{one.what}: {one.remedy}", logging.WARNING)


def print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """These columns of the rows as a table; what is hostile in them is made harmless."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if row[column] is None else shown(row[column], 2000) for column in columns))
    out.print(table)
