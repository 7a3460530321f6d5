"""What cannot be installed is said to whoever asked for it, and costs the tests nothing but those that need it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """\
#!/bin/sh
case "$*" in
*" install "*) exit 1 ;;
*pytest*) echo "TESTED $*" ;;
esac
"""
"""A Python and a uv that can install nothing."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile with an environment that is set up and from which no index can be reached."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    for lock in ROOT.glob("*.lock"):
        shutil.copy(lock, tmp_path)
    for folder in ("bin", "clients/bin", "peers/dlt/bin", "peers/singer/bin"):
        (tmp_path / ".venv" / folder).mkdir(parents=True)
        for name in ("python", "uv"):
            program = tmp_path / ".venv" / folder / name
            program.write_text(FAKE)
            program.chmod(0o755)
    for name in (".runtime", ".dev"):  # in this order
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def make(project: Path, target: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the make that runs the tests.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", target], cwd=project, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("dask", ["Dask's packages cannot be had."]),
        ("clients", ["The platforms' own clients cannot be had."]),
        ("peers", ["The peer dlt cannot be had.", "The peer singer cannot be had."]),
    ],
)
def test_what_cannot_be_had_is_said_to_who_asks_for_it(project: Path, target: str, said: list[str]) -> None:
    done = make(project, target)
    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if "cannot" in line] == said
    assert not list((project / ".venv").glob(f".{target.rstrip('s')}*")), "it is tried again the next time"


def test_the_tests_run_without_what_cannot_be_had(project: Path) -> None:
    done = make(project, "test")
    assert done.returncode == 0, done.stderr
    for said in ("Dask's packages cannot", "own clients cannot", "will skip", "TESTED -m pytest tests/unit"):
        assert said in done.stdout
