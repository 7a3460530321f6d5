"""The HTTP side: one Starlette app for all three platforms and the control API, bound to this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from aae.errors import UserError
from aae.model import Platform
from aae.sandbox import control
from aae.sandbox.clock import Clock
from aae.sandbox.faults import Faults, Stage
from aae.sandbox.google import GoogleApi, is_token_call
from aae.sandbox.meta import MetaApi
from aae.sandbox.tiktok import TikTokApi
from aae.sandbox.wire import Answer, Api, Call
from aae.sandbox.world import World

LOOPBACK = "127.0.0.1"


def create_app(world: World, *, clock: Clock | None = None, faults: Faults | None = None) -> Starlette:
    """The sandbox as an ASGI app.

    ``clock`` starts at the world's anchor and runs with real time if not given; ``faults`` are none.
    """
    bench = control.Bench(world, clock or Clock(world.anchor), faults or Faults(world.seed), Counter())
    platforms = _Platforms(bench)
    app = Starlette(routes=[Mount("/_sandbox", routes=control.routes(bench)), Route("/{path:path}", platforms)])
    app.state.bench = bench
    return app


class _Platforms:
    """Hands each request to its platform, with the trouble that strikes it."""

    def __init__(self, bench: control.Bench) -> None:
        self.bench = bench
        self.apis: dict[Platform, Api] = {
            Platform.META: MetaApi(bench.world),
            Platform.TIKTOK: TikTokApi(bench.world),
            Platform.GOOGLE: GoogleApi(bench.world),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        call = await _call(request, self.bench.clock)
        api = self.apis[_platform(call.path)]
        subject = api.subject(call)
        self.bench.calls[api.platform, subject.purpose, call.path] += 1
        faults = self.bench.faults.striking(api.platform, call.path, subject, call.now)
        call = replace(call, troubles={one.name: one.value for one in faults if one.kind.stage is Stage.SHAPE})

        transport = {one.name: one.value for one in faults if one.kind.stage is Stage.TRANSPORT}
        if "hang" in transport:
            await _disconnected(receive, transport["hang"] or 3600)
            return await _cut(receive)
        if "slow" in transport:
            await asyncio.sleep(transport["slow"] or 2)
        if "drop" in transport:
            return await _cut(receive)

        answers = (one.kind.reply(call, subject, one) for one in faults if one.kind.reply is not None)
        answer = next(answers, None) or api.answer(call)
        for one in faults:
            if one.kind.damage is not None:
                answer = one.kind.damage(answer)
        if "drop_after" in transport:
            return await _cut(receive)
        if "drop_midway" in transport:
            return await _half(answer, send)
        if "drip" in transport:
            return await _drip(answer, receive, send, transport["drip"] or 1)
        response = Response(answer.body, answer.status, dict(answer.headers), answer.media_type)
        return await response(scope, receive, send)


def _platform(path: str) -> Platform:
    """By the first segment: /open_api/..., /v26/... or /v26.0/...; anything else is the Graph's to refuse."""
    first = path.strip("/").split("/")[0]
    if first == "open_api":
        return Platform.TIKTOK
    is_google = is_token_call(path) or (first[:1] == "v" and first[1:].isdigit())
    return Platform.GOOGLE if is_google else Platform.META


async def _call(request: Request, clock: Clock) -> Call:
    return Call(
        method=request.method,
        path=request.url.path,
        query=dict(request.query_params),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await request.body(),
        base_url=f"http://{request.headers.get('host', LOOPBACK)}",
        now=clock.now(),
    )


async def _disconnected(receive: Receive, seconds: float) -> bool:
    """Waits until the client gives up, or the time is over; whether it has given up."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(gone(), seconds)
    except TimeoutError:
        return False
    return True


async def _cut(receive: Receive) -> None:
    """Closes the connection without an answer. ASGI has no word for it, so uvicorn's own transport is asked."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionAbortedError("the sandbox was told to drop this connection")
    transport.abort()
    await asyncio.sleep(0.01)  # lets uvicorn see that it is gone, so that it does not answer 500


async def _half(answer: Answer, send: Send) -> None:
    """Half of the body under the full length; uvicorn then closes the connection."""
    headers = [(b"content-type", answer.media_type.encode()), (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True})


async def _drip(answer: Answer, receive: Receive, send: Send, seconds: float) -> None:
    """The whole body, but a byte at a time, until nobody listens any more."""
    headers = [(b"content-type", answer.media_type.encode()), (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    for place in range(len(answer.body)):
        await send({"type": "http.response.body", "body": answer.body[place : place + 1], "more_body": True})
        if await _disconnected(receive, seconds):
            return
    await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def running(app: Starlette, *, port: int = 0) -> Iterator[str]:
    """Serves ``app`` from a thread while the block runs; yields its base URL. Port 0 takes a free one."""
    with _listener() as listener:
        listener.bind((LOOPBACK, port))
        server = uvicorn.Server(_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            _wait_until(lambda: server.started or not thread.is_alive())
            if not server.started:
                raise RuntimeError("the sandbox did not start")
            yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(timeout=10)


def serve(app: Starlette, *, port: int = 0, ready: Callable[[str], None] = lambda url: None) -> None:
    """Serves ``app`` until interrupted; ``ready`` is called with the base URL once the port is open.

    Raises UserError if the port cannot be had.
    """
    with _listener() as listener:
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(128)
        except OSError as error:
            raise UserError(f"The port {port} cannot be used ({error.strerror}): choose another with --port.") from None
        ready(f"http://{LOOPBACK}:{listener.getsockname()[1]}")
        uvicorn.Server(_config(app)).run(sockets=[listener])


def _listener() -> socket.socket:
    """Not bound yet. Named as TCP, since asyncio only then sends small answers at once: else each takes 40 ms more."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return listener


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="critical",
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
        server_header=False,
    )


def _wait_until(done: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)
