"""Logs of whatever we start: text for people, or one JSON object per line for machines (``AAE_LOG_FORMAT=json``).

A line of JSON has ``ts`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, and, where they are known, ``run_id``,
``job``, ``attempt``, ``task`` and ``account``; an ``exception`` has ``type``, ``message`` and ``traceback``. It is
ASCII and one line whatever somebody else wrote into it. No line of either kind holds a secret that this process knows,
or something that looks like one.

Prefect's own processes (server, worker) write the same with :func:`prefect_variables` in their environment; the process
of a run gets :func:`configure` before Prefect is loaded, which then leaves the root logger alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from aae.settings import Settings

LONGEST: Final = 8000
"""Characters of a message or a traceback; collectors cut lines of more than 16 KiB into pieces."""

_OURS: Final = ("aae", "tasks", "flows", "deployments")
# Prefect's names for what we call otherwise.
_FROM_RECORD: Final = {"flow_run_id": "run_id", "flow_name": "job", "task_run_name": "task"}
_UNKNOWN: Final = "<unknown>"

_SHORTEST_SECRET: Final = 5
_LABELLED: Final = re.compile(
    r"""(?ix)
    ( (?: access|refresh|developer|id|bearer|auth|api|app|client|secret|session|private|encryption)?[-_ ]?
      (?: token|secret|password|passwd|pwd|api[-_ ]?keys?|encryption[-_ ]?keys?) ["']? \s* [=:] \s* ["']?
    | authorization ["']? \s* [=:] \s* ["']? (?: (?: bearer|basic) \s+ )?
    | \b (?: bearer|basic) \s+ (?= [\w.+/=~-]{8} )
    ) [^\s"'&,;)}\]]+
    """
)
_USERINFO: Final = re.compile(
    r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@]*):[^\s/@]*(?:@(?=[^\s/@]*@)[^\s/@]*)*@", re.IGNORECASE
)
# A Meta, a Google and a JSON web token; any long word with digits, small and capital letters, but for paths.
_OPAQUE: Final = re.compile(
    r"\bEAA[A-Za-z0-9]{20,}|\bya29\.[\w.-]{10,}|\b1//[\w-]{20,}|\beyJ[\w-]{5,}(?:\.[\w-]+)*"
    r"|(?<![\w/.-])(?=[\w+=-]*\d)(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])[\w+=-]{32,}(?![\w/.-])"
)

_process: dict[str, Any] = {}
_context: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


class _State:
    json = False
    stream: TextIO | None = None
    secrets: tuple[str, ...] | None = None


def configure(settings: Settings, stream: TextIO) -> None:
    """Write the logs of this process to ``stream`` as the settings say, from ``settings.log_level`` on for our own."""
    _State.json = settings.log_format == "json"
    _State.stream = stream
    _State.secrets = _secrets_of(settings)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if _State.json else _TextFormatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_levels(settings)
    if _State.json:
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


def set_levels(settings: Settings) -> None:
    """Our own loggers speak from ``settings.log_level`` on, whoever writes what they say."""
    for name in _OURS:
        logging.getLogger(name).setLevel(settings.log_level.upper())


def is_json() -> bool:
    """Whether this process writes its logs as JSON."""
    return _State.json


def announce(text: str, level: int = logging.INFO) -> None:
    """Say something that is to be read whatever the level: a line of JSON, or the text as it is."""
    record = logging.LogRecord("aae", level, "", 0, text, None, None)
    line = JsonFormatter().format(record) if _State.json else redact(text)
    stream = _State.stream or sys.stdout
    with suppress(OSError, ValueError):  # nobody reads it any more
        stream.write(f"{line}\n")
        stream.flush()


def bind(**fields: Any) -> None:
    """From here on every line of this process has these fields."""
    _process.update(fields)


def fields() -> dict[str, Any]:
    """What every line has at this point."""
    return {**_process, **_context.get()}


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Within this block, also in what it awaits and in threads it calls, every line has these fields."""
    mark = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(mark)


def prefect_variables(settings: Settings) -> dict[str, str]:
    """What makes Prefect's own processes log as the settings say, for their environment."""
    level = {} if settings.log_level == "info" else {"PREFECT_LOGGING_LEVEL": settings.log_level.upper()}
    if settings.log_format == "text":
        return level
    return {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "aae.logs.ConsoleHandler",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
        "PREFECT_LOGGING_HANDLERS_DEBUG_FORMATTER": "json",
        "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": "aae.logs.JsonFormatter",
        **level,
    }


class JsonFormatter(logging.Formatter):
    """One JSON object per record. Takes and ignores what a logging configuration gives a formatter."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _fit(_message(record)),
        }
        known = {ours: getattr(record, theirs, None) for theirs, ours in _FROM_RECORD.items()}
        for name, value in {
            **_process,
            **{k: v for k, v in known.items() if v and v != _UNKNOWN},
            **_context.get(),
        }.items():
            line[name] = value if isinstance(value, int) else redact(str(value))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = _exception(*record.exc_info)
        if record.stack_info:
            line["stack"] = _fit(record.stack_info, keep_end=True)
        return json.dumps(line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Stands in for Prefect's console handler, whose colours a line of JSON does without."""

    def __init__(self, stream: TextIO | None = None, **_: object) -> None:
        super().__init__(stream)


def redact(text: str) -> str:
    """The text without the secrets that this process knows and without what looks like one."""
    for secret in _known():
        if secret in text:
            text = text.replace(secret, "***")
    text = _USERINFO.sub(r"\1:***@", text)
    return _OPAQUE.sub("***", _LABELLED.sub(r"\1***", text))


def _known() -> tuple[str, ...]:
    """The secrets in the settings; in a process that has not read them (Prefect's own), as far as they can be read."""
    if _State.secrets is None:
        _State.secrets = ()
        from aae.errors import AaeError  # noqa: PLC0415
        from aae.settings import load  # noqa: PLC0415

        with suppress(AaeError):
            _State.secrets = _secrets_of(load())
    return _State.secrets


def _secrets_of(settings: Settings) -> tuple[str, ...]:
    """Every secret of the settings, also as a URL would write it; the longest first, so that none is left in part."""
    from pydantic import BaseModel, SecretStr  # noqa: PLC0415

    def values(part: BaseModel) -> Iterator[str]:
        for name in type(part).model_fields:
            value = getattr(part, name)
            if isinstance(value, BaseModel):
                yield from values(value)
            elif isinstance(value, SecretStr):
                yield value.get_secret_value()
            elif isinstance(value, str) and "://" in value:
                yield value

    found: set[str] = set()
    for value in values(settings):
        if "://" in value:
            found |= set(re.findall(r"://[^/?#]*?:([^/?#]*)@", value))
        else:
            # Keys are id:key, several separated by commas; a login is user:password.
            found |= {each.partition(":")[2] or each for each in value.split(",")}
    login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
    found |= {login.partition(":")[2]}
    found |= {form(each) for each in found for form in (quote, unquote)}
    return tuple(sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len, reverse=True))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format must not cost the line
        return f"{record.msg} {record.args!r}"


def _exception(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> dict[str, str]:
    told = "".join(traceback.format_exception(kind, error, trace))
    return {
        "type": kind.__name__ if kind else "None",
        "message": _fit(str(error)),
        "traceback": _fit(told, keep_end=True),
    }


def _fit(text: str, *, keep_end: bool = False) -> str:
    """Without secrets and not too long. A secret that the first cut goes through is taken away by the second."""
    text = redact(text[-2 * LONGEST :] if keep_end else text[: 2 * LONGEST])
    if len(text) <= LONGEST:
        return text
    return f"... {text[-LONGEST:]}" if keep_end else f"{text[:LONGEST]} ..."


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("aae").critical("ended by an exception that nobody caught", exc_info=(kind, error, trace))
