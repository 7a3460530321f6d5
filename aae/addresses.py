"""Which hosts are inside: this machine, its network, and the services that clouds put at link-local addresses.

An address may be written in many ways that mean the same host (``127.1``, ``0x7f000001``, ``2130706433``,
``::ffff:127.0.0.1``); all are understood as the system's own resolver understands them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from aae.errors import UserError

Resolve = Callable[[str], list[str]]

_LOCAL_NAMES: Final = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa")
_NAT64: Final = IPv6Address("64:ff9b::").packed[:12]


def is_loopback(host: str) -> bool:
    """Whether ``host``, as written in a URL, is this machine without asking any name server."""
    address = _literal(host)
    if address is None:
        name = host.rstrip(".").lower()
        return name in {"", "localhost"} or name.endswith(".localhost")
    return _innermost(address).is_loopback


def is_internal(host: str) -> bool:
    """Whether ``host`` is inside, as far as its text says: loopback, private, link-local, or a name for inside."""
    address = _literal(host)
    if address is None:
        name = host.rstrip(".").lower()
        return is_loopback(host) or "." not in name or name.endswith(_LOCAL_NAMES)
    inner = _innermost(address)
    return not inner.is_global or inner.is_multicast


def require_public(url: str, what: str, *, unless: str, resolve: Resolve | None = None) -> None:
    """Refuse an address that we are to call if it leads inside; its name is looked up, too.

    A name may lead elsewhere a moment later: whoever dials must look at the address it is connected to once more.

    Raises:
        UserError: it is no http(s) address, its name is not known, or it leads inside. ``what`` names it and ``unless``
            says what would allow it; the address is not repeated, as there may be a secret in it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise UserError(f"{what} is not an address.") from None
    # Others read these differently, so they might call another host than the one looked at here.
    crooked = any(not char.isprintable() or char in " \\" for char in url)
    if parts.scheme not in {"http", "https"} or not host or crooked:
        raise UserError(f"{what} must be a plain http:// or https:// address.")
    try:
        inside = is_internal(host) or any(map(is_internal, (resolve or _look_up)(host)))
    except (OSError, UnicodeError):
        raise UserError(f"{what} names a host that is not known here.") from None
    if inside:
        raise UserError(f"{what} leads to an internal address; if that is meant, set {unless}.")


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that ``host`` spells out, in any of the forms that connecting to it would accept."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ip_address(bare)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(bare.rstrip(".")))
    except (OSError, ValueError):
        return None


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if inner is None and address.packed[:12] in {_NAT64, bytes(12)} and int(address) > 1:
        inner = IPv4Address(address.packed[12:])
    return inner or address


def _look_up(host: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
