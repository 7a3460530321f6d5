"""A sandbox: one HTTP server that speaks the wire formats of Meta, TikTok and Google, with a world to answer from.

>>> world = World.generate(7, now)
>>> with running(create_app(world, clock=Clock(now, frozen=True))) as url: ...

It depends on nothing of the project but its errors and its nouns, so that it can judge the rest.
"""

from aae.sandbox.clock import Clock
from aae.sandbox.faults import CATALOGUE, Fault, Faults
from aae.sandbox.replay import Columns, replay
from aae.sandbox.server import create_app, running, serve
from aae.sandbox.world import APP, AppCredentials, World

__all__ = [
    "APP",
    "CATALOGUE",
    "AppCredentials",
    "Clock",
    "Columns",
    "Fault",
    "Faults",
    "World",
    "create_app",
    "replay",
    "running",
    "serve",
]
