"""The last resort: a process that ignores its hard limit is ended, with its stacks written down."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks.limits import Turn
from tasks.watchdog import Watchdog


def test_the_timer_follows_the_earliest_end_and_is_off_when_nothing_is_guarded() -> None:
    armed: list[float | None] = []
    dog = Watchdog(armed.append, lambda: armed.append(None))
    with dog.guard(100), dog.guard(10):
        pass
    seconds = [None if value is None else round(value) for value in armed]
    assert seconds == [100, 10, 100, None]


@pytest.mark.parametrize(
    "stuck",
    ["while True: pass", "__import__('time').sleep(60)", "sum(range(10**12))"],
    ids=["python loop", "blocking call", "C call that holds the interpreter"],
)
def test_a_process_that_cannot_be_cancelled_is_ended_and_its_stack_is_in_the_log(stuck: str) -> None:
    program = textwrap.dedent(f"""
        from tasks.watchdog import watchdog
        def the_stuck_place():
            {stuck}
        with watchdog.guard(0.3):
            the_stuck_place()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "the_stuck_place" in done.stderr


def test_a_process_that_hangs_while_it_starts_is_ended_too(tmp_path: Path) -> None:
    """``python -m tasks.launch``, with a job that keeps the interpreter as soon as it is loaded."""
    (tmp_path / "tasks").mkdir()
    source = "def the_hanging_import(): sum(range(10**12))\nthe_hanging_import()\n"
    (tmp_path / "tasks" / "process.py").write_text(source)
    program = textwrap.dedent(f"""
        import tasks
        tasks.__path__.insert(0, {str(tmp_path / "tasks")!r})
        from tasks import launch
        launch.main(limit=0.5)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "the_hanging_import" in done.stderr


def test_a_thread_stays_watched_after_nobody_waits_for_it_any_more() -> None:
    program = textwrap.dedent("""
        import asyncio, time
        from tasks import limits
        limits.LIMITS = limits.LIMITS.model_copy(update={"hard_seconds": 0.2, "grace_seconds": 0.3})
        def the_hanging_call():
            time.sleep(60)
        async def step():
            try:
                async with asyncio.timeout(0.2):
                    await limits.in_thread(the_hanging_call)
            except TimeoutError:
                print("cancelled on time", flush=True)
        asyncio.run(step())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert "cancelled on time" in done.stdout
    assert done.returncode != 0
    assert "the_hanging_call" in done.stderr


async def test_a_place_is_given_back_while_a_step_waits_for_its_next_try() -> None:
    gate = asyncio.Semaphore(1)
    turn = Turn(gate)
    await turn.take()
    await turn.take()
    assert gate.locked()
    turn.give()
    turn.give()
    await asyncio.wait_for(gate.acquire(), 1)
    assert gate.locked()
