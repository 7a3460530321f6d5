"""Page, dashboard and alert rules know only metrics and labels that there are, and every rule fires for its cause."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from aae.operate.metrics import runs, tables
from aae.operate.metrics.catalogue import ALL, BY_NAME
from aae.operate.metrics.exposition import expose

ROOT = Path(__file__).parents[4]
PROMETHEUS = ROOT / "deployments" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
BOARD: dict[str, Any] = json.loads((ROOT / "deployments" / "grafana" / "aae.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
PAGE = (ROOT / "docs" / "metrics.md").read_text()

WORDS = {
    "sum", "max", "min", "by", "absent", "rate", "time", "clamp_min", "or", "and", "on",
}  # fmt: skip

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool; apt-get install prometheus")


EXPRESSIONS = [pytest.param(rule["expr"], "", id=rule["alert"]) for rule in RULES] + [
    pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]


@pytest.mark.parametrize(("expression", "legend"), EXPRESSIONS)
def test_an_expression_names_only_metrics_and_labels_that_there_are(expression: str, legend: str) -> None:
    names = re.findall(r"\baae_\w+", expression)
    assert names
    assert set(names) <= set(BY_NAME), "there is no such metric"
    labels = {label for name in names for label in BY_NAME[name].labels}
    grouped = {each.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for each in group.split(",")}
    matched = set(re.findall(r"(\w+)\s*=~?\s*\"", expression))
    assert grouped | matched <= labels
    assert set(re.findall(r"{{(\w+)}}", legend)) <= grouped, "what is not grouped by is not there to be shown"
    rest = re.sub(r"\baae_\w+|\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", " ", expression)
    assert set(re.findall(r"[a-z_]+", rest)) <= WORDS


@pytest.mark.parametrize(("expression", "_legend"), EXPRESSIONS)
def test_an_expression_asks_for_values_that_the_exporter_gives(expression: str, _legend: str) -> None:
    known = {
        "outcome": {*tables._OUTCOMES, *tables._REFRESHES, *tables._ENDS, *runs._ENDS},
        "email": set(tables._MAIL),
        "percentile": {f"{100 * each:g}" for each in runs._QUANTILES},
    }
    for label, _, values in re.findall(r"(\w+)\s*(=~?)\s*\"([^\"]*)\"", expression):
        assert set(values.split("|")) <= known[label]


def test_several_exporters_that_tell_the_same_are_never_added_up() -> None:
    for parameter in EXPRESSIONS:
        expression = re.sub(r"(max|min)( by \([^)]*\))? ?\(aae_\w+(\{[^}]*\})?\)", "", parameter.values[0])
        left = set(re.findall(r"\baae_\w+", expression))
        # Errors are each exporter's own.
        assert left <= {"aae_source_errors_total", "aae_up"}, parameter.id


class TestTheDashboard:
    def test_has_the_shape_that_grafana_imports(self) -> None:
        assert BOARD["uid"] == "aae-pipelines"
        assert BOARD["title"]
        assert BOARD["id"] is None
        assert BOARD["schemaVersion"] >= 36
        assert BOARD["time"].keys() == {"from", "to"}
        (variable,) = BOARD["templating"]["list"]
        assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
        identities = [panel["id"] for panel in BOARD["panels"]]
        assert len(identities) == len(set(identities))

    @pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
    def test_has_panels_with_a_question_a_unit_and_a_word_of_explanation(self, panel: dict[str, Any]) -> None:
        assert panel["targets"]
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in {"none", "short", "s", "percentunit"}
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_has_panels_that_do_not_cover_each_other(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in BOARD["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells

    def test_shows_everything_that_is_measured_of_the_jobs(self) -> None:
        shown = {name for panel in PANELS for one in panel["targets"] for name in re.findall(r"\baae_\w+", one["expr"])}
        left_out = {metric.name for metric in ALL} - shown
        assert left_out == {
            "aae_up",
            "aae_build_info",
            "aae_source_age_seconds",
            "aae_attempts_running",
            "aae_deployment_paused",
            "aae_last_failure_timestamp_seconds",
        }


class TestThePage:
    def test_lists_exactly_the_metrics_that_there_are(self) -> None:
        rows = re.findall(r"^\| `(aae_\w+)`(?: \((\w+)\))? \| (.*?) ?\| (.*) \|$", PAGE, re.MULTILINE)
        listed = [
            (name, kind or "gauge", tuple(re.findall(r"`(\w+)`", labels)), told) for name, kind, labels, told in rows
        ]
        assert sorted(listed) == sorted((one.name, one.kind, one.labels, one.help) for one in ALL)

    def test_names_files_that_there_are(self) -> None:
        named = re.findall(r"`(deployments/[^`]+)`", PAGE)
        assert len(named) >= 3
        assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_happened_and_the_first_thing_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "action"}


def test_the_metrics_follow_prometheus_conventions() -> None:
    for metric in ALL:
        assert re.fullmatch(r"aae_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
        # Prometheus gives these two to every series itself.
        assert not {"job", "instance"} & set(metric.labels)


CAUSES: dict[str, tuple[str, str]] = {
    "AaeSourceAway": ('aae_source_up{source="prefect"}', "0"),
    "AaeDataStale": ('aae_data_age_oldest_seconds{platform="meta"}', "28801"),
    "AaeNoWorker": ("aae_workers_online", "0"),
    "AaeNoWatch": ("aae_watch_leader", "0"),
    "AaeJobFailed": ('aae_deployment_failed{deployment="a/b"}', "1"),
    "AaeJobOverdue": ('aae_deployment_overdue{deployment="a/b"}', "1"),
    "AaeRunTooLong": ('aae_running_seconds{deployment="a/b"}', "15301"),
    "AaeJobSilent": ('aae_attempt_silence_seconds{flow="a"}', "301"),
    "AaeRunsLost": ('aae_attempts_24h{flow="a",outcome="lost"}', "6"),
    "AaeOutboxStuck": ("aae_outbox_oldest_seconds", "7201"),
    "AaeMailFailed": ('aae_notifications_24h{kind="daily_report",email="failed"}', "1"),
    "AaeThrottled": ('aae_fetches_24h{platform="meta",outcome="throttled"}', "6"),
    "AaeDataOff": ('aae_fetches_drifted_24h{platform="meta"}', "1"),
    "AaePoolPaused": ("aae_pool_paused", "1"),
    "AaeJobPaused": ('aae_deployment_paused{deployment="a/b"}', "1"),
}
"""Alert to what makes it fire."""

WELL: dict[str, str] = {
    "aae_up": "1",
    'aae_source_up{source="prefect"}': "1",
    'aae_data_age_oldest_seconds{platform="meta"}': "28799",
    "aae_workers_online": "1",
    "aae_watch_leader": "1",
    'aae_deployment_failed{deployment="a/b"}': "0",
    'aae_deployment_overdue{deployment="a/b"}': "0",
    'aae_running_seconds{deployment="a/b"}': "15299",
    'aae_attempt_silence_seconds{flow="a"}': "299",
    'aae_attempts_24h{flow="a",outcome="lost"}': "5",
    "aae_outbox_oldest_seconds": "7199",
    'aae_notifications_24h{kind="daily_report",email="failed"}': "0",
    'aae_fetches_24h{platform="meta",outcome="throttled"}': "5",
    'aae_fetches_24h{platform="meta",outcome="stored"}': "5",
    'aae_fetches_drifted_24h{platform="meta"}': "0",
    "aae_pool_paused": "0",
    'aae_deployment_paused{deployment="a/b"}': "0",
}
"""A system just within every bound."""


@promtool
def test_the_rules_and_the_scrape_configuration_are_accepted_by_prometheus_own_checker(tmp_path: Path) -> None:
    configuration = tmp_path / "prometheus.yml"
    scrape = (PROMETHEUS / "scrape.yaml").read_text()
    configuration.write_text(f"rule_files: ['{ALERTS}']\n{scrape}")
    run("check", "config", str(configuration), folder=tmp_path)


@promtool
def test_every_alert_fires_for_its_cause_and_only_for_that(tmp_path: Path) -> None:
    assert CAUSES.keys() | {"AaeNotMeasured"} == {rule["alert"] for rule in RULES}
    cases = [case("AaeNotMeasured", {name: value for name, value in WELL.items() if name != "aae_up"})]
    cases += [case(alert, WELL | {series: value}) for alert, (series, value) in CAUSES.items()]
    cases.append(case(None, WELL))
    rules = {"rule_files": [str(ALERTS)], "evaluation_interval": "5m"}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({**rules, "tests": cases}))
    run("test", "rules", "tests.yaml", folder=tmp_path)


@promtool
def test_what_is_exposed_is_accepted_by_prometheus_own_linter(tmp_path: Path) -> None:
    every = [metric.of(1, *("x" for _ in metric.labels)) for metric in ALL]
    linted = subprocess.run(["promtool", "check", "metrics"], input=expose(every)[0], capture_output=True, check=False)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, b"", b"")


def case(fires: str | None, series: dict[str, str]) -> dict[str, Any]:
    """25 hours of these series, looked at in their last minutes: exactly this alert fires."""
    return {
        "name": fires or "all is well",
        "interval": "5m",
        "input_series": [{"series": name, "values": f"{value}x300"} for name, value in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "24h55m",
                "exp_samples": [{"labels": f'{{alertname="{fires}"}}', "value": 1}] if fires else [],
            }
        ],
    }


def run(*words: str, folder: Path) -> None:
    done = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
