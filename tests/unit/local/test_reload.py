"""What happens when a file of the project is edited while ``aae up --reload`` runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aae.errors import AaeError
from aae.local.reload import Reloader


class Stage:
    """A project's files, and what was done about their changes."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.done: list[str] = []
        self.trouble: AaeError | None = None
        for name in ("prefect.yaml", "flows/a.py", "tasks/b.py", "aae/c.py", "aae/sandbox/d.py", "deployments/e.py"):
            self.edit(name)
        self.reloader = Reloader(project, deploy=self.deploy, restart=self.done.append)

    def deploy(self) -> None:
        self.done.append("deploy")
        if self.trouble:
            raise self.trouble

    def edit(self, name: str) -> None:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text("x = 1\n")
        # A file system may not tell two moments apart that are close together.
        os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))

    def look(self, times: int = 2) -> list[str]:
        return [sentence for _ in range(times) for sentence in self.reloader.look()]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_nothing_changed_and_nothing_is_done(stage: Stage) -> None:
    assert stage.look(5) == []
    assert stage.done == []


@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("prefect.yaml", ["deploy"]),
        ("flows/a.py", ["deploy"]),
        ("flows/new.py", ["deploy"]),
        ("deployments/e.py", ["deploy"]),
        ("tasks/b.py", []),
        ("aae/c.py", ["watch"]),
        ("aae/sandbox/d.py", ["sandbox", "watch"]),
        (".env", ["watch"]),
        ("notes.txt", []),
    ],
)
def test_what_an_edit_needs_is_done_once(stage: Stage, name: str, done: list[str]) -> None:
    stage.edit(name)
    said = stage.look(5)
    assert stage.done == done
    assert any(name in sentence for sentence in said) == (name != "notes.txt")


def test_edits_in_a_row_are_waited_for_until_they_are_over(stage: Stage) -> None:
    for _ in range(3):
        stage.edit("flows/a.py")
        assert stage.reloader.look() == []
    assert "Deployed again." in stage.look()
    assert stage.done == ["deploy"]


def test_a_file_that_goes_is_a_change_too(stage: Stage) -> None:
    (stage.project / "flows" / "a.py").unlink()
    stage.look()
    assert stage.done == ["deploy"]


def test_a_flow_that_cannot_be_deployed_is_told_and_the_next_edit_is_tried_again(stage: Stage) -> None:
    stage.trouble = AaeError("deploy failed with exit code 1:\n  Traceback ...\n    SyntaxError: invalid syntax")
    stage.edit("flows/a.py")
    told = "Not deployed, what was deployed before stays: deploy failed with exit code 1: SyntaxError: invalid syntax"
    assert told in stage.look()
    stage.trouble = None
    stage.edit("flows/a.py")
    assert "Deployed again." in stage.look()
    assert stage.done == ["deploy", "deploy"]
