"""A worker that is about to stop is known as such to its runs, and nobody else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aae.model import Process
from aae.operate.leaving import is_leaving, leaving
from aae.operate.processes import parent, process, this_process

WORKER = Process("machine boot space", 17, 4711)


def test_it_is_leaving_as_long_as_it_says_so(tmp_path: Path) -> None:
    assert not is_leaving(tmp_path, WORKER)
    with leaving(tmp_path / "state", [WORKER]):
        assert is_leaving(tmp_path / "state", WORKER)
    assert not is_leaving(tmp_path / "state", WORKER)


def test_it_stays_when_leaving_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), leaving(tmp_path, [WORKER]):
        raise RuntimeError
    assert not is_leaving(tmp_path, WORKER)


@pytest.mark.parametrize(
    "other",
    [
        Process("another machine", 17, 4711),
        Process("machine boot space", 18, 4711),
        Process("machine boot space", 17, 4712),
    ],
    ids=["elsewhere", "beside it", "later, with the same number"],
)
def test_another_one_is_not(tmp_path: Path, other: Process) -> None:
    with leaving(tmp_path, [WORKER]):
        assert not is_leaving(tmp_path, other)


def test_several_leave_at_once(tmp_path: Path) -> None:
    other = Process("machine boot space", 18, 4711)
    with leaving(tmp_path, [WORKER, other]):
        assert is_leaving(tmp_path, WORKER)
        assert is_leaving(tmp_path, other)


def test_a_process_and_its_parent_are_known() -> None:
    assert process(os.getpid()) == this_process()
    assert parent(os.getpid()) == os.getppid()
    assert parent(2**22 + 1) is None
