"""The last resort: a process that ignores its hard limit is ended, with its stacks written down."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tasks.limits import Watchdog


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
        from tasks.limits import watchdog
        def the_stuck_place():
            {stuck}
        with watchdog.guard(0.3):
            the_stuck_place()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "the_stuck_place" in done.stderr
