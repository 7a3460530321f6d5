"""What a step's guarantees come to on a real Prefect server: retries by meaning, both time limits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect import State, Task, flow

from aae.errors import AaeError, Bug, Reauthorize, Retry, Skip, Throttled, UserError
from tasks import limits
from tasks.limits import Incomplete, deadline, place, settled, step


def quick(task: Task[..., Any], **more: Any) -> Task[..., Any]:
    """The same step without the waiting."""
    return task.with_options(retry_delay_seconds=0, **more)


async def run(task: Task[..., Any]) -> State[Any]:
    """The state that the step ends in, seen from its flow."""
    seen: list[State[Any]] = []

    @flow(name="a-flow")
    async def around() -> None:
        seen.append(await settled(task(return_state=True)))

    await around()
    return seen[0]


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (Retry("a blip"), 4),
        (Throttled("patience", until=datetime(2026, 1, 1, tzinfo=UTC), scope="meta:app"), 4),
        (RuntimeError("nobody thought of this"), 4),
        (Reauthorize("dead"), 1),
        (Skip("gone"), 1),
        (Bug("ours"), 1),
        (UserError("theirs"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_what_repeating_can_mend_is_tried_four_times_and_the_rest_once(error: AaeError, tries: int) -> None:
    calls = []

    @step(name="failing", description="Fails.")
    async def failing() -> None:
        calls.append(1)
        raise error

    state = await run(quick(failing))
    assert state.is_failed()
    assert len(calls) == tries


@pytest.mark.parametrize(("retry", "tries"), [(True, 4), (False, 1)])
async def test_a_step_that_did_a_part_is_tried_again_if_it_says_so_and_the_part_reaches_the_flow(
    retry: bool, tries: int
) -> None:
    calls = []

    @step(name="partial", description="Does half.")
    async def partial() -> None:
        calls.append(1)
        raise Incomplete("half is owed", outcome={"rows": 5}, retry=retry)

    state = await run(quick(partial))
    error = await state.aresult(raise_on_failure=False)
    assert (len(calls), state.is_failed(), error.outcome) == (tries, True, {"rows": 5})


async def test_a_waiting_attempt_is_cut_at_the_hard_limit_and_tried_again() -> None:
    calls = []

    @step(name="hanging", description="Waits for ever.")
    async def hanging() -> str:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(60)
        return "done"

    state = await run(quick(hanging, timeout_seconds=0.2))
    assert (len(calls), await state.aresult()) == (2, "done")


async def test_each_attempt_has_its_own_soft_limit_and_none_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIMITS", limits.LIMITS.model_copy(update={"soft_seconds": 0.05}))
    seen = []

    @step(name="asking", description="Asks for its deadline.")
    async def asking() -> None:
        seen.append(deadline().passed)
        await asyncio.sleep(0.1)
        seen.append(deadline().passed)
        if len(seen) == 2:
            raise Retry("once more")

    state = await run(quick(asking))
    assert state.is_completed()
    assert seen == [False, True, False, True]
    assert not deadline().passed


async def test_a_step_that_fails_again_and_again_does_not_keep_the_others_waiting() -> None:
    order = []

    @step(name="bad", description="Always fails.")
    async def bad() -> None:
        order.append("bad")
        raise Retry("down")

    @step(name="good", description="Works.")
    async def good() -> None:
        order.append("good")

    @flow(name="one-place")
    async def around() -> None:
        gate = asyncio.Semaphore(1)

        async def one(task: Task[..., Any]) -> None:
            async with place(gate):
                await settled(task(return_state=True))

        await asyncio.gather(one(bad.with_options(retry_delay_seconds=1, retries=1)), one(good))

    await around()
    assert order == ["bad", "good", "bad"]
