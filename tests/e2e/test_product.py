"""The whole product through its own commands: a real Prefect server, a real worker, the schedules, the results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.conftest import ROOT, Product, clean_environment
from tests.listening import for_others

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FETCH = "fetch-ad-data/six-hourly"
JOBS = (
    "check-token-expiry/daily",
    "detect-anomalies/hourly",
    FETCH,
    "generate-daily-report/daily",
)


def runs_of(product: Product, name: str) -> list[Any]:
    deployment = product.prefect.deployment(name)
    assert deployment is not None
    found = product.api(
        "POST",
        "/flow_runs/filter",
        flow_runs={"deployment_id": None, "state": {"type": {"not_any_": ["SCHEDULED"]}}},
        deployments={"id": {"any_": [deployment.id]}},
        sort="START_TIME_ASC",
    )
    return list(found)  # type: ignore[call-overload]


def start(product: Product, name: str, *more: str) -> None:
    done = product.run("prefect", "deployment", "run", name, *more)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for(product: Product, name: str, runs: int, seconds: float = 180) -> list[Any]:
    """Until that many runs of the job have ended."""
    deadline = time.monotonic() + seconds
    while True:
        ended = [run for run in runs_of(product, name) if run["end_time"]]
        if len(ended) >= runs:
            return ended
        assert time.monotonic() < deadline, runs_of(product, name)
        time.sleep(0.5)


@pytest.mark.parametrize("name", JOBS)
def test_every_job_ran_through_the_worker_and_succeeded(product: Product, name: str) -> None:
    run = runs_of(product, name)[0]
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["work_pool_name"] == "aae"
    assert run["run_count"] == 1


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_scheduled_in_utc_and_its_next_run_is_known(product: Product, name: str) -> None:
    deployment = product.prefect.deployment(name)
    assert deployment is not None
    assert [(each.timezone, each.active) for each in deployment.schedules] == [("UTC", True)]
    deadline = time.monotonic() + 120
    while (following := product.prefect.next_run(deployment.id)) is None:
        assert time.monotonic() < deadline, "the scheduler made no run"
        time.sleep(1)
    assert following.scheduled_for is not None
    assert following.scheduled_for > datetime.now(UTC) - timedelta(minutes=5)


def test_doctor_finds_nothing_wrong(product: Product) -> None:
    # It tells of jobs whose last run failed; other tests may have made such runs on purpose.
    before = len(runs_of(product, FETCH))
    start(product, FETCH)
    wait_for(product, FETCH, before + 1)
    done = product.run("aae", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr


def test_deploying_again_changes_nothing(product: Product) -> None:
    def picture() -> list[Any]:
        found = product.api("POST", "/deployments/filter", sort="NAME_ASC")
        keep = lambda thing: {k: v for k, v in thing.items() if k not in {"updated", "last_polled", "status"}}  # noqa: E731
        picture = [keep(one) | {"schedules": [keep(each) for each in one["schedules"]]} for one in found]  # type: ignore[attr-defined]
        return sorted(picture, key=lambda one: str(one["id"]))

    before = picture()
    assert len(before) == 4
    done = product.run("aae", "deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert picture() == before


def test_results_lie_in_redis_as_json_and_another_process_can_read_them(product: Product) -> None:
    with redis.Redis.from_url(product.stack.variables()["AAE_RESULTS_URL"]) as client:
        keys = client.keys("*")
        # A pickle would be no JSON.
        results = [json.loads(client.get(key)) for key in keys]  # type: ignore[union-attr]
        assert all(client.ttl(key) > 0 for key in keys)  # type: ignore[union-attr]
    assert len(results) > 20
    program = (
        "import sys; from prefect.client.orchestration import get_client; from uuid import UUID\n"
        "with get_client(sync_client=True) as c: print(c.read_flow_run(UUID(sys.argv[1])).state.result()['accounts'])"
    )
    run = runs_of(product, FETCH)[0]
    done = product.run("python", "-c", program, run["id"])
    assert (done.returncode, done.stdout.strip()) == (0, "10"), done.stderr


def test_the_ui_has_something_to_show_for_every_job(product: Product) -> None:
    found = product.api("POST", "/artifacts/latest/filter", limit=100)
    artifacts = {one["key"]: one for one in found}  # type: ignore[union-attr,index]
    assert {"ad-data-fetch", "anomalies", "daily-reports", "token-states", "fetch-progress"} <= set(artifacts)
    assert float(artifacts["fetch-progress"]["data"]) == 100
    assert any(key.startswith("daily-report-") for key in artifacts)
    rows = json.loads(artifacts["ad-data-fetch"]["data"])
    assert {row["outcome"] for row in rows} <= {"stored", "reauthorize"}


def test_no_token_is_in_prefects_database_in_the_results_or_in_the_logs(product: Product) -> None:
    state = product.stack.state_dir
    offered = [
        token
        for one in product_accounts(product)
        for token in (one["access_token"], one["refresh_token"])
        if token is not None
    ]
    assert len(offered) >= 10
    places = [path for path in state.rglob("*") if path.is_file() and "outbox" not in path.parts]
    for path in places:
        content = path.read_bytes()
        assert not [token for token in offered if token.encode() in content], path


def product_accounts(product: Product) -> list[dict[str, Any]]:
    import httpx

    return list(httpx.get(f"{product.stack.sandbox_url}/_sandbox/accounts", timeout=30).json())


def test_a_job_never_overlaps_itself(product: Product) -> None:
    name = "generate-daily-report/daily"
    before = len(runs_of(product, name))
    for _ in range(2):
        start(product, name)
    runs = wait_for(product, name, before + 2)[-2:]
    first, second = sorted(runs, key=lambda run: run["start_time"])
    assert first["end_time"] <= second["start_time"]
    assert {run["state_type"] for run in runs} == {"COMPLETED"}


def test_running_everything_again_says_nothing_twice(product: Product) -> None:
    outbox = product.stack.state_dir / "outbox"
    mails = sorted(path.name for path in outbox.iterdir())
    for name in ("detect-anomalies/hourly", "generate-daily-report/daily"):
        before = len(runs_of(product, name))
        start(product, name)
        wait_for(product, name, before + 1)
    assert sorted(path.name for path in outbox.iterdir()) == mails
    assert mails


def test_parameters_given_in_the_ui_reach_the_job(product: Product) -> None:
    before = len(runs_of(product, FETCH))
    start(product, FETCH, "--params", json.dumps({"accounts": [1], "dry_run": True}))
    (run,) = wait_for(product, FETCH, before + 1)[before:]
    assert run["state"]["message"].startswith("1 accounts (1 planned)")


def test_an_unknown_account_is_one_clear_sentence_and_a_failed_run(product: Product) -> None:
    before = len(runs_of(product, FETCH))
    start(product, FETCH, "--params", json.dumps({"accounts": [4711], "dry_run": True}))
    (run,) = wait_for(product, FETCH, before + 1)[before:]
    assert run["state_type"] == "FAILED"
    assert "No active account has the id 4711" in run["state"]["message"]


def test_a_backfill_shows_its_plan_first_and_then_does_it(product: Product) -> None:
    day = str(datetime.now(UTC).date() - timedelta(days=3))
    arguments = ("backfill", "--since", day, "--until", day, "--account", "1")
    plan = product.run("aae", *arguments, "--dry-run")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    done = product.run("aae", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.mysql
def test_the_demo_works_unchanged_on_mariadb_and_a_given_redis_and_leaves_files_for_its_user_alone(
    mysql_url: str, redis_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("aae")), "demo"],
        cwd=ROOT,
        env=clean_environment(tmp_path / "state", AAE_DATABASE_URL=mysql_url, AAE_REDIS_URL=redis_url),
        umask=0,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((tmp_path / "state").rglob("aae.db"))
    assert list((tmp_path / "state").rglob("*.html")), "its reports lie there"
    assert for_others(tmp_path / "state") == {}
