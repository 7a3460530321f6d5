"""A bounded part of ``make chaos``: a few rounds, the same ones every time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import servers
from tests.conftest import NEEDS_MARIADB
from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.mysql, pytest.mark.timeout(1200)]


@pytest.mark.skipif(servers.mysql_daemon() is None, reason=NEEDS_MARIADB)
def test_after_rounds_of_random_faults_everything_is_as_if_nothing_had_happened() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--rounds", "5", "--seed", "6", "--job", "detect"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["rounds"], summary["losses"], summary["duplicates"]) == (5, 0, 0)
    assert summary["worst_recovery_seconds"] < 120
