"""A ``prefect.yaml`` for the entries of a Celery beat schedule.

Its head (work pool, results, pull step) is that of our own ``prefect.yaml``. A task of the name of one of our flows
becomes that flow's deployment; for any other a placeholder is written that says what is to be done by hand.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from aae.display import clean
from aae.errors import UserError
from aae.operate.beat.source import Entry
from aae.operate.schedule import Job, read_jobs

PLACEHOLDER: Final = "flows/TO_DO.py"
"""The file of a task that has no flow here."""

_LEFT_OUT: Final = {
    "expires": "of late runs only the newest of a job is made",
    "priority": "give the work queue a priority",
    "ignore_result": "results expire by themselves",
    "serializer": "results are JSON",
    "compression": "results are JSON",
    "retry": "every task here is retried 3 times, 300 s apart",
    "retry_policy": "every task here is retried 3 times, 300 s apart",
    "time_limit": "every task here has the limits of 3300 and 3600 s",
    "soft_time_limit": "every task here has the limits of 3300 and 3600 s",
    "exchange": "there is no broker",
    "routing_key": "there is no broker",
    "delivery_mode": "there is no broker",
}
"""Options of Celery's that need no counterpart here, and why."""


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one entry. ``entrypoint`` is None where a flow is to be written by hand; ``notes`` are remarks."""

    entry: Entry
    name: str
    entrypoint: str | None
    notes: tuple[str, ...]

    @property
    def function(self) -> str:
        """The function's name, which is also the flow's."""
        return _function(self.entry.task)


def plan(entries: Sequence[Entry], project: Path) -> list[Line]:
    """What is to be written for each entry, in their order. ``project`` holds our own ``prefect.yaml`` and flows.

    Raises:
        UserError: something in an entry has no counterpart here: a sentence about each such entry.
    """
    ours = {job.entrypoint.rpartition(":")[2]: job for job in read_jobs(project)}
    often = Counter(_function(entry.task) for entry in entries)
    lines: list[Line] = []
    troubles: list[str] = []
    for entry in entries:
        known = ours.get(_function(entry.task))
        try:
            _check(entry, known, project)
        except UserError as error:
            troubles.append(f"  {clean(entry.name)}: {error}.")
            continue
        alone = known is not None and often[_function(entry.task)] == 1
        name = known.name.partition("/")[2] if known and alone else _unused(_slug(entry.name), lines)
        lines.append(Line(entry, name, known.entrypoint if known else None, tuple(_notes(entry))))
    if troubles:
        many = "entries" if len(troubles) > 1 else "entry"
        raise UserError("\n".join([f"{len(troubles)} {many} cannot be taken over, so nothing was written.", *troubles]))
    return lines


def write(lines: Sequence[Line], project: Path, source: str) -> str:
    """The text of the file; ``source`` names what was imported."""
    head = [
        f"# Imported from {clean(source)} by `aae import-beat`. Apply it, as often as you like, with",
        "# `aae deploy`.",
        "",
        _head(project),
        "",
        "deployments:",
    ]
    return "\n".join([*head, "\n\n".join(_deployment(line) for line in lines), ""])


def _head(project: Path) -> str:
    text = (project / "prefect.yaml").read_text(encoding="utf-8")
    begin, _, _ = text.partition("\ndeployments:")
    return begin[begin.index("name:") :].strip()


def _check(entry: Entry, known: Job | None, project: Path) -> None:
    if not _function(entry.task).isidentifier():
        raise UserError(f"its task {clean(entry.task)!r} is not called like a function")
    if entry.args:
        raise UserError("it has args: a flow's parameters have names, so write them as kwargs")
    if "{{" in json.dumps([entry.name, entry.kwargs, entry.options]):
        raise UserError("it holds {{, which Prefect would take for a template")
    unknown = sorted(set(entry.options) - {"queue", *_LEFT_OUT})
    if unknown:
        raise UserError(f"its option {clean(unknown[0])} has no counterpart here: remove it")
    queue = entry.options.get("queue", "")
    if not isinstance(queue, str) or (queue and not re.fullmatch(r"[\w.-]+", queue)):
        raise UserError("the name of its queue may hold letters, digits, dots, dashes and underscores only")
    if known is None:
        bad = next((name for name in entry.kwargs if not name.isidentifier()), None)
        if bad is not None:
            raise UserError(f"its kwarg {clean(bad)!r} cannot be a parameter's name")
        return
    takes = _parameters(project, known.entrypoint)
    for name in entry.kwargs:
        if name not in takes:
            raise UserError(f"{known.entrypoint} has no parameter {clean(name)}; it has {', '.join(takes)}")


def _parameters(project: Path, entrypoint: str) -> list[str]:
    """The names of a flow's parameters, read without importing it."""
    file, _, function = entrypoint.rpartition(":")
    tree = ast.parse((project / file).read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    found = next(node for node in tree.body if isinstance(node, kinds) and node.name == function)
    return [one.arg for one in [*found.args.args, *found.args.kwonlyargs]]


def _notes(entry: Entry) -> list[str]:
    notes = [f"option {name} is not needed: {_LEFT_OUT[name]}" for name in entry.options if name in _LEFT_OUT]
    timing = entry.timing
    if timing.cron is None:
        notes.append("an interval, which cron cannot say: counted from midnight UTC, 2020-01-01")
        if timing.seconds and timing.seconds < 60:
            notes.append("each run is a process of its own, which takes seconds to begin")
    elif timing.timezone != "UTC":
        notes.append("where clocks change, an hour of this zone is skipped or comes twice; UTC has no such days")
    if not timing.day_or:
        notes.append("both days must match, as in Celery; cron alone would take either")
    return notes


def _deployment(line: Line) -> str:
    entry, timing = line.entry, line.entry.timing
    texts = [f"  # {clean(entry.name)}: {clean(entry.task)} in Celery", *(f"  # ({note})" for note in line.notes)]
    if line.entrypoint is None:
        texts.append(
            "  # TO DO by hand: this task has no flow here yet; write one, and name its file and function below."
        )
    texts += [
        f"  - name: {_yaml(line.name)}",
        f"    entrypoint: {line.entrypoint or f'{PLACEHOLDER}:{line.function}'}",
    ]
    if entry.kwargs:
        texts.append(f"    parameters: {_yaml(dict(entry.kwargs))}")
    texts += ["    schedules:", f"      - slug: {_yaml(line.name)}"]
    if timing.cron is not None:
        texts += [f'        cron: "{timing.cron}" # {timing}', f"        timezone: {timing.timezone}"]
        texts += [] if timing.day_or else ["        day_or: false # day of month and day of week must both match"]
    else:
        texts.append(f"        interval: {timing.seconds:g} # {timing}")
        texts.append('        anchor_date: "2020-01-01T00:00:00+00:00"')
    texts.append("        active: true")
    queue = entry.options.get("queue")
    if queue:
        texts += ["    work_pool:", "      <<: *pool", f"      work_queue_name: {_yaml(queue)}"]
    else:
        texts.append("    work_pool: *pool")
    return "\n".join(texts)


def _yaml(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=False, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _function(task: str) -> str:
    """Celery's name of a task as a function's: its last part, without what a function's name cannot hold."""
    return re.sub(r"\W+", "_", task.rpartition(".")[2])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100] or "unnamed"


def _unused(name: str, lines: Sequence[Line]) -> str:
    taken = {line.name for line in lines}
    number = 2
    found = name
    while found in taken:
        found = f"{name}-{number}"
        number += 1
    return found
