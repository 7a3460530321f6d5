"""The exporter: health endpoints for people's and machines' monitors, metrics for Prometheus, over HTTP.

``/healthz`` and ``/readyz`` say nothing but well or not to whoever asks, as probes need it. The others want the token,
if one is set. No answer takes longer than two seconds, and none ever waits for the process that it is served from.
"""

from __future__ import annotations

import hmac
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aae.errors import UserError
from aae.operate.metrics import catalogue
from aae.operate.metrics.exposition import WITHIN_SECONDS, Sources, expose, samples
from aae.operate.metrics.runs import JobHealth

STUCK_SECONDS: Final = 180.0
"""A watch that has not come round for so long does not live: each of its looks is limited to a fraction of this."""

_AGAIN_SECONDS: Final = 5.0
_AT_ONCE: Final = 32
_NO_STORE: Final = {"Cache-Control": "no-store"}


class Pulse:
    """When the process that serves came round last. ``beat`` is called by its main loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._at = monotonic()

    def beat(self) -> None:
        """It came round."""
        self._at = self._monotonic()

    @property
    def lives(self) -> bool:
        """Whether that was lately."""
        return self._monotonic() - self._at < STUCK_SECONDS


def create_app(sources: Sources, *, token: str = "", lives: Callable[[], bool] = lambda: True) -> Starlette:
    """The exporter as an ASGI app. ``token`` is what a bearer must show, if it is not empty; ``lives`` says healthy."""
    answers = _Answers(sources, f"Bearer {token}".encode() if token else b"", lives)
    return Starlette(
        routes=[
            Route("/healthz", answers.healthz),
            Route("/readyz", answers.readyz),
            Route("/jobs", answers.guarded(answers.jobs)),
            Route("/worker", answers.guarded(answers.worker)),
            Route("/metrics", answers.guarded(answers.metrics)),
        ]
    )


class _Answers:
    """One method per path. They are plain functions, so they run in threads: one that waits delays no other."""

    def __init__(self, sources: Sources, wanted: bytes, lives: Callable[[], bool]) -> None:
        self._sources = sources
        self._wanted = wanted
        self._lives = lives

    def healthz(self, _request: Request) -> Response:
        well = self._lives()
        return _json({"ok": well}, well)

    def readyz(self, _request: Request) -> Response:
        stored, prefect = self._sources.both()
        watched = any(one.metric is catalogue.WATCHED and one.value for one in stored.value or ())
        parts = {"tables": stored.error is None, "prefect": prefect.error is None, "watch": watched}
        well = all(parts.values())
        return _json({"ok": well, **parts}, well)

    def jobs(self, _request: Request) -> Response:
        prefect = self._sources.prefect.reading(WITHIN_SECONDS)
        if prefect.value is None:
            return _json({"ok": False, "error": f"Prefect: {prefect.error}"}, False)
        told = [_job(one) for one in prefect.value.jobs]
        well = bool(told) and all(one["ok"] for one in told)
        error = None if told else "No job is deployed to the work pool: aae deploy"
        return _json({"ok": well, "error": error, "jobs": told}, well)

    def worker(self, _request: Request) -> Response:
        prefect = self._sources.prefect.reading(WITHIN_SECONDS)
        if prefect.value is None:
            return _json({"ok": False, "error": f"Prefect: {prefect.error}"}, False)
        sight = prefect.value
        every = [{"name": one.name, "online": one.online, "heartbeat": _moment(one.heartbeat)} for one in sight.workers]
        well = bool(sight.online)
        answer = {"ok": well, "pool": sight.pool, "exists": sight.exists, "paused": sight.paused}
        return _json({**answer, "online": len(sight.online), "workers": every}, well)

    def metrics(self, request: Request) -> Response:
        text, content_type = expose(samples(self._sources), request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type, **_NO_STORE})

    def guarded(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """The same for those who show the token."""

        def guard(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode("utf-8", "replace")
            if self._wanted and not hmac.compare_digest(given, self._wanted):
                told = {"ok": False, "error": "Send the token: Authorization: Bearer ..."}
                return JSONResponse(told, 401, {"WWW-Authenticate": "Bearer", **_NO_STORE})
            return answer(request)

        return guard


def _json(answer: dict[str, Any], well: bool) -> Response:
    return JSONResponse(answer, 200 if well else 503, _NO_STORE)


def _job(job: JobHealth) -> dict[str, Any]:
    return {
        "name": job.name,
        "ok": job.well,
        "overdue": job.overdue,
        "failed": job.failed,
        "paused": job.paused,
        "last_success": _moment(job.last_success),
        "last_failure": _moment(job.last_failure),
        "running_since": _moment(job.running_since),
        "due": _moment(job.due),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


@contextmanager
def serving(app: Starlette, host: str, port: int) -> Iterator[str]:
    """Serve ``app`` from a thread while the block runs; yields its URL. Port 0 takes a free one.

    Raises:
        UserError: the address cannot be had.
    """
    with _listener(host, port) as listener:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=_AT_ONCE,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="metrics-server", daemon=True)
        thread.start()
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(timeout=5)


def keep_serving(app: Starlette, host: str, port: int, stop: threading.Event, *, say: Callable[[str], None]) -> None:
    """Serve until ``stop``. An address that is taken (by another watch, or one that is just ending) is waited for."""
    told = False
    while not stop.is_set():
        try:
            with serving(app, host, port) as url:
                say(f"metrics at {url}/metrics")
                stop.wait()
        except UserError as error:
            if not told:
                say(f"{error} It is tried again.")
            told = True
            stop.wait(_AGAIN_SECONDS)


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"There is no address {host!r} to serve metrics at ({error.strerror}).") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Whoever has read the address may connect at once.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"Metrics cannot be served at {host}:{port} ({error.strerror}).") from None
    return listener
