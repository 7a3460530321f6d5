"""Every fault of the sandbox's catalogue on every platform: what comes of it is declared, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from aae.model import Granularity, Platform
from aae.sandbox import CATALOGUE
from tests.proof import matrix, table
from tests.proof.expected import EXPECTED, expected
from tests.proof.matrix import Cell
from tests.proof.stage import HISTORY, Stage, staged

DOC = Path(__file__).parents[2] / "docs" / "faults.md"


@pytest.fixture
def stage(engine: Engine, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    with staged(engine, redis_url, tmp_path / "state", hourly_days=HISTORY[Granularity.HOURLY]) as it:
        yield it


def test_something_is_declared_of_every_fault_and_of_nothing_else() -> None:
    assert EXPECTED.keys() == CATALOGUE.keys() - matrix.UNMET


@pytest.mark.timeout(900)  # two hundred fetches
@pytest.mark.parametrize("platform", Platform)
def test_every_fault_ends_as_declared_and_as_the_page_says_and_the_next_run_has_everything(
    stage: Stage, platform: Platform
) -> None:
    results = [matrix.play(stage, cell) for cell in _chosen(stage) if cell.platform is platform]
    assert [f"{one.cell}: {problem}" for one in results for problem in one.problems] == []
    # make matrix writes it anew.
    page = DOC.read_text().splitlines()
    assert [line for line in map(table.row, results) if line not in page] == []


def _chosen(stage: Stage) -> list[Cell]:
    """All of them on SQLite. What differs on MariaDB is how things are stored: there one of each outcome will do, and
    every lie."""
    everything = list(matrix.cells())
    if stage.engine.dialect.name == "sqlite":
        return everything
    kinds = {(cell.platform, expected(cell.kind.name, cell.platform).lasting): cell for cell in reversed(everything)}
    return [*kinds.values(), *(cell for cell in everything if cell.kind.name in matrix.LIES)]


def test_the_page_has_a_line_for_each_cell_and_says_what_a_run_without_trouble_needs(stage: Stage) -> None:
    head, *_ = DOC.read_text().split("\n## ")
    assert head == table.markdown([], table.calm(stage))
    lines = [line.split(" | ") for line in DOC.read_text().splitlines() if line.startswith("| `")]
    assert sorted((line[0].strip("| `"), line[2]) for line in lines) == sorted(
        (cell.kind.name, cell.platform.value) for cell in matrix.cells()
    )


def test_a_cell_that_is_not_as_declared_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPECTED, "http_500", EXPECTED["slow"])  # type: ignore[misc]
    monkeypatch.setattr(Stage, "differences", lambda *_: ["daily: a row too many"])
    cell = next(cell for cell in matrix.cells() if cell.kind.name == "http_500")
    unexpected, *others = matrix.play(stage, cell).problems
    assert "declared" in unexpected
    assert others == ["daily: a row too many"] * 2
