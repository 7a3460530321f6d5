"""The command line: ``aae --help``.

Commands only read their arguments, call the one function that does the work, and print. What takes long to import is
imported by the command that needs it, so that ``aae --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from aae.errors import AaeError, UserError
from aae.local.steps import shown

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aae.model import Account, Slice
    from aae.operate.prefect_api import PrefectApi
    from aae.settings import Settings

app = typer.Typer(
    name="aae",
    help="The background jobs of an advertising platform: tokens, ad data, anomalies, reports.\n\n"
    "[bold]aae demo[/] shows all of it once on this machine; [bold]aae up[/] stays up. The other commands work on what "
    "the environment or .env names (see .env.example), or else on the [bold]aae up[/] that is running.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
accounts_app = typer.Typer(help="Connect ad accounts and see how they are.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys that tokens are encrypted with.", no_args_is_help=True)
db_app = typer.Typer(help="The shared tables.", no_args_is_help=True)
app.add_typer(accounts_app, name="accounts")
app.add_typer(keys_app, name="keys")
app.add_typer(db_app, name="db")

# What goes to a file or a pipe is not folded at 80 columns.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, soft_wrap=True)

_HISTORY_MONTHS = 37
"""Meta's insights reach back 37 months (error 3018 beyond). Further back is a typing mistake for every platform."""
_DELIVER_SECONDS = 20.0
"""How often the watch looks into the outbox."""

Seed = Annotated[int, typer.Option(help="Which world the sandbox plays; the same seed, the same numbers.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of a table.")]


def main() -> None:
    """Run the command line; every failure is a sentence and an exit code, a traceback only with AAE_DEBUG=1.

    0 well, 1 the operation failed, 2 something must be changed first (setting, argument, file), 130 interrupted.
    """
    # Background jobs of a shell ignore Ctrl-C and supervisors send SIGTERM: both end us the same, orderly way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except AaeError as error:
        _fail(str(error), 2 if isinstance(error, UserError) else 1)
    except BrokenPipeError:
        # The reader went away (`| head`); nothing is left to say to anybody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("AAE_DEBUG"):
            raise
        # Only the kind: messages of foreign exceptions may quote anything.
        _fail(f"Unexpected: {type(error).__name__}. Run it again with AAE_DEBUG=1 to see where.", 1)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("AAE_DEBUG"):
        err.print_exception()
    # Line by line, each with its indentation: a message may quote logs.
    lines = [" " * (len(line) - len(line.lstrip(" "))) + shown(line, 1000) for line in message.splitlines()]
    err.print("[red]aae:[/]", "\n".join(lines), highlight=False)
    sys.exit(code)


def _now() -> datetime:
    return datetime.now(UTC)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aae {version('aae-pipelines')}, Prefect {version('prefect')}")
        raise typer.Exit


@app.callback()
def _global(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and end.")
    ] = False,
) -> None:
    pass


# The whole product on this machine


@app.command()
def demo(
    seed: Seed = 7,
    keep: Annotated[bool, typer.Option("--keep", help="Go on with the tables of the demo before this one.")] = False,
) -> None:
    """Run the whole product once and show what it does; nothing to install, nothing left running.

    Starts a cache, a sandbox that plays Meta, TikTok and Google, a Prefect server and a worker; creates the tables,
    connects the sandbox's accounts, deploys the four jobs and runs each through the worker: fetch, detect anomalies,
    write reports, check tokens. Then it says what was found beside what was planted, where the reports are and how long
    it took, and stops everything. Files: .aae/demo (wiped at the start unless --keep).

    AAE_DATABASE_URL and AAE_REDIS_URL, if set, are used instead of the embedded SQLite and cache, and never wiped.
    """
    from aae.local.demo import demo as run  # noqa: PLC0415
    from aae.settings import load  # noqa: PLC0415

    run(load(), out, seed=seed, keep=keep, clock=_now)


