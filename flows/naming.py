"""Names of flow runs: the job and the moment it was due, so that a list of runs reads like a calendar; its share."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run

from aae import shares


def run_name(job: str) -> Callable[[], str]:
    """A callable that names a run of ``job``: ``fetch 2026-11-22 06:00``, of a share ``fetch 2026-11-22 06:00 2/4``."""

    def name() -> str:
        name = f"{job} {flow_run.get_scheduled_start_time():%Y-%m-%d %H:%M}"
        share = shares.of_run(flow_run.get_parameters())
        return name if share is None else f"{name} {share}"

    return name
