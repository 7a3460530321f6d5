"""Crashes in the worst places of a job's process: where a token is at hand. Python loads this by itself (PYTHONPATH).

The folder ``CANARY_ORDERS`` holds the orders, one file each, taken away by the one process that obeys: ``raise`` makes
the storing of a new token fail with the token in a local variable, ``hang`` and ``linger`` make the reading of the
answer that brings it never end.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

_orders = Path(os.environ["CANARY_ORDERS"])


def _take(order: str) -> bool:
    try:
        (_orders / order).rename(_orders / f"{order}.taken")
    except FileNotFoundError:
        return False
    return True


def _plant() -> None:
    # When Prefect begins a flow, seconds from now, all of it is imported.
    while "tasks.tokens" not in sys.modules:
        time.sleep(0.005)
    from aae.platforms import transport
    from aae.storage import accounts

    replace_token, decode = accounts.replace_token, transport.decode

    def failing(connection: Any, vault: Any, account_id: int, token: Any, **more: Any) -> bool:
        plain = token.access.get_secret_value()
        if plain and _take("raise"):
            raise RuntimeError("a planted failure")
        return replace_token(connection, vault, account_id, token, **more)

    def hanging(body: bytes, shape: Any) -> tuple[Any, bool]:
        if b'"access_token"' in body and (_take("hang") or _take("linger")):
            time.sleep(600)
        return decode(body, shape)

    accounts.replace_token, transport.decode = failing, hanging


threading.Thread(target=_plant, daemon=True).start()
