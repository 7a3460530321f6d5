"""Names of flow runs: the job and the moment it was due, so that a list of runs reads like a calendar."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run


def run_name(job: str) -> Callable[[], str]:
    """A callable that names a run of ``job``, for instance ``fetch 2026-11-22 06:00``."""

    def name() -> str:
        return f"{job} {flow_run.get_scheduled_start_time():%Y-%m-%d %H:%M}"

    return name
