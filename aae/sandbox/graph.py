"""What all Graph calls share: the error envelope, lists in two spellings, cursors."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson

from aae.sandbox.wire import Answer


class GraphError(Exception):
    """Leaves the handler with a Graph error envelope."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        subcode: int | None = None,
        status: int = 400,
        kind: str = "OAuthException",
        transient: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.answer = error(
            code, message, subcode=subcode, status=status, kind=kind, transient=transient, headers=headers
        )


def error(
    code: int,
    message: str,
    *,
    subcode: int | None = None,
    status: int = 400,
    kind: str = "OAuthException",
    transient: bool = False,
    headers: Mapping[str, str] | None = None,
    data: object = None,
) -> Answer:
    """A Graph error envelope; ``data`` is its ``error_data``, which comes in several forms."""
    body: dict[str, Any] = {"message": message, "type": kind, "code": code}
    if subcode is not None:
        body["error_subcode"] = subcode
    if data is not None:
        body["error_data"] = data
    body |= {"is_transient": transient, "fbtrace_id": "ASandboxTrace"}
    return Answer.of({"error": body}, status, headers)


def cursor(offset: int) -> str:
    """The cursor that stands for an offset."""
    return base64.urlsafe_b64encode(f"c{offset}".encode()).decode().rstrip("=")


def offset(cursor: str) -> int:
    """The offset of a cursor. Raises ValueError if it is none."""
    text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    if not text.startswith("c"):
        raise ValueError("not a cursor")
    return int(text[1:])


def as_list(text: str) -> list[str]:
    """A JSON array or a comma list."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return [str(item) for item in orjson.loads(text)]
    except orjson.JSONDecodeError:
        raise GraphError(100, "(#100) Invalid parameter: not a JSON array") from None


def asked_fields(params: Mapping[str, str]) -> list[str]:
    """The fields asked for."""
    return as_list(params.get("fields", ""))


def as_json(params: Mapping[str, str], name: str) -> Any:
    """A parameter that holds JSON."""
    try:
        return orjson.loads(params[name])
    except orjson.JSONDecodeError:
        raise GraphError(100, f"(#100) param {name} must be valid JSON") from None
