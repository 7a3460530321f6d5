"""What can go wrong, by name. Each strikes the stage while a run is on its way, and has healed when it returns."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pymysql
import redis

from aae.errors import AaeError
from aae.operate.drain import drain, resume
from aae.operate.prefect_api import FlowRun
from tests.chaos.stage import Stage
from tests.servers import connected

Strike = Callable[[Stage, FlowRun, random.Random], None]


@dataclass(frozen=True)
class Kind:
    """``jobs``: those that it can hurt. ``injected``: the trouble is made inside the job's process."""

    name: str
    strike: Strike
    jobs: tuple[str, ...] = ("fetch", "detect", "report", "tokens")
    injected: bool = False


def kill_flow(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGKILL, *stage.at_work())


def kill_worker(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGKILL, *stage.part("worker", "start"))


def kill_worker_and_flow(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGKILL, *stage.part("worker", "start"), *stage.flows)


def kill_everything(stage: Stage, _: FlowRun, __: random.Random) -> None:
    cache = {*stage.part("valkey-server"), *stage.part("aae.sandbox")}
    stage.signal(signal.SIGKILL, *(set(_marked_of(stage)) - cache))


def downtime(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """Everything is killed, and for a while nobody starts it again."""
    kill_everything(stage, _, dice)
    time.sleep(dice.uniform(5, 20))


def kill_watch(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGKILL, *stage.part("aae", "watch"))


def kill_watch_and_flow(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGKILL, *stage.part("aae", "watch"), *stage.flows)


def term_worker(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGTERM, *stage.part("worker", "start"))


def term_group(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGTERM, *stage.part("worker", "start"), *stage.flows)


def term_flow(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGTERM, *stage.at_work())


def freeze_flow(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """Longer than it takes to be declared lost, or shorter."""
    frozen = stage.at_work()
    stage.signal(signal.SIGSTOP, *frozen)
    stage.pause(dice.choice((3.0, 12.0)))
    stage.signal(signal.SIGCONT, *frozen)


def hang_flow(stage: Stage, _: FlowRun, __: random.Random) -> None:
    """The process is in a C call that never gives the interpreter back; its own last resort has to end it."""
    stage.at_work()
    order = stage.order("hang")
    stage.pause(1)
    order.unlink(missing_ok=True)


def drain_and_resume(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """What a deploy should look like; what does not finish in time is handed over."""
    with connected(stage.stack.settings.database_url) as engine:
        drain(stage.api, engine, "aae", within=dice.choice((0.0, 3.0)), beat_seconds=1)
    stage.pause(dice.uniform(0, 3))
    resume(stage.api, "aae")


def stuck_pending(stage: Stage, run: FlowRun, _: random.Random) -> None:
    """Nobody is left who would start what the worker has just taken."""
    with suppress(TimeoutError):
        stage.until(lambda: stage.api.run(run.id).state_type != "SCHEDULED", 20, "taking the run")
    stage.signal(signal.SIGKILL, *stage.part("worker", "start"), *stage.flows)


def declared_lost(stage: Stage, run: FlowRun, _: random.Random) -> None:
    """Prefect believes that a healthy run has crashed."""
    with suppress(AaeError):
        if not stage.api.run(run.id).is_final:
            stage.api.set_state(run.id, "CRASHED", "Crashed", "The server thought so.")


def put_back_by_mistake(stage: Stage, run: FlowRun, _: random.Random) -> None:
    """A healthy run is scheduled a second time."""
    with suppress(AaeError):
        now = stage.api.run(run.id)
        if not now.is_final:
            stage.api.set_state(run.id, "SCHEDULED", "AwaitingRetry", "By mistake.", scheduled_for=now.scheduled_for)


def declared_over(stage: Stage, run: FlowRun, _: random.Random) -> None:
    """The attempt of a healthy process is taken away."""
    stage.database.do(
        "UPDATE attempts SET holding = NULL, ended_at = UTC_TIMESTAMP(6), outcome = 'lost', reason = 'by mistake' "
        f"WHERE run_id = '{run.id}' AND holding IS NOT NULL"
    )


def redis_restart(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.signal(signal.SIGKILL, *stage.part("valkey-server"))


def redis_wiped(stage: Stage, _: FlowRun, __: random.Random) -> None:
    with suppress(redis.RedisError):
        stage.redis.flushall()


def redis_full(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    with stage.redis as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        stage.pause(dice.uniform(2, 6))
        client.config_set("maxmemory", "0")


def redis_hangs(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    _freeze(stage, dice.uniform(2, 8), "valkey-server")


def mysql_restart(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    stage.database.stop(dice.choice((signal.SIGKILL, signal.SIGTERM)))
    stage.pause(dice.uniform(0, 3))
    stage.database.start()


def mysql_cut(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.proxy.cut()


def mysql_cut_before_commit(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.proxy.cut_at_commit(before=True)


def mysql_cut_after_commit(stage: Stage, _: FlowRun, __: random.Random) -> None:
    stage.proxy.cut_at_commit(before=False)


def mysql_rival_locks(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """Another session holds locks on rows that every job writes, for longer than a lock wait lasts."""
    with stage.database.session() as cursor:
        cursor.execute("SET innodb_lock_wait_timeout = 1")
        with suppress(pymysql.Error):
            cursor.execute("BEGIN")
            cursor.execute("SELECT id FROM ad_accounts FOR UPDATE")
            cursor.execute("SELECT id FROM notifications FOR UPDATE")
        stage.pause(dice.uniform(2, 5))
        cursor.execute("ROLLBACK")


def mysql_deadlock(stage: Stage, _: FlowRun, __: random.Random) -> None:
    """Another session waits for the job while the job waits for it. The server ends the one that has written less."""
    with stage.database.session() as rival, stage.database.session() as observer:
        rival.execute("CREATE DATABASE IF NOT EXISTS chaos")
        rival.execute("CREATE TABLE IF NOT EXISTS chaos.weight (id INT PRIMARY KEY)")
        with suppress(pymysql.Error):
            rival.execute("BEGIN")
            rival.execute("INSERT INTO chaos.weight SELECT seq FROM seq_1_to_5000")
            rival.execute("SELECT id FROM ad_accounts FOR UPDATE")
            rival.execute("SELECT id FROM notifications FOR UPDATE")
            end = time.monotonic() + 5
            waiting = 0
            while not waiting and time.monotonic() < end:
                # More often than every tenth of a second the server gives its old answer.
                stage.pause(0.15)
                observer.execute("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
                waiting = observer.fetchone()[0]
            rival.execute("SELECT id FROM attempts FOR UPDATE")
        rival.execute("ROLLBACK")


def mysql_disk_full(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """Nothing can be written any more until somebody makes room."""
    stage.database.fill("more")
    stage.pause(dice.uniform(1, 6))
    stage.database.do("DROP TABLE ballast.more", database=None)


def mysql_read_only(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    stage.database.do("SET GLOBAL read_only = ON", database=None)
    stage.pause(dice.uniform(1, 6))
    stage.database.do("SET GLOBAL read_only = OFF", database=None)


def server_restart(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    number = dice.choice((signal.SIGKILL, signal.SIGTERM))
    stage.signal(number, *stage.part("prefect", "server", "start"))


def server_away(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    _freeze(stage, dice.uniform(5, 20), "prefect", "server", "start")


def server_away_for_minutes(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """Longer than a job takes and than Prefect's own clients try."""
    _freeze(stage, dice.uniform(70, 130), "prefect", "server", "start")


def names_away(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """The name service is down: no server can be found."""
    order = stage.order("no-names")
    stage.pause(dice.uniform(1, 8))
    order.unlink()


def clock_jumps(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """The machine's clock is set, and set back."""
    stage.set_clock(dice.choice((-1, 1)) * dice.randint(10, 300))
    stage.pause(dice.uniform(2, 8))
    stage.set_clock(0)


def platforms_away(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    _freeze(stage, dice.uniform(1, 5), "aae.sandbox")


PLATFORM_FAULTS: Final = (
    "drop",
    "drop_midway",
    "truncated_json",
    "html",
    "empty_body",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "slow",
)
"""Of the sandbox's catalogue those that pass by themselves on every platform. What revokes a token, forbids or
throttles for minutes changes the outcome for good, and is tested on its own."""


def platform_fault(stage: Stage, _: FlowRun, dice: random.Random) -> None:
    """One of them on the next few calls."""
    stage.sandbox("POST", "faults", name=dice.choice(PLATFORM_FAULTS), times=dice.randint(1, 4))


def _freeze(stage: Stage, seconds: float, *words: str) -> None:
    frozen = stage.part(*words)
    stage.signal(signal.SIGSTOP, *frozen)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Not tended meanwhile: to ask a frozen server takes long.
        time.sleep(0.1)
    stage.signal(signal.SIGCONT, *frozen)


def _marked_of(stage: Stage) -> list[int]:
    return stage.pids("")


_EVERY: Final = (
    kill_flow,
    kill_worker,
    kill_worker_and_flow,
    kill_everything,
    downtime,
    kill_watch,
    kill_watch_and_flow,
    term_worker,
    term_group,
    term_flow,
    freeze_flow,
    stuck_pending,
    drain_and_resume,
    declared_lost,
    put_back_by_mistake,
    declared_over,
    redis_restart,
    redis_wiped,
    redis_full,
    redis_hangs,
    mysql_restart,
    mysql_cut,
    mysql_cut_before_commit,
    mysql_cut_after_commit,
    mysql_rival_locks,
    mysql_deadlock,
    mysql_disk_full,
    mysql_read_only,
    server_restart,
    server_away,
    server_away_for_minutes,
)
_INSIDE: Final = (hang_flow, names_away, clock_jumps)
_OF_PLATFORMS: Final = (platforms_away, platform_fault)

KINDS: Final = {
    kind.name: kind
    for kind in (
        *(Kind(strike.__name__, strike) for strike in _EVERY),
        *(Kind(strike.__name__, strike, injected=True) for strike in _INSIDE),
        *(Kind(strike.__name__, strike, ("fetch", "tokens")) for strike in _OF_PLATFORMS),
    )
}
