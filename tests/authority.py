"""A certificate authority of the tests' own, and a TLS end in front of any server."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Certificate:
    """Where a certificate and its key lie, both PEM."""

    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context


class Authority:
    """Signs certificates; its own is ``ca``."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        own = self._build(self._name, self._key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(PEM))

    def certify(self, host: str) -> Certificate:
        """A certificate for a host name, or for an IPv4 address."""
        key = ec.generate_private_key(ec.SECP256R1())
        is_name = any(character.isalpha() for character in host)
        other = x509.DNSName(host) if is_name else x509.IPAddress(IPv4Address(host))
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        made = self._build(subject, key.public_key()).add_extension(x509.SubjectAlternativeName([other]), False)
        paths = Certificate(self._folder / f"{host}.pem", self._folder / f"{host}.key")
        paths.cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        none = serialization.NoEncryption()
        paths.key.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, none))
        return paths

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


@contextmanager
def tls_in_front_of(port: int, certificate: Certificate) -> Iterator[int]:
    """The port of a TLS end on loopback that hands on to ``port`` in clear, while the block runs."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    found: list[int] = []

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    over = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(hand_on, "127.0.0.1", 0, ssl=certificate.context())
        found.append(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)

    def run() -> None:
        loop.set_exception_handler(lambda *_: None)  # clients that refuse the certificate
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(timeout=20)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    with suppress(Exception):
        writer.close()
