"""The Prefect UI where nobody may write beside Prefect's code: copied to the state folder and served from there."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

from tests import dockerfile

ROOT = Path(__file__).parents[3]
DEPLOYMENTS = ROOT / "deployments"
NAME = "PREFECT_UI_STATIC_DIRECTORY"
STATE = "/var/lib/aae/"
"""What the server may write to, wherever it is started for good."""

FIRST_PAGE = """
import anyio, httpx
from prefect.server.api.server import create_ui_app

async def first_page():
    transport = httpx.ASGITransport(create_ui_app(ephemeral=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://prefect") as client:
        return await client.get("/")

answer = anyio.run(first_page)
print(answer.status_code, answer.text)
"""


def test_the_pages_are_served_from_the_folder_that_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "not yet" / "ui"
    settings = {NAME: str(folder), "PREFECT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-W", "ignore", "-c", FIRST_PAGE]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("200 <!DOCTYPE html>"), done.stdout[:500] + done.stderr
    assert list(folder.rglob("index.html"))


def test_systemds_server_has_its_pages_where_it_may_write() -> None:
    unit = (DEPLOYMENTS / "systemd" / "aae-server.service").read_text()
    assert re.search(rf"^Environment=(.* )?{NAME}={STATE}\w+", unit, re.MULTILINE)
    assert "\nStateDirectory=aae\n" in unit


def test_supervisors_server_has_its_pages_where_it_may_write() -> None:
    programs = configparser.ConfigParser(interpolation=None)
    programs.read(DEPLOYMENTS / "supervisor" / "aae.conf")
    assert f'{NAME}="{STATE}' in programs["program:aae-server"]["environment"]


def test_the_images_server_has_its_pages_where_it_may_write() -> None:
    variables = dockerfile.read(DEPLOYMENTS / "docker" / "Dockerfile")[-1].variables()
    assert variables[NAME].startswith(STATE)
