"""A job that gets stuck once, in a way of one's choice, and works when it is tried again."""

from __future__ import annotations

import asyncio
import ctypes
import socket
from pathlib import Path

import numpy as np
from prefect import flow
from sqlalchemy import text

from aae.storage.engine import connect, reading
from tasks.limits import deadline, in_thread, step


def wait_on_a_socket_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.recv(1)


def run_a_long_query(database: str) -> None:
    with reading(connect(database)) as connection:
        connection.execute(text("SELECT SLEEP(600)"))


def multiply_for_ever() -> None:
    matrix = np.ones((300, 300))
    while True:
        matrix @ matrix


def call_c_that_never_returns() -> None:
    # PyDLL keeps the interpreter to itself while C runs.
    ctypes.PyDLL(None).sleep(600)


@step(name="get-stuck", run_name="stuck in {how}", description="Gets stuck at the first try.")
async def get_stuck(how: str, mark: str, database: str | None) -> str:
    if Path(mark).exists():
        return "done"
    Path(mark).touch()
    await asyncio.sleep(1.5)  # long enough to give a sign of life
    if how == "await":
        await asyncio.sleep(600)
    elif how == "socket":
        await in_thread(wait_on_a_socket_that_says_nothing)
    elif how == "query":
        assert database is not None
        await in_thread(run_a_long_query, database)
    elif how == "numpy":
        await in_thread(multiply_for_ever)
    elif how == "loop":
        multiply_for_ever()
    elif how == "c":
        call_c_that_never_returns()
    elif how == "soft":
        while not deadline().passed:
            await asyncio.sleep(0.05)
        return "kept what was done"
    raise AssertionError(how)


@flow(name="stuck", persist_result=True, result_serializer="json")
async def stuck(how: str, mark: str, database: str | None = None) -> str:
    return await get_stuck(how, mark, database)
