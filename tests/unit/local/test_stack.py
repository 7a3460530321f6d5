"""The stack's processes: started once, watched, told apart from strangers, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aae.errors import UserError
from aae.local.demo import holds
from aae.local.stack import MARK, Memory, PartFailed, Stack, _lives, free_ports, running_stack
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all
from aae.settings import Settings, load
from aae.storage import engine as database
from aae.vault import Vault
from tests import servers

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in list(os.environ):
        if name.startswith(("AAE_", "PREFECT_")):
            monkeypatch.delenv(name)
    return Settings(_env_file=None, state_dir=tmp_path)


@pytest.fixture
def stack(settings: Settings) -> Stack:
    return new_stack(settings)


def new_stack(settings: Settings) -> Stack:
    made = Stack(settings, settings.state_dir / "up", seed=7, now=NOW)
    made.logs_dir.mkdir(parents=True, exist_ok=True)
    made._memory = made._settle(Memory.read(made._memory_file))
    made._memory.write(made._memory_file)
    return made


def python(stack: Stack, name: str, code: str, is_ready: Callable[[], bool] = lambda: True) -> int:
    stack._launch(name, [sys.executable, "-S", "-c", code], is_ready)
    return stack.pids()[name]


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class TestProcesses:
    def test_a_part_that_is_restarted_is_another_process_and_the_others_stay(self, stack: Stack) -> None:
        with stack:
            one, other = python(stack, "one", SLEEP), python(stack, "two", SLEEP)
            stack.restart("one")
            stack.restart("not there")
            stack.wait("one")
            assert not _lives(one)
            assert stack.pids()["two"] == other
            assert _lives(stack.pids()["one"])
            assert stack.tend() == [], "it is no accident"

    def test_leaving_stops_every_part(self, stack: Stack) -> None:
        with stack:
            pids = [python(stack, "one", SLEEP), python(stack, "two", SLEEP)]
            stack.wait("one", "two")
            assert all(map(_lives, pids))
        assert not any(map(_lives, pids))

    def test_a_part_that_does_not_listen_is_killed(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aae.local.stack._STOP_SECONDS", 0.3)
        log = stack.logs_dir / "deaf.log"
        with stack:
            pid = python(stack, "deaf", STUBBORN, lambda: "deaf" in log.read_text())
            stack.wait("deaf")
        assert not _lives(pid)

    def test_a_part_that_ends_is_told_with_its_last_words_and_its_log(self, stack: Stack) -> None:
        with stack:
            python(stack, "server", "print('no such port'); raise SystemExit(3)", lambda: False)
            with pytest.raises(PartFailed) as caught:
                stack.wait("server")
        message = str(caught.value)
        assert "The server ended with exit code 3" in message
        assert "no such port" in message
        assert str(stack.logs_dir / "server.log") in message

    def test_only_the_words_of_this_start_are_repeated(self, stack: Stack) -> None:
        (stack.logs_dir / "server.log").write_text("an old story\n")
        with stack:
            python(stack, "server", "raise SystemExit(1)", lambda: False)
            with pytest.raises(PartFailed) as caught:
                stack.wait("server")
        assert "an old story" not in str(caught.value)

    def test_a_killed_part_is_told_by_its_signal(self, stack: Stack) -> None:
        with stack:
            os.kill(python(stack, "cache", SLEEP), signal.SIGKILL)
            stack._parts[0].process.wait()
            with pytest.raises(PartFailed, match="The cache was killed by SIGKILL"):
                stack.check()

    def test_a_part_that_never_becomes_ready_is_told(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aae.local.stack._READY_SECONDS", 0.2)
        with stack:
            python(stack, "sandbox", SLEEP, lambda: False)
            with pytest.raises(PartFailed, match="The sandbox is not ready"):
                stack.wait("sandbox")

    @pytest.mark.skipif(sys.platform != "linux", reason="marked processes are found through /proc")
    def test_a_process_that_left_its_session_is_found_by_its_mark(self, stack: Stack, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        child = f"import os, time; os.setsid(); open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
        with stack:
            python(stack, "worker", parent)
            assert until(lambda: note.exists() and note.read_text() != "")
            escaped = int(note.read_text())
            assert _lives(escaped)
        assert not _lives(escaped)

    @pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of their parent's end on Linux only")
    def test_a_part_dies_with_a_parent_that_is_killed(self, settings: Settings, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        code = (
            "import sys, time; from pathlib import Path\n"
            "sys.path.insert(0, '.')\n"
            "from tests.unit.local.test_stack import *\n"
            f"stack = new_stack(Settings(_env_file=None, state_dir=Path({str(tmp_path)!r})))\n"
            "with stack:\n"
            "    pid = python(stack, 'part', SLEEP)\n"
            f"    Path({str(note)!r}).write_text(str(pid))\n"
            "    time.sleep(60)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
        assert until(lambda: note.exists() and note.read_text() != "")
        parent.kill()
        parent.wait()
        assert until(lambda: not _lives(int(note.read_text())))

    def test_an_ignored_interrupt_is_not_inherited(self, stack: Stack) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with stack:
                pid = python(stack, "worker", SLEEP)
                stack.wait("worker")
                assert until(lambda: _lives(pid))
                time.sleep(0.2)
                os.kill(pid, signal.SIGINT)
                assert until(lambda: not _lives(pid))
        finally:
            signal.signal(signal.SIGINT, before)


class TestOneAtATime:
    def test_a_second_stack_in_the_same_folder_says_so_in_one_sentence(self, stack: Stack, settings: Settings) -> None:
        with stack, pytest.raises(UserError, match="already running"), new_stack(settings):
            pytest.fail("two stacks share a folder")
        with stack:
            assert stack.is_running()
        assert not stack.is_running()

    def test_a_running_stack_is_found_and_a_stopped_one_is_not(self, stack: Stack, settings: Settings) -> None:
        assert running_stack(settings) is None
        with stack:
            found = running_stack(settings)
            assert found is not None
            assert found.api_url == stack.api_url
        assert running_stack(settings) is None


class TestMemory:
    def test_a_stack_comes_back_where_it_was(self, settings: Settings) -> None:
        first = new_stack(settings).memory
        again = Stack(settings, settings.state_dir / "up", seed=99, now=datetime(2027, 1, 1, tzinfo=UTC))
        assert again.memory == first
        assert again._settle(first) == first

    def test_a_port_that_is_taken_is_replaced(self, settings: Settings) -> None:
        first = new_stack(settings).memory
        with socket.socket() as thief:
            thief.bind(("127.0.0.1", first.server_port))
            thief.listen()
            again = new_stack(settings).memory
        assert again.server_port != first.server_port
        assert (again.cache_port, again.sandbox_port) == (first.cache_port, first.sandbox_port)

    def test_ports_differ_from_each_other(self) -> None:
        assert len(set(free_ports([None] * 20))) == 20
        (one,) = free_ports([None])
        assert len(set(free_ports([one, one, one]))) == 3

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": 1}', "null"])
    def test_a_broken_memory_is_none(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "stack.json"
        path.write_text(text)
        assert Memory.read(path) is None

    def test_a_folder_without_a_stack_says_what_to_do(self, settings: Settings) -> None:
        with pytest.raises(UserError, match="aae up"):
            _ = Stack(settings, settings.state_dir / "up", seed=1, now=NOW).memory


class TestEnvironment:
    def test_the_callers_own_prefect_never_gets_in(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://production")
        monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
        environment = stack.environment()
        assert "PREFECT_API_DATABASE_CONNECTION_URL" not in environment
        assert "PREFECT_API_KEY" not in environment
        assert environment["PREFECT_API_URL"] == stack.api_url
        assert environment["PREFECT_HOME"] == str(stack.state_dir / "prefect")

    def test_nothing_phones_home_and_no_server_starts_by_surprise(self, stack: Stack) -> None:
        environment = stack.environment()
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert environment["DO_NOT_TRACK"] == "1"
        assert environment["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] == "false"

    def test_loopback_goes_past_any_proxy(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_PROXY", "intranet.example")
        assert stack.environment()["NO_PROXY"] == "intranet.example,127.0.0.1,localhost"

    def test_all_platforms_are_the_sandbox(self, stack: Stack) -> None:
        variables = stack.variables()
        for name in ("AAE_META__BASE_URL", "AAE_TIKTOK__BASE_URL", "AAE_GOOGLE__BASE_URL", "AAE_GOOGLE__TOKEN_URL"):
            assert variables[name].startswith(stack.sandbox_url)

    def test_results_have_a_redis_database_of_their_own(self, stack: Stack) -> None:
        variables = stack.variables()
        assert variables["AAE_REDIS_URL"].endswith("/0")
        assert variables["AAE_RESULTS_URL"].endswith("/1")

    def test_a_database_and_a_cache_of_the_users_own_are_used_unchanged(self, settings: Settings) -> None:
        mine = settings.model_copy(
            update={"database_url": "mysql+pymysql://me:pw@db/aae", "redis_url": "redis://cache:6379/4"}
        )
        variables = new_stack(mine).variables()
        assert variables["AAE_DATABASE_URL"] == "mysql+pymysql://me:pw@db/aae"
        assert variables["AAE_REDIS_URL"] == "redis://cache:6379/4"
        assert variables["AAE_RESULTS_URL"] == "redis://cache:6379/5"

    def test_a_password_is_not_written_to_the_folder(self, settings: Settings) -> None:
        stack = new_stack(settings.model_copy(update={"database_url": "mysql+pymysql://me:hunter2@db/aae"}))
        assert "hunter2" not in stack._memory_file.read_text()

    def test_processes_carry_the_mark_of_their_folder(self, stack: Stack) -> None:
        assert stack.environment()[MARK] == str(stack.state_dir)


def test_a_ready_made_database_is_planted_once_and_kept_once(stack: Stack, tmp_path: Path) -> None:
    template, own = tmp_path / "template.db", stack.state_dir / "prefect" / "prefect.db"
    stack.plant_database(template)
    assert not own.exists()
    own.parent.mkdir()
    with sqlite3.connect(own) as database:
        database.execute("create table migrated (version)")
    database.close()
    stack.keep_database(template)
    own.unlink()
    stack.plant_database(template)
    with sqlite3.connect(own) as database:
        assert database.execute("select name from sqlite_master").fetchall() == [("migrated",)]
    database.close()


def test_mail_of_the_stack_never_leaves_by_the_smtp_server_of_the_settings(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("AAE_EMAIL__SMTP_URL=smtps://mail.example\n")
    monkeypatch.setitem(Settings.model_config, "env_file", str(tmp_path / ".env"))
    monkeypatch.setenv("AAE_EMAIL", '{"smtp_url": "smtp://other.example"}')
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    load.cache_clear()
    assert load().email.smtp_url.get_secret_value() == ""


def test_every_stack_uses_the_same_key_file(settings: Settings) -> None:
    keys = set()
    for name in ("up", "demo"):
        stack = Stack(settings, settings.state_dir / name, seed=7, now=NOW)
        stack._memory = stack._settle(None)
        keys.add(stack.variables()["AAE_KEY_FILE"])
    assert keys == {str(settings.state_dir / "encryption.key")}


def test_whether_to_connect_is_the_databases_word(tmp_path: Path) -> None:
    row = {
        "user_email": "a@b.c",
        "user_name": "A",
        "platform": "meta",
        "external_id": "1",
        "access_token": "t",
        "name": "Shop",
        "currency": "EUR",
        "timezone": "Europe/Vienna",
    }
    offered = read_accounts(json.dumps([row]), "list")
    with servers.connected(f"sqlite:///{tmp_path / 'aae.db'}") as engine:
        database.upgrade(engine)
        assert not holds(engine, offered)
        connect_all(
            offered,
            "list",
            settings=Settings(_env_file=None, state_dir=tmp_path),
            engine=engine,
            vault=Vault([("k", b"k" * 32)]),
            clock=lambda: NOW,
        )
        assert holds(engine, offered)
        more = read_accounts(json.dumps([row, {**row, "external_id": "2"}]), "list")
        assert not holds(engine, more)
