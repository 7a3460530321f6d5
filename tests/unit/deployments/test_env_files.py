"""`server.env` and `worker.env`, which every way of starting things reads, and the script that does so for a shell."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names

from aae.local.stack import _prefect_settings

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "deployments" / name for name in ("server.env", "worker.env")]
WITH_ENV = ROOT / "deployments" / "with-env"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_is_a_setting_that_this_prefect_knows(path: Path) -> None:
    known = _get_valid_setting_names(PrefectSettings) | {"DO_NOT_TRACK"}
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        name, equals, value = line.partition("=")
        assert equals, line
        assert name in known, name
        # Shells, systemd, compose and kubectl agree on these characters only.
        assert re.fullmatch("[A-Za-z0-9_,.]+", value), line


def test_prefect_takes_the_values_as_they_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _prefect_settings().items():
        monkeypatch.setenv(name, value)
    settings = PrefectSettings()
    server = settings.server
    assert not server.analytics_enabled
    assert not server.ephemeral.enabled
    assert server.events.retention_period == timedelta(days=7)
    assert server.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert server.services.db_vacuum.retention_period == timedelta(days=90)
    assert server.services.task_run_recorder.batch_size == 100
    assert settings.worker.query_seconds == 2


def with_env(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(WITH_ENV), *words], env={**os.environ, **more}, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_command_gets_the_settings_of_all_files_the_last_one_wins(tmp_path: Path) -> None:
    one, other = tmp_path / "one.env", tmp_path / "other.env"
    one.write_text("# a comment\nA=1\nB='x & y'\nC=1\n")
    other.write_text("C=2\n")
    done = with_env(str(one), str(other), "--", "sh", "-c", 'echo "$A|$B|$C|$AAE_PROJECT_DIR|$PWD"')
    assert done.stdout.strip() == f"1|x & y|2|{ROOT}|{ROOT}"


def test_a_file_that_is_missing_is_told_unless_it_may_be(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.env")
    done = with_env(missing, "--", "echo", "started")
    assert done.returncode == 2
    assert f"{missing} cannot be read" in done.stderr
    assert not done.stdout
    assert with_env(f"-{missing}", "--", "echo", "started").stdout == "started\n"


@pytest.mark.parametrize("words", [(), ("--",)])
def test_without_a_command_it_says_how_it_is_used(words: tuple[str, ...]) -> None:
    done = with_env(*words)
    assert done.returncode == 2
    assert "usage: with-env" in done.stderr


def test_its_exit_code_is_that_of_the_command() -> None:
    assert with_env("--", "sh", "-c", "exit 7").returncode == 7


def test_what_a_command_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    (tmp_path / "some.env").touch()
    command = f"umask 0; exec {WITH_ENV} {tmp_path}/some.env -- touch {tmp_path}/written"
    subprocess.run(["/bin/sh", "-c", command], timeout=30, check=True)
    assert (tmp_path / "written").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("page", ["docs/running.md", "README.md", "SECURITY.md"])
def test_no_page_has_a_comment_behind_a_setting_of_the_server(page: str) -> None:
    """For systemd it would be part of the value: of a login, say."""
    lines = (ROOT / page).read_text().splitlines()
    settings = [line for line in lines if re.match("PREFECT_[A-Z_]+=", line)]
    assert [line for line in settings if re.search(r"\s#", line)] == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("systemd/aae-server.service", "PREFECT_UI_STATIC_DIRECTORY=/var/lib/aae/"),
        ("supervisor/aae.conf", 'PREFECT_UI_STATIC_DIRECTORY="/var/lib/aae/'),
        ("docker/compose.yaml", "PREFECT_UI_STATIC_DIRECTORY: /var/lib/aae/"),
    ],
)
def test_a_server_that_may_not_write_to_its_program_has_a_place_for_its_pages(path: str, name: str) -> None:
    """Prefect copies them before it serves them, by default into its own package; or serves none, in silence."""
    assert name in (ROOT / "deployments" / path).read_text()
    assert "PREFECT_UI_STATIC_DIRECTORY" in _get_valid_setting_names(PrefectSettings)
