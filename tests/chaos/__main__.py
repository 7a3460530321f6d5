"""``make chaos ROUNDS=n SEED=s``: rounds of one random fault at a random moment of a random job.

After each round every table, report, notification and e-mail is compared with those of the undisturbed run. What is
missing is a loss, what is there twice or made up a duplicate. *Recovery* is the time from the end of the fault to the
end of the run, less nothing: what the undisturbed run would still have needed is in it.

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aae.local.steps import Steps
from aae.operate.prefect_api import FlowRun
from tasks.launch import START_SECONDS
from tests.chaos.compare import Difference, Picture, differences, picture
from tests.chaos.faults import KINDS
from tests.chaos.stage import JOBS, Stage, raised

LONGEST_SECONDS = 150.0
"""A round that has not ended by then has lost its run."""

BASELINES = {"fetch": "connected", "detect": "fetched", "tokens": "fetched", "report": "detected"}
"""Which state of the tables each job begins with."""


@dataclass(frozen=True)
class Round:
    """What was done, and what came of it. ``recovery`` in seconds; None if the run never ended."""

    number: int
    job: str
    fault: str
    moment: float
    recovery: float | None
    attempts: int
    differences: list[Difference]
    remarks: tuple[str, ...] = ()

    @property
    def lost(self) -> bool:
        return self.recovery is None or any(one.missing for one in self.differences)

    @property
    def twice(self) -> bool:
        return any(one.extra for one in self.differences)


@dataclass(frozen=True)
class Reference:
    """A job without any fault: what it leaves, how it ends and how long it takes."""

    picture: Picture
    state: str
    seconds: float


def main() -> int:
    arguments = _arguments()
    # One line per event, also where nobody looks.
    console = Console(width=200, highlight=False, force_terminal=False)
    folder = Path(tempfile.mkdtemp(prefix="aae-chaos-"))
    dice = random.Random(arguments.seed)
    rounds: list[Round] = []
    begun = time.monotonic()
    with raised(folder, Steps(console), seed=7) as stage:
        references = {job: undisturbed(stage, job, console) for job in _needed(arguments.job)}
        for number in range(1, arguments.rounds + 1):
            job, fault = _draw(dice, arguments.job, arguments.fault)
            moment = dice.uniform(0.0, 0.9) * references[job].seconds
            one = play(stage, number, job, fault, moment, references[job], random.Random(dice.random()))
            rounds.append(one)
            _tell(console, one)
            if (one.lost or one.twice) and not (folder / "kept").exists():
                shutil.copytree(stage.stack.logs_dir, folder / f"logs-of-round-{number}", dirs_exist_ok=True)
    _by_fault(console, rounds)
    summary = _summary(rounds, arguments.seed, time.monotonic() - begun)
    failed = summary["losses"] or summary["duplicates"] or summary["worst_recovery_seconds"] >= 120
    if failed or arguments.keep:
        console.print(f"logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(summary))  # noqa: T201 - the result
    return 1 if failed else 0


def undisturbed(stage: Stage, job: str, console: Console) -> Reference:
    """The job twice without any fault: the second time only to see that the comparison sees nothing."""
    pictures, seconds, state = [], [], ""
    for _ in range(2):
        stage.restore(BASELINES[job])
        run, begun = stage.start(job), time.monotonic()
        stage.until(lambda run=run: _ended(stage, run), LONGEST_SECONDS, f"the end of {job}")  # type: ignore[misc]
        seconds.append(time.monotonic() - begun)
        state = stage.api.run(run.id).state_type
        stage.until(stage.is_quiet, 90, "quiet")
        stage.let_mail_out()
        pictures.append(picture(stage))
    found = differences(*pictures)
    if found:
        raise SystemExit(f"two undisturbed runs of {job} differ, so nothing can be compared: {found}")
    if job == "fetch":
        stage.keep("fetched")
    if job == "detect":
        stage.keep("detected")
    counts = ", ".join(f"{sum(rows.values())} {name}" for name, rows in pictures[0].items() if rows)
    console.print(f"undisturbed {job}: {state}, {seconds[1]:.1f} s; {counts}")
    return Reference(pictures[0], state, min(seconds))


def play(
    stage: Stage, number: int, job: str, fault: str, moment: float, reference: Reference, dice: random.Random
) -> Round:
    """One round. Should the run end before the moment of the fault, it begins anew with an earlier moment."""
    while True:
        stage.restore(BASELINES[job])
        run = stage.start(job, injected=KINDS[fault].injected)
        stage.pause(moment)
        if not _ended(stage, run):
            break
        stage.until(stage.is_quiet, 60, "quiet")
        moment *= 0.7
    remarks: list[str] = []
    KINDS[fault].strike(stage, run, dice)
    healed = time.monotonic()
    recovery: float | None = None
    try:
        stage.until(lambda: _ended(stage, run), LONGEST_SECONDS, "the end of the run")
        recovery = time.monotonic() - healed
        # Whoever hangs as it starts is known to nobody, and is given its time to start.
        stage.until(stage.is_quiet, START_SECONDS + 30, "quiet")
        stage.let_mail_out()
        state = stage.api.run(run.id)
        if state.state_type != reference.state:
            remarks.append(f"ended {state.state_type}: {state.message}")
    except TimeoutError as error:
        remarks.append(str(error))
    stage.proxy.cut_at_commit(before=True, times=0)
    tries = stage.attempts(run)
    if sum(ended is None for _, ended, _ in tries):
        remarks.append("an attempt is still live")
    remarks += stage.events
    stage.events.clear()
    bad = [remark for remark in remarks if remark.startswith(("ended", "quiet", "the ", "an "))]
    if bad and recovery is not None and any(remark.startswith(("ended", "quiet")) for remark in bad):
        recovery = None
    return Round(
        number, job, fault, moment, recovery, len(tries), differences(reference.picture, picture(stage)), tuple(remarks)
    )


def _needed(job: str | None) -> list[str]:
    """The jobs whose undisturbed run is wanted, or makes the state that another begins with, in order."""
    makers = {"fetched": ["fetch"], "detected": ["fetch", "detect"]}
    return list(JOBS) if job is None else list(dict.fromkeys([*makers.get(BASELINES[job], []), job]))


def _ended(stage: Stage, run: FlowRun) -> bool:
    now = stage.api.run(run.id)
    return now.is_final and now.state_type != "CRASHED"


def _draw(dice: random.Random, job: str | None, fault: str | None) -> tuple[str, str]:
    kinds = [KINDS[fault]] if fault else [kind for kind in KINDS.values() if job is None or job in kind.jobs]
    kind = dice.choice(kinds)
    return job or dice.choice(kind.jobs), kind.name


def _tell(console: Console, one: Round) -> None:
    verdict = "LOST" if one.lost else "TWICE" if one.twice else "ok"
    took = "never" if one.recovery is None else f"{one.recovery:5.1f} s"
    console.print(
        f"{one.number:4d}  {one.job:<7} {one.fault:<24} at {one.moment:4.1f} s  ended after {took}  "
        f"{one.attempts} attempts  {verdict}"
    )
    for remark in one.remarks:
        console.print(f"        {remark}", markup=False)
    for difference in one.differences:
        for word, rows in (("missing", difference.missing), ("extra", difference.extra)):
            for row in rows[:3]:
                console.print(f"        {difference.table}: {word} {row}", markup=False)
            if len(rows) > 3:
                console.print(f"        {difference.table}: {word} {len(rows) - 3} more")


def _by_fault(console: Console, rounds: Sequence[Round]) -> None:
    table = Table("fault", "rounds", "run again", "losses", "duplicates", "median s", "worst s", box=None)
    for fault in sorted({one.fault for one in rounds}):
        own = [one for one in rounds if one.fault == fault]
        times = [one.recovery for one in own if one.recovery is not None] or [float("nan")]
        again = sum(one.attempts > 1 for one in own)
        lost, twice = sum(one.lost for one in own), sum(one.twice for one in own)
        seconds = (f"{statistics.median(times):.1f}", f"{max(times):.1f}")
        table.add_row(fault, *map(str, (len(own), again, lost, twice)), *seconds)
    console.print(table)


def _summary(rounds: Sequence[Round], seed: int, seconds: float) -> dict[str, object]:
    times = [one.recovery for one in rounds if one.recovery is not None] or [0.0]
    return {
        "rounds": len(rounds),
        "seed": seed,
        "faults": dict(sorted(Counter(one.fault for one in rounds).items())),
        "jobs": dict(sorted(Counter(one.job for one in rounds).items())),
        "losses": sum(one.lost for one in rounds),
        "duplicates": sum(one.twice for one in rounds),
        "median_recovery_seconds": round(statistics.median(times), 1),
        "worst_recovery_seconds": round(max(times), 1),
        "minutes": round(seconds / 60, 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="which choices; the same seed, the same rounds")
    parser.add_argument("--fault", choices=sorted(KINDS), help="only this one")
    parser.add_argument("--job", choices=sorted(JOBS), help="only this one")
    parser.add_argument("--keep", action="store_true", help="keep the logs also when all went well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
