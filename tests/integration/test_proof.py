"""Whatever happens to a platform, to the process or to the database: the tables say what the platforms said.

Each example is a story: some accounts, then fetches between which time passes and numbers change, with trouble on the
platforms and with processes that end in the middle and start over. ``make proof EXAMPLES=1000 SEED=1`` plays more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from aae.jobs.context import Context
from aae.jobs.fetch import AccountOutcome
from aae.jobs.planning import plan_backfill
from aae.model import Account, Platform, Slice
from aae.sandbox import CATALOGUE, Fault
from tests.proof.matrix import LIES
from tests.proof.stage import Mishap, Stage, staged
from tests.proof.worlds import CURRENCIES, REVISIONS, ZONES, Plot, Revision, Seat, beginning, odd_days

EXAMPLES = os.environ.get("PROOF_EXAMPLES")
proven = settings(
    max_examples=int(EXAMPLES or 8),
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

TOKEN_ENDPOINT = frozenset({"google_invalid_grant", "google_rotates"})
WAITED_FOR_REALLY = frozenset({"hang", "drip", "slow"})
VALUES = {"meta_throttled": 7, "meta_management_throttled": 7, "meta_reduce_data": 2, "clock_change": 23}


@dataclass(frozen=True)
class Trouble:
    """A fault for one fetch; a new one is made of it each time, since faults count."""

    name: str
    times: int | None
    after: int
    probability: float
    purpose: str | None

    def fault(self) -> Fault:
        path = "/token" if self.name in TOKEN_ENDPOINT else None
        purpose = None if path else self.purpose
        return Fault(
            self.name,
            path=path,
            purpose=purpose,
            times=self.times,
            after=self.after,
            probability=self.probability,
            value=VALUES.get(self.name),
        )


@dataclass(frozen=True)
class Step:
    """One fetch: how long after the one before, what has changed since, what goes wrong."""

    minutes: int
    revisions: tuple[Revision, ...]
    troubles: tuple[Trouble, ...]
    mishaps: tuple[tuple[str, int, str], ...]
    together: bool
    same_run: bool


@dataclass(frozen=True)
class Story:
    plot: Plot
    steps: tuple[Step, ...]


@st.composite
def plots(draw: st.DrawFn, most: int = 2) -> Plot:
    seats = draw(
        st.lists(
            st.builds(
                Seat,
                platform=st.sampled_from(Platform),
                currency=st.sampled_from(CURRENCIES),
                timezone=st.sampled_from(ZONES),
                seed=st.integers(0, 10**6),
                campaigns=st.integers(1, 3),
            ),
            min_size=1,
            max_size=most,
        )
    )
    zone = seats[0].timezone
    days = [day + timedelta(days=n) for day in odd_days(zone) for n in range(3)] or [date(2026, 6, 15)]
    anchor = beginning(zone, draw(st.sampled_from(days)), draw(st.integers(0, 24 * 60)))
    return Plot(anchor, tuple(seats))


troubles = st.builds(
    Trouble,
    name=st.sampled_from(sorted(set(CATALOGUE) - WAITED_FOR_REALLY)),
    times=st.sampled_from([1, 2, 5, None]),
    after=st.integers(0, 12),
    probability=st.sampled_from([1.0, 1.0, 0.4]),
    purpose=st.sampled_from([None, None, "metrics", "totals", "listing"]),
)
mishaps = st.one_of(
    st.tuples(st.just("statement"), st.integers(0, 80), st.sampled_from(["kill", "cancel", "falter"])),
    st.tuples(st.sampled_from(["request", "answer"]), st.integers(0, 15), st.sampled_from(["kill", "cancel", "jump"])),
)


def steps(troubled: bool = True) -> st.SearchStrategy[Step]:
    def up_to(most: int, what: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(what, max_size=most if troubled else 0).map(tuple)

    return st.builds(
        Step,
        minutes=st.one_of(st.integers(0, 90), st.integers(0, 36 * 60)),
        revisions=st.lists(st.builds(Revision, st.sampled_from(REVISIONS), st.integers(0, 10**6)), max_size=2).map(
            tuple
        ),
        troubles=up_to(2, troubles),
        mishaps=up_to(2, mishaps),
        together=st.booleans(),
        same_run=st.booleans(),
    )


stories = st.builds(Story, plot=plots(), steps=st.lists(steps(), min_size=1, max_size=4).map(tuple))


@pytest.fixture
def stage(engine: Engine, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    with staged(engine, redis_url, tmp_path / "state") as it:
        yield it


@given(story=stories)
@proven
def test_the_tables_say_what_the_platforms_said_through_any_trouble_and_restart(stage: Stage, story: Story) -> None:
    odd_runs = play(stage, story)

    # Somebody connects again what was paused, and a day later all is well.
    stage.faults.clear()
    stage.later(timedelta(hours=49))
    stage.connect_again()
    well(stage.fetch("well", together=True, still=True))
    for account in stage.accounts():
        assert stage.differences(account, odd_runs=odd_runs) == []
        assert stage.unsettled(account) == []
        assert stage.entities_differing(account) == []
        assert stage.stale_frames(account) == []
    exact(stage)

    # Twice is once.
    before = stage.picture()
    again = well(stage.fetch("again", still=True))
    assert sum(one.inserted + one.updated + one.deleted for one in again) == 0
    assert stage.picture() == before


def play(stage: Stage, story: Story) -> set[str]:
    """The story up to its end; the runs in which a platform lied."""
    odd_runs: set[str] = set()
    revisions: tuple[Revision, ...] = ()
    stage.begin(story.plot.world())
    for number, step in enumerate(story.steps):
        stage.later(timedelta(minutes=step.minutes))
        if step.revisions:
            revisions += step.revisions
            stage.show(story.plot.world(revisions))
        stage.faults.clear()
        stage.trouble(*(trouble.fault() for trouble in step.troubles))
        runs = [f"run-{number}" if step.same_run else f"run-{number}.{tries}" for tries in range(3)]
        if any(trouble.name in LIES for trouble in step.troubles):
            odd_runs.update(runs)
        for run, mishap in zip(runs, [*(Mishap(*one) for one in step.mishaps), None], strict=False):
            if stage.fetch(run, together=step.together, mishap=mishap) is not None:
                break
        for account in stage.accounts(statuses=None):
            assert stage.differences(account, odd_runs=odd_runs) == []
    return odd_runs


def well(outcomes: list[AccountOutcome] | None) -> list[AccountOutcome]:
    assert outcomes is not None
    assert [(one.outcome, one.owed, one.detail) for one in outcomes] == [("stored", 0, None)] * len(outcomes)
    assert {one.drift for one in outcomes} <= {0, None}
    return outcomes


def exact(stage: Stage) -> None:
    """By day, all that a platform still restates is as it tells it now."""
    now = stage.clock.now()
    for account in stage.accounts():
        since, until = account.local_day(now) - timedelta(days=27), account.local_day(now)
        said = stage.truth(account, "daily", since, until, now)
        have = {key: row for key, row in stage.stored(account, "daily").items() if key[2] >= since}
        assert have == said


@pytest.mark.parametrize("answer", range(8))
def test_a_day_that_ends_while_it_is_asked_about_is_asked_for_again(stage: Stage, answer: int) -> None:
    seat = Seat(Platform.TIKTOK, "EUR", "UTC", seed=3)
    stage.begin(Plot(beginning("UTC", date(2026, 6, 15), minutes=24 * 60 - 5), (seat,)).world())
    stage.fetch("run-0", mishap=Mishap("answer", answer, "jump"))
    stage.later(timedelta(days=1))
    well(stage.fetch("run-1", still=True))
    (account,) = stage.accounts()
    assert stage.unsettled(account) == []
    assert stage.differences(account) == []


@given(plot=plots(), revised=st.booleans(), dice=st.randoms(use_true_random=False))
@proven
def test_the_order_of_slices_and_accounts_does_not_matter(
    stage: Stage, plot: Plot, revised: bool, dice: Random
) -> None:
    def in_order(shuffled: bool) -> dict[str, list[tuple[Any, ...]]]:
        stage.begin(plot.world())
        for number in range(2 if revised else 1):
            if number:
                stage.show(plot.world([Revision("restate", 5), Revision("withdraw", 7)]))
            chosen = stage.accounts()

            def pieces(context: Context, account: Account) -> list[Slice]:
                today = account.local_day(stage.clock.now())
                planned = plan_backfill([account], context.connectors, today - timedelta(days=3), today)
                return dice.sample(planned, len(planned)) if shuffled else planned

            if shuffled:
                dice.shuffle(chosen)
            well(stage.fetch(f"run-{number}", chosen, still=True, pieces=pieces))
        return stage.picture()

    expected = in_order(shuffled=False)
    assert in_order(shuffled=True) == expected
