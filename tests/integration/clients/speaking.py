"""What the client programs beside this file share: orders come in as lines of JSON, answers go out the same way."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def serve(orders: Mapping[str, Callable[..., Any]], described: Callable[[Exception], dict[str, Any]]) -> None:
    """Answers ``{"order": name, ...arguments}`` until the input ends; an exception is told in ``described``'s words."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what a client prints is no answer
        for line in sys.stdin:
            arguments = json.loads(line)
            try:
                answer = {"answer": orders[arguments.pop("order")](**arguments)}
            except Exception as error:  # noqa: BLE001 - that is what is asked about
                answer = {"raised": type(error).__name__, "message": str(error), **described(error)}
            out.write(json.dumps(answer) + "\n")
            out.flush()
