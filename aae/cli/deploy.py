"""``aae deploy``: make the Prefect server what the code says."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from aae.cli import common

app = typer.Typer()


@app.command()
def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    unpause: Annotated[bool, typer.Option("--unpause", help="Resume what somebody paused in the UI.")] = False,
    test_alerts: Annotated[
        bool, typer.Option("--test-alerts", help="Send a test alert by every channel, and say what each answered.")
    ] = False,
    as_json: common.AsJson = False,
) -> None:
    """Work pool, queues, limits, result storage, deployments, schedules, alerts: as the code says; may be repeated.

    What is no longer in the code is removed; what is not ours is not touched; what was paused by hand stays paused.
    A channel for alerts that is new or has changed gets a test alert.
    """
    from aae.local.stack import PROJECT  # noqa: PLC0415

    # Settles where the server is, and hands that on through the environment.
    common.settings()
    flags = {"--dry-run": dry_run, "--unpause": unpause, "--test-alerts": test_alerts, "--json": as_json}
    command = [sys.executable, "-m", "deployments.apply", *(flag for flag, given in flags.items() if given)]
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, env=os.environ, check=False).returncode)  # noqa: S603
