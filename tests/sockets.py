"""For tests of libraries that leave a socket to be closed by the garbage collector, which is not ours to mend."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Final

import pytest

LEAVES_SOCKETS: Final = (
    pytest.mark.filterwarnings("ignore:.*unclosed.*[sS]ocket:ResourceWarning"),
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <(socket|ssl\.SSLSocket):pytest.PytestUnraisableExceptionWarning"
    ),
)
"""A warning is an error everywhere, but the collector's about such a socket is none of the test's it comes in."""


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Import it where the marks are used: what is left is collected here, not in somebody else's test."""
    yield
    gc.collect()
