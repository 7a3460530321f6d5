"""What the pages say can be typed: every ``aae`` command of the migration page is one, with options that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aae import cli

PAGE = (Path(__file__).parents[2] / "docs" / "from-celery.md").read_text(encoding="utf-8")


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
