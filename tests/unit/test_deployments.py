"""Every deployment in prefect.yaml is what the requirements say, and nothing in the file is silently ignored."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow, Task
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig, WorkPoolConfig
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel

from aae.operate.doctor import executing, failing, following
from aae.operate.schedule import KNOWN_KEYS
from deployments.declared import COMMAND, RESULT_BLOCK, WORK_POOL

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())

EXPECTED = {
    "check-token-expiry/daily": ("flows/token_refresh.py:check_token_expiry", "0 2 * * *"),
    "fetch-ad-data/six-hourly": ("flows/data_fetch.py:fetch_ad_data", "0 */6 * * *"),
    "generate-daily-report/daily": ("flows/reports.py:generate_daily_report", "0 9 * * *"),
    "detect-anomalies/hourly": ("flows/anomaly_detection.py:detect_anomalies", "0 * * * *"),
}


def test_the_doctor_looks_for_what_is_declared() -> None:
    assert (executing.COMMAND, failing.RESULT_BLOCK) == (COMMAND, RESULT_BLOCK)
    assert all(following.TAG in each["tags"] for each in FILE["deployments"])


KNOWN_TOP = {"name", "definitions", "pull", "deployments"}
KNOWN_SCHEDULE = {"slug", "cron", "timezone", "active"}


@pytest.mark.parametrize(
    ("place", "model"),
    [
        ("prefect.yaml", PrefectYamlModel),
        ("deployment", DeploymentConfig),
        ("schedule", RawScheduleConfig),
        ("work_pool", WorkPoolConfig),
    ],
)
def test_the_doctor_knows_the_keys_that_prefect_reads(place: str, model: type[BaseModel]) -> None:
    read = {field.alias or name for name, field in model.model_fields.items()}
    # Not Prefect's: where YAML anchors may be kept.
    assert set(KNOWN_KEYS[place]) - {"definitions"} == read


def load(deployment: dict[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))


def by_name() -> dict[str, dict[str, Any]]:
    return {f"{load(each).name}/{each['name']}": each for each in FILE["deployments"]}


def test_there_are_exactly_the_four_jobs_with_their_schedules_in_utc() -> None:
    found = {name: (each["entrypoint"], each["schedules"][0]["cron"]) for name, each in by_name().items()}
    assert found == EXPECTED


@pytest.mark.parametrize("deployment", FILE["deployments"], ids=lambda each: each["entrypoint"])
class TestEveryDeployment:
    def test_has_no_key_that_prefect_would_silently_ignore(self, deployment: dict[str, Any]) -> None:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
        assert set(deployment["work_pool"]) <= set(WorkPoolConfig.model_fields)
        for schedule in deployment["schedules"]:
            assert set(schedule) <= KNOWN_SCHEDULE

    def test_has_one_active_schedule_in_utc_with_a_slug_so_that_deploying_again_changes_nothing(
        self, deployment: dict[str, Any]
    ) -> None:
        (schedule,) = deployment["schedules"]
        assert (schedule["timezone"], schedule["active"]) == ("UTC", True)
        assert schedule["slug"] == deployment["name"]

    def test_leaves_one_at_a_time_to_the_work_pools_command_since_prefects_limit_cancels_healthy_runs(
        self, deployment: dict[str, Any]
    ) -> None:
        assert "concurrency_limit" not in deployment
        assert COMMAND == "python -m tasks.launch"

    def test_runs_in_the_work_pool_that_is_declared(self, deployment: dict[str, Any]) -> None:
        assert deployment["work_pool"]["name"] == WORK_POOL

    def test_every_parameter_has_a_type_and_a_description_for_the_form_in_the_ui(
        self, deployment: dict[str, Any]
    ) -> None:
        schema = parameter_schema(load(deployment))
        for name, property_ in schema.properties.items():
            assert property_.get("description"), name
            assert {"type", "anyOf", "allOf", "$ref"} & set(property_), name

    def test_needs_no_parameter(self, deployment: dict[str, Any]) -> None:
        assert parameter_schema(load(deployment)).required in (None, [])

    def test_keeps_its_result_as_json(self, deployment: dict[str, Any]) -> None:
        flow = load(deployment)
        assert (flow.persist_result, flow.result_serializer) == (True, "json")

    def test_leaves_time_limits_to_its_tasks(self, deployment: dict[str, Any]) -> None:
        # A flow's own limit would switch off those of the tasks inside it.
        assert load(deployment).timeout_seconds is None

    def test_has_a_description(self, deployment: dict[str, Any]) -> None:
        assert load(deployment).description


def test_the_file_has_no_unknown_section() -> None:
    assert set(FILE) <= KNOWN_TOP


def all_tasks() -> list[Task[..., Any]]:
    modules = [importlib.import_module(f"tasks.{path.stem}") for path in (ROOT / "tasks").glob("[a-z]*.py")]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Task)]


def test_every_task_has_the_retries_and_time_limits_of_the_requirements() -> None:
    tasks = all_tasks()
    assert len(tasks) > 8
    for task in tasks:
        assert (task.retries, task.retry_delay_seconds, task.timeout_seconds) == (3, 300, 3600), task.name
        assert task.retry_condition_fn is not None, task.name
        assert (task.persist_result, task.result_serializer) == (True, "json"), task.name
