"""The supervisor configuration beside the page that says what has to be there for it."""

from __future__ import annotations

import re
from configparser import RawConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONFIGURATION = ROOT / "deployments" / "supervisor" / "aae.conf"
PAGE = ROOT / "docs" / "running.md"


def test_every_folder_that_it_writes_to_is_made_by_the_page_for_its_user_alone() -> None:
    parser = RawConfigParser(inline_comment_prefixes=())
    parser.read(CONFIGURATION)
    section = PAGE.read_text().partition("## supervisor\n")[2].partition("\n## ")[0]
    made = {folder: mode for mode, folder in re.findall(r"^install -d -m (\d+) .*?(/\S+)$", section, re.MULTILINE)}
    written = set()
    for name in parser.sections():
        if name.startswith("program:"):
            written.add(str(Path(parser[name]["stdout_logfile"]).parent))
            written |= set(re.findall(r'(?:HOME|AAE_STATE_DIR)="([^"]+)"', parser[name]["environment"]))
    assert written - {"/var/lib/aae/prefect"} == set(made)
    assert set(made.values()) == {"700"}
