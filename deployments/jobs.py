"""``prefect.yaml`` as the Prefect API takes it, every mistake found before anything is applied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml
from prefect import Flow
from prefect.cli.deploy._models import DeploymentConfig, RawScheduleConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import ParameterSchema, parameter_schema
from pydantic import ValidationError

from aae.errors import UserError
from aae.shares import deal
from deployments.declared import TAG

_TOP: Final = frozenset({"name", "prefect-version", "definitions", "pull", "deployments"})
_KEYS: Final = frozenset(DeploymentConfig.model_fields) - {
    *("build", "push", "triggers", "sla", "schedule", "version_type", "flow_name", "paused", "concurrency_limit")
}
_WORK_POOL: Final = frozenset({"name", "work_queue_name", "job_variables"})


@dataclass(frozen=True, slots=True)
class Declared:
    """A deployment: ``body`` and each schedule (by slug) as the API takes them."""

    flow: str
    name: str
    body: dict[str, Any]
    schedules: dict[str, dict[str, Any]]

    @property
    def full_name(self) -> str:
        """``flow-name/deployment-name``."""
        return f"{self.flow}/{self.name}"


def read(project: Path, pool: str, shares: int = 1) -> list[Declared]:
    """Every deployment of the file; schedules of what can be dealt out once for each of so many shares.

    Raises:
        UserError: something in it is wrong: a sentence about each such entry.
    """
    path = project / "prefect.yaml"
    try:
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"There is no {path}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"prefect.yaml is not YAML: {error}") from None
    if not isinstance(file, dict) or not isinstance(file.get("deployments"), list):
        raise UserError("prefect.yaml must have a list of deployments.")
    _refuse_unknown(file, _TOP, "prefect.yaml")
    found: list[Declared] = []
    troubles: list[str] = []
    for place, entry in enumerate(file["deployments"], 1):
        label = f"{entry.get('name')} ({entry.get('entrypoint')})" if isinstance(entry, dict) else f"number {place}"
        try:
            one = _in_shares(_deployment(entry, file.get("pull"), project, pool), shares)
            if one.full_name in {other.full_name for other in found}:
                raise UserError("it is there twice")
            found.append(one)
        except UserError as error:
            troubles.append(f"  deployment {label}: {str(error).rstrip('.')}.")
    if troubles:
        raise UserError("\n".join(["prefect.yaml is wrong, so nothing was applied.", *troubles]))
    return found


def _deployment(entry: Any, pull: Any, project: Path, pool: str) -> Declared:
    work_pool = _checked(entry, pool)
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(str(project / entry["entrypoint"]))
    except Exception as error:  # noqa: BLE001 - importing a flow's file may raise anything
        raise UserError(f"its flow cannot be loaded ({type(error).__name__}: {error})") from None
    schema = parameter_schema(flow)
    parameters = entry.get("parameters") or {}
    schedules: dict[str, dict[str, Any]] = {}
    for raw in entry.get("schedules") or []:
        schedule = _schedule(raw)
        if schedule["slug"] in schedules:
            raise UserError(f"two of its schedules have the slug {schedule['slug']}")
        schedules[schedule["slug"]] = schedule
    for given in (parameters, *(one["parameters"] for one in schedules.values())):
        _check_parameters(flow, schema, {**parameters, **given})
    body = {
        "entrypoint": entry["entrypoint"],
        "path": None,
        "version": entry.get("version"),
        "description": entry.get("description") or flow.description,
        "tags": list(dict.fromkeys([TAG, *(entry.get("tags") or [])])),
        "parameters": parameters,
        "parameter_openapi_schema": schema.model_dump(mode="json"),
        "enforce_parameter_schema": entry.get("enforce_parameter_schema", True),
        "work_pool_name": pool,
        "work_queue_name": work_pool.get("work_queue_name") or "default",
        "job_variables": work_pool.get("job_variables") or {},
        # Templates stay as they are: each worker fills in its own folder.
        "pull_steps": entry.get("pull") or pull,
    }
    return Declared(flow.name, entry["name"], body, schedules)


def _in_shares(one: Declared, number: int) -> Declared:
    dealt = {
        f"{slug}{end}": {**schedule, "slug": f"{slug}{end}", "parameters": parameters}
        for slug, schedule in one.schedules.items()
        for end, parameters in deal(one.flow, schedule["parameters"], number)
    }
    return replace(one, schedules=dealt)


def _checked(entry: Any, pool: str) -> dict[str, Any]:
    """The entry's work pool, if its keys are what we understand."""
    if not isinstance(entry, dict):
        raise UserError("it is not a mapping")
    if "concurrency_limit" in entry:
        raise UserError(
            "concurrency_limit is not used here: the work pool's command lets one run of a job work at a time"
        )
    _refuse_unknown(entry, _KEYS, "it")
    try:
        DeploymentConfig.model_validate(entry)
    except ValidationError as error:
        raise UserError(_words(error)) from None
    if not isinstance(entry.get("name"), str) or not isinstance(entry.get("entrypoint"), str):
        raise UserError("it needs a name and an entrypoint")
    work_pool = entry.get("work_pool") or {}
    _refuse_unknown(work_pool, _WORK_POOL, "its work_pool")
    if work_pool.get("name") != pool:
        raise UserError(f"its work pool must be {pool}")
    return dict(work_pool)


def _check_parameters(flow: Flow[..., Any], schema: ParameterSchema, given: dict[str, Any]) -> None:
    unknown = sorted(set(given) - set(schema.properties))
    if unknown:
        raise UserError(f"its flow has no parameter {unknown[0]}")
    required = set(schema.required or ()) - set(given)
    if required:
        raise UserError(f"its flow's parameter {min(required)} has no value")
    try:
        flow.validate_parameters(given)
    except Exception as error:  # noqa: BLE001 - Prefect wraps a parameter's own checks
        raise UserError(f"its parameters are wrong ({error})") from None


def _schedule(raw: Any) -> dict[str, Any]:
    try:
        config = RawScheduleConfig.model_validate(raw)
        zone = config.timezone or "UTC"
        timing: CronSchedule | IntervalSchedule | RRuleSchedule
        if config.cron is not None:
            timing = CronSchedule(cron=config.cron, timezone=zone, day_or=config.day_or is not False)
        elif config.interval is not None:
            # An anchor of its own each time would make another schedule of it each time.
            anchor = datetime.fromisoformat(config.anchor_date or "2020-01-01T00:00:00+00:00")
            timing = IntervalSchedule(interval=config.interval, anchor_date=anchor.astimezone(UTC), timezone=zone)
        else:
            timing = RRuleSchedule(rrule=str(config.rrule), timezone=zone)
    except ValidationError as error:
        raise UserError(f"a schedule of it is wrong ({_words(error)})") from None
    except ValueError as error:
        raise UserError(f"a schedule of it is wrong ({error})") from None
    if not config.slug:
        raise UserError("each of its schedules needs a slug, by which it is known again")
    return {
        "slug": config.slug,
        "active": config.active is not False,
        "parameters": config.parameters,
        "schedule": timing.model_dump(mode="json"),
    }


def _refuse_unknown(given: Any, known: frozenset[str], what: str) -> None:
    if not isinstance(given, dict):
        raise UserError(f"{what} is not a mapping")
    unknown = sorted(str(key) for key in set(given) - known)
    if unknown:
        raise UserError(f"{what} has a key that means nothing here: {unknown[0]}")


def _words(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".strip(": ")