@app.command()
def up(seed: Seed = 7) -> None:
    """Like demo, but stay up with the schedules active and the Prefect UI open, until Ctrl-C.

    The first time the sandbox's accounts are connected and every job runs once; after that the schedules do. Started
    again, it comes back where it was: same addresses, tables, history and sandbox world. Files: .aae/up.
    """
    from aae.local.demo import up as run  # noqa: PLC0415
    from aae.settings import load  # noqa: PLC0415

    with suppress(KeyboardInterrupt):
        run(load(), out, seed=seed, clock=_now)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    no_args_is_help=False,
)
def sandbox(context: typer.Context) -> None:
    """Run only the sandbox, in the foreground: an HTTP server that speaks the wire formats of the three platforms.

    Takes --port, --seed, --replay FILE and more: see aae sandbox --help.
    """
    os.execv(sys.executable, [sys.executable, "-m", "aae.sandbox", *context.args])  # noqa: S606 - our own module


# Accounts


@accounts_app.command("list")
def accounts_list(as_json: AsJson = False) -> None:
    """Every ad account: status, currency, time zone, how its token is, and up to when its numbers are in the tables."""
    from sqlalchemy import select  # noqa: PLC0415

    from aae.storage.accounts import list_users, token_overview  # noqa: PLC0415
    from aae.storage.engine import reading  # noqa: PLC0415
    from aae.storage.schema import ad_accounts  # noqa: PLC0415

    with reading(_tables(_settings())) as connection:
        rows = token_overview(connection)
        owners = {user.id: user.email for user in list_users(connection, active_only=False)}
        moments = connection.execute(select(ad_accounts.c.id, ad_accounts.c.data_through))
        through = {row.id: row.data_through for row in moments}
    now = _now()
    listed = [
        {
            "id": row.account.id,
            "account": str(row.account),
            "name": row.account.name,
            "user": owners[row.account.user_id],
            "status": str(row.account.status),
            "status_reason": row.status_reason,
            "currency": row.account.currency,
            "timezone": row.account.timezone,
            "token": _token_state(row.expires_at, row.last_outcome, now),
            "token_expires_at": row.expires_at.isoformat() if row.expires_at else None,
            "data_through": moment.isoformat() if (moment := through.get(row.account.id)) else None,
        }
        for row in rows
    ]
    if as_json:
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    for row in listed:
        row["data_through"] = str(row["data_through"] or "never")[:16].replace("T", " ")
    columns = ("id", "account", "name", "user", "status", "currency", "timezone", "token", "data_through")
    _print_table(columns, listed)
    if not listed:
        out.print("There is none yet: [bold]aae accounts import --help[/]")


def _token_state(expires_at: datetime | None, last_outcome: str | None, now: datetime) -> str:
    if last_outcome == "permanent_failure":
        return "authorization expired"
    if expires_at is None:
        return "does not expire"
    hours = (expires_at - now).total_seconds() / 3600
    if hours <= 0:
        return "expired, to be refreshed"
    return f"expires in {hours:.0f} h" if hours < 48 else f"expires in {hours / 24:.0f} d"


