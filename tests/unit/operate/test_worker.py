"""`aae worker` around a worker: it lives and ends with it, and drains it before it ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aae.operate import worker
from aae.operate.processes import process


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this Python code run where Prefect would; it finds its arguments in `sys.argv`, `here` is a folder."""
    python = tmp_path / "python"

    def write(code: str) -> None:
        script = tmp_path / "prefect.py"
        script.write_text(f"import os, sys, time\nhere = {str(tmp_path)!r}\n{code}\n")
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {script} "$@"\n')
        python.chmod(0o755)

    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.05)
    original = worker.mortal
    monkeypatch.setattr(worker, "mortal", lambda command, by: original([str(python), *command[1:]], by))
    return write


def never(pid: int) -> None:
    pytest.fail(f"{pid} was to be drained")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


NO_POOL = "--no-create-pool-if-not-found"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], f"-m prefect worker start --pool aae --type process {NO_POOL}"),
        (["--name", "x"], f"-m prefect worker start --pool aae --type process {NO_POOL} --name x"),
        (["--type", "process", "--pool", "aae"], f"-m prefect worker start {NO_POOL} --type process --pool aae"),
    ],
)
def test_it_starts_prefects_worker_with_what_is_asked_for(
    program: Callable[[str], None], tmp_path: Path, arguments: list[str], command: str
) -> None:
    program("open(here + '/said', 'w').write(' '.join(sys.argv[1:]) + '|' + os.environ['AAE_STATE_DIR'])")
    assert worker.work("aae", arguments, {"AAE_STATE_DIR": "/state"}, threading.Event(), never) == 0
    assert (tmp_path / "said").read_text() == f"{command}|/state"


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 1)])
def test_it_ends_as_its_worker_does(program: Callable[[str], None], ending: str, code: int) -> None:
    program(ending)
    assert worker.work("aae", [], {}, threading.Event(), never) == code


def test_told_to_stop_it_drains_and_then_sees_to_it_that_the_worker_ends(program: Callable[[str], None]) -> None:
    program("time.sleep(600)")
    stop, drained = threading.Event(), list[int]()
    stop.set()
    assert worker.work("aae", [], {}, stop, drained.append) == 0
    [pid] = drained
    assert process(pid).born == 0, "it has ended"


def test_when_the_drain_fails_the_worker_is_ended_all_the_same(program: Callable[[str], None]) -> None:
    program("time.sleep(600)")
    stop, drained = threading.Event(), list[int]()
    stop.set()

    def fails(pid: int) -> None:
        drained.append(pid)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        worker.work("aae", [], {}, stop, fails)
    assert process(drained[0]).born == 0


def test_its_sudden_death_is_its_workers_even_if_that_does_not_listen(tmp_path: Path) -> None:
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    script = (
        "import sys, threading\nfrom aae.operate import worker\n"
        "original = worker.mortal\n"
        f"worker.mortal = lambda command, by: original([sys.executable, '-S', '-c', {deaf!r}], by)\n"
        "worker.work('aae', [], {}, threading.Event(), lambda pid: None)\n"
    )
    wrapper = subprocess.Popen([sys.executable, "-c", script])
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        assert process(pid).born
    finally:
        os.kill(wrapper.pid, signal.SIGKILL)
        wrapper.wait()
    until(lambda: not process(pid).born)
