"""Every fault of the sandbox's catalogue on every platform: what comes of it is declared, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from aae.model import Granularity
from aae.sandbox import CATALOGUE
from tests.proof import matrix, table
from tests.proof.expected import EXPECTED
from tests.proof.stage import HISTORY, Stage, staged

DOC = Path(__file__).parents[2] / "docs" / "faults.md"


@pytest.fixture
def stage(engine: Engine, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    with staged(engine, redis_url, tmp_path / "state", hourly_days=HISTORY[Granularity.HOURLY]) as it:
        yield it


def test_something_is_declared_of_every_fault_and_of_nothing_else() -> None:
    assert list(EXPECTED) == list(CATALOGUE)


def test_every_fault_ends_as_declared_and_the_next_run_has_everything_as_the_page_says(stage: Stage) -> None:
    results = [matrix.play(stage, cell) for cell in matrix.cells()]
    assert [f"{one.cell}: {problem}" for one in results for problem in one.problems] == []
    # make matrix writes it anew
    assert table.markdown(results, table.calm(stage)) == DOC.read_text()


def test_a_cell_that_is_not_as_declared_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPECTED, "http_500", EXPECTED["slow"])  # type: ignore[misc]
    monkeypatch.setattr(Stage, "differences", lambda *_: ["daily: a row too many"])
    cell = next(cell for cell in matrix.cells() if cell.kind.name == "http_500")
    unexpected, *others = matrix.play(stage, cell).problems
    assert "declared" in unexpected
    assert others == ["daily: a row too many"] * 2
