"""The running product, measured: by the watch that serves beside its work, and by a process of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from aae.operate.metrics.catalogue import ALL
from tests.e2e.conftest import Product

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

JOBS = {
    "check-token-expiry/daily",
    "detect-anomalies/hourly",
    "fetch-ad-data/six-hourly",
    "generate-daily-report/daily",
}
ONLY_NOW_AND_THEN = {"aae_attempt_silence_seconds", "aae_last_failure_timestamp_seconds"}
"""While a job is at work, and after one has failed."""

Values = dict[tuple[str, ...], float]


def values_of(text: str) -> Values:
    return {
        (one.name.removeprefix("aae_"), *(one.labels[key] for key in sorted(one.labels))): one.value
        for family in parse(text)
        for one in family.samples
    }


@pytest.fixture
def get(product: Product) -> Callable[[str], httpx.Response]:
    """Ask the watch, which may just be coming back from what another test did to it."""

    def asked(path: str) -> httpx.Response:
        deadline = time.monotonic() + 120
        while True:
            log = (product.stack.logs_dir / "watch.log").read_text()
            addresses = re.findall(r"metrics at (http://127\.0\.0\.1:\d+)/metrics", log)
            try:
                answer = httpx.get(f"{addresses[-1]}{path}", timeout=30, trust_env=False)
            except (IndexError, httpx.HTTPError):
                answer = None
            if answer is not None and answer.status_code == 200:
                return answer
            assert time.monotonic() < deadline, (path, log[-2000:], answer and answer.text)
            time.sleep(2)

    return asked


def test_the_watch_says_what_the_jobs_have_done(product: Product, get: Callable[[str], httpx.Response]) -> None:
    deadline = time.monotonic() + 120
    while True:
        found = values_of(get("/metrics").text)
        if found["up",] == 1 and found["watch_leader",] == 1:
            break
        assert time.monotonic() < deadline, found
        time.sleep(2)
    named = {f"aae_{key[0]}" for key in found}
    assert named | ONLY_NOW_AND_THEN == {metric.name for metric in ALL} | ONLY_NOW_AND_THEN
    for job in JOBS:
        assert found["runs_24h", job, "completed"] >= 1
        assert found["run_duration_seconds", job, "completed", "100"] > 0
        assert time.time() - found["last_success_timestamp_seconds", job] < 86_400
    assert sum(value for key, value in found.items() if key[0] == "rows_stored_24h") > 1000
    for platform in ("meta", "tiktok", "google"):
        assert found["api_calls_24h", platform, "metrics"] > 0
        assert found["data_age_oldest_seconds", platform] < 86_400
    assert found["reports_24h",] >= 1


def test_readiness_and_workers_are_told(get: Callable[[str], httpx.Response]) -> None:
    assert get("/healthz").json() == {"ok": True}
    assert get("/readyz").json() == {"ok": True, "tables": True, "prefect": True, "watch": True}
    told = get("/worker").json()
    assert (told["pool"], told["paused"], told["ok"]) == ("aae", False, True)
    assert "local" in {one["name"] for one in told["workers"] if one["online"]}


def test_every_job_is_told_and_the_code_says_whether_all_are_well(get: Callable[[str], httpx.Response]) -> None:
    # Another test may have left a run that failed on purpose, so the code is held against the answer.
    address = str(get("/healthz").url).removesuffix("/healthz")
    answer = httpx.get(f"{address}/jobs", timeout=30, trust_env=False)
    told = answer.json()["jobs"]
    assert {one["name"] for one in told} == JOBS
    assert all(one["last_success"] and not one["overdue"] for one in told), told
    assert answer.status_code == (200 if all(one["ok"] for one in told) else 503)


def test_a_process_of_its_own_says_the_same_of_every_job(product: Product) -> None:
    done = product.run("aae", "metrics", "--once")
    assert done.returncode == 0, done.stderr
    found = values_of(done.stdout)
    assert found["up",] == 1
    for job in JOBS:
        assert found["deployment_overdue", job] == 0
        assert found["deployment_paused", job] == 0
