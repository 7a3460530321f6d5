"""Artifacts, which people look at and nothing depends on: one that cannot be shown costs a warning, never the job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.logging import get_run_logger

from aae.display import clean

R = TypeVar("R")

ROWS_SHOWN = 200
"""The longest table."""

PATIENCE_SECONDS = 60.0
"""So long a server that is away is waited for; Prefect's client asks it again and again meanwhile."""


async def shown(writing: Awaitable[R], *, patience: float = PATIENCE_SECONDS) -> R | None:
    """What ``writing`` an artifact comes to; ``None``, and a warning, if the server does not take it in time."""
    try:
        async with asyncio.timeout(patience):
            return await writing
    except Exception as error:  # noqa: BLE001 - whatever it is: the work itself is done and stored
        get_run_logger().warning("an artifact could not be shown (%s)", type(error).__name__)
        return None


async def show_table(key: str, description: str, table: Sequence[dict[str, Any]]) -> None:
    """A table under ``key`` in the UI, if the server can be reached: its first rows, and how many there are.

    Nobody reads thousands of rows, and each run would leave them in the server's database: give the gravest first.
    """
    if len(table) > ROWS_SHOWN:
        description = f"{description} The first {ROWS_SHOWN} of {len(table)}."
    rows = harmless(table[:ROWS_SHOWN])
    await shown(acreate_table_artifact(key=key, description=description, table=rows))


def harmless(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what reorders, hides or breaks text in them, and what no database of Prefect's takes."""
    return [{name: _cell(value) for name, value in row.items()} for row in table]


def _cell(value: Any) -> Any:
    return clean(value, limit=1000) if isinstance(value, str) and value else value


async def show_markdown(key: str, description: str, markdown: str) -> None:
    """A text under ``key`` in the UI, if the server can be reached."""
    await shown(acreate_markdown_artifact(key=key, description=description, markdown=markdown))
