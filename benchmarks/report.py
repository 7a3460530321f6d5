"""How long a daily report takes: for one user with ever more accounts, beside 10 seconds and beside itself undrawn.

Made-up accounts (the world of the tests) in three currencies. Measured in a process of its own per size, as a worker
runs it: the first report, which also starts the drawing engine, and the best of the ones after it. The parts are the
report's numbers and reasons, HTML with charts, the same HTML without charts, CSV and Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import cycle

from aae.frames import AccountFrames
from aae.reporting import IncidentNote, Report, build_report, render_csv, render_html, render_markdown
from benchmarks import bench
from benchmarks.bench import Cost
from tests.unit.detection.factory import NOW, World

REQUIRED_SECONDS = 10.0
"""The requirement for one user."""

CURRENCIES = ("EUR", "USD", "JPY")
URL = "https://ads.example"


@dataclass(frozen=True, slots=True)
class Result:
    """One size: the rows behind the report, the whole thing at first and at its best, its parts, its size."""

    accounts: int
    rows: int
    first: Cost
    whole: Cost
    undrawn: Cost
    parts: dict[str, float]
    html_kb: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    results = [
        bench.apart(write, accounts, options.campaigns, options.ads, options.seed, options.repeat)
        for accounts in options.accounts
    ]
    bench.show(
        f"\nReports on accounts of {options.campaigns * 2 * options.ads} ads each, 70 days by day; every size in a "
        f"process of its own, the best of {options.repeat} after the first.\n",
        bench.table(
            "Report: seconds for one user",
            ("accounts", "rows", "first", "again", "x limit", "undrawn", "x undrawn", "CPU s", "peak MB", "KB"),
            [
                (
                    f"{one.accounts}",
                    one.rows,
                    one.first.seconds,
                    one.whole.seconds,
                    one.first.seconds / REQUIRED_SECONDS,
                    one.undrawn.seconds,
                    one.whole.seconds / one.undrawn.seconds,
                    one.whole.cpu,
                    one.whole.peak_mb,
                    one.html_kb,
                )
                for one in results
            ],
            caption=f"The limit is {REQUIRED_SECONDS:g} s; the first above 1 x limit misses it. Undrawn: no charts.",
        ),
        bench.table(
            "Parts, in seconds",
            ("accounts", *results[0].parts),
            [(f"{one.accounts}", *one.parts.values()) for one in results],
        ),
    )
    bench.conclude(
        {
            "benchmark": "report",
            "required_seconds": REQUIRED_SECONDS,
            "sizes": [
                {
                    "accounts": one.accounts,
                    "rows": one.rows,
                    "first_seconds": one.first.seconds,
                    "seconds": one.whole.seconds,
                    "undrawn_seconds": one.undrawn.seconds,
                    "parts_seconds": one.parts,
                    "peak_mb": one.whole.peak_mb,
                    "html_kb": one.html_kb,
                }
                for one in results
            ],
        }
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--accounts", type=int, nargs="+", default=[1, 5, 20], help="sizes to run (default: 1 5 20)", metavar="N"
    )
    parser.add_argument("--campaigns", type=int, default=4, help="campaigns of each account (default: %(default)s)")
    parser.add_argument("--ads", type=int, default=3, help="ads of each of their two ad sets (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other numbers (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="the best of so many counts (default: %(default)s)")
    return parser.parse_args(arguments)


def write(accounts: int, campaigns: int, ads: int, seed: int, repeat: int) -> Result:
    """One size, in this process."""
    frames = _frames(accounts, campaigns, ads, seed)
    first = bench.measured(lambda: _whole(frames, charts=True))
    whole = bench.best_of(repeat, lambda: _whole(frames, charts=True))
    undrawn = bench.best_of(repeat, lambda: _whole(frames, charts=False))
    report = _report(frames)
    makers = {
        "numbers": lambda: len(_report(frames).sections),
        "HTML with charts": lambda: len(render_html(report, public_url=URL)),
        "HTML without": lambda: len(render_html(report, charts=False, public_url=URL)),
        "CSV": lambda: len(render_csv(report)),
        "Markdown": lambda: len(render_markdown(report)),
    }
    return Result(
        accounts=accounts,
        rows=sum(len(frame.daily) for frame in frames),
        first=first.cost,
        whole=whole.cost,
        undrawn=undrawn.cost,
        parts={name: bench.best_of(repeat, make).cost.seconds for name, make in makers.items()},
        html_kb=whole.value / 1024,
    )


def _frames(accounts: int, campaigns: int, ads: int, seed: int) -> list[AccountFrames]:
    """The accounts in turn in each of the currencies."""
    made = World(seed=seed, accounts=accounts, campaigns=campaigns, ads=ads, days=70, hourly_days=1)()
    return [
        replace(frame, account=replace(frame.account, currency=currency))
        for frame, currency in zip(made, cycle(CURRENCIES), strict=False)
    ]


def _whole(frames: Sequence[AccountFrames], *, charts: bool) -> int:
    """Everything that a user gets; the size of the page in bytes."""
    report = _report(frames)
    render_csv(report)
    render_markdown(report)
    return len(render_html(report, charts=charts, public_url=URL).encode())


def _report(frames: Sequence[AccountFrames]) -> Report:
    return build_report(user_name="Ada Winter", frames=frames, incidents=_incidents(frames), now=NOW)


def _incidents(frames: Sequence[AccountFrames]) -> list[IncidentNote]:
    """One open incident per account."""
    return [
        IncidentNote(
            metric="cpa",
            level="campaign",
            entity_name="Campaign 0",
            platform=frame.account.platform,
            severity="warning",
            state="opened",
            opened_at=NOW - timedelta(hours=5),
            cause="The conversion rate fell.",
            recommendation="Check the landing page.",
            currency=frame.account.currency,
            stake_micros=340_500_000,
        )
        for frame in frames
    ]


if __name__ == "__main__":
    main()
