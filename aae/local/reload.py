"""Auto-reload for development: what ``aae up --reload`` does when a file of the project changes.

A run is a process of its own, so an edited flow or step takes effect at the next run without any of this. What needs
more: the deployments, when ``prefect.yaml`` or a flow's parameters have changed, and the processes that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from aae.errors import AaeError

_FOLDERS: Final = ("aae", "deployments", "flows", "tasks")
_FILES: Final = ("prefect.yaml", ".env")

Look = Mapping[Path, int]
"""When each file was last written (nanoseconds)."""


class Reloader:
    """Looks at the project's files; ``deploy`` and ``restart`` (a part of the stack, by name) are called as needed."""

    def __init__(self, project: Path, *, deploy: Callable[[], None], restart: Callable[[str], None]) -> None:
        self._project = project
        self._deploy = deploy
        self._restart = restart
        self._acted_on = self._before = self._look()

    def look(self) -> list[str]:
        """Act on what has changed since the last time, once it has not changed any further; a sentence on each act."""
        now = self._look()
        still = now == self._before
        self._before = now
        if not still or now == self._acted_on:
            return []
        changed = sorted(path for path in {*now, *self._acted_on} if now.get(path) != self._acted_on.get(path))
        self._acted_on = now
        return self._act([path.relative_to(self._project) for path in changed])

    def _act(self, changed: list[Path]) -> list[str]:
        rooms = {path.parts[0] for path in changed}
        told = [f"Changed: {', '.join(map(str, changed[:5]))}{' ...' if len(changed) > 5 else ''}."]
        if rooms & {"flows", "deployments", "prefect.yaml"}:
            try:
                self._deploy()
            except AaeError as error:
                # How it ended and the last of what it said, which is the error itself.
                first, *rest = str(error).splitlines()
                why = f"{first} {rest[-1].strip()}" if rest else first
                return [*told, f"Not deployed, what was deployed before stays: {why}"]
            told.append("Deployed again.")
        if rooms & {"aae", ".env"}:
            parts = ["sandbox"] if any(path.parts[:2] == ("aae", "sandbox") for path in changed) else []
            for part in [*parts, "watch"]:
                self._restart(part)
            told.append(f"Restarted: {', '.join([*parts, 'watch'])}.")
        return [*told, "The next run of a job uses what is there now."]

    def _look(self) -> Look:
        found: dict[Path, int] = {}
        paths = [self._project / name for name in _FILES]
        for folder in _FOLDERS:
            paths += (self._project / folder).rglob("*.py")
        for path in paths:
            try:
                found[path] = path.stat().st_mtime_ns
            except OSError:  # it is not there, or just being replaced
                continue
        return found
