"""Steps of a longer command on the terminal: a moving line while one runs, a ticked one with its time after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from aae.display import clean


class Step:
    """The step that is running; ``note`` is what stays beside its title when it is done."""

    def __init__(self, title: str, status: Status) -> None:
        self.title = title
        self.note = ""
        self._status = status

    def say(self, text: str) -> None:
        """Show what is happening right now."""
        self._status.update(f"{shown(self.title)} [dim]{shown(text)}[/]")


class Steps:
    """Prints to ``console``; remembers each step's title and how many seconds it took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run a block as a step. A block that raises is crossed out, and the exception goes on."""
        begun = time.monotonic()
        with self.console.status(shown(title)) as status:
            step = Step(title, status)
            try:
                yield step
            except BaseException:
                status.stop()
                self.console.print(f"[red]✗[/] {shown(title)}", highlight=False)
                raise
        seconds = time.monotonic() - begun
        self.times.append((title, seconds))
        note = f"  [dim]{shown(step.note)}[/]" if step.note else ""
        self.console.print(f"[green]✓[/] {shown(title)}  [cyan]{seconds:.1f} s[/]{note}", highlight=False)


def bar(share: float, width: int = 20) -> str:
    """A share (0..1) as a bar of text with its percentage."""
    done = round(min(max(share, 0.0), 1.0) * width)
    return f"{'━' * done}{'─' * (width - done)} {share:.0%}"


def shown(text: object, limit: int = 300) -> str:
    """Text that somebody else wrote, as rich shows it: one line, no markup, nothing that moves the cursor."""
    return escape(clean(text, limit=limit)) if (text := str(text).strip()) else ""
