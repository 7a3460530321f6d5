"""``aae demo`` and ``aae up``: bring the product up on this machine, fill it, and run every job through its worker.

Both take the same way. The demo ends there with a summary; ``up`` stays, with the schedules active.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from sqlalchemy import Engine

from aae.errors import AaeError, UserError
from aae.local.reload import Reloader
from aae.local.stack import PROJECT, Memory, Stack, adopt, template_path
from aae.local.steps import Step, Steps, bar, shown
from aae.local.summary import (
    Comparison,
    Found,
    PlatformLine,
    ReportLine,
    TokenLine,
    compare,
    open_incidents,
    per_platform,
    token_outcomes,
    written_reports,
)
from aae.operate.account_files import OPTIONAL, REQUIRED, AccountRow, read_accounts
from aae.operate.onboarding import connect_all, open_vault
from aae.operate.prefect_api import FlowRun, PrefectApi, Progress
from aae.operate.redis_server import dial
from aae.settings import Settings
from aae.storage import engine as database
from aae.storage.accounts import list_accounts

JOBS: Final = (
    ("fetch-ad-data/six-hourly", "Fetch ad data"),
    ("detect-anomalies/hourly", "Detect anomalies"),
    ("generate-daily-report/daily", "Write the daily reports"),
    ("check-token-expiry/daily", "Check the tokens"),
)
"""Every deployment in the order in which they build on each other, and how a step says it."""

_COMMAND_SECONDS: Final = 180
_UUID: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


class StepFailed(AaeError):
    """A step of the demo failed; the message says which, why, and where to read more."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One job's run and how many seconds went by from asking for it to its end."""

    title: str
    run: FlowRun
    seconds: float


def demo(settings: Settings, console: Console, *, seed: int, keep: bool, clock: Callable[[], datetime]) -> None:
    """Everything once, from nothing: the same seed brings the same result.

    ``keep`` leaves the stack's files as the demo before left them.

    Raises:
        AaeError: a step failed; everything that was started is stopped.
    """
    steps = Steps(console)
    begun, started = time.monotonic(), clock()
    stack = Stack(settings, settings.state_dir / "demo", seed=seed, now=started)
    with stack:
        if not keep:
            _wipe(stack.state_dir)
        inner, _ = _bring_up(stack, steps, seed=seed, clock=clock, schedules=False)
        _run_all(stack, steps)
        with steps.step("Sum up"):
            summary = _summary(stack, inner, started, clock())
    console.print()
    console.print(summary)
    console.print(_times(steps, time.monotonic() - begun))
    console.print(
        "\nEverything is stopped. To look around: [bold]make up[/] (or [bold]aae up[/]) starts it again with the "
        "schedules active and prints the address of the Prefect UI."
    )


def up(settings: Settings, console: Console, *, seed: int, clock: Callable[[], datetime], reload: bool = False) -> None:
    """The same, but stay until interrupted; the first time it also runs every job once.

    ``reload``: act on changes of the project's files (:mod:`aae.local.reload`).

    Raises:
        AaeError: a step failed, or a part of the stack keeps ending by itself.
        KeyboardInterrupt: somebody wants it to end; everything is stopped by then.
    """
    steps = Steps(console)
    stack = Stack(settings, settings.state_dir / "up", seed=seed, now=clock())
    filled = stack.state_dir / "filled"
    with stack:
        try:
            _, connected = _bring_up(
                stack, steps, seed=seed, clock=clock, schedules=True, filled_before=filled.exists()
            )
            if connected:
                _run_all(stack, steps)
                filled.touch()
            console.print(_welcome(stack))
            reloader = Reloader(PROJECT, deploy=lambda: _deploy(stack), restart=stack.restart) if reload else None
            while True:
                for event in stack.tend() + (reloader.look() if reloader else []):
                    console.print(f"[yellow]{shown(event)}[/]", highlight=False)
                time.sleep(1)
        finally:
            console.print("Stopping ...")


# The way there


def _wipe(folder: Path) -> None:
    """Empty the demo's folder. The key is not in it: a database that is not ours may hold tokens sealed with it."""
    if folder.exists():
        shutil.rmtree(folder)