@accounts_app.command("import")
def accounts_import(
    file: Annotated[str, typer.Argument(help="The list; - reads standard input.", metavar="FILE|-")],
) -> None:
    """Connect a list of ad accounts: a JSON array, JSON lines, or CSV.

    Fields: user_email, user_name, platform (meta, tiktok, google), external_id, access_token; and if you have them
    refresh_token, expires_at, login_customer_id, name, currency, timezone. Missing names, currencies and time zones are
    asked from the platform. Either all are stored or none; an account that is already there is connected anew.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text.") from None
    _connect(text, "standard input" if file == "-" else file)


@accounts_app.command("add")
def accounts_add(
    user_email: Annotated[str, typer.Option(prompt="User's e-mail", help="Who owns it.")],
    user_name: Annotated[str, typer.Option(prompt="User's name", help="How reports address them.")],
    platform: Annotated[str, typer.Option(prompt="Platform (meta, tiktok, google)", help="meta, tiktok or google.")],
    external_id: Annotated[str, typer.Option(prompt="The platform's account id", help="The platform's id for it.")],
    login_customer_id: Annotated[
        str | None, typer.Option(help="Google only: the manager account through which access goes.")
    ] = None,
) -> None:
    """Connect one ad account.

    Its tokens are never arguments, which other people on the machine could see: they are asked without echo, or come
    as JSON on standard input: {"access_token": "...", "refresh_token": "...", "expires_at": "2026-12-24T12:00:00Z"}
    """
    described = {
        "user_email": user_email,
        "user_name": user_name,
        "platform": platform,
        "external_id": external_id,
        "login_customer_id": login_customer_id,
    }
    _connect(json.dumps([described | _read_tokens()]), "the account")


def _read_tokens() -> dict[str, Any]:
    if sys.stdin.isatty():
        access = typer.prompt("Access token", hide_input=True)
        refresh = typer.prompt(
            "Refresh token (empty if there is none)", hide_input=True, default="", show_default=False
        )
        expires = typer.prompt("Expires at, like 2026-12-24T12:00:00Z (empty: never)", default="", show_default=False)
        return {"access_token": access, "refresh_token": refresh, "expires_at": expires}
    try:
        tokens = json.load(sys.stdin)
    except ValueError:
        tokens = None
    if not isinstance(tokens, dict) or not set(tokens) <= {"access_token", "refresh_token", "expires_at"}:
        raise UserError("Standard input must hold a JSON object of access_token, refresh_token and expires_at.")
    return tokens


def _connect(text: str, source: str) -> None:
    from aae.operate.account_files import read_accounts  # noqa: PLC0415
    from aae.operate.onboarding import connect_all, open_vault  # noqa: PLC0415

    rows = read_accounts(text, source)
    settings = _settings()
    engine = _tables(settings)
    vault = open_vault(settings, engine)
    done = connect_all(rows, source, settings=settings, engine=engine, vault=vault, clock=_now)
    out.print(f"{done.new} accounts connected, {done.renewed} connected anew, {done.users} users.")


# Keys


@keys_app.command("rotate")
def keys_rotate() -> None:
    """Encrypt every stored token with the first key of AAE_ENCRYPTION_KEYS.

    To change keys: put a new one before the old one (new:...,old:...), restart whatever runs, run this, and then take
    the old one out. Either all tokens are encrypted anew or none; repeating it does no harm.
    """
    from aae.operate.onboarding import prove  # noqa: PLC0415
    from aae.storage.accounts import rotate_tokens  # noqa: PLC0415
    from aae.vault import Vault  # noqa: PLC0415

    settings = _settings()
    engine = _tables(settings)
    vault = Vault.from_settings(settings)
    prove(engine, vault)
    with engine.begin() as connection:
        rotated = rotate_tokens(connection, vault)
    out.print(f"{rotated} secrets were re-encrypted; all are sealed with the first key now.")


# Tables


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Create the tables, or bring them to this program's version. May be repeated, also by several at once."""
    from aae.storage import engine as database  # noqa: PLC0415

    engine = database.connect(_settings().resolved_database_url)
    database.check(engine)
    applied = database.upgrade(engine)
    out.print(f"Applied: {', '.join(applied)}." if applied else f"Nothing to do: at {database.head()}.")


@db_app.command("current")
def db_current() -> None:
    """Say which version the tables are at, and which one this program needs; exit code 1 if they differ."""
    from aae.storage import engine as database  # noqa: PLC0415

    engine = database.connect(_settings().resolved_database_url)
    database.check(engine)
    there, needed = database.current(engine), database.head()
    out.print(f"The tables are at {there or 'nothing yet'}; this program needs {needed}.")
    if there != needed:
        raise typer.Exit(1)


# Jobs


