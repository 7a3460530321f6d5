"""An answer's JSON: exact, strict and, where rows come by the million, decoded straight into the shape they have.

The platform that expects a shape declares it, field by field: a :class:`Shape`, or a list of them. Decoding makes no
``dict`` of its rows and passes over what nobody asks for. A field is ``Any`` where a reader looks at its whole column
(:class:`aae.platforms.reading.Reader`); declared is only where the rows are. Whatever has another shape, an error above
all, is decoded as it is, for the platform's judge to see.
"""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

import msgspec

Fields = dict[str, Any]
"""The shape of a JSON object that is read field by field."""


class Shape(msgspec.Struct, gc=False):
    """A JSON object of known fields. The garbage collector need not look at them: JSON has no cycles."""


def decode(body: bytes, shape: Any = None) -> tuple[Any, bool]:
    """The data of a body, in its ``shape`` if it has that; and whether it is JSON at all.

    Decimals are ``Decimal``. NaN, infinities, runaway nesting and cut bodies are not JSON.
    """
    if shape is not None:
        try:
            return _decoder(shape).decode(body), True
        except (ValueError, ArithmeticError, RecursionError):
            pass
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant), True
    except (ValueError, ArithmeticError, RecursionError):
        return None, False


def shaped(data: object, shape: Any) -> Any:
    """Data in its ``shape``, also where the decoder was too strict for it: about a broken character, say.

    Raises:
        ValueError: it has another shape; the message says where and quotes nothing.
    """
    return msgspec.convert(data, shape)


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape, float_hook=Decimal)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
