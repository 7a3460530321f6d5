"""Every fault of the sandbox's catalogue on every platform it can strike: what one fetch makes of it, and the next.

A fault strikes twice: *once*, at the first call for the second slice; and *lasting*, from there to the end of the run,
so that what was stored before and what is owed can both be seen. Then it is over, and the next run comes six hours
later, as scheduled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from unittest.mock import patch

from aae.jobs.fetch import AccountOutcome
from aae.model import Account, Platform
from aae.sandbox import CATALOGUE, Fault
from aae.sandbox.faults import FaultKind
from tests.proof.expected import Expected, expected
from tests.proof.stage import Stage
from tests.proof.worlds import Plot, Seat

ANCHOR: Final = datetime(2026, 11, 18, 8, 20, tzinfo=UTC)
NEXT_RUN: Final = timedelta(hours=6)

SEATS: Final = {
    Platform.META: Seat(Platform.META, "USD", "America/New_York", seed=3),
    Platform.TIKTOK: Seat(Platform.TIKTOK, "EUR", "Europe/Paris", seed=3),
    Platform.GOOGLE: Seat(Platform.GOOGLE, "JPY", "Asia/Tokyo", seed=3),
}
_FIRST_SLICE: Final = {Platform.META: 1, Platform.TIKTOK: 1, Platform.GOOGLE: 2}
"""Calls for the rows of the first slice."""

_POLLED: Final = frozenset(
    {"meta_job_failed", "meta_job_skipped", "meta_job_incomplete", "meta_job_stuck", "meta_run_not_found"}
    | {"meta_job_slow"}
)
"""Troubles of report runs, which are made when a page is too much; so it has to be too much as well."""

_TOKENS: Final = frozenset({"google_invalid_grant", "google_rotates"})
"""Troubles of the token endpoint, which is asked once the first token has ended."""

_LISTED: Final = frozenset(
    {"unlisted", "google_two_managers", "google_shared_budgets", "google_period_budgets", "google_unnamed_ads"}
    | {"tiktok_lifetime_budgets"}
)
"""Troubles of listings."""

_PAGED: Final = frozenset({"pages_overlap", "meta_next_elsewhere", "meta_page_too_large"})
"""Troubles of pages, of which such small accounts have one each; so pages have to be small too."""

UNMET: Final = frozenset({"meta_endless_token", "meta_unknown_zone", "google_no_batches"})
"""Troubles that these fetches do not come by: no token is exchanged, no account described, no stream without rows. The
connectors' own tests meet them."""

LIES: Final = frozenset(
    {"restated", "no_rows", "clock_change", "tiktok_dash_metrics", "google_large_ids", "google_removed"}
    | {"unlisted", "google_shared_budgets", "google_period_budgets", "google_unnamed_ads", "tiktok_lifetime_budgets"}
    | {"meta_windows_without_value"}
)
"""Faults in which a platform tells other things than it should, without any sign of it. The next run corrects them."""

_VALUES: Final = {"hang": 5.0, "drip": 0.1, "slow": 0.05, "meta_page_too_large": 4.0}
_ENDLESS: Final = frozenset({"hang", "drip"})
TIMEOUT_SECONDS: Final = 0.6
"""How long a fetch waits for an answer that never comes; nothing else here is really waited for."""


@dataclass(frozen=True)
class Cell:
    """A fault on a platform."""

    kind: FaultKind
    platform: Platform

    def __str__(self) -> str:
        return f"{self.kind.name} on {self.platform}"


@dataclass(frozen=True)
class Met:
    """A fetch under a fault: its outcome, class and code of its first error, and how the account got well again."""

    outcome: AccountOutcome
    kind: str | None
    code: str | None
    then: str


@dataclass(frozen=True)
class Result:
    """What came of a cell; ``problems`` is what should not have."""

    cell: Cell
    once: Met
    lasting: Met
    problems: tuple[str, ...]


def cells() -> Iterator[Cell]:
    """All there are, in the order of the catalogue."""
    for kind in CATALOGUE.values():
        for platform in kind.platforms:
            if kind.name not in UNMET:
                yield Cell(kind, platform)


