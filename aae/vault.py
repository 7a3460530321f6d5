"""Secrets at rest: AES-256-GCM, bound to the place they are stored at, with keys that can be rotated.

A sealed secret is ``version (1 byte) | length of key id (1) | key id | nonce (12) | ciphertext and tag``. The header
and the place (for instance ``"ad_accounts:17:access_token"``) are authenticated with it, so that a ciphertext copied
to another row or column does not open. Nonces are 96 random bits (NIST SP 800-38D, 8.2.2).
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from aae.errors import UserError
from aae.settings import Settings

_VERSION: Final = 1
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 32
_HELP: Final = "expected id:base64-of-32-bytes, several separated by commas"


class Vault:
    """Seals and opens secrets.

    ``keys`` are pairs of an id (1-32 printable ASCII characters without ``:`` and ``,``) and 32 bytes. The first one
    encrypts, all of them decrypt. Without any it opens and seals nothing, and says so when asked to.
    """

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        for name, key in keys:
            if not (1 <= len(name) <= 32 and name.isascii() and name.isprintable()) or set(name) & set(":,"):
                raise UserError(f"AAE_ENCRYPTION_KEYS has a key whose id is not usable: {_HELP}.")
            if len(key) != _KEY_BYTES:
                raise UserError(f"The key {name!r} in AAE_ENCRYPTION_KEYS has {len(key)} bytes: {_HELP}.")
        if len({name for name, _ in keys}) != len(keys):
            raise UserError("AAE_ENCRYPTION_KEYS has two keys of the same id: give each its own.")
        self._ciphers = {name: AESGCM(key) for name, key in keys}
        self._first = keys[0][0] if keys else None

    @classmethod
    def from_settings(cls, settings: Settings, *, make: bool = False) -> Vault:
        """The vault of ``settings.encryption_keys``; if empty, of the key file.

        ``make`` makes the key file if there is none: only for a database without tokens, since a new key opens none of
        those that are stored. Otherwise the vault is then without a key.

        Raises:
            UserError: the keys are malformed, or the key file cannot be read or made.
        """
        written = settings.encryption_keys.get_secret_value().strip()
        if written:
            return cls(_parse(written, "AAE_ENCRYPTION_KEYS"))
        path = settings.resolved_key_file
        try:
            if make:
                _make(path)
            return cls(_parse(path.read_text().strip(), str(path)))
        except FileNotFoundError:
            return cls([])
        except OSError as error:
            raise UserError(f"The key file {path} cannot be used: {error.strerror or 'unknown error'}.") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not a list of encryption keys: {_HELP}.") from None

    @property
    def has_key(self) -> bool:
        """Whether it can seal anything."""
        return self._first is not None

    def encrypt(self, secret: SecretStr, place: str) -> bytes:
        """Seal ``secret`` for ``place``.

        Raises:
            UserError: the vault has no key.
        """
        if self._first is None:
            raise UserError("There is no key to encrypt secrets with: set AAE_ENCRYPTION_KEYS or restore the key file.")
        header = _header(self._first)
        nonce = os.urandom(_NONCE_BYTES)
        plain = secret.get_secret_value().encode()
        return header + nonce + self._ciphers[self._first].encrypt(nonce, plain, header + place.encode())

    def decrypt(self, sealed: bytes, place: str) -> SecretStr:
        """Open what was sealed for ``place``.

        Raises:
            UserError: the key is missing or another one, or the ciphertext was altered or belongs elsewhere. The
                account whose token it is has done nothing wrong.
        """
        name, header, body = _split(sealed, place)
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise UserError(
                f"The secret at {place} is encrypted with the key {name!r}, which is not among the keys of this "
                "process: add that key to AAE_ENCRYPTION_KEYS (or restore the key file)."
            )
        try:
            plain = cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], header + place.encode())
            return SecretStr(plain.decode())
        except (InvalidTag, UnicodeDecodeError):
            raise UserError(
                f"The secret at {place} does not open with the key {name!r}: either this key differs from the one "
                "of that id it was written with, or the stored bytes were changed or moved; restore the right one."
            ) from None

    def needs_rotation(self, sealed: bytes) -> bool:
        """Whether it was sealed with another key than the one that encrypts now."""
        return self._first is None or not sealed.startswith(_header(self._first))

    def rotate(self, sealed: bytes, place: str) -> bytes:
        """The same secret, sealed with the key that encrypts now."""
        return self.encrypt(self.decrypt(sealed, place), place)


def key_id(sealed: bytes) -> str | None:
    """The id of the key that a secret was sealed with; None if it is not in this module's format."""
    try:
        return _split(sealed, "")[0]
    except UserError:
        return None


def _header(name: str) -> bytes:
    return bytes((_VERSION, len(name))) + name.encode("ascii")


def _split(sealed: bytes, place: str) -> tuple[str, bytes, bytes]:
    """Key id, header and the rest."""
    end = 2 + sealed[1] if len(sealed) > 1 else 0
    header, body = sealed[:end], sealed[end:]
    if len(body) < _NONCE_BYTES + _TAG_BYTES or header[0] != _VERSION or not header[2:].isascii():
        raise UserError(f"The secret at {place} is not in the format of this program: restore it from a backup.")
    return header[2:].decode("ascii"), header, body


def _parse(written: str, source: str) -> list[tuple[str, bytes]]:
    keys = []
    for part in written.split(","):
        name, colon, encoded = part.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not colon or len(key) != _KEY_BYTES:
            raise UserError(f"{source} is not a list of encryption keys: {_HELP}.")
        keys.append((name, key))
    return keys


def _make(path: Path) -> None:
    """Make the key file unless there is one. Of several processes doing so at once, the first one's is everybody's."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"local:{base64.b64encode(os.urandom(_KEY_BYTES)).decode()}\n")
            file.flush()
            os.fsync(file.fileno())
        # A link appears complete or not at all, and never over an existing file.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
