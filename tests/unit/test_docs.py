"""What the pages say can be typed: every ``aae`` command of the migration page is one, with options that there are.

And what they promise is tested: every trap of the platforms' APIs names a test, and every test it names is there.
"""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aae import cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-celery.md").read_text(encoding="utf-8")
TRAPS = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")


def commands(page: str = PAGE) -> list[str]:
    """Every command of ours on the page, within the text and in blocks, once."""
    in_text = re.findall(r"`(aae [^`\n]+)`", page)
    in_blocks = re.findall(r"^ *(aae .+)$", "\n".join(re.findall(r"```console\n(.*?)```", page, re.S)), re.M)
    return list(dict.fromkeys(one.strip() for one in [*in_text, *in_blocks]))


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_migration_page_is_understood(command: str) -> None:
    words = shlex.split(command)[1:]
    here: Any = typer.main.get_command(cli.app)
    while hasattr(here, "commands"):
        word = words.pop(0)
        assert word in here.commands, f"{command}: there is no {word}"
        here = here.commands[word]
    if "--help" in words:
        return
    with here.make_context(command, words) as context:
        assert context.allow_extra_args or not context.args  # aae worker hands them on to Prefect


def test_the_page_is_read_at_all() -> None:
    assert len(commands()) > 20
    assert "aae inspect active" in commands()
    assert "aae run fetch_ad_data --wait 30m" in commands()


def test_a_command_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        test_every_command_of_the_migration_page_is_understood("aae inspect active --nonsense")


def missing_tests(page: str) -> list[str]:
    """Every test that the page names, as ``file::name`` below ``tests/``, and that no such file has."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    return [f"{file}::{name}" for file, name in named if name not in functions(file)]


@cache
def functions(file: str) -> frozenset[str]:
    """The functions of a file below ``tests/``, of which nothing is run."""
    path = ROOT / "tests" / file
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()
    return frozenset(node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def traps(page: str = TRAPS) -> list[list[str]]:
    """The rows of the page's tables."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0] not in {"Trap", "---"}]


def test_every_test_that_a_trap_names_is_there() -> None:
    assert missing_tests(TRAPS) == []


def test_every_trap_says_what_is_done_and_names_a_test() -> None:
    assert len(traps()) > 150
    named = re.compile(r"`[\w/]+\.py::test_\w+`(?:, `[\w/]+\.py::test_\w+`)*")
    assert [row for row in traps() if len(row) != 3 or not all(row) or not named.fullmatch(row[2])] == []


def test_every_trap_of_the_wire_is_met_in_the_sandbox() -> None:
    assert [row[0] for row in traps() if "`integration/" not in row[2] and "`e2e/" not in row[2]] == []


def test_a_test_that_is_not_there_would_be_found() -> None:
    wrong = ["unit/test_docs.py::test_of_nothing", "unit/test_no_docs.py::test_the_page_is_read_at_all"]
    right = "unit/test_docs.py::test_the_page_is_read_at_all"
    assert missing_tests(f"`{right}`, `{wrong[0]}` and `{wrong[1]}`") == wrong
