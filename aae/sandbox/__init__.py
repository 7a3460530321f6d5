"""A sandbox: one HTTP server that speaks the wire formats of Meta, TikTok and Google, with a world to answer from.

>>> world = World.generate(7, now)
>>> with running(create_app(world, clock=Clock(now, frozen=True))) as url: ...

It depends on nothing of the project but its errors and its nouns, so that it can judge the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aae.sandbox.app import APP, AppCredentials
    from aae.sandbox.clock import Clock
    from aae.sandbox.faults import CATALOGUE, Fault, Faults
    from aae.sandbox.replay import Columns
    from aae.sandbox.server import create_app, running, serve
    from aae.sandbox.world import World

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
    "running",
    "serve",
]

_HOME = {
    "app": ("APP", "AppCredentials"),
    "clock": ("Clock",),
    "faults": ("CATALOGUE", "Fault", "Faults"),
    "replay": ("Columns",),
    "server": ("create_app", "running", "serve"),
    "world": ("World",),
}


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for: the world brings numpy, and a command may only want the app's name."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"aae.sandbox.{module}"), name)
    raise AttributeError(name)
