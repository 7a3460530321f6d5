"""Asking for a run from Python: what is asked is checked first, waiting ends when it should, the result is data."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from aae.errors import Retry, UserError
from aae.operate import run as running
from aae.operate.run import RunFailed, StillRunning, run_job
from aae.settings import Settings
from tests.unit.operate.prefect_fake import JSON, Server, serving


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def settings(server: Server, redis_url: str) -> Iterator[Settings]:
    with serving(server) as url:
        yield Settings(prefect_api_url=url, results_url=redis_url)


def end(server: Server, state: str = "COMPLETED", after: float = 0.0, **more: Any) -> None:
    """The run that was asked for ends, a little later."""

    def now() -> None:
        server.runs[-1]["state"] = {"type": state, "name": state.title(), "message": "so it went"} | more
        server.runs[-1]["state"]["timestamp"] = datetime.now(UTC).isoformat()

    if after:
        threading.Timer(after, now).start()
    else:
        now()


@pytest.mark.parametrize(
    "job",
    [
        "fetch-ad-data/six-hourly",
        "fetch-ad-data",
        "fetch_ad_data",
        "six-hourly",
        "app.tasks.data_fetch.fetch_ad_data",
        " Fetch_Ad_Data ",
    ],
)
def test_a_job_is_known_by_every_name_that_can_only_mean_it(server: Server, settings: Settings, job: str) -> None:
    asked = run_job(job, {"accounts": [1, 2]}, settings=settings)
    assert asked.job == "fetch-ad-data/six-hourly"
    assert server.asked[0]["parameters"] == {"accounts": [1, 2]}


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        ("fetch_ad_dat", "There is no job fetch_ad_dat. Do you mean fetch-ad-data/six-hourly? The jobs are: "),
        ("zzz", "There is no job zzz. The jobs are: fetch-ad-data/six-hourly, report/daily, report/weekly."),
        ("report", "report can mean several jobs: report/daily, report/weekly."),
        ("\x1b[31mred", "There is no job [31mred."),
    ],
)
def test_a_name_that_means_none_or_several_is_answered_with_the_jobs(
    server: Server, settings: Settings, job: str, complaint: str
) -> None:
    with pytest.raises(UserError) as refused:
        run_job(job, settings=settings)
    assert complaint in str(refused.value)
    assert not server.asked


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"acounts": [1]}, "has no parameter acounts. Do you mean accounts? It takes: accounts, since, name"),
        ({"accounts": "x"}, 'does not take accounts="x": it must be list of integer'),
        ({"accounts": ["x"]}, "it must be list of integer"),
        ({"since": "2026-13-01"}, "does not take since"),
        ({"how": "medium"}, "it must be low | high"),
        ({"dry_run": 1}, "it must be boolean"),
        ({"accounts": float("nan")}, "must be JSON"),
        ({"accounts": {1}}, "must be JSON"),
        ({"name": "x" * 200_000}, "longer than"),
    ],
)
def test_parameters_are_checked_before_anything_is_created(
    server: Server, settings: Settings, parameters: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError) as refused:
        run_job("fetch_ad_data", parameters, settings=settings)
    assert complaint in str(refused.value)
    assert not server.asked


def test_what_a_flow_needs_must_be_given_or_be_in_the_deployment(server: Server, settings: Settings) -> None:
    server.deployments[0]["parameter_openapi_schema"] = {
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    }
    with pytest.raises(UserError, match="needs a value for name"):
        run_job("fetch_ad_data", settings=settings)
    server.deployments[0]["parameters"] = {"name": "x"}
    assert run_job("fetch_ad_data", settings=settings).id


def test_a_run_can_be_asked_for_later(server: Server, settings: Settings) -> None:
    before = datetime.now(UTC)
    asked = run_job("fetch_ad_data", countdown=600, settings=settings)
    assert asked.due is not None
    assert timedelta(seconds=600) <= asked.due - before < timedelta(seconds=700)
    eta = before + timedelta(days=2)
    assert run_job("fetch_ad_data", eta=eta, settings=settings).due == eta


@pytest.mark.parametrize(
    "when",
    [
        {"countdown": -1},
        {"countdown": float("inf")},
        {"countdown": float("nan")},
        {"eta": datetime(2020, 1, 1, tzinfo=UTC)},
        {"eta": datetime(2999, 1, 1, tzinfo=UTC)},
        {"eta": datetime(2030, 1, 1)},  # noqa: DTZ001
        {"countdown": 1, "eta": datetime(2030, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_time_that_makes_no_sense_is_refused(server: Server, settings: Settings, when: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        run_job("fetch_ad_data", settings=settings, **when)
    assert not server.asked


def test_the_same_key_is_the_same_run(settings: Settings) -> None:
    first, second = (run_job("fetch_ad_data", key="k", settings=settings) for _ in range(2))
    assert first.id == second.id


def test_get_waits_and_returns_what_the_job_returned(server: Server, settings: Settings) -> None:
    with redis.Redis.from_url(settings.results_url) as client:
        client.set("key", json.dumps({"rows": 3}))
    asked = run_job("fetch_ad_data", settings=settings)
    end(server, after=0.5, data={"storage_key": "key", "serializer": JSON})
    assert asked.result is None
    assert asked.get(timeout=60) == {"rows": 3}


@pytest.mark.parametrize(
    "data",
    [None, {"storage_key": "gone", "serializer": JSON}, {"storage_key": "key", "serializer": {"type": "pickle"}}],
)
def test_without_a_result_as_json_it_is_the_runs_own_words(
    server: Server, settings: Settings, data: dict[str, Any] | None
) -> None:
    with redis.Redis.from_url(settings.results_url) as client:
        client.set("key", b"\x80\x04K\x01.")
    asked = run_job("fetch_ad_data", settings=settings)
    end(server, data=data)
    assert asked.get(timeout=60) == "so it went"


def test_a_run_that_failed_raises_its_reason(server: Server, settings: Settings) -> None:
    asked = run_job("fetch_ad_data", settings=settings)
    end(server, "FAILED")
    with pytest.raises(RunFailed, match="ended Failed: so it went") as failed:
        asked.get(timeout=60)
    assert failed.value.run.state_type == "FAILED"


def test_after_the_timeout_the_run_goes_on(settings: Settings) -> None:
    asked = run_job("fetch_ad_data", settings=settings)
    with pytest.raises(TimeoutError, match=r"has not ended within 0.3 s; it is Scheduled and goes on"):
        asked.get(timeout=0.3)
    with pytest.raises(StillRunning):
        asked.wait(0)


def test_a_crash_is_not_the_end_since_it_is_run_again(server: Server, settings: Settings) -> None:
    asked = run_job("fetch_ad_data", settings=settings)
    end(server, "CRASHED")
    end(server, after=1.0)
    assert asked.wait(60).state_type == "COMPLETED"


def test_a_crash_that_nobody_mends_is(server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_GIVEN_UP", timedelta(0))
    asked = run_job("fetch_ad_data", settings=settings)
    end(server, "CRASHED")
    assert asked.wait(60).state_type == "CRASHED"


def test_a_server_that_stumbles_is_asked_again_and_one_that_stays_away_is_told(
    server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run_job("fetch_ad_data", settings=settings)
    server.busy = 3
    end(server, after=0.5)
    assert asked.wait(60).succeeded
    monkeypatch.setattr(running, "_SERVER_AWAY_SECONDS", 0.5)
    server.busy = 1_000_000
    begun = time.monotonic()
    with pytest.raises(Retry, match="answered 500"):
        asked.wait(60)
    assert time.monotonic() - begun < 30


def test_nothing_heavy_is_imported_by_a_web_application_that_asks_for_runs() -> None:
    heavy = "('prefect', 'pandas', 'numpy', 'sqlalchemy')"
    code = f"import sys, aae.operate.run; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
