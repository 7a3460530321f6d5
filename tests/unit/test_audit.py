"""The audit finds each way in which a dependency could be another thing than what was looked at."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from tests import audit

HASH = f"--hash=sha256:{'0' * 64}"
GOOD = f"# By uv\nhttpx==0.28.1 \\\n    {HASH}\nuvloop==0.21.0 ; sys_platform != 'win32' \\\n    {HASH}\n"


def test_this_project_passes() -> None:
    locks = [(audit.ROOT / name).read_text() for name in audit.LOCKS]
    assert [told for lock in locks for told in audit.faults(lock)] == []
    assert list(audit.disagreements(locks)) == []
    assert list(audit.not_wheels_only((audit.ROOT / "Makefile").read_text())) == []
    assert list(audit.unfree(distributions())) == []
    assert all(len(audit.pins(lock)) >= 1 for lock in locks)


def test_the_environment_of_the_platforms_clients_passes() -> None:
    lock, installed = (audit.ROOT / audit.CLIENTS_LOCK).read_text(), audit.client_distributions()
    assert list(audit.faults(lock)) == []
    assert set(audit.pins(lock)) >= {"facebook-business", "tiktok-business-api-sdk-official", "google-ads"}
    if not installed:
        pytest.skip(audit.NEEDS_CLIENTS)
    assert list(audit.not_as_locked(installed, [lock])) == []
    assert list(audit.unfree(installed, audit.REVIEWED_CLIENTS)) == []


def test_the_locks_of_the_benchmarks_peers_pass() -> None:
    locks = {name: (audit.ROOT / name).read_text() for name in audit.PEERS_LOCKS}
    assert [told for lock in locks.values() for told in audit.faults(lock)] == []
    brought = {Path(name).stem: audit.pins(lock) for name, lock in locks.items()}
    assert "dlt" in brought["dlt"]
    assert "singer-sdk" in brought["singer"]


def test_a_good_lock_has_no_faults() -> None:
    assert list(audit.faults(GOOD)) == []
    assert audit.pins(GOOD) == {"httpx": {"0.28.1"}, "uvloop": {"0.21.0"}}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("evil==1.0", "without a hash: evil==1.0"),
        (f"evil==1.0 \\\n    --hash=sha256:{'0' * 63}", "without a hash"),
        (f"evil==1.0 \\\n    --hash=md5:{'0' * 32}", "without a hash"),
        (f"evil>=1.0 \\\n    {HASH}", "not pinned"),
        (f"evil @ git+https://host/evil \\\n    {HASH}", "an address is named"),
        ("--index-url https://host/simple", "an address is named"),
        ("--extra-index-url host", "an address is named"),
        ("--find-links ./wheels", "an address is named"),
        ("-e ../evil", "an address is named"),
        ("-i https://host", "an address is named"),
    ],
)
def test_each_fault_of_a_lock_is_told(line: str, told: str) -> None:
    assert any(told in each for each in audit.faults(f"{GOOD}{line}\n"))


def test_locks_that_disagree_are_told() -> None:
    other = GOOD.replace("0.28.1", "0.28.2")
    assert list(audit.disagreements([GOOD, other])) == ["httpx is pinned differently: 0.28.1, 0.28.2"]


def distribution(folder: Path, name: str, version: str, *lines: str) -> Distribution:
    home = folder / f"{name}-{version}.dist-info"
    home.mkdir()
    (home / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]))
    return Distribution.at(home)


def test_what_is_installed_and_not_as_locked_is_told(tmp_path: Path) -> None:
    installed = [distribution(tmp_path, "HTTPX", "0.27"), distribution(tmp_path, "evil", "1")]
    assert list(audit.not_as_locked(installed, [GOOD])) == [
        "httpx 0.27 is installed, locked is 0.28.1",
        "evil 1 is installed, locked is nothing",
    ]


@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("License-Expression: MIT", True),
        ("License-Expression: MIT OR GPL-2.0-only", True),
        ("Classifier: License :: OSI Approved :: BSD License", True),
        ("License-Expression: AGPL-3.0-only", False),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", False),
        ("License-Expression: MIT AND GPL-3.0-or-later", False),
        ("License: Ask us", False),
        ("Summary: nothing said", False),
    ],
)
def test_a_licence_that_reaches_over_or_is_not_known_is_told(tmp_path: Path, line: str, free: bool) -> None:
    assert (not list(audit.unfree([distribution(tmp_path, "thing", "1", line)]))) is free


def test_an_installation_that_would_build_from_source_is_told() -> None:
    text = "x:\n\tuv pip install --require-hashes \\\n\t|| python -m pip install --only-binary :all: --require-hashes\n"
    assert len(list(audit.not_wheels_only(text))) == 1
    assert len(list(audit.not_wheels_only("x:\n\tpython -m pip --python other install --require-hashes\n"))) == 1
