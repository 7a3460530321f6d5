"""A source that is slow, away or broken holds up nobody, and is never taken for one that is well."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from aae.errors import Retry
from aae.operate.metrics.sources import FRESH_SECONDS, KEEP_SECONDS, Source

LONG = 60.0


@dataclass
class Work:
    """Gives 1, 2, 3 ...; waits where it is held; raises what it is told to."""

    readings: int = 0
    trouble: Exception | None = None
    go: threading.Event = field(default_factory=threading.Event)
    now: float = 100.0

    def __call__(self) -> int:
        self.readings += 1
        assert self.go.wait(LONG)
        if self.trouble is not None:
            raise self.trouble
        return self.readings

    def clock(self) -> float:
        return self.now


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    made.go.set()
    yield made
    made.go.set()


@pytest.fixture
def source(work: Work) -> Source[int]:
    return Source(work, monotonic=work.clock)


def test_who_asks_soon_again_gets_the_same_reading(source: Source[int], work: Work) -> None:
    assert source.reading(LONG).value == 1
    work.now += FRESH_SECONDS - 1
    again = source.reading(LONG)
    assert (again.value, again.age) == (1, FRESH_SECONDS - 1)
    work.now += 2
    assert source.reading(LONG).value == 2


def test_many_who_ask_at_once_cost_one_reading(source: Source[int], work: Work) -> None:
    work.go.clear()
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(source.reading, LONG) for _ in range(20)]
        work.go.set()
        assert {each.result().value for each in asked} == {1}
    assert work.readings == 1


def test_one_that_does_not_answer_is_not_waited_for(source: Source[int], work: Work) -> None:
    work.go.clear()
    began = time.monotonic()
    reading = source.reading(0.2)
    assert time.monotonic() - began < 10
    assert (reading.value, reading.error) == (None, "it has not been read yet")
    assert source.reading(0).value is None
    assert work.readings == 1, "and is not asked a second time meanwhile"
    work.go.set()
    assert source.reading(LONG).value == 1


def test_while_a_new_reading_takes_long_the_last_one_counts_for_a_minute(source: Source[int], work: Work) -> None:
    assert source.reading(LONG).value == 1
    work.go.clear()
    work.now += KEEP_SECONDS - 1
    slow = source.reading(0.05)
    assert (slow.value, slow.error, slow.age) == (1, None, KEEP_SECONDS - 1)
    work.now += 2
    late = source.reading(0.05)
    assert (late.value, late.error, late.age) == (None, "it does not answer in time", None)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [(Retry("No answer."), "No answer."), (KeyError("s3cret"), "it cannot be read (KeyError)")],
)
def test_one_that_fails_is_told_at_once_without_what_foreign_errors_say(
    source: Source[int], work: Work, trouble: Exception, told: str
) -> None:
    assert source.reading(LONG).value == 1
    work.trouble = trouble
    work.now += FRESH_SECONDS + 1
    failed = source.reading(LONG)
    assert (failed.value, failed.error, failed.errors) == (None, told, 1)
    work.trouble = None
    work.now += FRESH_SECONDS + 1
    well = source.reading(LONG)
    assert (well.value, well.error, well.errors, well.age) == (3, None, 1, 0)
