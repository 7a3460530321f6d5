"""What people know from Celery, on the real product: the four questions, runs waited for, a schedule moved in."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Product
from tests.e2e.test_recovery import at_work, backfill, is_running, slow_platforms, start, until
from tests.unit.test_docs import PAGE, commands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _quiet_afterwards(product: Product) -> Iterator[None]:
    yield
    until(lambda: not at_work(product))


def runnable() -> list[str]:
    """What the page has one type at a running product, once, the runs that are waited for first.

    Patience on the page is a person's; a busy machine may need more.
    """
    found = [re.sub(r"--wait \S+", "--wait 250", one) for one in commands()]
    found = [one for one in dict.fromkeys(found) if re.match(r"aae (inspect|doctor|run [a-z])", one)]
    return sorted(found, key=lambda one: one.startswith("aae run") and "--wait" not in one)


@pytest.mark.parametrize("command", runnable())
def test_the_commands_of_the_migration_page_do_what_it_says(product: Product, command: str) -> None:
    done = product.run(*shlex.split(command), timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    if "--json" in command:
        json.loads(done.stdout)


def test_the_three_lines_of_python_give_the_result(product: Product) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    done = product.run("python", "-c", lines)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 0


def test_a_run_at_work_is_shown_with_its_process_and_what_it_is_doing(product: Product) -> None:
    found: list[dict[str, object]] = []

    def shown() -> bool:
        asked = product.run("aae", "inspect", "active", "--json")
        assert asked.returncode == 0, asked.stderr
        found[:] = [one for one in json.loads(asked.stdout) if one["run_id"] == run.id and one["pid"]]
        return bool(found)

    # So slow that it is still at work when it has been looked at from all sides, however busy the machine is.
    with slow_platforms(product, 10):
        run = start(product, "fetch-ad-data/six-hourly", **backfill())
        until(lambda: is_running(product, run))
        until(shown)
        pids = at_work(product)
        said = product.run("aae", "inspect", "active").stdout
    (one,) = found
    assert one["pid"] in pids
    assert (one["job"], one["attempt"]) == ("fetch-ad-data/six-hourly", 1)
    assert one["doing"]
    assert "fetch-ad-data/six-hourly" in said
    until(lambda: not at_work(product))


def test_a_run_that_fails_says_why_and_its_exit_code_is_1(product: Product) -> None:
    done = product.run("aae", "run", "fetch_ad_data", "-p", "accounts=[4711]", "-p", "dry_run=true", "--wait", "250")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No active account has the id 4711" in done.stdout


def test_when_the_patience_is_over_the_run_goes_on(product: Product) -> None:
    done = product.run("aae", "run", "detect_anomalies", "-p", "dry_run=true", "--wait", "0.1", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    run = json.loads(done.stdout)["id"]
    until(lambda: product.prefect.run(run).is_final)
    assert product.prefect.run(run).succeeded


def test_the_server_itself_would_refuse_what_we_refuse(product: Product) -> None:
    done = product.run("aae", "run", "detect_anomalies", "-p", "sensitivity=huge")
    assert done.returncode == 2
    assert "it must be low | medium | high" in done.stderr


FLOW = """
from prefect import flow
@flow(name="ping-me", persist_result=True, result_serializer="json")
def ping_me(n: int = 1) -> dict[str, int]:
    return {"edition": 1, "n": n}
"""

BEAT = """
app.conf.beat_schedule = {
    "second friday": {
        "task": "proj.ping_me",
        "schedule": crontab(0, 9, "fri", "8-14"),
        "kwargs": {"n": 7},
        "options": {"queue": "slow"},
    },
    "weekly": {"task": "proj.ping_me", "schedule": timedelta(days=7)},
}
"""


def test_an_imported_schedule_is_deployed_and_an_edited_flow_takes_effect_at_its_next_run(
    product: Product, tmp_path: Path
) -> None:
    (tmp_path / "celery_app.py").write_text(BEAT)
    target = tmp_path / "prefect.yaml"
    done = product.run("aae", "import-beat", str(tmp_path / "celery_app.py"), "--output", str(target))
    assert done.returncode == 0, done.stderr
    assert "2 of 2 tasks have no flow here" in done.stderr
    target.write_text(target.read_text().replace("flows/TO_DO.py:ping_me", "flow.py:ping_me"))
    flow = tmp_path / "flow.py"
    flow.write_text(FLOW)
    deployed = subprocess.run(
        [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy", "--all"],
        cwd=tmp_path,
        env={**os.environ, **product.environment, **product.stack.variables(), "AAE_PROJECT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    try:
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        asked = product.run("aae", "inspect", "registered", "--json")
        jobs = {one["job"]: one for one in json.loads(asked.stdout)}
        (words, written), *_ = jobs["ping-me/second-friday"]["schedules"]
        assert words == "at 09:00 UTC on days 8 to 14 of the month if that is a Friday"
        assert written == "0 9 8-14 * 5 UTC (both days)"
        assert jobs["ping-me/second-friday"]["given"] == {"n": 7}
        assert jobs["ping-me/weekly"]["schedules"][0][0] == "every 7 days"
        assert _result(product) == {"edition": 1, "n": 7}
        flow.write_text(FLOW.replace('"edition": 1', '"edition": 2'))
        assert _result(product) == {"edition": 2, "n": 7}
    finally:
        for name in ("ping-me/second-friday", "ping-me/weekly"):
            there = product.prefect.deployment(name)
            if there is not None:
                product.prefect._find("DELETE", f"deployments/{there.id}")
    assert str(ROOT) not in target.read_text()


def _result(product: Product) -> object:
    done = product.run("aae", "run", "second-friday", "--wait", "250", "--json", timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["result"]
