"""SECURITY.md promises nothing that no test covers."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(tests/[^`]*)`", TEXT)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_threat_names_a_test() -> None:
    table = TEXT.split("## Threats")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 8
    assert [row[0] for row in rows if len(row) != 3 or not re.search(r"`(tests/|make )", row[2])] == []
