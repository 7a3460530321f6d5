"""What a piece of work takes: in a module of its own, for the peers, whose environments have nothing of ours."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work took: wall clock and our CPU in seconds, the peak memory in MB.

    Of processes that the work began and ended, the CPU is in it, and the largest one's peak.
    """

    seconds: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """What a piece of work gave, and what it took."""

    value: T
    cost: Cost


def measured(work: Callable[..., T], *arguments: Any) -> Measured[T]:
    """Do the work here and now."""
    wall, cpu = time.perf_counter(), _cpu()
    value = work(*arguments)
    return Measured(value, Cost(time.perf_counter() - wall, _cpu() - cpu, _peak_mb()))


def _cpu() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


def _peak_mb() -> float:
    """This process's own, and its largest child's; ``ru_maxrss`` alone would begin with that of who started it."""
    unit = 1024 if sys.platform == "darwin" else 1
    own, child = (
        resource.getrusage(who).ru_maxrss / 1024 / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        own = int(line.split()[1]) / 1024
    return own + child
