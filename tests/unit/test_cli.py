"""What a person meets at the command line: help at once, one clear sentence for every mistake, no secret anywhere."""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from aae import cli
from aae.cli import common
from aae.operate.prefect_api import PrefectApi
from aae.settings import load

ACCOUNTS = [
    {
        "user_email": "Ann@Example.com",
        "user_name": "Ann",
        "platform": "meta",
        "external_id": "act_1001",
        "access_token": "s3cret-one",
        "name": "Shop [red]x[/]",
        "currency": "EUR",
        "timezone": "Europe/Vienna",
    },
    {
        "user_email": "ann@example.com",
        "user_name": "Ann",
        "platform": "google",
        "external_id": "123-456-7890",
        "access_token": "s3cret-two",
        "refresh_token": "s3cret-three",
        "expires_at": "2020-01-01T00:00:00Z",
        "name": "Search",
        "currency": "JPY",
        "timezone": "Asia/Tokyo",
    },
]

Run = Callable[..., "Outcome"]


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.all = out + err


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("AAE_", "PREFECT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def aae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``aae ...`` in this process, as its entry point does."""

    def run(*arguments: str, stdin: str = "") -> Outcome:
        import io

        from rich.console import Console

        monkeypatch.setattr(sys, "argv", ["aae", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(common, "out", Console(width=200))
        monkeypatch.setattr(common, "err", Console(stderr=True, width=200, soft_wrap=True))
        load.cache_clear()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture
def connected(aae: Run) -> Run:
    assert aae("db", "upgrade").code == 0
    said = aae("accounts", "import", "-", stdin=json.dumps(ACCOUNTS))
    assert said.code == 0, said.err
    return aae


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        [
            "demo",
            "up",
            "doctor",
            "backfill",
            "accounts list",
            "accounts add",
            "accounts import",
            "keys rotate",
            "db upgrade",
            "db current",
        ],
    )
    def test_every_command_explains_itself(self, command: str) -> None:
        result = CliRunner().invoke(cli.app, [*command.split(), "--help"])
        assert result.exit_code == 0
        assert len(result.output) > 300

    def test_help_costs_little(self) -> None:
        # The processor's time, which others on the machine do not lengthen much; half a second is usual.
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, "-m", "aae", "--help"], check=True, capture_output=True)
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5

    def test_heavy_libraries_are_not_imported_for_help(self) -> None:
        code = (
            "import sys, aae.cli; print(*(m for m in ('pandas', 'sqlalchemy', 'prefect', 'numpy') if m in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == ""

    def test_the_version_names_both(self, aae: Run) -> None:
        said = aae("--version")
        assert said.code == 0
        assert said.out.startswith("aae ")
        assert "Prefect" in said.out


class TestMistakes:
    def test_a_wrong_setting_is_one_sentence_and_code_2(self, aae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AAE_DATABASE_URL", "postgresql://me:hunter2@db/x")
        said = aae("accounts", "list")
        assert said.code == 2
        assert "AAE_DATABASE_URL" in said.err
        assert "hunter2" not in said.all
        assert "Traceback" not in said.all

    def test_tables_that_are_missing_are_told_with_the_command(self, aae: Run) -> None:
        said = aae("accounts", "list")
        assert said.code == 2
        assert "aae db upgrade" in said.err

    def test_the_unexpected_is_told_without_its_message(self, aae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def explode() -> None:
            raise RuntimeError("token=s3cret")

        monkeypatch.setattr(common, "settings", explode)
        said = aae("accounts", "list")
        assert said.code == 1
        assert "RuntimeError" in said.err
        assert "AAE_DEBUG=1" in said.err
        assert "s3cret" not in said.all

    def test_a_message_cannot_paint_the_terminal(self, aae: Run) -> None:
        said = aae("accounts", "import", "no\x1b[31m[bold]file")
        assert said.code == 2
        assert "\x1b[31m" not in said.err
        assert "[bold]" in said.err


class TestAccounts:
    def test_import_and_list(self, connected: Run) -> None:
        said = connected("accounts", "list", "--json")
        assert said.code == 0, said.err
        rows = json.loads(said.out)
        assert [row["account"] for row in rows] == ["meta:1001", "google:1234567890"]
        assert [row["user"] for row in rows] == ["ann@example.com"] * 2
        assert [row["token"] for row in rows] == ["does not expire", "expired, to be refreshed"]
        assert rows[0]["data_through"] is None

    def test_the_table_shows_names_as_text_and_no_secret(self, connected: Run) -> None:
        said = connected("accounts", "list")
        assert "[red]x[/]" in said.out
        assert "\x1b[31m" not in said.out
        assert "s3cret" not in said.all

    def test_importing_again_connects_anew(self, connected: Run) -> None:
        said = connected("accounts", "import", "-", stdin=json.dumps(ACCOUNTS))
        assert "0 accounts connected, 2 connected anew" in said.out

    def test_one_bad_row_keeps_all_out(self, aae: Run, tmp_path: Path) -> None:
        aae("db", "upgrade")
        (tmp_path / "list.json").write_text(json.dumps([*ACCOUNTS, {**ACCOUNTS[0], "currency": "Euro"}]))
        said = aae("accounts", "import", "list.json")
        assert said.code == 2
        assert "row 3: currency" in said.err
        assert "s3cret" not in said.all
        assert json.loads(aae("accounts", "list", "--json").out) == []

    def test_a_file_that_is_not_there(self, aae: Run) -> None:
        said = aae("accounts", "import", "nowhere.csv")
        assert said.code == 2
        assert "nowhere.csv cannot be read" in said.err

    ADD = (
        "accounts",
        "add",
        "--user-email",
        "b@c.de",
        "--user-name",
        "B",
        "--platform",
        "tiktok",
        "--external-id",
        "5",
    )

    def test_add_asks_the_platform_for_what_it_was_not_told(self, aae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from aae.operate import onboarding
        from aae.platforms.base import RemoteAccount

        class Remote:
            async def describe(self, external_id: str, token: object, login: str | None) -> RemoteAccount:
                return RemoteAccount(external_id, "Remote \x1b[31mshop", "GBP", "Europe/London")

        monkeypatch.setattr(onboarding, "connectors", lambda settings, transport: {"tiktok": Remote()})
        aae("db", "upgrade")
        said = aae(*self.ADD, stdin='{"access_token": "s3cret"}')
        assert said.code == 0, said.err
        (row,) = json.loads(aae("accounts", "list", "--json").out)
        assert (row["name"], row["currency"], row["timezone"]) == ("Remote \x1b[31mshop", "GBP", "Europe/London")
        assert "\x1b[31m" not in aae("accounts", "list").out

    @pytest.mark.parametrize("stdin", ["", "s3cret", "[]", '{"acces_token": "s3cret"}'])
    def test_tokens_come_as_json_or_not_at_all(self, aae: Run, stdin: str) -> None:
        aae("db", "upgrade")
        said = aae(*self.ADD, stdin=stdin)
        assert said.code == 2
        assert "s3cret" not in said.all


class TestKeys:
    @staticmethod
    def key(name: str) -> str:
        return f"{name}:{base64.b64encode(name.encode() * 16).decode()}"

    def test_rotating_seals_every_secret_with_the_first_key(self, aae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AAE_ENCRYPTION_KEYS", self.key("k1"))
        aae("db", "upgrade")
        assert aae("accounts", "import", "-", stdin=json.dumps(ACCOUNTS)).code == 0
        monkeypatch.setenv("AAE_ENCRYPTION_KEYS", f"{self.key('k2')},{self.key('k1')}")
        assert "3 secrets were re-encrypted" in aae("keys", "rotate").out
        monkeypatch.setenv("AAE_ENCRYPTION_KEYS", self.key("k2"))
        said = aae("keys", "rotate")
        assert said.code == 0
        assert "0 secrets" in said.out

    def test_rotating_without_the_old_key_is_refused(self, aae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AAE_ENCRYPTION_KEYS", self.key("k1"))
        aae("db", "upgrade")
        aae("accounts", "import", "-", stdin=json.dumps(ACCOUNTS))
        monkeypatch.setenv("AAE_ENCRYPTION_KEYS", self.key("k2"))
        said = aae("keys", "rotate")
        assert said.code == 2
        assert "'k1'" in said.err


@pytest.fixture
def _no_flow_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes seconds; tests/integration/test_doctor.py does it."""
    monkeypatch.setattr("aae.operate.doctor.imports._TRIAL", "print('{}')")


@pytest.mark.usefixtures("_no_flow_is_loaded")
class TestTables:
    @pytest.mark.parametrize("command", ["accounts list", "doctor", "db current"])
    def test_looking_makes_no_database(self, aae: Run, tmp_path: Path, command: str) -> None:
        assert aae(*command.split()).code in {1, 2}
        assert not list(tmp_path.rglob("*.db"))
        assert not list(tmp_path.rglob("*.key"))

    def test_upgrade_then_current(self, aae: Run) -> None:
        assert aae("db", "current").code == 1
        assert "Applied" in aae("db", "upgrade").out
        assert "Nothing to do" in aae("db", "upgrade").out
        assert aae("db", "current").code == 0


class TestBackfill:
    def test_a_dry_run_prints_the_plan_and_asks_nobody(self, connected: Run) -> None:
        said = connected("backfill", "--since", "2026-01-01", "--until", "2026-01-02", "--dry-run")
        assert said.code == 0, said.err
        assert "daily 2026-01-01..2026-01-02" in said.out
        assert "meta:1001" in said.out
        assert "google:1234567890" in said.out

    def test_only_the_accounts_asked_for(self, connected: Run) -> None:
        said = connected(
            "backfill", "--since", "2026-01-01", "--until", "2026-01-02", "--account", "meta:act_1001", "--dry-run"
        )
        assert "google:1234567890" not in said.out

    @pytest.mark.parametrize(
        ("since", "until", "complaint"),
        [
            ("2026-01-02", "2026-01-01", "lies before"),
            ("2026-01-02", "2999-01-01", "lies in the future"),
            ("1999-01-02", "2026-01-01", "further back than the 37 months"),
        ],
    )
    def test_a_range_that_makes_no_sense(self, connected: Run, since: str, until: str, complaint: str) -> None:
        said = connected("backfill", "--since", since, "--until", until)
        assert said.code == 2
        assert complaint in said.err

    def test_an_unknown_account(self, connected: Run) -> None:
        said = connected("backfill", "--since", "2026-01-01", "--until", "2026-01-02", "--account", "meta:77")
        assert said.code == 2
        assert "meta:77" in said.err

    def test_without_a_server_it_says_so(self, connected: Run) -> None:
        said = connected("backfill", "--since", "2026-01-01", "--until", "2026-01-02")
        assert said.code == 2
        assert "PREFECT_API_URL" in said.err

    @pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 1)])
    def test_the_run_is_created_followed_and_decides_the_exit_code(
        self, connected: Run, monkeypatch: pytest.MonkeyPatch, state: str, code: int
    ) -> None:
        bodies: list[dict[str, object]] = []

        def answer(request: httpx.Request) -> httpx.Response:
            path = request.url.path.removeprefix("/api/")
            run = {"id": "r1", "name": "fetch", "state": {"type": state, "name": state.title(), "message": "why not"}}
            if path.startswith("deployments/name/"):
                found: object = {"id": "d1", "paused": False, "created": "2026-01-01T00:00:00Z", "schedules": []}
            elif path.endswith("create_flow_run"):
                bodies.append(json.loads(request.content))
                found = run
            elif path.startswith("flow_runs/"):
                found = run
            else:
                found = 3 if path.endswith("count") else []
            return httpx.Response(200, json=found)

        from aae.operate.prefect_api import PrefectApi

        monkeypatch.setattr(
            common, "prefect", lambda settings: PrefectApi("http://p/api", transport=httpx.MockTransport(answer))
        )
        said = connected("backfill", "--since", "2026-01-01", "--until", "2026-01-02", "--account", "1")
        assert said.code == code
        assert "why not" in said.all
        assert bodies[0]["parameters"] == {"since": "2026-01-01", "until": "2026-01-02", "accounts": [1]}


@pytest.mark.usefixtures("_no_flow_is_loaded")
class TestDoctor:
    def test_on_a_bare_machine_every_finding_has_a_remedy(self, aae: Run) -> None:
        said = aae("doctor", "--json")
        assert said.code == 1
        found = json.loads(said.out)
        assert found["ok"] is False
        assert [group["name"] for group in found["groups"]] == ["basics", "not_executing", "failing", "schedule"]
        bad = [one for group in found["groups"] for one in group["checks"] if not one["ok"]]
        assert {"tables", "cache", "Prefect API"} <= {one["check"] for one in bad}
        assert all(one["remedy"] for one in bad)

    def test_a_wrong_key_is_one_finding_and_changes_no_account(
        self, connected: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = connected("accounts", "list", "--json").out
        monkeypatch.setenv("AAE_ENCRYPTION_KEYS", "local:" + base64.b64encode(b"w" * 32).decode())
        groups = json.loads(connected("doctor", "--json").out)["groups"]
        (found,) = [one for group in groups for one in group["checks"] if one["check"] == "encryption key"]
        assert found["ok"] is False
        assert found["detail"].startswith("The secret at ad_accounts:1:access_token does not open with the key 'local'")
        assert "AAE_ENCRYPTION_KEYS" in found["remedy"]
        said = connected("keys", "rotate")
        assert said.code == 2
        assert said.all.count("does not open with the key") == 1
        assert connected("accounts", "list", "--json").out == before

    def test_a_wrong_setting_is_a_finding_too(self, aae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AAE_REDIS_URL", "http://x")
        said = aae("doctor")
        assert said.code == 1
        assert "AAE_REDIS_URL" in said.out

    def test_the_three_troubles_are_told_apart(self, aae: Run) -> None:
        said = aae("doctor").out
        titles = ("Basics", "Jobs not executing?", "Failing repeatedly?", "Schedule not updating?")
        assert [line for line in said.splitlines() if line in titles] == list(titles)

    def test_one_job_or_a_clear_word_that_there_is_none(self, aae: Run) -> None:
        assert aae("doctor", "detect-anomalies").code == 1
        said = aae("doctor", "detect")
        assert said.code == 2
        assert "There is no job 'detect'; there are" in said.err


class TestSandbox:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aae", "sandbox", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_its_help_is_called_as_it_is(self) -> None:
        assert self.run("--help").stdout.startswith("usage: aae sandbox")

    def test_a_port_that_is_none(self) -> None:
        said = self.run("--port", "80000")
        assert (said.returncode, said.stderr) == (2, "aae sandbox: --port must be a number from 0 to 65535.\n")

    def test_a_port_in_use(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            said = self.run("--port", str(port), "--users", "1")
        assert said.returncode == 2
        assert said.stderr.startswith(f"aae sandbox: The port {port} cannot be used (Address already in use)")
        assert said.stderr.count("\n") == 1

    def test_a_replay_without_its_columns_says_which_are_needed(self, tmp_path: Path) -> None:
        (tmp_path / "real.csv").write_text("month,day,clicks\nApril,1,5\n")
        said = self.run("--replay", str(tmp_path / "real.csv"), "--replay-year", "2020")
        assert said.returncode == 2
        assert "lacks the columns campaign_number, " in said.stderr
        assert "needed are month, day, campaign_number" in said.stderr


@pytest.mark.parametrize(
    ("url", "complaint"), [("", "set AAE_REDIS_URL"), ("redis://127.0.0.1:1/0", "No Redis answers")]
)
def test_a_deploy_needs_redis_and_asks_the_server_for_nothing_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, complaint: str
) -> None:
    from deployments import apply

    # It has nothing that could be called.
    monkeypatch.setattr(apply, "open_api", lambda _: nullcontext(object()))
    monkeypatch.setattr(sys, "argv", ["aae deploy"])
    monkeypatch.setenv("AAE_REDIS_URL", url)
    load.cache_clear()
    with pytest.raises(SystemExit) as end:
        apply.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("shares", ["1", "4"])
def test_a_deploy_of_shares_says_that_a_database_of_one_machine_is_not_for_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shares: str
) -> None:
    from deployments import apply

    def empty(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/")
        return httpx.Response(200, json=[]) if path.endswith("filter") else httpx.Response(404)

    api = PrefectApi("http://prefect/api", transport=httpx.MockTransport(empty))
    monkeypatch.setattr(apply, "open_api", lambda _: api)
    monkeypatch.setattr(apply, "dial", lambda *_: "")
    monkeypatch.setattr(apply, "server_settings_missing", lambda _: [])
    monkeypatch.setattr(sys, "argv", ["aae deploy", "--dry-run", "--json"])
    monkeypatch.setenv("AAE_REDIS_URL", "redis://127.0.0.1/0")
    monkeypatch.setenv("AAE_FETCH__SHARES", shares)
    load.cache_clear()
    apply.main()
    about = [one for one in json.loads(capsys.readouterr().out)["remarks"] if "SQLite" in one]
    said = (
        "AAE_FETCH__SHARES=4 is for several machines, and the database is SQLite, a file that only one machine can "
        "write: set AAE_DATABASE_URL to MySQL or MariaDB (docs/sizing.md)."
    )
    assert about == ([said] if shares == "4" else [])
