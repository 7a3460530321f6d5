"""The Kubernetes files: objects of the right shape, values that Prefect's charts know, and one story in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from aae.settings import Settings

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deployments" / "kubernetes"
VERSION = "1.31"

Values = dict[str, Any]
OBJECTS: list[Values] = list(yaml.safe_load_all((FOLDER / "aae.yaml").read_text()))
SERVER: Values = yaml.safe_load((FOLDER / "server-values.yaml").read_text())
WORKER: Values = yaml.safe_load((FOLDER / "worker-values.yaml").read_text())
PATCH: Values = yaml.safe_load((FOLDER / "worker-patch.yaml").read_text())

# The charts' values, as far as ours use them: a dict has these keys and no others, None is whatever Kubernetes takes.
PROBE = {
    "enabled": None,
    "config": dict.fromkeys(
        ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
    ),
}
AUTH = dict.fromkeys(("enabled", "authString", "existingSecret"))
CONTAINER = dict.fromkeys(
    ("runAsUser", "runAsNonRoot", "readOnlyRootFilesystem", "allowPrivilegeEscalation", "capabilities")
)
RESOURCES = {"requests": None, "limits": None}
SERVER_CHART: Values = {
    "global": {
        "prefect": {"image": dict.fromkeys(("repository", "prefectTag", "pullPolicy", "pullSecrets")), "env": None}
    },
    "server": {
        "extraEnvVarsCM": None,
        "extraEnvVarsSecret": None,
        "replicaCount": None,
        "basicAuth": AUTH,
        "uiConfig": dict.fromkeys(("prefectUiApiUrl", "prefectUiStaticDirectory")),
        "livenessProbe": PROBE,
        "readinessProbe": PROBE,
        "resources": RESOURCES,
        "containerSecurityContext": CONTAINER,
        "env": None,
    },
    "postgresql": {"enabled": None},
    "secret": dict.fromkeys(("create", "name", "username", "password", "host", "port", "database")),
}
WORKER_CHART: Values = {
    "worker": {
        "image": dict.fromkeys(("repository", "prefectTag", "pullPolicy", "pullSecrets", "debug")),
        "apiConfig": None,
        "selfHostedServerApiConfig": {"apiUrl": None, "basicAuth": AUTH},
        "config": dict.fromkeys(
            ("workPool", "workQueues", "type", "installPolicy", "queryInterval", "prefetchSeconds", "http2", "name")
        ),
        "replicaCount": None,
        "clusterUid": None,
        "extraEnvVars": None,
        "extraEnvVarsCMs": None,
        "extraEnvVarsSecrets": None,
        "extraVolumes": None,
        "extraVolumeMounts": None,
        "livenessProbe": PROBE,
        "resources": RESOURCES,
        "containerSecurityContext": CONTAINER,
    },
    "role": {"create": None, "extraPermissions": None},
    "rolebinding": {"create": None},
}


def unknown(values: Values, known: Values, path: str = "") -> list[str]:
    """Paths of values that the chart would silently ignore."""
    found = []
    for key, value in values.items():
        if key not in known:
            found.append(f"{path}{key}")
        elif known[key] is not None:
            found += unknown(value, known[key], f"{path}{key}.")
    return found


def worker_deployment() -> Values:
    """What the chart makes of our values, in its own words as far as they matter here, and with our patch applied."""
    worker = WORKER["worker"]
    auth = {"name": worker["selfHostedServerApiConfig"]["basicAuth"]["existingSecret"], "key": "auth-string"}
    container = {
        "name": "prefect-worker",
        "image": f"{worker['image']['repository']}:{worker['image']['prefectTag']}",
        "env": [
            {"name": "PREFECT_API_AUTH_STRING", "valueFrom": {"secretKeyRef": auth}},
            *worker["extraEnvVars"],
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in worker["extraEnvVarsSecrets"]],
        "resources": worker["resources"],
        "securityContext": worker["containerSecurityContext"],
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, **worker["livenessProbe"]["config"]},
        "volumeMounts": worker["extraVolumeMounts"],
    }
    pod = {"containers": [container], "volumes": worker["extraVolumes"], **PATCH["spec"]["template"]["spec"]}
    labels = {"app.kubernetes.io/component": "worker"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "prefect-worker"},
        "spec": {
            "replicas": worker["replicaCount"],
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


@pytest.mark.parametrize("found", [*OBJECTS, worker_deployment()], ids=lambda found: found["metadata"]["name"])
def test_kubernetes_takes_it(found: Values) -> None:
    kubernetes_validate.validate(found, VERSION, strict=True)


def test_a_wrong_field_would_be_noticed() -> None:
    wrong = worker_deployment()
    wrong["spec"]["template"]["spec"]["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize(
    ("values", "chart"), [(SERVER, SERVER_CHART), (WORKER, WORKER_CHART)], ids=["server", "worker"]
)
def test_the_chart_knows_every_value(values: Values, chart: Values) -> None:
    assert unknown(values, chart) == []


def test_all_run_the_same_version_of_the_same_image() -> None:
    images = {one["image"] for found in OBJECTS for one in pod(found).get("containers", [])}
    for image in (SERVER["global"]["prefect"]["image"], WORKER["worker"]["image"]):
        images.add(f"{image['repository']}:{image['prefectTag']}")
    assert len(images) == 1


def pod(found: Values) -> Values:
    return found["spec"].get("template", {}).get("spec", {}) if found["kind"] != "PersistentVolumeClaim" else {}


@pytest.mark.parametrize("found", [one for one in OBJECTS if pod(one)], ids=lambda found: found["metadata"]["name"])
def test_ours_have_no_rights(found: Values) -> None:
    assert pod(found)["securityContext"]["runAsNonRoot"] is True
    assert pod(found)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(found)["automountServiceAccountToken"] is False
    for container in pod(found)["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]


def test_the_worker_has_no_rights_in_the_cluster() -> None:
    assert WORKER["role"] == WORKER["rolebinding"] == {"create": False}
    assert pod(worker_deployment())["automountServiceAccountToken"] is False


def test_a_worker_is_given_the_time_that_its_drain_takes() -> None:
    recovery = Settings().recovery
    patience = pod(worker_deployment())["terminationGracePeriodSeconds"]
    assert patience >= recovery.drain_seconds + 2 * recovery.beat_seconds + 60


def test_two_workers_take_turns_and_neither_limits_itself() -> None:
    assert WORKER["worker"]["replicaCount"] >= 2
    assert "limit" not in WORKER["worker"]["config"]
    assert WORKER["worker"]["config"]["workPool"] == "aae"
    assert WORKER["worker"]["config"]["type"] == "process"


def test_the_work_pools_template_is_left_to_the_code_that_owns_it() -> None:
    """The chart would overwrite it at every start, and with it the command that makes runs recoverable."""
    assert "baseJobTemplate" not in WORKER["worker"]["config"]


@pytest.mark.parametrize("name", ["aae.yaml", "server-values.yaml", "worker-values.yaml"])
def test_no_secret_is_written_down_and_the_manual_says_how_each_is_made(name: str) -> None:
    manual = (ROOT / "docs" / "running.md").read_text()
    for secret, key in named_secrets(list(yaml.safe_load_all((FOLDER / name).read_text()))):
        assert f"create secret generic {secret} " in manual, secret
        assert key is None or f"--from-literal={key}=" in manual, key
    if name == "server-values.yaml":
        assert f"create configmap {SERVER['server']['extraEnvVarsCM']} --from-env-file=deployments/server.env" in manual


def named_secrets(found: Any) -> list[tuple[str, str | None]]:
    """Every Secret that is referred to, with its key if one is."""
    if isinstance(found, list):
        return [one for each in found for one in named_secrets(each)]
    if not isinstance(found, dict):
        return []
    here: list[tuple[str, str | None]] = []
    for key, value in found.items():
        if key == "secretKeyRef":
            here.append((value["name"], value["key"]))
        elif key == "secretRef":
            here.append((value["name"], None))
        elif key == "existingSecret":
            here.append((value, "auth-string"))
        elif key == "extraEnvVarsSecrets":
            here += [(name, None) for name in value]
        elif key == "secret":
            here.append((value["name"], "connection-string"))
        else:
            here += named_secrets(value)
    return here
