"""The command line: ``aae --help``.

Commands only read their arguments, call the one function that does the work, and print. What takes long to import is
imported by the command that needs it, so that ``aae --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from aae import logs
from aae.cli import celery, common, deploy, jobs, local, metrics, operate, retention, stores, why
from aae.errors import AaeError, UserError
from aae.local.steps import shown

app = typer.Typer(
    name="aae",
    help="The background jobs of an advertising platform: tokens, ad data, anomalies, reports.\n\n"
    "[bold]aae demo[/] shows all of it once on this machine; [bold]aae up[/] stays up. The other commands work on what "
    "the environment or .env names (see .env.example), or else on the [bold]aae up[/] that is running.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(local.app)
app.add_typer(stores.accounts_app, name="accounts")
app.add_typer(stores.keys_app, name="keys")
app.add_typer(stores.db_app, name="db")
app.add_typer(jobs.app)
app.add_typer(why.app)
app.add_typer(operate.app)
app.add_typer(celery.app)
app.add_typer(metrics.app)
app.add_typer(retention.app)
app.add_typer(deploy.app)


def main() -> None:
    """Run the command line; every failure is a sentence and an exit code, a traceback only with AAE_DEBUG=1.

    0 well, 1 the operation failed, 2 something must be changed first (setting, argument, file), 130 interrupted.
    """
    # Background jobs of a shell ignore Ctrl-C and supervisors send SIGTERM: both end us the same, orderly way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write what we hold in memory to a file
    # Whatever we and our children write is for us alone, also where the system's habit is another.
    os.umask(0o077)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except AaeError as error:
        _fail(str(error), 2 if isinstance(error, UserError) else 1)
    except BrokenPipeError:
        # The reader went away (`| head`); nothing is left to say to anybody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("AAE_DEBUG"):
            raise
        # Only the kind: messages of foreign exceptions may quote anything.
        _fail(f"Unexpected: {type(error).__name__}. Run it again with AAE_DEBUG=1 to see where.", 1)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("AAE_DEBUG"):
        common.err.print_exception()
    if logs.is_json():
        logs.announce(message, logging.ERROR)
        sys.exit(code)
    # Line by line, each with its indentation: a message may quote logs.
    lines = [" " * (len(line) - len(line.lstrip(" "))) + shown(line, 1000) for line in message.splitlines()]
    common.err.print("[red]aae:[/]", "\n".join(lines), highlight=False)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aae {version('aae-pipelines')}, Prefect {version('prefect')}")
        raise typer.Exit


@app.callback()
def _global(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and end.")
    ] = False,
) -> None:
    pass
