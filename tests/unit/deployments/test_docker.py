"""The Dockerfile and the compose file: what engines would say of them, and what they must not do.

Their steps are carried out by tests/e2e/test_image.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aae.settings import Settings
from tests import dockerfile

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deployments" / "docker"
STAGES = dockerfile.read(FOLDER / "Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def test_every_step_is_one_that_the_tests_carry_out() -> None:
    known = {"WORKDIR", "RUN", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert {name for stage in STAGES for name, _ in stage.steps} <= known


def test_the_image_is_based_on_one_named_minimal_system() -> None:
    assert {stage.base for stage in STAGES} == {"python:3.11-slim-bookworm"}


def test_only_packages_with_known_hashes_are_installed() -> None:
    installs = [rest for stage in STAGES for name, rest in stage.steps if name == "RUN" and "pip install" in rest]
    assert installs
    for line in installs:
        assert "--require-hashes --no-deps -r requirements.lock" in line or "--no-deps --no-build-isolation" in line


def test_it_does_not_run_as_root() -> None:
    last = STAGES[-1]
    assert last.last("USER") == "1001:1001"
    assert [name for name, _ in last.steps][-3:] == ["USER", "ENTRYPOINT", "CMD"]
    assert last.words("ENTRYPOINT")[0] == "/usr/bin/tini", "signals are passed on and the dead are buried"


def test_what_is_copied_exists_and_holds_all_the_code_but_no_secret() -> None:
    copied = {path for stage in STAGES for source, what, _ in stage.copies() if not source
              for path in dockerfile.context(ROOT, what)}  # fmt: skip
    for stage in STAGES:
        for source, what, _ in stage.copies():
            assert source or list(dockerfile.context(ROOT, what)), what
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    code = {Path(line) for line in tracked.splitlines() if line.startswith(("aae/", "tasks/", "flows/"))}
    assert code <= copied
    assert Path("deployments/server.env") in copied
    names = {path.name for path in copied}
    assert not {".env", "aae.env", "encryption.key"} & names
    assert not any("__pycache__" in path.parts for path in copied)


@pytest.mark.parametrize(
    ("path", "is_in"),
    [
        ("aae/settings.py", True),
        ("aae/cli/__init__.py", True),
        ("aae/__pycache__/x.pyc", False),
        ("deployments/worker.env", True),
        ("deployments/docker/aae.env", False),
        ("deployments/docker/.env", False),
        (".env", False),
        (".git/config", False),
        ("tests/conftest.py", False),
    ],
)
def test_what_the_engine_is_given(tmp_path: Path, path: str, is_in: bool) -> None:
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert (Path(path) in dockerfile.context(tmp_path, ["."])) == is_in


def test_the_compose_file_keeps_to_its_schema() -> None:
    schema = resources.files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


def test_it_has_everything_that_is_needed() -> None:
    assert set(SERVICES) == {"mysql", "redis", "postgres", "server", "setup", "worker", "watch"}
    assert set(OURS) == {"server", "setup", "worker", "watch"}
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2


@pytest.mark.parametrize("name", OURS)
def test_ours_have_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "1001:1001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    """What looks like one is filled in from a file that git and the image never see, and missing it is an error."""
    for key, value in (SERVICES[name].get("environment") or {}).items():
        if re.search("PASSWORD|AUTH|KEY|SECRET", key) and key != "MYSQL_RANDOM_ROOT_PASSWORD":
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), key
        for password in re.findall(r"://[^:/@]+:(.+?)@", str(value)):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", password), key


@pytest.mark.parametrize("name", SERVICES)
def test_who_is_waited_for_can_be_waited_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        match how["condition"]:
            case "service_healthy":
                assert "healthcheck" in SERVICES[other]
            case "service_completed_successfully":
                assert SERVICES[other]["restart"].startswith("on-failure")
            case unknown:
                pytest.fail(unknown)


def test_only_the_server_is_published_and_on_loopback() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"server"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["server"]["ports"])
    assert COMPOSE["networks"]["stores"]["internal"] is True
    for name in ("mysql", "redis", "postgres"):
        assert SERVICES[name]["networks"] == ["stores"]


def test_what_is_stored_outlives_its_container() -> None:
    for name in ("mysql", "redis", "postgres", "worker"):
        volumes = [volume.split(":")[0] for volume in SERVICES[name]["volumes"]]
        assert volumes
        assert set(volumes) <= set(COMPOSE["volumes"])


def test_a_worker_is_given_the_time_that_its_drain_takes() -> None:
    recovery = Settings().recovery
    patience = SERVICES["worker"]["stop_grace_period"]
    assert int(patience.removesuffix("s")) >= recovery.drain_seconds + 2 * recovery.beat_seconds + 60


def test_the_files_that_it_reads_exist_or_are_made_from_examples() -> None:
    for service in SERVICES.values():
        for file in service.get("env_file", []):
            assert (FOLDER / file).is_file() or file == "aae.env"
    variables = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text())) - {"AAE_VERSION"}
    example = (FOLDER / "example.env").read_text()
    assert all(re.search(rf"^(# )?{name}=", example, re.MULTILINE) for name in variables)


def test_a_plain_prefect_worker_becomes_one_that_drains_and_nothing_else_is_changed(tmp_path: Path) -> None:
    for program in ("aae", "prefect"):
        path = tmp_path / program
        path.write_text(f'#!/bin/sh\necho {program} "$@"\n')
        path.chmod(0o755)

    def becomes(*words: str) -> str:
        command = [str(FOLDER / "entrypoint.sh"), *words]
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(command, env=path, capture_output=True, text=True, check=True).stdout.strip()

    assert becomes("prefect", "worker", "start", "--type", "process", "--pool", "aae") == (
        "aae worker --type process --pool aae"
    )
    assert becomes("prefect", "server", "start", "--port", "4200") == "prefect server start --port 4200"
    assert becomes("aae", "watch") == "aae watch"
