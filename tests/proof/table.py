"""The fault matrix for people: in a terminal, and as the page ``docs/faults.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from rich.console import Console
from rich.table import Table

from aae.jobs.fetch import AccountOutcome
from aae.model import Platform
from tests.proof import matrix
from tests.proof.matrix import Result
from tests.proof.stage import Stage

COLUMNS: Final = (
    "Fault",
    "On",
    "Met once",
    "If it stays",
    "Class",
    "Code",
    "Stored at once",
    "Owed",
    "Calls",
    "All there",
)

_COLOURS: Final = {
    "stored": "green",
    "partial": "yellow",
    "throttled": "cyan",
    "skipped": "magenta",
    "reauthorize": "red",
    "failed": "red",
}
_TITLES: Final = {"": "Any platform", "meta": "Meta", "tiktok": "TikTok", "google": "Google"}

PAGE: Final = """# What a fetch makes of trouble

One row per trouble that the sandbox knows and platform that it can strike: what the run that meets it says, what is
stored all the same, and when everything is there. `make matrix` writes this page; every test run holds it against what
happens, on SQLite and on MariaDB: outcomes are those declared in `tests/proof/expected.py`, and after the next healthy
run the tables are the sandbox's ledger to the row.

- Left out are three that a fetch of these small accounts does not come by; the connectors' own tests meet them.
- **Met once**: the fault strikes the first call for the second slice (one of listings: the first of the listing), and
  only that one. **If it stays**: it strikes from there to the end of the run; all that follows is about this case.
- **stored** owes nothing, **partial** has some slices, **throttled** waits for a moment that the platform named, and
  **reauthorize** has paused the account and told its owner, once.
- **Class** says what helps: `Retry` time, `Throttled` the time that was asked for, `Reauthorize` the owner, `Skip` a
  permission, `Bug` a developer. **Code** is the platform's own where it has one, as the table `fetches` keeps it.
- **Stored at once** and **Owed** count slices. **Calls** are the run's; without trouble it needs {calls}.
- **All there**: by itself in the *next run*, six hours later; in the first one *after the pause* that the platform
  asked for; or in the next one after the owner has *connected again*.

Where a platform lies without a sign of it (`restated`, `no_rows`, ...) the lie is stored, and the next run corrects
what it asks for again; every correction is in `metric_revisions`.
"""


def calm(stage: Stage) -> dict[Platform, AccountOutcome]:
    """Each platform's fetch without trouble."""
    return {platform: matrix.undisturbed(stage, platform) for platform in Platform}


def show(results: Sequence[Result], calm: Mapping[Platform, AccountOutcome], database: str) -> None:
    """Print the matrix, and what should not be."""
    width = None if sys.stdout.isatty() else 150
    console = Console(file=sys.stdout, width=width, highlight=False)
    made = Table(title=f"What a fetch makes of trouble ({database})", title_justify="left")
    for number, name in enumerate(COLUMNS):
        made.add_column(
            name, justify="right" if name in {"Stored at once", "Owed", "Calls"} else "left", no_wrap=number == 0
        )
    for title, group in _groups(results):
        made.add_section()
        made.add_row(f"[bold]{title}[/bold]")
        before = ""
        for result in group:
            cells = _cells(result)
            cells[2:4] = [f"[{_COLOURS[word]}]{word}[/]" for word in cells[2:4]]
            shown = [cells[0] if cells[0] != before else "", *cells[1:]]
            made.add_row(*shown, style="reverse" if result.problems else None)
            before = cells[0]
    console.print(made)
    console.print(f"Without trouble a run needs {_calls(calm)}.")
    for result in results:
        for problem in result.problems:
            console.print(f"{result.cell}: {problem}", style="red", markup=False)
    wrong = sum(bool(result.problems) for result in results)
    verdict = "all as declared, and the tables are the ledger" if not wrong else f"{wrong} are not as they should be"
    console.print(f"{len(results)} cells: {verdict}.")


def markdown(results: Sequence[Result], calm: Mapping[Platform, AccountOutcome]) -> str:
    """The page."""
    parts = [PAGE.format(calls=_calls(calm))]
    for title, group in _groups(results):
        columns = ("Fault", "What happens", *COLUMNS[1:])
        lines = [f"\n## {title}\n", _line(columns), _line(["---"] * len(columns))]
        lines += [row(result) for result in group]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def row(result: Result) -> str:
    """A cell's line of the page."""
    name, *others = _cells(result)
    return _line([f"`{name}`", result.cell.kind.description, *others])


def _groups(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    def whose(result: Result) -> str:
        platforms = result.cell.kind.platforms
        return platforms[0].value if len(platforms) == 1 else ""

    order = list(_TITLES)
    ordered = sorted(results, key=lambda result: order.index(whose(result)))
    return [(_TITLES[name], list(group)) for name, group in groupby(ordered, key=whose)]


def _cells(result: Result) -> list[str]:
    once, lasting = result.once.outcome, result.lasting.outcome
    return [
        result.cell.kind.name,
        result.cell.platform.value,
        once.outcome,
        lasting.outcome,
        result.lasting.kind or "-",
        result.lasting.code or "-",
        f"{lasting.slices - lasting.owed if lasting.slices else 0} of {lasting.slices or '?'}",
        str(lasting.owed),
        str(lasting.calls),
        result.lasting.then if lasting.outcome != "stored" or result.cell.kind.name in matrix.LIES else "at once",
    ]


def _calls(calm: Mapping[Platform, AccountOutcome]) -> str:
    *first, last = [f"{one.calls} for {one.slices} slices on {platform.capitalize()}" for platform, one in calm.items()]
    return f"{', '.join(first)} and {last}".replace("Tiktok", "TikTok")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