def _bring_up(
    stack: Stack,
    steps: Steps,
    *,
    seed: int,
    clock: Callable[[], datetime],
    schedules: bool,
    filled_before: bool = False,
) -> tuple[Settings, bool]:
    """Start everything, migrate, import the sandbox's accounts, deploy.

    Returns the settings that the jobs see, and whether accounts were connected: they are not if this folder's world has
    been before and the database still holds them.
    """
    template = template_path(stack.settings.state_dir)
    with steps.step("Start the cache and the ad platforms' sandbox"):
        dial_servers(stack.settings)
        stack.plant_database(template)
        stack.start()
        _warn_of_another_seed(steps, stack.memory, seed)
        stack.wait("cache", "sandbox")
    inner = adopt(stack)
    engine = database.connect(inner.resolved_database_url)
    with steps.step("Create the tables") as step:
        database.check(engine)
        applied = database.upgrade(engine)
        step.note = f"{len(applied)} migrations applied" if applied else "up to date"
    offered = sandbox_accounts(stack.sandbox_url)
    connect = not (filled_before and holds(engine, offered))
    if connect:
        with steps.step("Connect the sandbox's ad accounts") as step:
            step.note = _fill(offered, inner, clock)
    with steps.step("Start the Prefect server") as step:
        stack.wait("server")
        stack.keep_database(template)
        step.note = stack.ui_url
    with steps.step("Deploy the flows and start a worker") as step:
        # A worker that comes first makes a pool of its own, without our command.
        _deploy(stack)
        stack.start_worker()
        _set_schedules(stack, active=schedules)
        stack.wait("worker", "watch")
        step.note = f"{len(JOBS)} deployments"
    engine.dispose()
    return inner, connect


def dial_servers(settings: Settings) -> None:
    """Try the Redis servers that the settings name instead of the embedded one, before anything is started.

    Raises:
        UserError: one of them cannot be used.
    """
    if settings.redis_url:
        dial(settings.redis_url, "AAE_REDIS_URL")
    if settings.resolved_results_url:
        dial(settings.resolved_results_url, "AAE_RESULTS_URL")


def holds(engine: Engine, offered: Sequence[AccountRow]) -> bool:
    """Whether the database holds all of these accounts, of whatever status."""
    with database.reading(engine) as connection:
        there = {(one.platform, one.external_id) for one in list_accounts(connection, statuses=None)}
    return {(row.platform, row.external_id) for row in offered} <= there


def _warn_of_another_seed(steps: Steps, memory: Memory, seed: int) -> None:
    if memory.seed != seed:
        steps.console.print(f"[yellow]This stack's world keeps the seed it was made with: {memory.seed}.[/]")


def _fill(rows: Sequence[AccountRow], inner: Settings, clock: Callable[[], datetime]) -> str:
    """Import the accounts that the sandbox offers; says what that came to."""
    engine = database.connect(inner.resolved_database_url)
    offered = {(row.platform, row.external_id) for row in rows}
    with database.reading(engine) as connection:
        there = {(one.platform, one.external_id) for one in list_accounts(connection, statuses=None)}
    if there - offered:
        raise UserError(
            f"The database holds {len(there - offered)} ad accounts that are not the sandbox's; working on them with "
            "the sandbox would declare their tokens dead. Set AAE_DATABASE_URL to a database of its own."
        )
    connected = connect_all(
        rows, "the sandbox's accounts", settings=inner, engine=engine, vault=open_vault(inner, engine), clock=clock
    )
    engine.dispose()
    kept = f", {connected.renewed} connected again" if connected.renewed else ""
    return f"{connected.new} accounts of {connected.users} users{kept}"


def sandbox_accounts(url: str) -> list[AccountRow]:
    """The accounts that somebody has connected in the sandbox, tokens included, as a list to import."""
    known = {*REQUIRED, *OPTIONAL}
    offered = [{k: v for k, v in one.items() if k in known} for one in ask_sandbox(url, "accounts")]
    return read_accounts(json.dumps(offered), "the sandbox's accounts")


