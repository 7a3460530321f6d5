"""``aae up``, once for all tests here: the real product, as a user starts it, with its server and worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from aae.local.stack import Stack, running_stack
from aae.operate.prefect_api import PrefectApi
from aae.settings import Settings
from tests.quick import QUICK

ROOT = Path(__file__).parents[2]
READY = "AAE is up"


def clean_environment(state: Path, **more: str) -> dict[str, str]:
    """The environment without the settings of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AAE_", "PREFECT_"))}
    return {**inherited, "AAE_STATE_DIR": str(state), "COLUMNS": "160", **more}


@dataclass
class Product:
    """A running ``aae up`` and its state folder."""

    process: subprocess.Popen[str]
    state: Path
    output: Path
    environment: Mapping[str, str]
    prefect: PrefectApi

    @property
    def stack(self) -> Stack:
        found = running_stack(Settings(state_dir=self.state, _env_file=None))  # type: ignore[call-arg]
        assert found is not None
        return found

    def run(self, *command: str, timeout: float = 180, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """One command in a second terminal."""
        return subprocess.run(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            cwd=ROOT,
            env={**self.environment, **self.stack.variables(), "AAE_PROJECT_DIR": str(ROOT)},
            capture_output=True,
            text=True,
            input=text,
            timeout=timeout,
            check=False,
        )

    def api(self, method: str, path: str, **json: object) -> object:
        # It says 503 where its database was busy, which on SQLite is everyday life; our own client asks again.
        return self.prefect.call(method, path.lstrip("/"), json or None)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(180)


@contextmanager
def up(state: Path, **settings: str) -> Iterator[Product]:
    """Start ``aae up`` and wait until it says that it is up."""
    environment = clean_environment(state, **settings)
    output = state.with_name(f"{state.name}.out")
    with output.open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("aae")), "up", "--seed", "7"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            # As on a system where every new file is open to everybody: tests/e2e/test_private.py.
            umask=0,
        )
        try:
            deadline = time.monotonic() + 400
            while READY not in output.read_text():
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.5)
            stack = running_stack(Settings(state_dir=state, _env_file=None))  # type: ignore[call-arg]
            assert stack is not None
            with closing(PrefectApi(stack.api_url, timeout=150)) as prefect:
                yield Product(process, state, output, environment, prefect)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(180)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with up(tmp_path_factory.mktemp("product") / "state", **QUICK) as running:
        yield running
