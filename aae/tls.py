"""Why a TLS connection was not made, in words; whatever library tried."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

_ANOTHER_HOST: Final = frozenset({62, 63, 64})
"""OpenSSL's numbers for a certificate that is for another name, e-mail or address."""


def trouble(error: BaseException) -> str | None:
    """What is wrong with the other side's certificate or TLS, as the second half of a sentence; None if nothing is.

    Libraries wrap the reason in errors of their own; it is looked for in all that led to ``error``.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _ANOTHER_HOST:
                return "its certificate is for another host name"
            return f"its certificate is not trusted here ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"it does not speak TLS as it should ({cause.reason or 'no reason given'})"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # PyMySQL and SQLAlchemy keep theirs in attributes.
        kept = (one.__cause__, one.__context__, getattr(one, "orig", None), getattr(one, "original_exception", None))
        waiting += [each for each in kept if isinstance(each, BaseException)]
