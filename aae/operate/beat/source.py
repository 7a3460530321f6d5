"""Celery's beat schedule out of a Python file, a module or JSON, without running any of it.

A Celery configuration may connect to anything when it is imported. So the file is only parsed, and what is in it is
worked out as far as it is plain: numbers and sums, texts, names given further up in the file, dictionaries and lists,
``crontab(...)``, ``timedelta(...)``, ``schedule(...)``. Whatever else an entry holds is a sentence about that entry.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from aae.errors import UserError
from aae.operate.beat.crontab import Timing, from_crontab, from_seconds, from_string

_SCHEDULE_NAMES: Final = frozenset({"beat_schedule", "CELERY_BEAT_SCHEDULE", "CELERYBEAT_SCHEDULE"})
_TIMEZONE_NAMES: Final = frozenset({"timezone", "CELERY_TIMEZONE"})
_UTC_NAMES: Final = frozenset({"enable_utc", "CELERY_ENABLE_UTC"})
_MOST_BYTES: Final = 1_000_000
_MOST_VALUES: Final = 10_000
"""A range or a product of more than this is no schedule."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a beat schedule: ``task`` is Celery's name of it, ``args`` and ``kwargs`` what it is called with."""

    name: str
    task: str
    timing: Timing
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Unreadable(Exception):
    """This expression cannot be worked out without running the program; the message says which."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A schedule that was constructed: by ``crontab``, ``timedelta``, ... with these arguments."""

    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def read_beat(given: str) -> list[Entry]:
    """The entries of a beat schedule, in their order. ``given`` is a path (``.json``: JSON) or the name of a module.

    Raises:
        UserError: it cannot be read, holds no schedule, or something in it has no counterpart here: a sentence about
            each such entry.
    """
    path = _path(given)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is larger than a schedule can be.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{given} cannot be read ({type(error).__name__}).") from None
    found = _from_json(text, path) if path.suffix == ".json" else _from_python(text, path)
    if not found.entries and not found.troubles:
        raise UserError(
            f"{path} holds no beat schedule: neither beat_schedule nor CELERY_BEAT_SCHEDULE nor add_periodic_task. "
            "Name the file in which it is written down."
        )
    _refuse(path, found.troubles)
    return _entries(found, path)


def _path(given: str) -> Path:
    path = Path(given)
    if path.suffix in {".py", ".json"} or path.exists():
        return path
    # `proj.celery`, as in `celery -A proj.celery`
    module = Path(*given.split("."))
    found = next((one for one in (module.with_suffix(".py"), module / "__init__.py") if one.is_file()), None)
    if found is None:
        raise UserError(f"There is no file {given}, and no module of that name below this folder.")
    return found


def _refuse(path: Path, troubles: Sequence[str]) -> None:
    if troubles:
        many = "entries" if len(troubles) > 1 else "entry"
        lines = "\n".join(f"  {one}." for one in troubles)
        raise UserError(f"{path}: {len(troubles)} {many} cannot be taken over, so nothing was written.\n{lines}")


# What a schedule is made of


@dataclass
class _Found:
    """What a file says, not yet understood: entries by name, the time zone, and what could not be worked out."""

    entries: dict[str, Any] = field(default_factory=dict)
    timezone: Any = None
    in_utc: Any = True
    troubles: list[str] = field(default_factory=list)

    def add(self, entries: Any) -> None:
        """A whole schedule."""
        if not isinstance(entries, dict):
            raise Unreadable("it is no dictionary")
        for name, entry in entries.items():
            self.entries[str(name)] = entry


def _entries(found: _Found, path: Path) -> list[Entry]:
    timezone = "UTC" if found.timezone is None else found.timezone
    if found.timezone is None and found.in_utc is False:
        raise UserError(f"{path}: enable_utc is off and no timezone is named: say which one the crontabs mean.")
    try:
        ZoneInfo(timezone)
    except Exception:  # noqa: BLE001 - the name is anything; zoneinfo answers with half a dozen kinds
        raise UserError(f"{path}: the time zone {timezone!r} is not known: write its IANA name.") from None
    entries, troubles = [], []
    for name, given in found.entries.items():
        try:
            entries.append(_entry(name, given, timezone))
        except (UserError, Unreadable) as error:
            troubles.append(f"{name}: {error}")
    _refuse(path, troubles)
    return entries


