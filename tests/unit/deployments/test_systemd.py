"""The systemd units: systemd itself finds nothing wrong with them, and what they promise each other holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from aae.settings import Settings

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deployments" / "systemd"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
EXPOSURE = 2.5
"""On systemd's scale from 0 to 10; below 5 it says OK."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)


def unit(name: str) -> dict[str, list[str]]:
    """Every setting of a unit; some are given several times."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (FOLDER / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_there_is_one_for_the_server_the_worker_and_the_watch() -> None:
    assert SERVICES == ["aae-server.service", "aae-watch.service", "aae-worker.service"]


@needs_systemd
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    # It looks whether the programs exist: here they are not at /opt/aae.
    bin_folder = tmp_path / "aae" / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for program in ("aae", "prefect"):
        (bin_folder / program).touch(mode=0o755)
    units = tmp_path / "units"
    units.mkdir()
    for path in FOLDER.iterdir():
        (units / path.name).write_text(path.read_text().replace("/opt/aae", str(tmp_path / "aae")))
    done = analyze("verify", "--man=no", *(str(path) for path in sorted(units.iterdir())))
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "aae" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_little_is_left_to_whoever_breaks_in(name: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}", str(FOLDER / name))
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level is not None, done.stdout + done.stderr
    assert float(level[1]) <= EXPOSURE
    assert done.returncode == 0


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_started_again_for_ever_with_the_right_to_write_to_one_folder_only(name: str) -> None:
    settings = unit(name)
    assert settings["Restart"] == ["always"]
    assert settings["StartLimitIntervalSec"] == ["0"]
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["StateDirectory"] == ["aae"]
    assert "ReadWritePaths" not in settings
    assert settings["User"] == ["aae"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_they_read_and_start_exists(name: str) -> None:
    settings = unit(name)
    for file in settings["EnvironmentFile"]:
        path = Path(file.removeprefix("-"))
        assert path.is_relative_to("/etc/aae") or (ROOT / path.relative_to("/opt/aae")).is_file()
    [command] = settings["ExecStart"]
    assert command.split()[0] in {"/opt/aae/.venv/bin/aae", "/opt/aae/.venv/bin/prefect"}
    assert any(value.startswith("PATH=/opt/aae/.venv/bin:") for value in settings["Environment"])


def test_systemd_waits_longer_for_a_worker_than_a_drain_takes() -> None:
    recovery = Settings().recovery
    [patience] = unit("aae-worker.service")["TimeoutStopSec"]
    assert int(patience) >= recovery.drain_seconds + 2 * recovery.beat_seconds + 60


def test_only_the_worker_is_told_to_stop_not_the_jobs_that_may_finish() -> None:
    assert unit("aae-worker.service")["KillMode"] == ["mixed"]
    assert unit("aae-worker.service")["OOMPolicy"] == ["continue"]


def test_the_watch_can_see_the_jobs() -> None:
    """In a user namespace of its own, or with a filtered /proc, it would take healthy jobs for dead."""
    for name in ("aae-watch.service", "aae-worker.service"):
        assert not {"PrivateUsers", "ProcSubset", "PrivatePIDs"} & set(unit(name))
    assert "ProtectProc" not in unit("aae-watch.service")
    assert unit("aae-watch.service")["User"] == unit("aae-worker.service")["User"]


def test_the_server_is_not_given_the_platforms_secrets() -> None:
    assert "/etc/aae/aae.env" not in unit("aae-server.service")["EnvironmentFile"]


def test_what_runs_here_is_started_together_and_the_server_is_stopped_last() -> None:
    for name in SERVICES:
        assert unit(name)["PartOf"] == unit(name)["WantedBy"] == ["aae.target"]
    for name in ("aae-watch.service", "aae-worker.service"):
        [after] = unit(name)["After"]
        assert "aae-server.service" in after.split()
        assert "Requires" not in unit(name), "the server may be on another machine"
