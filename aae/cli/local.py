"""The whole product on this machine: ``aae demo``, ``up`` and ``sandbox``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from aae.cli import common

app = typer.Typer()


@app.command()
def demo(
    seed: common.Seed = 7,
    keep: Annotated[bool, typer.Option("--keep", help="Go on with the tables of the demo before this one.")] = False,
) -> None:
    """Run the whole product once and show what it does; nothing to install, nothing left running.

    Starts a cache, a sandbox that plays Meta, TikTok and Google, a Prefect server and a worker; creates the tables,
    connects the sandbox's accounts, deploys the four jobs and runs each through the worker: fetch, detect anomalies,
    write reports, check tokens. Then it says what was found beside what was planted, where the reports are and how long
    it took, and stops everything. Files: .aae/demo (wiped at the start unless --keep).

    AAE_DATABASE_URL and AAE_REDIS_URL, if set, are used instead of the embedded SQLite and cache, and never wiped.
    """
    from aae.local.demo import demo as run  # noqa: PLC0415
    from aae.settings import load  # noqa: PLC0415

    run(load(), common.out, seed=seed, keep=keep, clock=common.now)


@app.command()
def up(
    seed: common.Seed = 7,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: deploy again or restart when a file of ours changes.")
    ] = False,
) -> None:
    """Like demo, but stay up with the schedules active and the Prefect UI open, until Ctrl-C.

    The first time the sandbox's accounts are connected and every job runs once; after that the schedules do. Started
    again, it comes back where it was: same addresses, tables, history and sandbox world. Files: .aae/up.
    """
    from aae.local.demo import up as run  # noqa: PLC0415
    from aae.settings import load  # noqa: PLC0415

    with suppress(KeyboardInterrupt):
        run(load(), common.out, seed=seed, clock=common.now, reload=reload)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    no_args_is_help=False,
)
def sandbox(context: typer.Context) -> None:
    """Run only the sandbox, in the foreground: an HTTP server that speaks the wire formats of the three platforms.

    Takes --port, --seed, --replay FILE and more: see aae sandbox --help.
    """
    os.execv(sys.executable, [sys.executable, "-m", "aae.sandbox", *context.args])  # noqa: S606 - our own module