def _entry(name: str, given: Any, timezone: str) -> Entry:
    if isinstance(given, _Broken):
        raise Unreadable(given.why)
    if not isinstance(given, dict):
        raise UserError("it is no dictionary with a task and a schedule")
    unknown = sorted(set(map(str, given)) - {"task", "schedule", "args", "kwargs", "options", "relative"})
    if unknown:
        raise UserError(f"Celery does not know {', '.join(unknown)} in an entry")
    task, kwargs, options = given.get("task"), given.get("kwargs") or {}, given.get("options") or {}
    if not isinstance(task, str) or not task:
        raise UserError("it names no task")
    if not isinstance(kwargs, dict) or not isinstance(options, dict):
        raise UserError("kwargs and options must be dictionaries")
    args = given.get("args") or ()
    if not isinstance(args, tuple | list):
        raise UserError("args must be a tuple or a list")
    if "schedule" not in given:
        raise UserError("it has no schedule")
    timing = _timing(given["schedule"], timezone)
    return Entry(name, task, timing, tuple(args), _plain(kwargs, "kwargs"), _plain(options, "options"))


def _plain(values: dict[Any, Any], what: str) -> dict[str, Any]:
    """Only what can be a parameter: text, numbers, lists and dictionaries of them."""
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise UserError(f"its {what} hold something that is not text, number, list or dictionary") from None
    return {str(name): value for name, value in values.items()}


def _timing(given: Any, timezone: str) -> Timing:
    if isinstance(given, bool):
        raise UserError(f"{given} is no schedule")
    if isinstance(given, int | float):
        return from_seconds(given)
    if isinstance(given, timedelta):
        return from_seconds(given.total_seconds())
    if not isinstance(given, _Call):
        raise UserError(f"its schedule is {_short(given)}, which is neither crontab, number of seconds nor timedelta")
    try:
        match given.function:
            case "crontab":
                kwargs = {name: value for name, value in given.kwargs.items() if name != "app"}
                return from_crontab(*given.args, **kwargs, timezone=timezone)
            case "from_string":
                return from_string(*given.args, **given.kwargs, timezone=timezone)
            case "schedule":
                return _timing(_run_every(*given.args, **given.kwargs), timezone)
            case "solar":
                raise UserError("the sun's position is nothing that Prefect knows: choose times of day")
    except TypeError:
        raise UserError(f"its {given.function}(...) has arguments that Celery does not know") from None
    raise UserError(f"its schedule is made by {given.function}(...), which is not known here")


def _run_every(run_every: Any = None, relative: bool = False, **_other: Any) -> Any:
    return run_every


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# JSON


def _from_json(text: str, path: Path) -> _Found:
    """``{"beat_schedule": {...}, "timezone": "..."}`` or only the entries.

    A schedule is a number of seconds, a crontab as text (``"0 2 * * *"``) or the arguments of ``crontab``,
    ``timedelta`` or ``schedule`` as an object (``{"minute": 0, "hour": "*/6"}``, ``{"hours": 6}``).
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({type(error).__name__}).") from None
    if not isinstance(given, dict):
        raise UserError(f"{path} holds no object with the entries of a beat schedule.")
    name = next((one for one in given if one in _SCHEDULE_NAMES), None)
    found = _Found(timezone=given.get("timezone") if name else None)
    entries = given[name] if name else given
    if not isinstance(entries, dict):
        raise UserError(f"{path}: {name} is no object.")
    for key, entry in entries.items():
        found.entries[key] = entry | {"schedule": _json_schedule(entry["schedule"])} if _has_schedule(entry) else entry
    return found


def _has_schedule(entry: Any) -> bool:
    return isinstance(entry, dict) and "schedule" in entry


def _json_schedule(given: Any) -> Any:
    if isinstance(given, str):
        return _Call("from_string", (given,), {})
    if isinstance(given, dict):
        if set(given) <= {"minute", "hour", "day_of_week", "day_of_month", "month_of_year"}:
            return _Call("crontab", (), given)
        try:
            return timedelta(**given)
        except (TypeError, OverflowError):
            return given
    return given


# Python


def _from_python(text: str, path: Path) -> _Found:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"{path} is not Python that can be read ({type(error).__name__}{where}).") from None
    found, names = _Found(), _Names()
    try:
        for node in _in_order(tree):
            _look_at(node, found, names)
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a configuration.") from None
    return found


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Every node as the file reads, also those within functions and classes."""
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _in_order(child)


