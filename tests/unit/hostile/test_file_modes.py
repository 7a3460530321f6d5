"""What the program writes is for its user alone, whatever the system's habit (umask) is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ACCOUNT = (
    '[{"user_email":"a@b.example","user_name":"A","platform":"meta","external_id":"1","access_token":"t",'
    '"name":"S","currency":"EUR","timezone":"UTC"}]'
)


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_tables_and_keys_are_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    state = tmp_path / "state"
    environment = {**os.environ, "AAE_STATE_DIR": str(state)}
    for arguments, stdin in ((["db", "upgrade"], ""), (["accounts", "import", "-"], ACCOUNT)):
        done = subprocess.run(
            [sys.executable, "-m", "aae", *arguments],
            env=environment,
            cwd=tmp_path,
            input=stdin,
            umask=umask,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    written = [state, *state.rglob("*")]
    assert {"aae.db", "encryption.key"} <= {path.name for path in written}
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in written if path.stat().st_mode & 0o077} == {}
