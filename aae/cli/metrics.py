"""Measuring it: ``aae metrics``. A watch serves the same beside its work, where AAE_METRICS__LISTEN says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from aae.cli import common
from aae.local.steps import shown

if TYPE_CHECKING:
    from aae.settings import Settings

app = typer.Typer()

_ONCE_SECONDS = 20.0
"""A person waits longer than Prometheus does."""


@app.command()
def metrics(
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once instead of serving them.")] = False,
    listen: Annotated[
        str | None, typer.Option(help="host:port to serve at; AAE_METRICS__LISTEN without it, else 127.0.0.1:9778.")
    ] = None,
) -> None:
    """Serve Prometheus metrics and health endpoints until interrupted, or print the metrics once.

    For machines without a watch: aae watch serves the same where AAE_METRICS__LISTEN says so. The paths are /metrics,
    /jobs, /worker, /healthz and /readyz. Outside loopback it wants a token, AAE_METRICS__TOKEN. See docs/metrics.md.
    """
    import signal  # noqa: PLC0415
    from contextlib import closing  # noqa: PLC0415

    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.metrics.exposition import Sources, expose, samples  # noqa: PLC0415
    from aae.operate.metrics.server import create_app, serving  # noqa: PLC0415

    settings = common.settings()
    common.enter(settings)
    token = settings.metrics.token.get_secret_value()
    with closing(Sources(settings, POOL)) as sources:
        if once:
            for reading in sources.both(_ONCE_SECONDS):
                if reading.error:
                    common.err.print(f"[yellow]aae:[/] {shown(reading.error)}", highlight=False)
            typer.echo(expose(samples(sources))[0].decode(), nl=False)
            return
        host, port = settings.metrics.at(listen or settings.metrics.listen or "127.0.0.1:9778").address
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        with serving(create_app(sources, token=token), host, port) as url:
            common.out.print(f"metrics at {url}/metrics")
            stop.wait()


def serve_metrics(settings: Settings, stop: threading.Event) -> Callable[[], None]:
    """Serve beside a watch until ``stop``; call what this returns whenever the watch has come round.

    Nothing that goes wrong here reaches the watch: an address that is taken is said and tried again.
    """
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.metrics.exposition import Sources  # noqa: PLC0415
    from aae.operate.metrics.server import Pulse, create_app, keep_serving  # noqa: PLC0415

    pulse = Pulse()
    app = create_app(
        Sources(settings, POOL), token=settings.metrics.token.get_secret_value(), lives=lambda: pulse.lives
    )
    work = threading.Thread(
        target=keep_serving, args=(app, *settings.metrics.address, stop), kwargs={"say": common.out.print}, daemon=True
    )
    work.start()
    return pulse.beat
