"""A log line is one line, says where it comes from, and holds no secret, whatever somebody writes into it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aae import logs
from aae.settings import EmailSettings, MetaSettings, Settings, load

ROOT = Path(__file__).parents[2]
KEY = base64.b64encode(bytes(range(32))).decode()
SECRETS = Settings(
    _env_file=None,  # type: ignore[call-arg]
    log_format="json",
    database_url="mysql+pymysql://aae:db%2Fpass@host/aae",
    redis_url="redis://:redispass@host:6379/0",
    encryption_keys=SecretStr(f"k1:{KEY},k0:{KEY[::-1]}"),
    meta=MetaSettings(app_secret=SecretStr("meta-app-secret")),
    email=EmailSettings(smtp_url=SecretStr("smtp://me:mailpass@host")),
    PREFECT_API_AUTH_STRING="operator:prefectpass",  # type: ignore[arg-type]
)
KNOWN = ["db%2Fpass", "db/pass", "redispass", KEY, KEY[::-1], "meta-app-secret", "mailpass", "prefectpass"]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level, hook = list(root.handlers), root.level, sys.excepthook
    levels = {name: logging.getLogger(name).level for name in logs._OURS}
    yield
    logging.captureWarnings(False)
    root.handlers[:], sys.excepthook = before, hook
    root.setLevel(level)
    for name, own in levels.items():
        logging.getLogger(name).setLevel(own)
    logs._State.json, logs._State.stream, logs._State.secrets = False, None, None
    logs._process.clear()


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Lines:
    stream = io.StringIO()
    logs.configure(SECRETS, stream)

    def read() -> list[dict[str, Any]]:
        assert stream.getvalue().isascii()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return read


def test_a_line_says_when_how_grave_where_and_what(lines: Lines) -> None:
    logging.getLogger("aae.storage").warning("%d rows of %s", 3, "meta:1")
    (line,) = lines()
    assert {k: v for k, v in line.items() if k != "ts"} == {
        "level": "warning",
        "logger": "aae.storage",
        "message": "3 rows of meta:1",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert datetime.fromisoformat(line["ts"]).utcoffset() == timedelta(0)


def test_what_the_process_and_the_block_are_about_is_in_every_line_also_of_threads(lines: Lines) -> None:
    import contextvars

    log = logging.getLogger("aae")
    logs.bind(run_id="r-1", job="fetch-ad-data", attempt=7)
    with logs.about(account="meta:1001"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(log.info, "in a thread"))
        thread.start()
        thread.join()
    log.info("after")
    inside, after = lines()
    about = {"run_id": "r-1", "job": "fetch-ad-data", "attempt": 7}
    assert about.items() <= inside.items()
    assert inside["account"] == "meta:1001"
    assert about.items() <= after.items()
    assert "account" not in after


def of_prefect(**extra: str) -> dict[str, Any]:
    # Not through Prefect's own logger: where Prefect is loaded, that one starts a server to send it to.
    record = logging.makeLogRecord({"name": "prefect.task_runs", "msg": "x", **extra})
    line: dict[str, Any] = json.loads(logs.JsonFormatter().format(record))
    return line


def test_prefects_names_become_ours() -> None:
    line = of_prefect(flow_run_id="r-2", flow_name="detect-anomalies", task_run_name="judge 1")
    assert {"run_id": "r-2", "job": "detect-anomalies", "task": "judge 1"}.items() <= line.items()


def test_what_prefect_does_not_know_yet_does_not_hide_what_we_know() -> None:
    logs.bind(job="fetch-ad-data")
    assert of_prefect(flow_run_id="r-2", flow_name="<unknown>")["job"] == "fetch-ad-data"


def test_an_exception_is_a_field_of_the_same_line(lines: Lines) -> None:
    try:
        raise ValueError("first\nsecond password=hunter2")
    except ValueError:
        logging.getLogger("aae").exception("it failed")
    (line,) = lines()
    assert line["message"] == "it failed"
    assert line["exception"]["type"] == "ValueError"
    assert line["exception"]["message"] == "first\nsecond password=***"
    assert "test_logs.py" in line["exception"]["traceback"]
    assert "hunter2" not in json.dumps(line)


def test_warnings_and_what_nobody_caught_are_lines_too(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look", UserWarning, stacklevel=1)
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)
    told, uncaught = lines()
    assert "look" in told["message"]
    assert (uncaught["level"], uncaught["exception"]["message"]) == ("critical", "boom")


@given(text=st.text(), argument=st.text())
def test_hostile_text_is_one_line_that_says_the_same(text: str, argument: str) -> None:
    record = logging.LogRecord("aae", logging.INFO, "", 0, "%s %s", (text, argument), None)
    line = logs.JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == logs.redact(f"{text} {argument}")


@pytest.mark.parametrize("told", ["%d apples", "%(name)s", "%s %s", "%"])
def test_a_wrong_format_does_not_cost_the_line(told: str) -> None:
    record = logging.LogRecord("aae", logging.INFO, "", 0, told, ("three",), None)
    assert "three" in json.loads(logs.JsonFormatter().format(record))["message"]


def test_a_long_line_is_cut_and_no_secret_is_cut_through(lines: Lines) -> None:
    for at in range(logs.LONGEST - 20, logs.LONGEST + 5):
        logging.getLogger("aae").warning("%s", " " * at + "redispass" + " " * 50_000)
    for line in lines():
        assert len(line["message"]) <= logs.LONGEST + 4
        assert "redis" not in line["message"]


@pytest.mark.parametrize("secret", KNOWN)
def test_what_the_settings_keep_secret_is_in_no_line(lines: Lines, secret: str) -> None:
    logging.getLogger("aae").warning("it says %s here", secret)
    assert lines()[0]["message"] == "it says *** here"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET /x?access_token=abc&limit=5", "GET /x?access_token=***&limit=5"),
        ('{"refresh_token": "abc", "x": 1}', '{"refresh_token": "***", "x": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("header bearer abcdefghij and more", "header bearer *** and more"),
        ("developer-token: xyz", "developer-token: ***"),
        ("mysql://u:p@host/db and smtp://a:b@c", "mysql://u:***@host/db and smtp://a:***@c"),
        ("EAABsbCS1iHgBO0ZB3ZC4d5e6f", "***"),
        ("ya29.a0AfH6SMBx-12", "***"),
        ("eyJhbGciOi.eyJzdWIi.abc", "***"),
        ("opaque aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f", "opaque ***"),
    ],
)
def test_what_looks_like_a_secret_is_taken_for_one(text: str, left: str) -> None:
    assert logs.redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "run 0c8e8d1e-3f1d-4c0e-9b57-1f2a3b4c5d6e",
        "/opt/aae/.venv/lib/python3.11/site-packages/prefect/Task_Engine9.py:12",
        "3 tokens: refreshed, the token of meta:1 expires soon",
        "http://127.0.0.1:4200/api/flow_runs/filter",
        "sha256 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    ],
)
def test_what_does_not_is_left(text: str) -> None:
    assert logs.redact(text) == text


def test_redacting_takes_no_time_on_anything() -> None:
    for text in ("a." * 8000, "a" * 16_000, "://" * 5000, "token " * 2600, "a:" * 8000, "@" * 16_000):
        logs._fit(text)


def test_our_own_loggers_have_the_level_of_the_settings_and_others_only_warn() -> None:
    stream = io.StringIO()
    logs.configure(SECRETS.model_copy(update={"log_level": "error"}), stream)
    logging.getLogger("aae.x").warning("no")
    logging.getLogger("aae.x").error("yes")
    logging.getLogger("httpx").info("no")
    logging.getLogger("httpx").warning("yes too")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["yes", "yes too"]


def test_what_is_announced_is_said_at_any_level() -> None:
    stream = io.StringIO()
    logs.configure(SECRETS.model_copy(update={"log_level": "error"}), stream)
    logs.announce("watching")
    assert json.loads(stream.getvalue())["message"] == "watching"


def test_text_stays_text_without_secrets() -> None:
    stream = io.StringIO()
    logs.configure(SECRETS.model_copy(update={"log_format": "text"}), stream)
    logging.getLogger("aae").warning("it is redispass")
    logs.announce("watching")
    logged, said = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d .* it is \*\*\*", logged)
    assert said == "watching"


@pytest.mark.parametrize(("name", "value"), [("AAE_LOG_FORMAT", "JSON"), ("AAE_LOG_LEVEL", "Warning")])
def test_settings_in_capitals_are_the_same(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load.cache_clear()
    assert value.lower() in {load().log_format, load().log_level}


# Processes


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AAE_", "PREFECT_"))}
    return {
        **inherited,
        "AAE_STATE_DIR": str(tmp_path / "state"),
        "AAE_REDIS_URL": "redis://:redispass@127.0.0.1:1/0",
        "AAE_LOG_FORMAT": "json",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        **more,
    }


def test_prefects_own_processes_write_the_same(tmp_path: Path) -> None:
    program = (
        "import logging, prefect.main\n"
        "from prefect.logging import get_logger\n"
        "get_logger('worker').warning('[red]two\\nlines[/red] :smile: redispass')\n"
        "logging.getLogger('prefect._internal').error('inside')\n"
        "logging.getLogger('elsewhere').error('outside')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path) | logs.prefect_variables(SECRETS),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in found] == ["[red]two\nlines[/red] :smile: ***", "inside", "outside"]


def test_the_process_of_a_run_keeps_our_lines_when_prefect_sets_up_its_own(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from aae.settings import load\n"
        "from tasks.process import _log_as\n"
        "_log_as(load(), 'r-1', 'fetch-ad-data')\n"
        "assert 'prefect' not in sys.modules\n"
        "import prefect.main\n"
        "from prefect.logging import get_logger\n"
        "from prefect.logging.configuration import PROCESS_LOGGING_CONFIG\n"
        "assert PROCESS_LOGGING_CONFIG\n"
        "get_logger('flow_runs').info('quiet')\n"
        "get_logger('flow_runs').warning('loud\\nand long')\n"
        "raise ValueError('redispass')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path, AAE_LOG_LEVEL="warning", PREFECT_LOGGING_TO_API_ENABLED="false"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    loud, uncaught = [json.loads(line) for line in done.stderr.splitlines()]
    assert (loud["message"], loud["run_id"], loud["job"]) == ("loud\nand long", "r-1", "fetch-ad-data")
    assert uncaught["exception"]["message"] == "***"


def test_as_text_a_run_is_written_by_prefect_and_ours_have_their_level(tmp_path: Path) -> None:
    program = (
        "import logging\n"
        "from aae.settings import load\n"
        "from tasks.process import _log_as\n"
        "_log_as(load(), 'r-1', 'fetch-ad-data')\n"
        "import prefect.main\n"
        "from prefect.logging import get_logger\n"
        "get_logger('mine').debug('of Prefect')\n"
        "logging.getLogger('aae.x').debug('of ours')\n"
        "logging.getLogger('httpx').info('of others')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path, AAE_LOG_FORMAT="text", AAE_LOG_LEVEL="debug", PREFECT_LOGGING_TO_API_ENABLED="false"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = [line.rpartition(" - ")[2] for line in done.stderr.splitlines()]
    assert [line for line in said if line.startswith("of ")] == ["of Prefect", "of ours"]


def test_the_watch_writes_only_json_also_when_it_cannot_see(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aae", "watch"],
        env=environment(tmp_path, PREFECT_API_URL="http://127.0.0.1:1/api", AAE_RECOVERY__WATCH_SECONDS="0.1"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=60)
    found = [json.loads(line) for line in [first, second, *rest.splitlines()]]
    assert found[0]["message"] == "watching the work pool aae"
    assert "cannot see" in found[1]["message"]


def test_a_watch_that_cannot_begin_says_so_in_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aae", "watch"],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = [json.loads(each) for each in (done.stdout + done.stderr).splitlines() if "PREFECT_API_URL" in each]
    assert line["level"] == "error"


def test_the_sandbox_announces_its_address_in_json(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aae", "sandbox", "--days", "1", "--users", "1"],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()
    assert re.fullmatch(r"serving at http://127\.0\.0\.1:\d+", line["message"])
