"""A Prefect worker with a warm shutdown: told to stop, it lets its runs finish or hands them over, and then it ends.

Whatever supervises it (systemd, supervisor, a container engine) needs to know nothing of this but how long to wait.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from threading import Event

from aae.operate.processes import mortal

_LOOK_SECONDS = 0.5


def work(
    pool: str, arguments: Sequence[str], environment: Mapping[str, str], stop: Event, step_down: Callable[[int], None]
) -> int:
    """Run a worker of ``pool`` until it ends by itself or ``stop`` is set; its exit code, 0 after a stop.

    ``arguments`` are added to ``prefect worker start``, ``environment`` to this process's. ``step_down`` gets the
    worker's process id and should have ended it when it returns; if it has not, the worker is told to end.
    """
    chosen = [] if {"--pool", "-p"} & set(arguments) else ["--pool", pool, "--type", "process"]
    # A pool that the worker makes lacks our command until it looks again: its first runs would be held by no attempt.
    chosen = [*chosen, "--no-create-pool-if-not-found"]
    command = [sys.executable, "-m", "prefect", "worker", "start", *chosen, *arguments]
    worker = subprocess.Popen(  # noqa: S603 - our own command
        # Asked to end after our death, it would want to say so in a log that nobody reads any more, fail and go on.
        mortal(command, by=signal.SIGKILL),
        env={**os.environ, **environment},
        # A signal to the whole group, from a terminal or an init, must reach only us, who drain.
        start_new_session=True,
    )
    try:
        while worker.poll() is None:
            if stop.wait(_LOOK_SECONDS):
                step_down(worker.pid)
                return 0
        return worker.returncode if worker.returncode >= 0 else 1
    finally:
        # After a drain it has ended already.
        worker.send_signal(signal.SIGTERM)
        worker.wait()