def _look_at(node: ast.AST, found: _Found, names: _Names) -> None:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _assigned(target, value, found, names)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            _assigned(target, value, found, names)
        case ast.Call(func=ast.Attribute(attr="update", value=of)):
            _updated(of, node, found, names)
        case ast.Call(func=ast.Attribute(attr="add_periodic_task")):
            _periodic(node, found, names)


def _assigned(target: ast.expr, value: ast.expr, found: _Found, names: _Names) -> None:
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            _set(name, value, found, names)
            if isinstance(target, ast.Name):
                names.known[name] = value
        # app.conf["beat_schedule"] = ..., app.conf.beat_schedule["name"] = ...
        case ast.Subscript(value=of, slice=ast.Constant(value=str(name))):
            if _called(of) in _SCHEDULE_NAMES:
                found.entries[name] = names.entry(value)
            else:
                _set(name, value, found, names)


def _set(name: str, value: ast.expr, found: _Found, names: _Names) -> None:
    """A setting of Celery's, if it is one that we look for."""
    try:
        if name in _SCHEDULE_NAMES:
            found.entries.clear()
            found.add(names.schedule(value))
        elif name in _TIMEZONE_NAMES:
            found.timezone = names.value(value)
        elif name in _UTC_NAMES:
            found.in_utc = names.value(value)
    except Unreadable as error:
        found.troubles.append(f"{name}: {error}")


