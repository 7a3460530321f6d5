"""What is shown in the UI stays small, however many there are."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import showing


@pytest.mark.parametrize(
    ("rows", "shown", "told"),
    [(3, 3, "All of them."), (showing.ROWS_SHOWN, showing.ROWS_SHOWN, "All of them."), (3000, 200, "200 of 3000")],
)
async def test_a_table_has_at_most_so_many_rows_the_first_ones_and_says_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, rows: int, shown: int, told: str
) -> None:
    made: dict[str, Any] = {}

    async def create(**given: Any) -> None:
        made.update(given)

    monkeypatch.setattr(showing, "acreate_table_artifact", create)
    await showing.show_table("key", "All of them.", [{"n": number} for number in range(rows)])
    assert [row["n"] for row in made["table"]] == list(range(shown))
    assert told in made["description"]
