"""Whether a test can start a cluster here, and the reason where it cannot."""

from __future__ import annotations

import importlib.util
from typing import Final

import pytest

needs_dask: Final = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="Dask is not installed; to run this test: make dask"
)