@contextmanager
def _small_pages() -> Iterator[None]:
    with ExitStack() as patches:
        for name, rows in (
            *(("aae.platforms.meta.wire.LARGEST_PAGE", 8), ("aae.platforms.meta.wire.SMALLEST_PAGE", 2)),
            *(("aae.platforms.tiktok.wire.PAGE_SIZE", 8), ("aae.sandbox.google.PAGE_ROWS", 8)),
        ):
            patches.enter_context(patch(name, rows))
        yield


def play(stage: Stage, cell: Cell) -> Result:
    """The fault once, then lasting, each on empty tables."""
    once, wrong = _meet(stage, cell, times=1)
    lasting, more = _meet(stage, cell, times=None)
    found = Expected(once.outcome.outcome, lasting.outcome.outcome, lasting.kind, lasting.code, lasting.then)
    wanted = expected(cell.kind.name, cell.platform)
    unexpected = [] if found == wanted else [f"declared {wanted}, found {found}"]
    return Result(cell, once, lasting, (*unexpected, *wrong, *more))


def undisturbed(stage: Stage, platform: Platform) -> AccountOutcome:
    """The same fetch without any fault."""
    _begin(stage, platform)
    return _only(stage.fetch("run-1"))


def _meet(stage: Stage, cell: Cell, times: int | None) -> tuple[Met, list[str]]:
    account = _begin(stage, cell.platform)
    if cell.kind.name in _TOKENS:
        stage.later(timedelta(hours=1))
    stage.trouble(*_faults(cell, times))
    with _small_pages() if cell.kind.name in _PAGED else nullcontext():
        outcome = _only(stage.fetch("run-1", timeout=TIMEOUT_SECONDS if cell.kind.name in _ENDLESS else None))
    problems = [] if all(fault["struck"] for fault in stage.faults.as_list()) else ["it did not strike"]
    stage.faults.clear()
    kind, code = _first_error(stage, account, outcome)
    then = "at once" if times and outcome.outcome == "stored" and cell.kind.name not in LIES else _get_well(stage)
    problems += stage.differences(account) + stage.unsettled(account) + stage.entities_differing(account)
    return Met(outcome, kind, code, then), problems


def _begin(stage: Stage, platform: Platform) -> Account:
    stage.begin(Plot(ANCHOR, (SEATS[platform],)).world())
    (account,) = stage.accounts()
    return account


def _faults(cell: Cell, times: int | None) -> list[Fault]:
    name, value = cell.kind.name, _VALUES.get(cell.kind.name)
    if name in _TOKENS:
        return [Fault(name, path="/token", times=times, value=value)]
    if name in _POLLED:
        return [Fault("meta_reduce_data", path="act_", purpose="metrics"), Fault(name, purpose="poll", times=times)]
    if name in _LISTED:
        return [Fault(name, purpose="listing", times=times)]
    first = _FIRST_SLICE[cell.platform]
    rows = Fault(name, purpose="metrics", after=first, times=times, value=value)
    return [rows]


def _get_well(stage: Stage) -> str:
    """How the account comes to have everything: by itself in the next run, or what it takes."""
    stage.later(NEXT_RUN)
    outcomes = stage.fetch("run-2", still=True)
    assert outcomes is not None
    if [one.outcome for one in outcomes] == ["stored"]:
        return "next run"
    if not outcomes:
        stage.connect_again()
        return "connected again" if _is_well(stage) else "never"
    stage.later(timedelta(hours=48))
    return "after the pause" if _is_well(stage) else "never"


def _is_well(stage: Stage) -> bool:
    return _only(stage.fetch("run-3", still=True)).outcome == "stored"


def _only(outcomes: list[AccountOutcome] | None) -> AccountOutcome:
    assert outcomes is not None
    (one,) = outcomes
    return one


def _first_error(stage: Stage, account: Account, outcome: AccountOutcome) -> tuple[str | None, str | None]:
    """Class and code of the first slice that failed, as the log has them."""
    failed = next((row for row in stage.log(account) if row.outcome != "stored"), None)
    if failed is None:
        return None, None
    sure = {"throttled": "Throttled", "skipped": "Skip", "reauthorize": "Reauthorize"}
    return sure.get(failed.outcome, "Retry" if outcome.retry else "Bug"), failed.error_code
