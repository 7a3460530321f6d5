"""Deploy to a real Prefect server, make each cause happen, and hear the alert arrive, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import Engine, insert

from aae.local.stack import MARK, _marked
from aae.operate.alerts import ALERT_KINDS, Alerts, runbook
from aae.operate.doctor import executing
from aae.operate.prefect_api import PrefectApi
from aae.operate.recovery import Watch
from aae.settings import RecoverySettings, Settings
from aae.storage import engine as database
from aae.storage.schema import ad_accounts, users
from tests.quick import QUICK
from tests.servers import free_port

ROOT = Path(__file__).parents[3]
POOL = "aae"
JOB = "fetch-ad-data/six-hourly"
PATIENCE = 300
NO_CHANNELS = {"AAE_ALERTS__WEBHOOK_URL": "", "AAE_ALERTS__APPRISE_URLS": "", "AAE_ALERTS__EMAIL_TO": ""}


@pytest.fixture(scope="session", autouse=True)
def _prefect() -> None:
    """No server but our own is needed here."""


class Listener:
    """Hears what comes by HTTP and by SMTP."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.mails: list[str] = []
        self.answers: dict[str, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.heard.append((self.path, json.loads(body)))
                self.send_response(outer.answers.get(self.path, 200))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.smtp = Controller(self, hostname="127.0.0.1", port=free_port())
        self.smtp.start()

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(envelope.content.decode())
        return "250 OK"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.smtp.stop()

    def alerts(self, kind: str) -> list[Any]:
        return [body for path, body in self.heard if path == "/hook" and body["alert"] == kind]

    def everywhere(self, title: str) -> list[int]:
        """How often it came by webhook, by Apprise and by mail."""
        hook, apprise = (
            sum(path == one and body["title"] == title for path, body in self.heard) for one in ("/hook", "/apprise")
        )
        subjects = [" ".join(message_from_string(mail)["Subject"].split()) for mail in self.mails]
        return [hook, apprise, sum(title in subject for subject in subjects)]


def wait_for(what: Callable[[], Any], tries: Callable[[], object] = lambda: None) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        tries()
        if found := what():
            return found
        time.sleep(0.5)
    raise AssertionError("it did not come")


class Bench:
    """A server, deployed to, and what talks to it."""

    def __init__(self, url: str, environment: dict[str, str], listener: Listener) -> None:
        self.api = PrefectApi(url, timeout=150)
        self.environment = environment
        self.listener = listener

    def deploy(self, *flags: str, **settings: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.apply", "--json", *flags],
            cwd=ROOT,
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def run(self) -> str:
        found = self.api.deployment(JOB)
        assert found is not None
        return self.api.create_run(found.id, {}).id


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, _redis_server: str) -> Iterator[Bench]:
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    listener = Listener()
    hook = f"127.0.0.1:{listener.http.server_address[1]}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AAE_", "PREFECT_"))}
    lines = (ROOT / "deployments" / "server.env").read_text().splitlines()
    environment = {
        **clean,
        **dict(line.split("=", 1) for line in lines if line and not line.startswith("#")),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "AAE_STATE_DIR": str(home),
        "AAE_REDIS_URL": _redis_server,
        "AAE_ALERTS__WEBHOOK_URL": f"http://{hook}/hook",
        "AAE_ALERTS__APPRISE_URLS": f"json://{hook}/apprise",
        "AAE_ALERTS__ALLOW_INTERNAL": "true",
        "AAE_ALERTS__EMAIL_TO": "ops@aae.example",
        "AAE_EMAIL__SMTP_URL": f"smtp://127.0.0.1:{listener.smtp.port}?tls=off",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            made = Bench(url, environment, listener)

            def healthy() -> bool:
                from aae.errors import AaeError

                try:
                    return made.api.health()
                except AaeError:
                    return False

            with closing(made.api):
                wait_for(healthy)
                made.deploy()
                yield made
        finally:
            os.killpg(server.pid, 15)
            server.wait(60)
            listener.close()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = database.connect(f"sqlite:///{tmp_path_factory.mktemp('tables') / 'aae.db'}")
    database.upgrade(engine)
    yield engine
    engine.dispose()


def watch(bench: Bench, tables: Engine, **alerts: float) -> Callable[[], object]:
    """A look of a watch that is started anew, with these limits; all others are out of reach."""
    limits = {"late_seconds": 1e6, "stuck_seconds": 1e6, "no_worker_seconds": 1e6, "stale_hours": 1e5} | alerts
    settings = Settings(PREFECT_API_URL=bench.api.url, alerts=limits, _env_file=None)  # type: ignore[call-arg,arg-type]
    told = Alerts(tables, bench.api, settings, POOL)
    quick = RecoverySettings(beat_seconds=1, lost_seconds=3, pending_seconds=1, settle_seconds=0)
    return Watch(tables, bench.api, quick, POOL, alerts=told).look


def worker(bench: Bench) -> None:
    bench.api.call("POST", f"work_pools/{POOL}/workers/heartbeat", {"name": "w", "heartbeat_interval_seconds": 3600})


def test_each_cause_is_told_once_on_every_channel_with_a_link_and_what_to_do(bench: Bench, tables: Engine) -> None:
    now = datetime.now(UTC)

    # Nobody serves the pool.
    look = watch(bench, tables, no_worker_seconds=0)
    wait_for(lambda: bench.listener.alerts("no-worker"), look)

    # A worker comes; a run ends badly.
    worker(bench)
    failed = bench.run()
    bench.api.set_state(failed, "FAILED", "Failed", "meta:1 owes <b>data</b> {{ 1 + 1 }}")
    look = watch(bench, tables)
    wait_for(lambda: bench.listener.alerts("failed-run"), look)

    # A worker took a run and it never began; another one crashed after it had.
    stuck, lost, long, late = (bench.run() for _ in range(4))
    bench.api.set_state(stuck, "PENDING", "Pending", "")
    wait_for(lambda: bench.listener.alerts("stuck-run"), look)
    from aae.model import Process
    from aae.storage import attempts

    with tables.begin() as connection:
        token = attempts.take(connection, "fetch-ad-data", run_id=lost, process=Process("elsewhere", 1, 1))
        assert token is not None
        attempts.end(connection, token, "lost", reason="it fell silent")
    bench.api.set_state(lost, "CRASHED", "Crashed", "exit code -9")
    wait_for(lambda: bench.listener.alerts("lost-run"), look)

    # One is late, for Prefect too.
    bench.api.set_state(late, "SCHEDULED", "Late", "", scheduled_for=now - timedelta(hours=1))
    wait_for(lambda: bench.listener.alerts("late-run"), watch(bench, tables, late_seconds=60))

    # Data is old, and nothing that was told explains it.
    for each in (failed, stuck, lost, long, late):
        bench.api.set_state(each, "COMPLETED", "Completed", "")
    with tables.begin() as connection:
        user = connection.execute(
            insert(users).values(email="a@aae.example", name="A", created_at=now)
        ).inserted_primary_key
        assert user is not None
        connection.execute(insert(ad_accounts).values(**an_account(user[0], now - timedelta(hours=20))))
    look = watch(bench, tables, stale_hours=13)
    wait_for(lambda: bench.listener.alerts("stale-data"), look)

    # Each once, and by every channel; a watch that starts anew tells nothing again.
    for _ in range(2):
        watch(bench, tables, stale_hours=13, no_worker_seconds=0)()
    kinds = [one for one in ALERT_KINDS if one != "silent-watch"]
    # And the test alert of the first deploy.
    wait_for(lambda: len(bench.listener.mails) >= 7)
    wait_for(lambda: len([path for path, _ in bench.listener.heard if path == "/apprise"]) >= 7)
    time.sleep(3)
    for kind in kinds:
        (told,) = bench.listener.alerts(kind)
        assert told["runbook"] == runbook(kind)
        assert (ROOT / told["runbook"]).exists()
        assert told["url"].startswith(bench.api.url.removesuffix("/api")), "a link into the UI"
        assert told["first"] in told["text"]
    (told,) = bench.listener.alerts("failed-run")
    assert failed in told["url"]
    assert "{{ 1 + 1 }}" in told["text"], "what is in a message is not rendered again"


def test_a_run_that_did_not_begin_and_later_does_not_end_is_told_of_twice(bench: Bench, tables: Engine) -> None:
    from aae.operate.processes import this_process
    from aae.storage import attempts

    run = bench.run()

    def told() -> list[Any]:
        return [one["title"] for one in bench.listener.alerts("stuck-run") if one["run_id"] == run]

    bench.api.set_state(run, "PENDING", "Pending", "")
    wait_for(told, watch(bench, tables))
    with tables.begin() as connection:
        token = attempts.take(connection, "fetch-ad-data", run_id=run, process=this_process())
        assert token is not None
    bench.api.set_state(run, "RUNNING", "Running", "")
    look = watch(bench, tables, stuck_seconds=0.1)

    def beat_and_look() -> None:
        with tables.begin() as connection:
            assert attempts.beat(connection, token, doing="a step that does not end")
        look()

    wait_for(lambda: len(told()) > 1, beat_and_look)
    assert "stuck before it began" in told()[0]
    assert "has been at work for more than" in told()[1]
    with tables.begin() as connection:
        attempts.end(connection, token, "ended")
    bench.api.set_state(run, "COMPLETED", "Completed", "")


def an_account(user: int, at: datetime) -> dict[str, Any]:
    required = [one for one in ad_accounts.columns if not one.nullable and one.default is None and not one.primary_key]
    known: dict[str, Any] = {
        "user_id": user,
        "platform": "meta",
        "external_id": "1",
        "name": "one",
        "status": "active",
        "currency": "USD",
        "timezone": "UTC",
        "created_at": at,
        "updated_at": at,
    }
    return known | {one.name: b"x" for one in required if one.name not in known and one.server_default is None}


def test_deploying_again_changes_nothing_and_what_left_the_code_leaves_the_server(bench: Bench) -> None:
    again = bench.deploy()
    assert {one["action"] for one in again["changes"]} == {"keep"}
    assert again["remarks"] == [], "the server runs with deployments/server.env"

    found = bench.api.call("GET", f"deployments/name/{JOB}")
    path = f"deployments/{found['id']}"
    cron = {"schedule": {"cron": "5 5 * * *", "timezone": "UTC"}, "active": True, "slug": "old"}
    bench.api.call("POST", f"{path}/schedules", [cron])
    bench.api.call("PATCH", f"{path}/schedules/{found['schedules'][0]['id']}", {"active": False})
    flow = {"flow_id": found["flow_id"], "work_pool_name": POOL}
    bench.api.call("POST", "deployments/", flow | {"name": "gone", "tags": ["aae"]})
    bench.api.call("POST", "deployments/", flow | {"name": "theirs", "tags": ["mine"]})
    bench.api.call("POST", "v2/concurrency_limits/", {"name": "aae-old", "limit": 1})
    bench.api.call("POST", "v2/concurrency_limits/", {"name": "theirs", "limit": 1})
    bench.api.call("POST", f"work_pools/{POOL}/queues", {"name": "old"})

    expected = {
        ("schedule", f"{JOB} old", "remove"),
        ("deployment", "fetch-ad-data/gone", "remove"),
        ("limit", "aae-old", "remove"),
        ("queue", "old", "remove"),
    }
    for flags in (("--dry-run",), ()):
        done = bench.deploy(*flags)
        assert {(c["kind"], c["name"], c["action"]) for c in done["changes"] if c["action"] != "keep"} == expected
        (paused,) = [one for one in done["changes"] if one["note"]]
        assert paused["name"] == f"{JOB} six-hourly", "what a person paused stays paused, and is named"
    assert bench.api.deployment("fetch-ad-data/theirs") is not None
    assert bench.api.deployment("fetch-ad-data/gone") is None
    done = bench.deploy("--unpause", AAE_ALERTS__EMAIL_TO="")
    changed = {(c["kind"], c["name"], c["action"]) for c in done["changes"] if c["action"] != "keep"}
    assert ("schedule", f"{JOB} six-hourly", "change") in changed
    assert ("alert channel", "aae-alerts-email", "remove") in changed
    assert ("automation", "aae: failed-run", "change") in changed


def test_a_fetch_is_dealt_out_by_a_setting_and_back_and_stays_paused_if_it_was(bench: Bench) -> None:
    def schedules() -> dict[str, tuple[bool, Any]]:
        found = bench.api.deployment(JOB)
        assert found is not None
        return {str(one.slug): (one.active, one.share) for one in found.schedules}

    assert schedules() == {"six-hourly": (True, None)}
    done = bench.deploy(AAE_FETCH__SHARES="2")
    changed = {(c["kind"], c["name"], c["action"]) for c in done["changes"] if c["action"] != "keep"}
    assert {one for one in changed if one[0] in {"work pool", "schedule"}} == {
        ("work pool", POOL, "change"),
        ("schedule", f"{JOB} six-hourly-1-of-2", "create"),
        ("schedule", f"{JOB} six-hourly-2-of-2", "create"),
        ("schedule", f"{JOB} six-hourly", "remove"),
    }
    assert schedules() == {"six-hourly-1-of-2": (True, "1/2"), "six-hourly-2-of-2": (True, "2/2")}
    again = bench.deploy(AAE_FETCH__SHARES="2")
    assert {one["action"] for one in again["changes"]} == {"keep"}

    path = f"deployments/{bench.api.call('GET', f'deployments/name/{JOB}')['id']}"
    for one in bench.api.call("GET", path)["schedules"]:
        bench.api.call("PATCH", f"{path}/schedules/{one['id']}", {"active": False})
    bench.deploy()
    assert schedules() == {"six-hourly": (False, None)}
    bench.deploy("--unpause")
    assert schedules() == {"six-hourly": (True, None)}


def test_a_channel_that_swallows_alerts_is_told_by_deploy_and_doctor_until_it_is_well(bench: Bench) -> None:
    def told_by_the_doctor() -> list[tuple[bool, str]]:
        return [(one.ok, one.detail) for one in executing._alerts(bench.api, datetime.now(UTC))]

    bench.listener.answers = {"/hook": 503, "/apprise": 500}
    assert bench.deploy("--test-alerts", "--dry-run")["remarks"] == [], "nothing is sent then"
    assert bench.deploy("--test-alerts")["remarks"] == [
        "A test alert has NOT arrived by aae-alerts-webhook: it answered 503.",
        "A test alert has NOT arrived by aae-alerts-apprise-1: Prefect's server could not send it; "
        "why is in its event feed.",
        "A test alert has arrived by aae-alerts-email.",
    ]
    (apprise, webhook) = told_by_the_doctor()
    assert (apprise[0], webhook[0]) == (False, False)
    assert webhook[1].startswith("The last alert by aae-alerts-webhook, ")
    assert webhook[1].endswith("did not arrive: it answered 503.")

    # Prefect follows no redirect, and would call that a success too. A channel that is new is tried unasked.
    bench.listener.answers = {"/hook?new": 302}
    hook = bench.environment["AAE_ALERTS__WEBHOOK_URL"]
    changed = bench.deploy(AAE_ALERTS__WEBHOOK_URL=f"{hook}?new")
    assert changed["remarks"] == ["A test alert has NOT arrived by aae-alerts-webhook: it answered 302."]

    assert bench.deploy()["remarks"] == ["A test alert has arrived by aae-alerts-webhook."]
    assert bench.deploy()["remarks"] == [], "it was told, and nothing has changed"
    bench.deploy("--test-alerts")
    assert told_by_the_doctor() == [
        (True, "the last one arrived by aae-alerts-apprise-1, aae-alerts-email, aae-alerts-webhook")
    ]

    # Switched off, nothing comes; without channels nothing is sent.
    assert bench.deploy("--test-alerts", **NO_CHANNELS)["remarks"] == [
        "Alerts reach nobody: set AAE_ALERTS__WEBHOOK_URL, __APPRISE_URLS or __EMAIL_TO."
    ]
    assert told_by_the_doctor() == [], "what is gone is no finding"
    bench.deploy()


def test_a_pool_that_prefects_own_worker_made_is_repaired(bench: Bench) -> None:
    from prefect.workers.process import ProcessWorker

    plain = {"base_job_template": ProcessWorker.get_default_base_job_template()}
    bench.api.call("PATCH", f"work_pools/{POOL}", plain)
    (finding,) = executing._pool(bench.api, POOL)
    assert "starts runs with Prefect's own command, not 'python -m tasks.launch'" in finding.detail
    assert finding.remedy == "aae deploy"
    changes = [one for one in bench.deploy()["changes"] if one["action"] != "keep"]
    assert [(one["kind"], one["name"], one["action"]) for one in changes] == [("work pool", POOL, "change")]
    (finding,) = executing._pool(bench.api, POOL)
    assert finding.ok


def test_an_api_that_lets_anybody_in_is_remarked_unless_it_is_this_machines_own(bench: Bench) -> None:
    assert bench.deploy("--dry-run")["remarks"] == []
    # The same server by an address that is not loopback's.
    beyond = bench.api.url.replace("127.0.0.1", "0.0.0.0")
    (remark,) = bench.deploy("--dry-run", PREFECT_API_URL=beyond)["remarks"]
    assert remark.startswith(f"Prefect's API at {beyond} lets anybody in: ")
    assert "PREFECT_SERVER_API_AUTH_STRING" in remark


def test_a_webhook_that_leads_inside_by_the_time_an_alert_comes_is_not_called(bench: Bench) -> None:
    hook = bench.environment["AAE_ALERTS__WEBHOOK_URL"]
    outside = {"AAE_ALERTS__ALLOW_INTERNAL": "false", "AAE_ALERTS__APPRISE_URLS": ""}
    bench.deploy(AAE_ALERTS__WEBHOOK_URL="https://8.8.8.8/hook", **outside)
    # No name service is ours to change: the address itself leads elsewhere from now on.
    path = "block_types/slug/webhook/block_documents/name/aae-alerts-webhook?include_secrets=true"
    found = bench.api.call("GET", path)
    assert found["data"]["allow_private_urls"] is False
    moved = {"data": found["data"] | {"url": hook}, "merge_existing_data": False}
    bench.api.call("PATCH", f"block_documents/{found['id']}", moved)

    title = "AAE: a run was due"
    resource = {"prefect.resource.id": "aae.pool.aae", "prefect.resource.name": POOL}
    payload = {"alert": "late-run", "title": title, "text": title}
    bench.api.emit_event("aae.alert.late-run", resource, payload, at=datetime.now(UTC))
    refused = {"filter": {"event": {"name": ["prefect.automation.action.failed"]}}}

    def reasons() -> list[str]:
        found = bench.api.call("POST", "events/filter", refused)["events"]
        return [one["payload"]["reason"] for one in found if "private address" in one["payload"]["reason"]]

    wait_for(reasons)
    wait_for(lambda: bench.listener.everywhere(title)[2])
    assert bench.listener.everywhere(title) == [0, 0, 1], "only the mail, whose server is our own"


def test_deploying_refuses_a_webhook_that_leads_inside_in_a_sentence(bench: Bench) -> None:
    with pytest.raises(AssertionError) as caught:
        bench.deploy(AAE_ALERTS__ALLOW_INTERNAL="false")
    hook = bench.environment["AAE_ALERTS__WEBHOOK_URL"]
    assert "aae deploy: AAE_ALERTS__WEBHOOK_URL leads to an internal address" in str(caught.value)
    assert hook not in str(caught.value)


@contextmanager
def running(command: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``aae worker`` or ``aae watch``, as an operator starts it; whatever it leaves behind ends with it."""
    marked = environment | {MARK: str(log)}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "aae", command], cwd=ROOT, env=marked, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pid in _marked(log):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


@pytest.mark.timeout(1200)
def test_a_run_stuck_at_work_and_a_silent_watch_are_told_once_each(bench: Bench, tmp_path: Path) -> None:
    """A real worker, a job that really hangs, a watch that is really killed."""
    silence, stuck_after = 20, 5
    environment = {
        **bench.environment,
        **QUICK,
        "AAE_DATABASE_URL": f"sqlite:///{tmp_path / 'aae.db'}",
        "AAE_PROJECT_DIR": str(ROOT),
        "AAE_ALERTS__STUCK_SECONDS": str(stuck_after),
        "AAE_ALERTS__SILENT_SECONDS": str(silence),
    }
    engine = database.connect(environment["AAE_DATABASE_URL"])
    database.upgrade(engine)
    engine.dispose()
    done = bench.deploy(AAE_ALERTS__SILENT_SECONDS=str(silence))
    (changed,) = [one for one in done["changes"] if one["name"] == "aae: silent-watch"]
    assert "trigger" in changed["fields"]
    flow = ("tests/e2e/stuck_flow.py:stuck", "--name", "test", "--pool", POOL)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *flow]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    found = bench.api.deployment("stuck/test")
    assert found is not None
    quiet = "AAE: The watch says nothing any more"

    with running("worker", environment, tmp_path / "worker"):
        run = bench.api.create_run(found.id, {"how": "await", "mark": str(tmp_path / "mark")})
        with running("watch", environment, tmp_path / "watch") as watch:
            (told,) = wait_for(lambda: [one for one in bench.listener.alerts("stuck-run") if one["run_id"] == run.id])
            assert bench.api.run(run.id).state_type == "RUNNING"
            assert told["url"] == f"{bench.api.url.removesuffix('/api')}/runs/flow-run/{run.id}"
            assert f"First: prefect flow-run logs {run.id}" in told["text"]
            assert told["title"] == "AAE: A run of stuck/test has been at work for more than 0:00:05"
            time.sleep(1.5 * silence)
            assert bench.listener.alerts("silent-watch") == [], "it beats"
            watch.kill()
            (silent,) = wait_for(lambda: bench.listener.alerts("silent-watch"))
        assert silent["url"].startswith(bench.api.url.removesuffix("/api")), "a link into the UI"
        assert silent["first"] == "Start the watch: aae watch"
        assert silent["first"] in silent["text"]
        assert "last heard of at 20" in silent["text"]
        assert (ROOT / silent["runbook"]).exists()

        # Neither is told again while it lasts, and a watch that is started anew tells of no stuck run once more.
        with running("watch", environment, tmp_path / "watch") as watch:
            time.sleep(1.5 * silence)
            for title in (told["title"], quiet):
                assert bench.listener.everywhere(title) == [1, 1, 1]
            watch.kill()
            # That it has fallen silent again is another cause.
            wait_for(lambda: bench.listener.everywhere(quiet) == [2, 2, 2])
    assert len([one for one in bench.listener.alerts("stuck-run") if one["run_id"] == run.id]) == 1
