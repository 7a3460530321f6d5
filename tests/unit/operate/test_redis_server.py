"""Every cause why a Redis cannot be used is one sentence that names the setting and no password."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aae.errors import UserError
from aae.local.demo import dial_servers
from aae.operate.redis_server import dial
from aae.settings import Settings
from tests.servers import free_port


def test_a_server_that_answers_says_what_it_is(redis_url: str) -> None:
    assert re.match(r"(redis|valkey) \d", dial(redis_url, "AAE_REDIS_URL"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("redis://:s3cret@127.0.0.1:{free}/0", "No Redis answers at 127.0.0.1"),
        ("redis://me:s3cret@{host}/0", "refused the user or the password"),
        ("redis://{host}/4000", "no database of that number"),
        ("unix:///nowhere.sock?password=s3cret", "No Redis answers at /nowhere.sock"),
    ],
)
def test_what_is_wrong_is_told(redis_url: str, change: str, complaint: str) -> None:
    host = redis_url.removeprefix("redis://").partition("/")[0]
    with pytest.raises(UserError, match=complaint) as caught:
        dial(change.format(host=host, free=free_port()), "AAE_RESULTS_URL")
    assert "AAE_RESULTS_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_local_stack_dials_the_servers_it_was_told_to_use(tmp_path: Path, redis_url: str) -> None:
    dial_servers(Settings(_env_file=None, state_dir=tmp_path))
    dead = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(UserError, match="AAE_REDIS_URL"):
        dial_servers(Settings(_env_file=None, state_dir=tmp_path, redis_url=dead, results_url=redis_url))
    with pytest.raises(UserError, match="AAE_RESULTS_URL"):
        dial_servers(Settings(_env_file=None, state_dir=tmp_path, redis_url=redis_url, results_url=dead))