@app.command()
def backfill(
    since: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First local day to fetch again.")],
    until: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last local day, included.")],
    account: Annotated[
        list[str] | None,
        typer.Option(help="Only this account: our id, the platform's, or platform:id. May be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
) -> None:
    """Fetch past days again, whatever was stored before: one run of fetch-ad-data through the worker.

    Replacing is idempotent: what has not changed at the platform stays as it is here, what has is corrected and the
    correction recorded. The exit code is 0 only if nothing is owed at the end.
    """
    settings = _settings()
    chosen = _accounts(settings, account)
    first, last = since.date(), until.date()
    plan = _plan(settings, chosen, first, last)
    _print_plan(chosen, plan)
    if dry_run:
        return
    from aae.local.demo import explain_failure, follow  # noqa: PLC0415
    from aae.local.steps import Steps  # noqa: PLC0415

    api, name = _prefect(settings), "fetch-ad-data/six-hourly"
    deployment = api.deployment(name)
    if deployment is None:
        raise UserError(f"{name} is not deployed at {api.url}: run prefect --no-prompt deploy --all.")
    parameters = {"since": f"{first}", "until": f"{last}", "accounts": [one.id for one in chosen]}
    with Steps(out).step(f"Fetch {first} to {last}") as step:
        run = follow(api, api.create_run(deployment.id, parameters).id, step)
        explain_failure(api, run, name)
        step.note = run.message or ""


def _accounts(settings: Settings, references: Sequence[str] | None) -> list[Account]:
    """The active accounts that the references mean; all active ones without any."""
    from aae.storage.accounts import find_accounts, list_accounts  # noqa: PLC0415
    from aae.storage.engine import reading  # noqa: PLC0415

    with reading(_tables(settings)) as connection:
        if not references:
            found = list_accounts(connection)
        else:
            meant = {one.id: one for reference in references for one in find_accounts(connection, reference)}
            idle = [one for one in meant.values() if one.status != "active"]
            if idle:
                raise UserError(f"The account {idle[0]} is {idle[0].status}: its owner must connect it again first.")
            found = list(meant.values())
    if not found:
        raise UserError("There is no active account to fetch: see aae accounts list.")
    return found


def _plan(settings: Settings, chosen: Sequence[Account], since: date, until: date) -> list[Slice]:
    from aae.jobs.planning import plan_backfill  # noqa: PLC0415
    from aae.model import Granularity  # noqa: PLC0415
    from aae.platforms import connectors  # noqa: PLC0415
    from aae.platforms.transport import Transport  # noqa: PLC0415

    if until < since:
        raise UserError(f"--until {until} lies before --since {since}.")
    now = _now()
    if since < _months_before(now.date(), _HISTORY_MONTHS):
        raise UserError(f"--since {since} lies further back than the {_HISTORY_MONTHS} months that the platforms keep.")
    latest = max(account.local_day(now) for account in chosen)
    if until > latest:
        raise UserError(f"--until {until} lies in the future: the latest day anywhere is {latest}.")
    transport = Transport(settings.fetch.request_timeout_seconds, clock=_now)
    return plan_backfill(chosen, connectors(settings, transport), since, until, tuple(Granularity))


def _months_before(day: date, months: int) -> date:
    """The first day of the month that many months earlier."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, 1)


def _print_plan(chosen: Sequence[Account], plan: Sequence[Slice]) -> None:
    names = {account.id: account for account in chosen}
    rows = [
        {
            "account": str(names[account_id]),
            "name": names[account_id].name,
            "slices": ", ".join(str(piece) for piece in plan if piece.account_id == account_id),
        }
        for account_id in names
    ]
    _print_table(("account", "name", "slices"), rows)
    out.print(f"{len(plan)} slices of {len(names)} accounts.")


@app.command()
def watch() -> None:
    """Watch over the runs: run lost ones again, skip what piled up, make what was missed, send mail that waits.

    Run one beside the workers, or several on different machines: one leads, the others take over when it falls silent.
    Needs the database and the Prefect server; waits for both when they are away. AAE_RECOVERY__... say how soon.
    """
    import logging  # noqa: PLC0415
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.recovery import Watch, keep_delivering, keep_watch  # noqa: PLC0415
    from aae.storage.engine import connect  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stdout)
    settings = _settings()
    engine = connect(settings.resolved_database_url, timeout=5)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    post = threading.Thread(target=keep_delivering, args=(engine, settings, _DELIVER_SECONDS, stop), daemon=True)
    post.start()
    out.print(f"watching the work pool {POOL}")
    with _prefect(settings) as api:
        keep_watch(Watch(engine, api, settings.recovery, POOL), settings.recovery.watch_seconds, stop, say=out.print)


@app.command()
def drain(
    within: Annotated[
        float | None,
        typer.Option(help="Seconds that running jobs get to finish; AAE_RECOVERY__DRAIN_SECONDS without it."),
    ] = None,
    keep_worker: Annotated[bool, typer.Option("--keep-worker", help="Leave this machine's workers running.")] = False,
) -> None:
    """Before a deploy or a reboot: start no new runs, let the running ones finish, then stop this machine's workers.

    What has not finished within the limit is handed over: it stops where it is and goes on, as the same run, after
    aae resume. Nothing is lost or done twice. Of what falls due meanwhile, the last run of each job is made then.
    """
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.drain import AtWork, drain  # noqa: PLC0415

    settings = _settings()
    engine = _tables(settings)
    limit = settings.recovery.drain_seconds if within is None else within
    with _prefect(settings) as api, out.status("draining ...") as status:

        def show(still: Sequence[AtWork]) -> None:
            jobs = ", ".join(f"{one.job} since {one.since:%H:%M:%S} ({one.doing})" for one in still)
            status.update(f"waiting for {shown(jobs) or 'a run that is just being started'}")

        try:
            done = drain(
                api,
                engine,
                POOL,
                within=limit,
                beat_seconds=settings.recovery.beat_seconds,
                stop_workers=not keep_worker,
                show=show,
            )
        except KeyboardInterrupt:
            raise UserError("Interrupted: no new runs are started until you say aae resume.") from None
    told = f"{done.finished} runs finished, {len(done.handed_over)} handed over, {done.workers} workers stopped."
    out.print(f"Drained: {told} Start the workers and say [bold]aae resume[/] to go on.")


@app.command()
def resume() -> None:
    """After aae drain: hand out runs again, those that were handed over first."""
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.drain import resume  # noqa: PLC0415

    with _prefect(_settings()) as api:
        waiting = resume(api, POOL)
    out.print(f"Resumed. {len(waiting)} runs are waiting to be started.")


# Health


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check everything the jobs need: settings, tables, cache, key, server, worker, deployments, schedules, last runs.

    Every finding that is not well comes with the command that helps. The exit code is 0 only if all is well.
    """
    from aae.local.stack import POOL, PROJECT  # noqa: PLC0415
    from aae.operate.doctor import Check, examine  # noqa: PLC0415
    from aae.operate.schedule import read_jobs  # noqa: PLC0415

    checks: list[Check] = []

    def show(check: Check) -> None:
        checks.append(check)
        if not as_json:
            mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
            out.print(f"{mark} {shown(check.name):<42} {shown(check.detail)}", highlight=False)
            if check.remedy:
                out.print(f"  [yellow]→ {shown(check.remedy)}[/]", highlight=False)

    try:
        settings = _settings()
        jobs = read_jobs(PROJECT)
    except UserError as error:
        show(Check("settings", False, str(error), "see .env.example for every setting"))
    else:
        show(Check("settings", True, "valid"))
        api = _prefect(settings) if settings.prefect_api_url else None
        for check in examine(settings, api, jobs, POOL, now=_now()):
            show(check)
    bad = sum(not check.ok for check in checks)
    if as_json:
        found = [{"check": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy} for one in checks]
        typer.echo(json.dumps({"ok": not bad, "checks": found}, indent=2, ensure_ascii=False))
    else:
        out.print("\nAll is well." if not bad else f"\n{bad} of {len(checks)} checks found something.")
    if bad:
        raise typer.Exit(1)


# Shared


def _settings() -> Settings:
    """The settings; without any word on where Prefect is, those of the embedded stack that runs here, if one does."""
    from aae.local.stack import adopt, running_stack  # noqa: PLC0415
    from aae.settings import load  # noqa: PLC0415

    settings = load()
    if settings.prefect_api_url:
        return settings
    stack = running_stack(settings)
    return adopt(stack) if stack else settings


def _tables(settings: Settings) -> Engine:
    """The database, after seeing that it answers and is at this program's version."""
    from aae.storage import engine as database  # noqa: PLC0415

    engine = database.connect(settings.resolved_database_url)
    database.check(engine)
    database.require_current(engine)
    return engine


def _prefect(settings: Settings) -> PrefectApi:
    from aae.operate.prefect_api import open_api  # noqa: PLC0415

    return open_api(settings)


def _print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if row[column] is None else shown(row[column], 2000) for column in columns))
    out.print(table)