def _updated(of: ast.expr, call: ast.Call, found: _Found, names: _Names) -> None:
    """``app.conf.update(beat_schedule=...)``, ``app.conf.beat_schedule.update({...})``."""
    try:
        if _called(of) in _SCHEDULE_NAMES:
            for one in call.args:
                found.add(names.schedule(one))
            for keyword in call.keywords:
                found.entries[keyword.arg or ""] = names.entry(keyword.value)
            return
        for keyword in call.keywords:
            _set(keyword.arg or "", keyword.value, found, names)
        for one in call.args:
            if isinstance(one, ast.Dict):
                for key, value in zip(one.keys, one.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        _set(key.value, value, found, names)
    except Unreadable as error:
        found.troubles.append(f"beat_schedule: {error}")


def _periodic(call: ast.Call, found: _Found, names: _Names) -> None:
    """``sender.add_periodic_task(10.0, task.s(1), name="...")``."""
    given: dict[str, ast.expr] = dict(zip(("schedule", "sig", "args", "kwargs", "name"), call.args, strict=False))
    given |= {keyword.arg or "": keyword.value for keyword in call.keywords}
    name = f"add_periodic_task in line {call.lineno}"
    try:
        if "name" in given:
            name = str(names.value(given["name"]))
        found.entries[name] = names.periodic(given)
    except Unreadable as error:
        found.troubles.append(f"{name}: {error}")


def _called(node: ast.expr) -> str:
    """The last word of a dotted name; empty for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=of, attr=name):
            return f"{_dotted(of)}.{name}"
    raise Unreadable(f"in line {node.lineno}, {_source(node)} is no name")


@dataclass(frozen=True, slots=True)
class _Broken:
    """A value of an entry that cannot be worked out, and why: the other entries are still looked at."""

    why: str


_SUMS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class _Names:
    """Works out expressions, with the names that the file has given values to so far."""

    def __init__(self) -> None:
        self.known: dict[str, ast.expr] = {}
        self._depth = 0
        self._work = 0

    def schedule(self, node: ast.expr) -> dict[Any, Any]:
        """A dictionary of entries; an entry that cannot be worked out is in it as broken."""
        if isinstance(node, ast.Name) and node.id in self.known:
            node = self.known[node.id]
        match node:
            case ast.Dict(keys=keys, values=values):
                entries: dict[Any, Any] = {}
                for key, value in zip(keys, values, strict=True):
                    entries |= self.schedule(value) if key is None else {self.value(key): self.entry(value)}
                return entries
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
                return {one.arg or "": self.entry(one.value) for one in keywords}
        raise Unreadable(f"in line {node.lineno} it is {_source(node)}, which only running the program could tell")

    def entry(self, node: ast.expr) -> Any:
        """One entry of a schedule, or why it cannot be worked out."""
        try:
            return self.value(node)
        except Unreadable as error:
            return _Broken(str(error))

    def periodic(self, given: Mapping[str, ast.expr]) -> dict[str, Any]:
        """An entry made of the arguments of ``add_periodic_task``."""
        signature = given.get("sig")
        if "schedule" not in given or signature is None:
            raise Unreadable("it has no schedule or no task")
        entry: dict[str, Any] = {"schedule": self.value(given["schedule"])}
        match signature:
            case ast.Call(func=ast.Attribute(value=of, attr="s" | "si" | "signature" | "subtask"), args=args):
                entry |= {"task": _dotted(of), "args": [self.value(one) for one in args]}
                entry["kwargs"] = {one.arg or "": self.value(one.value) for one in signature.keywords}
            case _:
                entry["task"] = _dotted(signature)
        for name in ("args", "kwargs"):
            if name in given:
                entry[name] = self.value(given[name])
        known = {"schedule", "sig", "args", "kwargs", "name"}
        entry["options"] = {str(name): self.value(value) for name, value in given.items() if name not in known}
        return entry

    def value(self, node: ast.expr) -> Any:
        """What the expression is.

        Raises:
            Unreadable: only running the program could tell.
        """
        self._depth += 1
        self._work += 1
        try:
            if self._work > _MOST_VALUES * 10:
                raise Unreadable("it is too much to be a schedule")
            if self._depth > 50:
                raise Unreadable(f"in line {node.lineno} it is nested too deeply")
            return self._value(node)
        finally:
            self._depth -= 1

    def _value(self, node: ast.expr) -> Any:  # noqa: PLR0911, C901 - one case for each kind of expression
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Dict(keys=keys, values=values):
                made: dict[Any, Any] = {}
                for key, each in zip(keys, values, strict=True):
                    made |= self._unpacked(each) if key is None else {self._key(key): self.value(each)}
                return made
            case ast.List(elts=elements):
                return [self.value(one) for one in elements]
            case ast.Tuple(elts=elements):
                return tuple(self.value(one) for one in elements)
            case ast.Set(elts=elements):
                return [self.value(one) for one in elements]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._sum(node, operator.sub, 0, self.value(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
                return self._sum(node, _SUMS[type(op)], self.value(left), self.value(right))
            case ast.Name(id=name) if name in self.known:
                return self.value(self.known[name])
            case ast.Call(func=function, args=args, keywords=keywords):
                return self._call(node, _called(function), args, keywords)
        raise Unreadable(f"in line {node.lineno}, {_source(node)} can only be known by running the program")

    def _unpacked(self, node: ast.expr) -> dict[Any, Any]:
        inner = self.value(node)
        if not isinstance(inner, dict):
            raise Unreadable(f"in line {node.lineno}, {_source(node)} is no dictionary")
        return inner

    def _key(self, node: ast.expr) -> Any:
        key = self.value(node)
        if not isinstance(key, str | int | float):
            raise Unreadable(f"in line {node.lineno}, {_source(node)} is no name")
        return key

    def _sum(self, node: ast.expr, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        if not all(isinstance(one, int | float | timedelta) for one in (left, right)):
            raise Unreadable(f"in line {node.lineno}, {_source(node)} can only be known by running the program")
        try:
            return function(left, right)
        except (TypeError, ArithmeticError):
            raise Unreadable(f"in line {node.lineno}, {_source(node)} is no number") from None

    def _call(self, node: ast.expr, name: str, args: Sequence[ast.expr], keywords: Sequence[ast.keyword]) -> Any:
        if name not in {"crontab", "from_string", "timedelta", "schedule", "solar", "range", "dict", "set", "list"}:
            raise Unreadable(f"in line {node.lineno}, {_source(node)} can only be known by running the program")
        given = tuple(self.value(one) for one in args)
        named = {one.arg or "": self.value(one.value) for one in keywords}
        try:
            match name:
                case "timedelta":
                    return timedelta(*given, **named)
                case "range":
                    if len(numbers := range(*given)) > _MOST_VALUES:
                        raise Unreadable(f"in line {node.lineno}, {_source(node)} is too long")
                    return list(numbers)
                case "dict":
                    return dict(*given, **named)
                case "set" | "list":
                    return list(*given, **named)
        except (TypeError, ValueError, OverflowError):
            raise Unreadable(f"in line {node.lineno}, {_source(node)} has the wrong arguments") from None
        return _Call(name, given, named)


def _source(node: ast.expr) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
