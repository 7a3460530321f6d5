"""The image, without an engine: the Dockerfile's steps in a clean Debian root, and what comes out on a read-only one.

Takes minutes, two gigabytes and Debian's mirror: only for whoever sets AAE_TEST_IMAGE=1 (`make image`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dockerfile
from tests.e2e.conftest import ROOT

WANTED = bool(os.environ.get("AAE_TEST_IMAGE"))
ABLE = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mmdebstrap") is not None

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not WANTED, reason="takes minutes: make image"),
    pytest.mark.skipif(not ABLE, reason="needs root and mmdebstrap: apt-get install mmdebstrap"),
]

STAGES = dockerfile.read(ROOT / "deployments" / "docker" / "Dockerfile")
# What python:3.11-slim-bookworm has and Debian's own minimal system has not.
PACKAGES = "python3.11,python3.11-venv,ca-certificates"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("image")
    base = folder / "base"
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", "bookworm", str(base)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no clean root could be made: {made.stderr[-500:]}")
    (base / "usr/local/bin/python").symlink_to("/usr/bin/python3.11")
    environment = dockerfile.network(base)
    try:
        yield dockerfile.carry_out(STAGES, ROOT, base, folder, environment)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)


def inside(image: Path, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as the container runs it: its user, its entry point, a root that nobody can write to."""
    last = STAGES[-1]
    return dockerfile.run(
        image,
        [*last.words("ENTRYPOINT"), *command],
        last.last("WORKDIR"),
        {**last.variables(), **more},
        user=last.last("USER"),
        read_only=True,
        check=check,
    )


def test_it_runs_as_a_user_without_rights_on_a_root_that_it_cannot_write_to(image: Path) -> None:
    said = inside(image, "sh", "-c", "id -u; touch /opt/aae/x 2>&1; touch /var/lib/aae/x && echo written").stdout
    assert said.splitlines()[0] == "1001"
    assert "Read-only file system" in said
    assert "written" in said
    # By rights, too: not on every engine is the root read-only.
    rights = ["(", "-user", "1001", "-o", "-perm", "-o+w", ")", "-not", "-type", "l"]
    assert not inside(image, "find", "/opt", "/usr", "-xdev", *rights).stdout.strip()


def test_its_default_command_explains_the_program(image: Path) -> None:
    assert "aae demo" in inside(image, *STAGES[-1].words("CMD")).stdout


def test_the_doctor_answers(image: Path) -> None:
    done = inside(image, "aae", "doctor", "--json", check=False, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1, done.stderr
    found = {one["check"]: one["ok"] for one in json.loads(done.stdout)["checks"]}
    assert found["settings"]


def test_server_worker_jobs_and_their_libraries_can_be_loaded(image: Path) -> None:
    modules = (
        "prefect.server.api.server, prefect.workers.process, prefect_redis, asyncpg, pymysql, tasks.launch, "
        "flows.token_refresh, flows.data_fetch, flows.anomaly_detection, flows.reports, vl_convert, deployments.apply"
    )
    inside(image, "python", "-c", f"import {modules}")


def test_tables_are_made_in_it(image: Path) -> None:
    inside(image, "sh", "-c", "aae db upgrade && test -s /var/lib/aae/aae.db")


def test_a_plain_prefect_worker_becomes_one_that_drains(image: Path) -> None:
    said = inside(image, "prefect", "worker", "start", "--help").stdout
    assert "AAE_RECOVERY__DRAIN_SECONDS" in said


def test_nothing_is_in_it_that_nobody_needs(image: Path) -> None:
    there = inside(image, "sh", "-c", "ls -a /opt/aae; ls /opt/aae/.venv/bin").stdout.split()
    assert not {".env", ".git", "tests", "pip", "pytest", "mypy"} & set(there)
    assert inside(image, "sh", "-c", "command -v cc gcc make", check=False).returncode != 0
    size = int(subprocess.run(["du", "-sm", str(image)], capture_output=True, text=True, check=True).stdout.split()[0])
    assert size < 1200, f"{size} MiB"
