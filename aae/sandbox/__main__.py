"""``python -m aae.sandbox``: serves a world until interrupted; prints one line with its address when ready."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta

from aae.sandbox.clock import Clock
from aae.sandbox.server import create_app, serve
from aae.sandbox.world import World


def main(arguments: list[str] | None = None) -> None:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(prog="python -m aae.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=7, help="the same seed makes the same world")
    parser.add_argument("--now", type=_moment, help="ISO moment the clock starts at; the real time if not given")
    parser.add_argument("--anchor", type=_moment, help="ISO moment the world is built around; --now if not given")
    parser.add_argument("--frozen", action="store_true", help="the clock stands still until it is moved")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--days", type=int, default=60, help="days of history before the anchor")
    options = parser.parse_args(arguments)
    now = options.now or datetime.now(UTC)
    world = build(options.seed, now, options.anchor or now, users=options.users, days=options.days)
    app = create_app(world, clock=Clock(now, frozen=options.frozen))
    serve(app, port=options.port, ready=_say)


def build(seed: int, now: datetime, anchor: datetime, *, users: int, days: int) -> World:
    """A world around ``anchor`` that goes on for 30 days after ``now``.

    Start a sandbox again with the anchor of its first start, and it has the same past.
    """
    ahead = max(0, (now - anchor) // timedelta(days=1)) + 30
    return World.generate(seed, anchor, days=days, ahead=ahead, users=users)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _say(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
