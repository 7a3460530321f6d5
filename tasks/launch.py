"""``python -m tasks.launch``, the command of the work pool: arms the last resort, then lets :mod:`tasks.process` run.

Nothing may come before that. To load a job takes seconds; a process that hangs meanwhile is known to nobody, its run
is given to another one, and it would stay. The timer needs no thread's turn, so it ends what keeps the interpreter too.
"""

from __future__ import annotations

from contextlib import ExitStack

from tasks.watchdog import watchdog

START_SECONDS = 120.0
"""A start takes seconds; it may wait for the database and for Prefect's server half a minute each."""


def main(limit: float = START_SECONDS) -> None:
    """Run the flow run that the worker has put into the environment; it must have begun within ``limit`` seconds."""
    with ExitStack() as start:
        start.enter_context(watchdog.guard(limit, "the start of the process"))
        from tasks import process  # noqa: PLC0415 - only now: this is what takes time

        process.run(begun=start.close)


if __name__ == "__main__":
    main()