def ask_sandbox(url: str, what: str) -> list[dict[str, Any]]:
    """A list from the sandbox's control API."""
    answer = httpx.get(f"{url}/_sandbox/{what}", timeout=30, trust_env=False).raise_for_status().json()
    return list(answer)


def _command(stack: Stack, name: str, command: Sequence[str]) -> str:
    """Run one command in the project's folder against the stack; its output also goes to a log."""
    log = stack.logs_dir / f"{name}.log"
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command,
            cwd=PROJECT,
            env=stack.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"{_spoken(command)} did not end within {_COMMAND_SECONDS} s.") from error
    log.write_text(done.stdout)
    if done.returncode:
        stack.check()
        tail = "\n".join(f"    {line}" for line in done.stdout.strip().splitlines()[-12:])
        raise StepFailed(f"{_spoken(command)} failed with exit code {done.returncode} ({log}):\n{tail}")
    return done.stdout


def _spoken(command: Sequence[str]) -> str:
    return " ".join(word for word in ("python" if word == sys.executable else word for word in command))


def _deploy(stack: Stack) -> None:
    _command(stack, "deploy", [sys.executable, "-m", "deployments.apply"])


def _set_schedules(stack: Stack, *, active: bool) -> None:
    """In a demo a schedule that falls due would only come between."""
    api = PrefectApi(stack.api_url)
    for name, _ in JOBS:
        deployment = api.deployment(name)
        if deployment is None:
            raise StepFailed(f"The deployment {name} is missing after the deploy: check prefect.yaml.")
        if deployment.paused == active:
            api.set_paused(deployment.id, paused=not active)


# The jobs


def _run_all(stack: Stack, steps: Steps) -> None:
    for name, title in JOBS:
        with steps.step(title) as step:
            step.say("asking for a run ...")
            output = _command(stack, "run", [sys.executable, "-m", "prefect", "deployment", "run", name])
            run = follow(PrefectApi(stack.api_url), run_id_in(output), step, check=stack.check)
            explain_failure(PrefectApi(stack.api_url), run, name, log=stack.logs_dir / "worker.log")
            step.note = run.message or ""


def run_id_in(output: str) -> str:
    """The flow run's id in what ``prefect deployment run`` printed."""
    found = _UUID.search(output)
    if not found:
        raise StepFailed(f"`prefect deployment run` did not name the run it created:\n{output.strip()[-500:]}")
    return found[0]


def follow(api: PrefectApi, run_id: str, step: Step, *, check: Callable[[], None] = lambda: None) -> FlowRun:
    """Show a run's progress until it has ended; ``check`` is called between two looks and may raise."""
    for progress in api.watch(run_id):
        check()
        step.say(in_words(progress))
    return progress.run


def in_words(progress: Progress) -> str:
    """One line on how far a run has come."""
    if progress.run.started is None:
        return f"{progress.run.state_name.lower()}, waiting for the worker ..."
    tasks = f"{progress.tasks_done} of {progress.tasks_known} tasks"
    return f"{bar(progress.share)}, {tasks}" if progress.share is not None else f"{progress.run.state_name}, {tasks}"


def explain_failure(api: PrefectApi, run: FlowRun, job: str, *, log: Path | None = None) -> None:
    """Do nothing if the run succeeded.

    Raises:
        StepFailed: it did not: its own words, its last errors, and where to read on.
    """
    if run.succeeded:
        return
    lines = [f"The run {run.name!r} of {job} ended {run.state_name}: {run.message or 'without a reason'}"]
    lines += [f"    {line[:500]}" for line in api.error_logs(run.id)]
    lines.append(f"Read on: {log}" if log else f"Read on: prefect flow-run logs {run.id}")
    raise StepFailed("\n".join(lines))


# What came of it


def _summary(stack: Stack, inner: Settings, since: datetime, now: datetime) -> Group:
    engine = database.connect(inner.resolved_database_url)
    planted = [one for one in ask_sandbox(stack.sandbox_url, "incidents") if _is_on(one, now)]
    with database.reading(engine) as connection:
        comparison = compare(planted, open_incidents(connection))
        parts: list[Table | Group] = [
            _platforms(per_platform(connection, since)),
            _incidents(comparison),
            _reports(written_reports(connection, since), inner.reports_dir),
            _tokens(token_outcomes(connection, since)),
        ]
    engine.dispose()
    return Group(*parts)


