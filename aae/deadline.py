"""The soft time limit as a value: work asks it between two pieces and stops taking more when it has passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Deadline:
    """``seconds`` from now on the monotonic clock, which no clock change moves."""

    seconds: float
    monotonic: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started", self.monotonic())

    @property
    def passed(self) -> bool:
        """Whether it is time to keep what is done and stop."""
        return self.monotonic() - self.started >= self.seconds


NEVER = Deadline(float("inf"))
"""For work without a limit, such as a test's or a command's."""
