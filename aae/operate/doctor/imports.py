"""Whether a worker on this machine could load the flows: tried in a process of its own, while other checks go on.

Loading one takes seconds (it brings Prefect) and may do anything, even hang; the process has a limit.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aae.errors import UserError

# In the child: what each entrypoint fails with; None where it loads. Only our own errors' and import errors' words
# are repeated: others may quote anything.
_TRIAL: Final = """
import importlib, importlib.util, json, os, signal, sys, traceback
signal.alarm(int(sys.argv[1]))  # also if nobody waits any more
sys.path.insert(0, os.getcwd())
out, found = os.dup(1), {}
os.dup2(2, 1)
for entrypoint in sys.argv[2:]:
    path, _, name = entrypoint.rpartition(":" if ":" in entrypoint else ".")
    try:
        if ":" not in entrypoint:
            found[entrypoint] = None if hasattr(importlib.import_module(path), name) else f"{path} has no {name}"
            continue
        spec = importlib.util.spec_from_file_location("_trial_" + path.replace("/", "_").removesuffix(".py"), path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        found[entrypoint] = None if hasattr(module, name) else f"{path} has no {name}"
    except FileNotFoundError as error:
        found[entrypoint] = f"there is no {error.filename}"
    except BaseException as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(os.getcwd())]
        last = f" ({os.path.relpath(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
        told = isinstance(error, (ImportError, SyntaxError, NameError)) or hasattr(error, "code")
        found[entrypoint] = type(error).__name__ + (f": {error}" if told else "") + last
os.write(out, json.dumps(found).encode())
"""


class ImportTrial:
    """Loads every entrypoint as a worker in the folder ``project`` would, beside us.

    They are ``path.py:function`` or ``package.module.function``.
    """

    def __init__(self, project: Path, entrypoints: Sequence[str], seconds: float) -> None:
        self._project = project
        self._entrypoints = entrypoints
        self._seconds = seconds
        self._ends = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._entrypoints:
            self._ends = time.monotonic() + self._seconds
            self._process = subprocess.Popen(  # noqa: S603 - our own program, the project's own files
                [sys.executable, "-c", _TRIAL, str(math.ceil(self._seconds) + 1), *self._entrypoints],
                cwd=self._project,
                env={**os.environ, "PREFECT_LOGGING_LEVEL": "ERROR"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout:
                self._process.stdout.close()

    def result(self) -> Mapping[str, str | None]:
        """What each entrypoint fails with; None where it loads.

        Raises:
            UserError: it took too long, or the process ended before it could say.
        """
        if self._process is None:
            return {}
        try:
            said, _ = self._process.communicate(timeout=max(0.1, self._ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise UserError(f"Loading the flows took longer than {self._seconds:g} s.") from None
        try:
            found: dict[str, str | None] = json.loads(said)
        except ValueError:
            raise UserError(f"Loading the flows ended the process (exit code {self._process.returncode}).") from None
        return found