def _is_on(planted: dict[str, Any], now: datetime) -> bool:
    return datetime.fromisoformat(planted["since"]) <= now < datetime.fromisoformat(planted["until"])


def _table(title: str, *columns: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def _platforms(lines: Sequence[PlatformLine]) -> Table:
    numbers = ("Accounts", "Entities", "Rows by day", "Rows by hour", "All API calls", "Off the platform's totals")
    table = _table("\nWhat was fetched", "Platform", *numbers, numbers=numbers)
    for line in lines:
        drift = "-" if line.drift is None else f"{float(line.drift):.2%}"
        counts = (line.accounts, line.entities, line.daily_rows, line.hourly_rows, line.api_calls)
        table.add_row(line.platform, *(f"{count:,}" for count in counts), drift)
    return table


def _incidents(comparison: Comparison) -> Group:
    count = len(comparison.matched) + len(comparison.missed)
    title = f"\nAnomalies: {len(comparison.matched)} of {count} planted found, {len(comparison.extra)} others reported"
    table = _table(title, "", "Account", "Planted", "Reported", "On")
    for planted, found in comparison.matched:
        table.add_row(
            "[green]found[/]", _account(planted), planted["kind"], f"{found.severity} {found.metric}", _on(found)
        )
    for planted in comparison.missed:
        table.add_row("[red]missed[/]", _account(planted), planted["kind"], "", shown(str(planted["level"])))
    for found in comparison.extra:
        account = f"{found.platform}:{found.account}" if found.account else found.user
        table.add_row("[yellow]extra[/]", shown(account), "", f"{found.severity} {found.metric}", _on(found))
    return Group(table)


def _account(planted: dict[str, Any]) -> str:
    return shown(f"{planted['platform']}:{planted['account']}")


def _on(found: Found) -> str:
    return shown(f"{found.level} {found.entity_name}" if found.entity_name else found.level)


def _reports(lines: Sequence[ReportLine], folder: Path) -> Group:
    table = _table("\nReports", "For", "Day", "Data complete")
    for line in lines:
        table.add_row(shown(line.user), line.day.isoformat(), f"{line.completeness:.0%}")
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []
    listing = _table("", "Files")
    for path in files:
        listing.add_row(shown(str(path)))
    return Group(table, listing)


_OUTCOMES: Final = {
    "refreshed": "refreshed",
    "still_valid": "untouched, still valid",
    "recovered": "recovered",
    "lost_race": "replaced meanwhile",
    "permanent_failure": "authorization expired, owner told",
    "transient_failure": "could not be checked",
    "access_doubted": "no access in this run",
    "access_refused": "no access any more, owner told",
}


def _tokens(lines: Sequence[TokenLine]) -> Table:
    table = _table("\nTokens", "Outcome", "Accounts", "Which", numbers=("Accounts",))
    for line in lines:
        which = "" if line.outcome == "still_valid" else ", ".join(line.accounts)
        table.add_row(_OUTCOMES.get(line.outcome, line.outcome), str(len(line.accounts)), shown(which))
    return table


def _times(steps: Steps, total: float) -> Table:
    table = _table("\nTime", "Step", "Seconds", numbers=("Seconds",))
    for title, seconds in steps.times:
        table.add_row(shown(title), f"{seconds:.1f}")
    table.add_row("[bold]All of it, starting and stopping included[/]", f"[bold]{total:.1f}[/]")
    return table


def _welcome(stack: Stack) -> Panel:
    lines = (
        f"Prefect UI     [link={stack.ui_url}]{stack.ui_url}[/link]",
        f"Sandbox        {stack.sandbox_url}",
        f"Files, logs    {shown(str(stack.state_dir))}",
        "",
        "In a second terminal: [bold]aae doctor[/], [bold]aae accounts list[/], [bold]aae backfill --help[/]",
        "Ctrl-C stops everything; the next [bold]aae up[/] goes on where this one stopped.",
    )
    return Panel("\n".join(lines), title="AAE is up, schedules are active", expand=False, padding=(1, 2))
