"""Real processes that each want one account's token, as a fetch does; forked from one that has imported everything.

``python -m tests.integration.token_checker`` reads one order per line (JSON): ``account``, ``now``, ``environment``,
``folder``, and ``machines``, one process for each: ``here``, or the name of another machine, whose processes cannot be
looked at from here. Process ``i`` writes its id to ``folder/i.ready``, begins when ``folder/i.go`` is there, and ends
with its answer (JSON) in ``folder/i.answer``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

from aae.errors import AaeError
from aae.jobs.context import open_context
from aae.jobs.tokens import usable_token
from aae.operate import processes
from aae.settings import load
from aae.storage import accounts
from aae.storage.engine import reading


def main() -> None:
    """Obey one order after the other."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        for number, machine in enumerate(order["machines"]):
            if os.fork() == 0:
                try:
                    _be(order, Path(order["folder"]) / str(number), machine)
                except BaseException:  # noqa: BLE001 - a fork must never go on as its parent
                    traceback.print_exc()
                finally:
                    os._exit(0)


def _be(order: dict[str, Any], mine: Path, machine: str) -> None:
    os.environ.clear()
    os.environ.update(order["environment"])
    load.cache_clear()
    if machine != "here":
        processes._here = lambda: machine  # type: ignore[assignment]
    now = datetime.fromisoformat(order["now"])
    _write(mine.with_suffix(".ready"), str(os.getpid()))
    while not mine.with_suffix(".go").exists():
        time.sleep(0.01)
    _write(mine.with_suffix(".answer"), json.dumps(asyncio.run(_want(order["account"], now))))


async def _want(account_id: int, now: datetime) -> dict[str, Any]:
    async with open_context(load(), lambda: now) as context:
        with reading(context.engine) as connection:
            (account,) = accounts.list_accounts(connection, ids=[account_id])
        try:
            token = await usable_token(context, account, now=now, run_id=None)
        except AaeError as error:
            return {"error": type(error).__name__, "code": error.code, "said": str(error)}
        digest = hashlib.sha256(token.access.get_secret_value().encode()).hexdigest()
        return {"token": digest, "version": token.version}


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(f"{path.suffix}.new")
    draft.write_text(text)
    draft.replace(path)


if __name__ == "__main__":
    main()
