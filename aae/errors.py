"""Every error this project raises, grouped by what the caller should do about it.

    AaeError
    ├── UserError      a person must change something: a setting, a file, an argument (exit code 2)
    ├── Retry          a blip: try the same again soon
    │   ├── Throttled  the platform asks for patience until a known moment
    │   └── Reduce     the platform asks for less data: split the request, never repeat it unchanged
    ├── Reauthorize    the token is dead: only the account's owner can help
    ├── Skip           this item cannot be had now or ever: record why, go on with the others
    ├── Superseded     another attempt has this job now: stop, write nothing more
    └── Bug            we asked wrongly or understood wrongly: repeating will not help, a developer will

Messages are one sentence and never contain a secret.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any


class AaeError(Exception):
    """Root of everything raised on purpose.

    ``code`` is the platform's own code where there is one (for instance ``"190/463"``).
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come back from other processes whole, whatever their class asks for."""
        return _made_again, (type(self), self.args, vars(self))


class UserError(AaeError):
    """A person must change something; the message says what is wrong and what to do."""


class Retry(AaeError):
    """Transient: the same request may succeed soon."""


class Throttled(Retry):
    """The platform asks for patience.

    ``until`` is an aware UTC datetime; ``scope`` names what is blocked, for instance
    ``"meta:account:1001"`` or ``"google:developer"``.
    """

    def __init__(self, message: str, *, until: datetime, scope: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.until = until
        self.scope = scope


class Reduce(Retry):
    """The platform asks for less data in one request."""


class Reauthorize(AaeError):
    """The account's authorization is gone for good; its owner must connect it again."""


class Skip(AaeError):
    """This one item cannot be had; the rest goes on."""


class Superseded(AaeError):
    """Another attempt has this job now; whatever we would still write is no longer ours to write."""


class Bug(AaeError):
    """Our request or our understanding of the answer is wrong."""


def _made_again(kind: type[AaeError], args: tuple[Any, ...], state: dict[str, Any]) -> AaeError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error
