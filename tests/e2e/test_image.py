"""The image, without an engine: the Dockerfile's steps in a clean Debian root, and what comes out on a read-only one.

Takes minutes, two gigabytes, a package index and Debian's mirror: only with AAE_TEST_IMAGE=1 (`make image`).
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
from tests.servers import free_port

WANTED = bool(os.environ.get("AAE_TEST_IMAGE"))
ABLE = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mmdebstrap") is not None

# In the image: start a server, ask it, end it.
LOOK = """
import httpx, json, subprocess, sys, time
port = sys.argv[1]
server = subprocess.Popen(["prefect", "server", "start", "--port", port], stdout=subprocess.DEVNULL)
try:
    until = time.monotonic() + 300
    while True:
        try:
            health = httpx.get(f"http://127.0.0.1:{port}/api/health").text
            break
        except httpx.TransportError:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.5)
    print(json.dumps({"api": health, "page": httpx.get(f"http://127.0.0.1:{port}/", follow_redirects=True).text[:100]}))
finally:
    server.terminate()
    server.wait(60)
"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not WANTED, reason="takes minutes: make image"),
    pytest.mark.skipif(not ABLE, reason="needs root and mmdebstrap: apt-get install mmdebstrap"),
]

STAGES = dockerfile.read(ROOT / "deployments" / "docker" / "Dockerfile")
# What python:3.11-slim-bookworm has and Debian's own minimal system has not, and what neither has.
PACKAGES = "python3.11,python3.11-venv,ca-certificates"
SLIM = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")]
LIMIT = 690
"""MiB unpacked, with everything; 180 of them are Debian and Python."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("image")
    base = folder / "base"
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", *SLIM, f"--include={PACKAGES}", "bookworm", str(base)],
        capture_output=True,
        text=True,
        timeout=900,
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
    groups = json.loads(done.stdout)["groups"]
    found = {check["check"]: check["ok"] for group in groups for check in group["checks"]}
    assert {name for name in ("settings", "state folder", "database", "prefect.yaml") if not found[name]} == set()
    assert not found["Prefect API"], "there is none"


def test_server_worker_jobs_and_their_libraries_can_be_loaded(image: Path) -> None:
    modules = (
        "prefect.server.api.server, prefect.workers.process, prefect_redis, asyncpg, pymysql, tasks.launch, "
        "flows.token_refresh, flows.data_fetch, flows.anomaly_detection, flows.reports, vl_convert, deployments.apply"
    )
    inside(image, "python", "-c", f"import {modules}")


def test_the_whole_product_runs_in_it(image: Path) -> None:
    """Every job through a worker and a server, on the embedded stack, as the image's user and with its packages."""
    done = inside(image, "aae", "demo", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything is stopped" in done.stdout


def test_its_server_shows_its_pages_and_takes_calls(image: Path) -> None:
    """Prefect copies its pages before it serves them: not beside the originals, where nobody may write."""
    port = str(free_port())
    told = json.loads(inside(image, "python", "-c", LOOK, port).stdout.splitlines()[-1])
    assert told["api"] == "true"
    assert told["page"].startswith("<!DOCTYPE html>")


def test_tables_are_made_in_it(image: Path) -> None:
    inside(image, "sh", "-c", "aae db upgrade && test -s /var/lib/aae/aae.db")


def test_a_plain_prefect_worker_becomes_one_that_drains(image: Path) -> None:
    said = inside(image, "prefect", "worker", "start", "--help").stdout
    assert "AAE_RECOVERY__DRAIN_SECONDS" in said


def test_nothing_is_in_it_that_nobody_needs(image: Path) -> None:
    there = inside(image, "sh", "-c", "ls -a /opt/aae; ls /opt/aae/.venv/bin").stdout.split()
    assert not {".env", ".git", "tests", "pip", "pytest", "mypy"} & set(there)
    assert inside(image, "sh", "-c", "command -v cc gcc make", check=False).returncode != 0
    assert not list((image / "opt").rglob("*.pyi"))


def test_it_is_small(image: Path) -> None:
    told = subprocess.run(["du", "-smx", str(image)], capture_output=True, text=True, check=True).stdout
    assert int(told.split()[0]) <= LIMIT, told
