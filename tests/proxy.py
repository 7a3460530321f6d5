"""A TCP proxy in front of a MySQL or MariaDB server that misbehaves on demand.

    with Proxy(3307) as proxy:
        engine = connect(f"mysql+pymysql://root@127.0.0.1:{proxy.port}/aae")
        proxy.cut_at_commit(before=False)    # the next commit happens, its answer is lost
        proxy.at_commits(cycle(["cut before", "pass"]))    # every transaction has to be made twice
        proxy.at_commits([server.kill])      # something else happens at the next commit
        proxy.cut()                          # every connection is cut now
        with proxy.held():                   # nothing gets through, nothing is cut
            ...
        with proxy.refusing():               # as if no server were there
            ...

Everything may be called from any thread, at any time. The connections must not be encrypted: commits are recognized.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import Literal, Self

Order = Literal["pass", "cut before", "cut after"] | Callable[[], object]
"""What is to happen at a commit."""

_CHUNK = 65_536
_COM_QUERY = b"\x03"
_WRITES = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"REPLACE"})
# Closing with this sends a reset, as a connection that a firewall or a dying machine drops.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards ``port`` on loopback to a server's port while the ``with`` block runs.

    ``commits`` counts the transactions with writes that clients have wanted to commit, ``cuts`` the connections that
    were cut at one of these.
    """

    def __init__(self, target_port: int, *, target_host: str = "127.0.0.1", port: int = 0) -> None:
        self.commits = 0
        self.cuts = 0
        self._target = (target_host, target_port)
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._orders: Iterator[Order] = iter(())
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener: socket.socket | None = _listen(port)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        if self._listener is not None:
            self._accept_from(self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._flowing.set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> int:
        """Cut every connection, in the middle of whatever it does; returns how many there were."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()
        return len(pairs)

    def cut_at_commit(self, *, before: bool, skip: int = 0, times: int = 1) -> None:
        """Cut the connections of the next ``times`` commits of writes after ``skip`` more have passed.

        ``before``: the server never hears of the commit and takes the transaction back; otherwise it has committed and
        the client does not learn of it. Replaces what was ordered before.
        """
        cut: Order = "cut before" if before else "cut after"
        self.at_commits(chain(repeat("pass", skip), repeat(cut, times)))

    def at_commits(self, orders: Iterable[Order]) -> None:
        """What is to happen at the next commits of writes, one order for each; a function is called before it is
        forwarded. After the last one they pass. Replaces what was ordered before."""
        with self._lock:
            self._orders = iter(orders)

    def hold(self) -> None:
        """Let nothing through until :meth:`release`; nothing is lost."""
        self._flowing.clear()

    def release(self) -> None:
        """Let everything through again, what was held back first."""
        self._flowing.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """:meth:`hold` during the block."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def refuse(self) -> None:
        """Refuse new connections until :meth:`accept`; those that are open go on."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread that waits in accept
            listener.close()

    def accept(self) -> None:
        """Take new connections again, on the same port."""
        with self._lock:
            if self._listener is not None:
                return
            self._listener = _listen(self.port)
        self._accept_from(self._listener)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """As if the server were gone during the block: open connections are cut, new ones refused."""
        self.refuse()
        self.cut()
        try:
            yield
        finally:
            self.accept()

    def _accept_from(self, listener: socket.socket) -> None:
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs.add(pair)
                wanted = self._listener is listener
            if wanted:
                pair.start()
            else:
                pair.cut()

    def _next_order(self) -> Order:
        with self._lock:
            self.commits += 1
            order: Order = next(self._orders, "pass")
            self.cuts += order in {"cut before", "cut after"}
            return order

    def _gone(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)

    def _wait(self) -> None:
        self._flowing.wait()


class _Pair:
    """One client's connection and the one to the server on its behalf."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._wrote = False
        self._cut_at_answer = False
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for pump in (self._to_server, self._to_client):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def cut(self) -> None:
        self._proxy._gone(self)
        _reset(self._client)
        _reset(self._server)

    def _run(self, pump: Callable[[], None]) -> None:
        try:
            pump()
        except OSError:
            pass
        finally:
            self.cut()

    def _to_server(self) -> None:
        frames = _Frames()
        while chunk := self._client.recv(_CHUNK):
            self._proxy._wait()
            for payload in frames.feed(chunk):
                if not self._ends_a_write(payload):
                    continue
                order = self._proxy._next_order()
                if order == "cut before":
                    return
                # The client waits for the answer to this before it says anything else: the server's next words are it.
                self._cut_at_answer = order == "cut after"
                if callable(order):
                    order()
            self._server.sendall(chunk)

    def _ends_a_write(self, payload: bytes) -> bool:
        """Whether this packet commits a transaction that has written; new connections commit nothing, for instance."""
        verb = payload[1:].split(maxsplit=1)[:1] if payload[:1] == _COM_QUERY else []
        word = verb[0].upper() if verb else b""
        ends = word == b"COMMIT" and self._wrote
        self._wrote = word in _WRITES or (self._wrote and word not in {b"COMMIT", b"ROLLBACK"})
        return ends

    def _to_client(self) -> None:
        while chunk := self._server.recv(_CHUNK):
            self._proxy._wait()
            if self._cut_at_answer:
                return
            self._client.sendall(chunk)


class _Frames:
    """Cuts the client's bytes into the protocol's packets. Of long ones only the beginning is kept."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._begin = bytearray()
        self._missing = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The packets that end within ``chunk``, without their headers."""
        rest = memoryview(chunk)
        while rest:
            if self._missing == 0:
                wanted = 4 - len(self._head)
                self._head += rest[:wanted]
                rest = rest[wanted:]
                if len(self._head) < 4:
                    return
                self._missing = int.from_bytes(self._head[:3], "little")
                self._head.clear()
                self._begin.clear()
                continue
            part, rest = rest[: self._missing], rest[self._missing :]
            self._begin += part[: max(0, 64 - len(self._begin))]
            self._missing -= len(part)
            if self._missing == 0:
                yield bytes(self._begin)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        # Closing alone would not wake a thread that waits in recv.
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
