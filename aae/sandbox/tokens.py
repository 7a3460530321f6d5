"""Tokens that carry their own truth: who, which kind, until when, signed with a key made from the seed.

So a sandbox that is started again accepts what it gave out before, and needs no file for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a token is good for."""

    META = "m"
    TIKTOK = "t"
    TIKTOK_USER = "u"
    TIKTOK_USER_REFRESH = "v"
    GOOGLE_ACCESS = "g"
    GOOGLE_REFRESH = "r"


_PREFIX: Final = {
    Kind.META: "EAAB",
    Kind.TIKTOK: "8f3c",
    Kind.TIKTOK_USER: "act.",
    Kind.TIKTOK_USER_REFRESH: "rft.",
    Kind.GOOGLE_ACCESS: "ya29.",
    Kind.GOOGLE_REFRESH: "1//0",
}


@dataclass(frozen=True, slots=True)
class Grant:
    """The content of a token.

    ``user`` is an index into the world's users; ``expires`` epoch seconds, 0 for never; ``generation`` counts the
    times the user has connected the account, so that revoking kills older tokens only; ``serial`` tells apart
    tokens of one generation (the moment of issue, or the count of rotations).
    """

    kind: Kind
    user: int
    expires: int
    generation: int = 0
    serial: int = 0


class Mint:
    """Issues and reads tokens."""

    def __init__(self, seed: int) -> None:
        self._key = hashlib.sha256(f"sandbox tokens {seed}".encode()).digest()

    def issue(self, grant: Grant) -> str:
        """The token of a grant: always the same for the same grant."""
        body = f"{grant.kind}.{grant.user}.{grant.expires}.{grant.generation}.{grant.serial}".encode()
        return _PREFIX[grant.kind] + base64.urlsafe_b64encode(body + b"." + self._sign(body)).decode().rstrip("=")

    def read(self, token: str) -> Grant | None:
        """What the token grants, or None if it was not issued here."""
        for kind, prefix in _PREFIX.items():
            if token.startswith(prefix):
                grant = self._parse(token.removeprefix(prefix))
                if grant is not None and grant.kind is kind:
                    return grant
        return None

    def _parse(self, text: str) -> Grant | None:
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            return None
        body, _, signature = raw.rpartition(b".")
        if not hmac.compare_digest(signature, self._sign(body)):
            return None
        kind, user, expires, generation, serial = body.decode().split(".")
        return Grant(Kind(kind), int(user), int(expires), int(generation), int(serial))

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()[:24].encode()
