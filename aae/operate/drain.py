"""A warm shutdown before a deploy: no new runs, the running ones finish or hand over, then the worker stops.

:func:`drain` is for everything at once: it pauses the work pool. :func:`step_down` takes out one worker (``aae worker``
that is told to stop) or one machine (``aae drain --here``) while the others go on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from aae.errors import UserError
from aae.operate.leaving import leaving
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.operate.processes import is_alive, parent, process
from aae.operate.recovery import AGAIN, JOB
from aae.storage import attempts
from aae.storage.attempts import Attempt
from aae.storage.engine import reading
from aae.storage.transact import transact_unfenced

_POLL_SECONDS: Final = 0.5
_WORKER_SECONDS: Final = 30.0
_UNDER_WAY: Final = frozenset({"RUNNING", "PENDING", "CANCELLING"})


@dataclass(frozen=True, slots=True)
class AtWork:
    """A job that still runs, since when (aware UTC) and what it does."""

    job: str
    since: datetime
    doing: str


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to: runs that finished by themselves, names of runs handed over, workers stopped."""

    finished: int
    handed_over: tuple[str, ...]
    workers: int


def drain(
    api: PrefectApi,
    engine: Engine,
    pool: str,
    *,
    within: float,
    beat_seconds: float,
    stop_workers: bool = True,
    show: Callable[[Sequence[AtWork]], None] = lambda _: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Drained:
    """Pause the pool, wait ``within`` seconds for what runs, hand over the rest, stop this machine's workers.

    A run that is handed over goes on after :func:`resume`, as the same run: what it has stored is not done again, and
    it does not count as lost. ``show`` hears again and again what is still at work. May be repeated.

    Raises:
        UserError: there is no such work pool.
        Retry, Reauthorize, Bug: Prefect's API.
    """
    _set_paused(api, pool, paused=True)
    begun, seen = monotonic(), set[int]()
    while True:
        living = _living(engine)
        seen |= {one.id for one in living}
        under_way = api.runs_in(pool, _UNDER_WAY)
        if not living and not under_way:
            break
        if monotonic() - begun >= within:
            break
        show([AtWork(one.job, one.started_at, one.doing) for one in living])
        time.sleep(_POLL_SECONDS)
    _take_away(engine, living, "the work pool was drained", beat_seconds)
    handed_over = api.runs_in(pool, _UNDER_WAY)
    _put_back(api, handed_over, "Handed over by a drain; it goes on when the work pool is resumed.")
    workers = workers_here(api, pool) if stop_workers else []
    _stop(workers)
    return Drained(len(seen) - len(living), tuple(run.name for run in handed_over), len(workers))


def step_down(
    api: PrefectApi,
    engine: Engine,
    workers: Collection[int],
    *,
    state_dir: Path,
    within: float,
    beat_seconds: float,
    show: Callable[[Sequence[AtWork]], None] = lambda _: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Drained:
    """Stop these workers of this machine (process ids); the pool stays open, and other workers take what comes.

    Their runs get ``within`` seconds to finish. Those that have not are handed over: any other worker goes on with
    them at once, as the same runs. What the workers still take goes back in line (:mod:`aae.operate.leaving`).

    Raises:
        Retry, Reauthorize, Bug: Prefect's API. The workers go on then.
    """
    begun, seen = monotonic(), set[int]()
    with leaving(state_dir, [process(pid) for pid in workers]):
        while True:
            living = _living_under(engine, workers)
            seen |= {one.id for one in living}
            if not living or monotonic() - begun >= within:
                break
            show([AtWork(one.job, one.started_at, one.doing) for one in living])
            time.sleep(_POLL_SECONDS)
        _take_away(engine, living, "its worker was stopped", beat_seconds)
        runs = [api.run(one.run_id) for one in living]
        handed_over = [run for run in runs if run.state_type in _UNDER_WAY]
        _put_back(api, handed_over, "Handed over by a worker that was stopped; any other goes on with it.")
        _stop(workers)
    return Drained(len(seen) - len(living), tuple(run.name for run in handed_over), len(workers))


def workers_here(api: PrefectApi, pool: str) -> list[int]:
    """Process ids of the workers of this machine and user that serve the pool of this server."""
    return list(_workers(api, pool))


def resume(api: PrefectApi, pool: str) -> list[FlowRun]:
    """Hand out runs again; the ones that are waiting to be started.

    Raises:
        UserError, Retry, Reauthorize, Bug: as :func:`drain`.
    """
    _set_paused(api, pool, paused=False)
    waiting = api.runs_in(pool, {"SCHEDULED"})
    return [run for run in waiting if run.state_name != "Scheduled"]


def _set_paused(api: PrefectApi, pool: str, *, paused: bool) -> None:
    if api.work_pool(pool) is None:
        raise UserError(f"There is no work pool {pool!r} at {api.url}: run aae deploy.")
    api.set_pool_paused(pool, paused=paused)


def _living(engine: Engine) -> list[Attempt]:
    with reading(engine) as connection:
        return [one for one in attempts.live(connection) if one.job != JOB]


def _living_under(engine: Engine, workers: Collection[int]) -> list[Attempt]:
    return [one for one in _living(engine) if is_alive(one.process) and parent(one.pid) in workers]


def _take_away(engine: Engine, living: Sequence[Attempt], why: str, beat_seconds: float) -> None:
    """Take the job from whoever still has it; its process ends itself with the next sign of life it wants to give."""
    for one in living:
        transact_unfenced(engine, attempts.end, one.id, "handed_over", reason=why)
    _wait_until(lambda: all(is_alive(one.process) is False for one in living), 2 * beat_seconds + 1)


def _put_back(api: PrefectApi, runs: Sequence[FlowRun], told: str) -> None:
    for run in runs:
        api.set_state(run.id, "SCHEDULED", AGAIN, told, scheduled_for=run.scheduled_for)


def _stop(workers: Collection[int]) -> None:
    """Tell these processes to end, and make them if they do not."""
    known = [process(pid) for pid in workers]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in known:
            with suppress(ProcessLookupError):
                os.kill(one.pid, number)
        _wait_until(lambda: not any(is_alive(one) for one in known), _WORKER_SECONDS)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)


def _workers(api: PrefectApi, pool: str) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words, variables = (
                (entry / name).read_bytes().decode(errors="replace").split("\0") for name in ("cmdline", "environ")
            )
            server = next((each for each in variables if each.startswith("PREFECT_API_URL=")), "")
            ours = server.rstrip("/") in {"", f"PREFECT_API_URL={api.url}"}
            if entry.stat().st_uid == os.getuid() and ours and _serves(words, pool):
                yield int(entry.name)


def _serves(words: Sequence[str], pool: str) -> bool:
    """Whether a command line is that of a worker of the pool."""
    pairs = list(pairwise(words))
    named = ("--pool", pool) in pairs or ("-p", pool) in pairs or f"--pool={pool}" in words
    return ("worker", "start") in pairs and named
