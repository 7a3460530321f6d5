"""``aae sandbox``: serves a world until interrupted; prints one line with its address when ready."""

from __future__ import annotations

import argparse
import contextlib
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from aae import logs
from aae.errors import UserError
from aae.model import Platform
from aae.sandbox.clock import Clock
from aae.sandbox.replay import last_day, replay
from aae.sandbox.server import create_app, serve
from aae.sandbox.world import World
from aae.settings import load

_LAST_PORT = 65_535


def main(arguments: list[str] | None = None) -> None:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(prog="aae sandbox", description="Serve a world until interrupted.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=7, help="the same seed makes the same world")
    parser.add_argument("--now", type=_moment, help="ISO moment the clock starts at; if not given, the real time")
    parser.add_argument("--anchor", type=_moment, help="ISO moment the world is built around; --now if not given")
    parser.add_argument("--frozen", action="store_true", help="the clock stands still until it is moved")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--days", type=int, default=60, help="days of history before the anchor")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a CSV of real data as one more account")
    parser.add_argument("--replay-platform", type=Platform, choices=list(Platform), default=Platform.META)
    parser.add_argument("--replay-year", type=int, help="the year of the file's days; needed with --replay")
    options = parser.parse_args(arguments)
    try:
        if not 0 <= options.port <= _LAST_PORT:
            raise UserError(f"--port must be a number from 0 to {_LAST_PORT}.")
        if options.replay and options.replay_year is None:
            raise UserError("--replay needs --replay-year: the year of the file's days.")
        now = options.now or _default_now(options.replay, options.replay_year)
        world = build(options.seed, now, options.anchor or now, users=options.users, days=options.days)
        if options.replay:
            world = replay(world, options.replay, options.replay_platform, year=options.replay_year)
        app = create_app(world, clock=Clock(now, frozen=options.frozen))
        with contextlib.suppress(KeyboardInterrupt):
            serve(app, port=options.port, ready=_say)
    except UserError as error:
        parser.exit(2, f"aae sandbox: {error}\n")


def _default_now(file: Path | None, year: int) -> datetime:
    """The real time; with a replay the morning after its last day, since platforms refuse what is years old."""
    if file is None:
        return datetime.now(UTC)
    return datetime.combine(last_day(file, year) + timedelta(days=1), time(9), UTC)


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
    with contextlib.suppress(UserError):  # the sandbox does without valid settings; then it speaks plain text
        logs.configure(load(), sys.stdout)
    logs.announce(f"serving at {url}" if logs.is_json() else url)


if __name__ == "__main__":
    main()
