"""Trouble inside a job's process that nobody can make from outside. Python loads this by itself (``PYTHONPATH``).

The folder ``CHAOS_ORDERS`` holds the orders, one file each: while ``no-names`` is there no host name can be
resolved; ``clock`` says by how many seconds the process's clock is wrong; ``hang`` makes one process take it away and
never give the interpreter back.
"""

import ctypes
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_orders = Path(os.environ["CHAOS_ORDERS"])
_resolve = socket.getaddrinfo


def _resolve_unless_forbidden(host: Any, *rest: Any, **more: Any) -> Any:
    if isinstance(host, str) and not host[:1].isdigit() and (_orders / "no-names").exists():
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _resolve(host, *rest, **more)


def _obey() -> None:
    wrong, travel = 0, None
    while True:
        time.sleep(0.05)
        if "aae" in sys.modules:  # before anything of ours is loaded there is nothing that could hang
            with suppress(FileNotFoundError):
                (_orders / "hang").unlink()
                # PyDLL keeps the interpreter to itself while C runs.
                ctypes.PyDLL(None).sleep(600)
        now = int((_orders / "clock").read_text())
        if now != wrong:
            if travel is not None:
                travel.stop()
                travel = None
            if now:
                import time_machine

                travel = time_machine.travel(datetime.now(UTC) + timedelta(seconds=now), tick=True)
                travel.start()
            wrong = now


socket.getaddrinfo = _resolve_unless_forbidden
threading.Thread(target=_obey, daemon=True).start()
