"""A warm shutdown before a deploy: no new runs, the running ones finish or hand over, then the worker stops."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from aae.errors import UserError
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.operate.processes import is_alive
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
    handed_over = _hand_over(api, engine, pool, living, beat_seconds)
    workers = _stop_workers(api, pool) if stop_workers else 0
    return Drained(len(seen) - len(living), tuple(run.name for run in handed_over), workers)


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
        raise UserError(f"There is no work pool {pool!r} at {api.url}: run python -m deployments.setup.")
    api.set_pool_paused(pool, paused=paused)


def _living(engine: Engine) -> list[Attempt]:
    with reading(engine) as connection:
        return [one for one in attempts.live(connection) if one.job != JOB]


def _hand_over(
    api: PrefectApi, engine: Engine, pool: str, living: Sequence[Attempt], beat_seconds: float
) -> list[FlowRun]:
    """Take the job from whoever still has it; its process ends itself with the next sign of life it wants to give."""
    for one in living:
        transact_unfenced(engine, attempts.end, one.id, "handed_over", reason="the work pool was drained")
    _wait_for_the_end(living, 2 * beat_seconds + 1)
    runs = api.runs_in(pool, _UNDER_WAY)
    for run in runs:
        told = "Handed over by a drain; it goes on when the work pool is resumed."
        api.set_state(run.id, "SCHEDULED", AGAIN, told, scheduled_for=run.scheduled_for)
    return runs


def _wait_for_the_end(living: Sequence[Attempt], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(is_alive(one.process) is not False for one in living):
        time.sleep(0.1)


def _stop_workers(api: PrefectApi, pool: str) -> int:
    """Stop the workers of this machine and user that serve the pool of this server; how many there were."""
    pids = list(_workers(api, pool))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + _WORKER_SECONDS
        while time.monotonic() < end and set(pids) & set(_workers(api, pool)):
            time.sleep(0.1)
    return len(pids)


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
