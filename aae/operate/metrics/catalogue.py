"""Every metric: its name, its labels, its meaning. ``docs/metrics.md`` shows this list, a test holds them together.

Counts are **gauges over the last 24 hours** and no counters. A counter must never fall, but the tables do: retention
removes old rows. One that only counts what it saw itself would start at zero with every restart, differ between two
exporters and be blind to what happened while none ran. A window is the same from whoever is asked, whenever, and fits
jobs that run a few times a day. Only the exporter's own errors are a true counter.

Labels never hold an account, a user or a run: their number is bounded by the program, whatever the tables hold. No
label is called ``job``, which Prometheus gives to every series itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "aae_"


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric; ``labels`` are the values of the metric's labels, in their order."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """``source`` is where it is read: the shared tables, Prefect's API or the exporter itself."""

    name: str
    source: Literal["tables", "prefect", "exporter"]
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    def of(self, value: float, *labels: str) -> Sample:
        """One value; as many ``labels`` as the metric has."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {labels}")
        return Sample(self, labels, float(value))


ALL: Final[list[Metric]] = []
"""Every metric, in the order of the page."""


def _metric(
    source: Literal["tables", "prefect", "exporter"],
    name: str,
    told: str,
    *labels: str,
    kind: Literal["gauge", "counter"] = "gauge",
) -> Metric:
    metric = Metric(PREFIX + name, source, told, labels, kind)
    ALL.append(metric)
    return metric


# The exporter

UP = _metric("exporter", "up", "1 if the tables and Prefect's API both answered, else 0.")
SOURCE_UP = _metric("exporter", "source_up", "1 if this source (tables, prefect) answered, else 0.", "source")
SOURCE_AGE = _metric("exporter", "source_age_seconds", "How old the source's values in this answer are.", "source")
SOURCE_SECONDS = _metric("exporter", "source_read_seconds", "How long reading the source took last.", "source")
SOURCE_ERRORS = _metric(
    "exporter", "source_errors_total", "Readings that failed since the exporter was started.", "source", kind="counter"
)
BUILD = _metric("exporter", "build_info", "Always 1; the version of AAE Pipelines is the label.", "version")

# Accounts and data

ACCOUNTS = _metric("tables", "accounts", "Connected ad accounts, by status.", "platform", "status")
OLDEST = _metric(
    "tables",
    "data_age_oldest_seconds",
    "Time since the last complete fetch of the active account that waits longest; since it was connected if there was "
    "none.",
    "platform",
)
MEDIAN = _metric("tables", "data_age_median_seconds", "The same of the account in the middle.", "platform")
FETCHES = _metric("tables", "fetches_24h", "Slices tried in 24 h, by what came of it.", "platform", "outcome")
ROWS_FETCHED = _metric("tables", "rows_fetched_24h", "Rows that the platforms gave in 24 h.", "platform")
ROWS_STORED = _metric(
    "tables", "rows_stored_24h", "Rows inserted, updated and deleted (withdrawn) in 24 h.", "platform", "change"
)
API_CALLS = _metric(
    "tables",
    "api_calls_24h",
    "Calls of the platforms' APIs made for accounts in 24 h, by what they were for.",
    "platform",
    "purpose",
)
DRIFTED = _metric(
    "tables", "fetches_drifted_24h", "Slices stored in 24 h whose sums are over 1 % off the platform's own.", "platform"
)
TOKENS = _metric("tables", "token_refreshes_24h", "Token checks in 24 h, by what came of it.", "platform", "outcome")

# News

INCIDENTS = _metric("tables", "incidents_open", "Open incidents.", "severity", "metric")
REPORTS = _metric("tables", "reports_24h", "Reports made in 24 h.")
COMPLETENESS = _metric(
    "tables", "report_completeness_ratio", "Mean share of accounts with all their numbers, of those reports (0 to 1)."
)
WAITING = _metric("tables", "outbox_waiting", "E-mails that have not left yet.")
WAITING_SECONDS = _metric("tables", "outbox_oldest_seconds", "Age of the oldest of them; 0 if none waits.")
NOTIFICATIONS = _metric(
    "tables", "notifications_24h", "Notifications made in 24 h, by what became of their e-mail.", "kind", "email"
)

# Processes

ATTEMPTS = _metric(
    "tables", "attempts_24h", "Processes that began a run in 24 h, by how they ended.", "flow", "outcome"
)
ATTEMPTS_RUNNING = _metric("tables", "attempts_running", "Processes at work now.", "flow")
SILENCE = _metric("tables", "attempt_silence_seconds", "Time since the process at work said that it lives.", "flow")
WATCHED = _metric("tables", "watch_leader", "1 if a watch leads and is heard, else 0.")

# Runs

WORKERS = _metric("prefect", "workers_online", "Workers of the work pool that are online.")
POOL_PAUSED = _metric("prefect", "pool_paused", "1 while the work pool hands out no runs (aae drain), else 0.")
RUNS = _metric("prefect", "runs_24h", "Runs that ended in 24 h, by how.", "deployment", "outcome")
RUNS_NOW = _metric(
    "prefect",
    "runs",
    "Runs on their way: running, pending (a worker has it), late (no worker took it), waiting (to be run again, or for "
    "the one before).",
    "deployment",
    "state",
)
RUN_SECONDS = _metric(
    "prefect",
    "run_duration_seconds",
    "From start to end of the runs that ended in 24 h; the 100th percentile is the longest.",
    "deployment",
    "outcome",
    "percentile",
)
QUEUE_SECONDS = _metric(
    "prefect",
    "run_queue_seconds",
    "From when they were due to their start, of the runs that ended in 24 h.",
    "deployment",
    "percentile",
)
RUNNING_SECONDS = _metric("prefect", "running_seconds", "How long the present run has been running.", "deployment")
LAST_SUCCESS = _metric(
    "prefect", "last_success_timestamp_seconds", "When a run last ended well (Unix time).", "deployment"
)
LAST_FAILURE = _metric(
    "prefect", "last_failure_timestamp_seconds", "When a run last ended badly (Unix time).", "deployment"
)
OVERDUE = _metric(
    "prefect", "deployment_overdue", "1 if it was due over 10 minutes ago and has not begun, else 0.", "deployment"
)
FAILED = _metric("prefect", "deployment_failed", "1 if its last run has failed for good, else 0.", "deployment")
PAUSED = _metric("prefect", "deployment_paused", "1 while its schedule is switched off, else 0.", "deployment")

BY_NAME: Final = {metric.name: metric for metric in ALL}
