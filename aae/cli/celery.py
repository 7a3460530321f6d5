"""What people know from Celery: ``aae inspect``, ``run`` and ``import-beat``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from aae.cli import common
from aae.errors import AaeError, UserError
from aae.local.steps import shown

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aae.operate.prefect_api import FlowRun, PrefectApi, Progress
    from aae.operate.run import JobRun
    from aae.settings import Settings

app = typer.Typer()
inspect_app = typer.Typer(
    no_args_is_help=True,
    help="What runs now, what comes next, which jobs there are, how they have done: celery inspect's four questions.",
)
app.add_typer(inspect_app, name="inspect")

_ASK_SECONDS: Final = 5
"""A status question waits this long for a server."""
_STILL_RUNNING: Final = 3
"""Exit code when --wait was over before the run."""
_MOST_LINES: Final = 40
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


# What is


@inspect_app.command()
def active(as_json: common.AsJson = False) -> None:
    """What runs now: since when, on which machine, in which process, what it is doing, which attempt it is.

    A run that a worker has just taken has no process yet; one whose last sign of life is long ago is looked after by
    aae watch.
    """
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate import inspection  # noqa: PLC0415
    from aae.operate.spoken import span_in_words  # noqa: PLC0415

    settings = common.settings()
    with _api(settings) as api:
        runs = inspection.active(api, _engine(settings), POOL)
    if as_json:
        _print_json([asdict(run) for run in runs])
        return
    now = common.now()
    rows = [
        {
            "job": run.job,
            "run": run.run,
            "state": run.state,
            "for": run.since and span_in_words(now - run.since),
            "attempt": run.attempt,
            "where": run.place and f"{run.place} pid {run.pid}",
            "doing": run.doing,
            "last sign": None if run.silent_seconds is None else f"{max(0.0, run.silent_seconds):.0f} s ago",
        }
        for run in runs
    ]
    _print_rows(rows, "Nothing runs right now.")


@inspect_app.command()
def scheduled(
    limit: Annotated[int, typer.Option(min=1, help="No more than this many, the next ones.")] = 20,
    as_json: common.AsJson = False,
) -> None:
    """What comes next, and in how long: planned and late runs, those to be run again, those that wait their turn."""
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate import inspection  # noqa: PLC0415
    from aae.operate.spoken import span_in_words  # noqa: PLC0415

    with _api(common.settings()) as api:
        runs = inspection.scheduled(api, POOL, now=common.now())
    if as_json:
        _print_json([asdict(run) for run in runs[:limit]])
        return
    rows = [
        {
            "when (UTC)": f"{run.due.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            "in": f"{span_in_words(timedelta(seconds=run.seconds))}{' ago' if run.seconds < 0 else ''}",
            "job": run.job,
            "state": run.state,
            "by": "schedule" if run.by_schedule else "hand",
            "why": run.why,
        }
        for run in runs[:limit]
    ]
    _print_rows(rows, "Nothing is planned: see aae doctor.")
    if len(runs) > limit:
        common.out.print(f"... and {len(runs) - limit} more (--limit).", highlight=False)


@inspect_app.command()
def registered(as_json: common.AsJson = False) -> None:
    """Which jobs there are: entrypoint, schedule in words and as cron, parameters, retries and limits, next run."""
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate import inspection  # noqa: PLC0415

    settings = common.settings()
    with _api(settings) as api:
        jobs = inspection.registered(api, POOL)
    limits = settings.limits
    if as_json:
        of_each = {
            "retries": limits.retries,
            "retry_delay_seconds": limits.retry_delay_seconds,
            "soft_limit_seconds": limits.soft_seconds,
            "hard_limit_seconds": limits.hard_seconds,
        }
        _print_json([asdict(job) | of_each for job in jobs])
        return
    for job in jobs:
        common.out.print(f"[bold]{shown(job.job)}[/]{'  [red]paused[/]' if job.paused else ''}", highlight=False)
        for words, written in job.schedules or (("only when asked for", ""),):
            common.out.print(f"  runs      {shown(words)}  [dim]{shown(written)}[/]", highlight=False)
        following = f"{job.next_run.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if job.next_run else "none is planned"
        common.out.print(f"  next      {following}", highlight=False)
        common.out.print(f"  flow      {shown(job.entrypoint or '')}", highlight=False)
        for name, one in job.parameters.items():
            told = _parameter(name, one, job.given)
            common.out.print(f"  takes     {told}", highlight=False)
    if jobs:
        common.out.print(
            f"Every step of every job: {limits.retries} retries, {limits.retry_delay_seconds:g} s apart; soft limit "
            f"{limits.soft_seconds:g} s, hard limit {limits.hard_seconds:g} s.",
            highlight=False,
        )
    else:
        common.out.print("No job is deployed: run aae deploy.")


def _parameter(name: str, one: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    value = given.get(name, one["default"])
    default = "" if value is None else f" = {shown(json.dumps(value, ensure_ascii=False), 80)}"
    required = " (required)" if one["required"] and name not in given else ""
    about = f"  [dim]{shown(one['description'], 120)}[/]" if one["description"] else ""
    return f"{shown(name)}: {shown(one['type'], 80)}{default}{required}{about}"


@inspect_app.command()
def stats(as_json: common.AsJson = False) -> None:
    """How the jobs have done over 24 hours and 7 days, and who works: runs, failures, losses, run and queue times.

    A lost attempt is one whose process died or fell silent; its run was run again.
    """
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate import inspection  # noqa: PLC0415

    settings = common.settings()
    with _api(settings) as api:
        found = inspection.stats(api, _engine(settings), POOL, now=common.now())
    if as_json:
        _print_json(asdict(found))
        return
    state = "missing" if found.paused is None else "paused" if found.paused else "open"
    workers = ", ".join(found.workers_online) or "none"
    offline = f" ({len(found.workers_offline)} offline)" if found.workers_offline else ""
    common.out.print(
        f"Work pool {shown(found.pool)}: {state}. Workers online: {shown(workers)}{offline}. "
        f"{found.at_work} at work, {found.waiting} planned, {found.late} late.\n",
        highlight=False,
    )
    rows = [
        {
            "job": one.job,
            "over": one.window,
            "runs": one.runs,
            "ok": one.ok,
            "failed": one.failed,
            "running": one.running,
            "skipped": one.skipped,
            "attempts": one.attempts,
            "lost": one.lost,
            "run median": _seconds(one.run_seconds_median),
            "run p95": _seconds(one.run_seconds_p95),
            "queue median": _seconds(one.queue_seconds_median),
        }
        for one in found.jobs
    ]
    _print_rows(rows, "No job is deployed: run aae deploy.")
    if not found.all_counted:
        common.out.print(f"Only the newest {inspection.MOST_RUNS:,} runs are counted.", highlight=False)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} s"


def _api(settings: Settings) -> PrefectApi:
    from aae.operate.prefect_api import open_api  # noqa: PLC0415

    return open_api(settings, timeout=_ASK_SECONDS)


def _engine(settings: Settings) -> Engine | None:
    """The database, or None and a sentence: what Prefect knows is worth telling without it."""
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    from aae.storage import attempts  # noqa: PLC0415
    from aae.storage import engine as database  # noqa: PLC0415

    try:
        engine = database.connect(settings.resolved_database_url, timeout=_ASK_SECONDS)
        database.check(engine)
        if database.absent_file(engine):
            raise UserError("there are no tables yet: run aae db upgrade")
        # Not the version, which takes long to find out: only that the table is there.
        with database.reading(engine) as connection:
            attempts.live(connection)
    except AaeError as error:
        why = str(error)
    except DBAPIError:
        why = "its tables are missing or of another version: run aae db upgrade"
    else:
        return engine
    common.err.print(f"What the processes do is not known: {shown(why, 500)}", highlight=False)
    return None


def _print_rows(rows: Sequence[dict[str, Any]], nothing: str) -> None:
    if rows:
        common.print_table(list(rows[0]), rows)
    else:
        common.out.print(nothing)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_iso))


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError


# Do it now, later, and wait for it


@app.command()
def run(
    job: Annotated[str, typer.Argument(help="fetch-ad-data/six-hourly, or just fetch_ad_data.")],
    *,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="NAME=VALUE, the value as JSON or as text. May be repeated."),
    ] = None,
    countdown: Annotated[str, typer.Option("--in", help="When: so long from now, 10s, 5m, 2h or 1d.")] = "",
    at: Annotated[str, typer.Option("--at", help="When: 2026-11-22T14:30, UTC if no other zone is said.")] = "",
    wait: Annotated[
        str, typer.Option("--wait", help="Wait so long for the result: 60 (seconds), 5m, or forever.")
    ] = "",
    key: Annotated[str, typer.Option("--key", help="The same key never makes a second run.")] = "",
    as_json: common.AsJson = False,
) -> None:
    """Run a job: now, with --in or --at later, with --wait until there is a result.

    Parameters are checked before anything is created. aae inspect registered lists the jobs and what they take. From
    Python: aae.operate.run.run_job.

    The exit code is 0 when it was asked for, or with --wait has ended well; 1 if it failed; 2 if something must be
    changed first; 3 if the time of --wait was over, and the run goes on.
    """
    from aae.operate.run import StillRunning, check_parameters, find_job, read_value, run_job  # noqa: PLC0415

    settings = common.settings()
    seconds = _span(countdown, "--in") if countdown else None
    eta = _moment(at) if at else None
    patience = None if wait == "forever" or not wait else _span(wait, "--wait")
    with _api(settings) as api:
        deployment = find_job(api, job)
        parameters = {name: read_value(deployment, name, text) for name, text in map(_pair, param or ())}
        check_parameters(deployment, parameters)
        idle = _why_it_may_wait(api)
    asked = run_job(deployment.name, parameters, countdown=seconds, eta=eta, key=key or None, settings=settings)
    if not as_json:
        due = f"{asked.due.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if asked.due and (seconds or eta) else "now"
        common.out.print(
            f"Asked for {shown(asked.job)}: {shown(asked.name)}, due {due}  [dim]{asked.id}[/]", highlight=False
        )
        if idle:
            common.out.print(f"[yellow]{shown(idle)}[/]", highlight=False)
    if not wait:
        if as_json:
            _print_json(_told(asked, asked.state, None))
        return
    try:
        ended = _follow(asked, patience, quiet=as_json)
    except StillRunning as late:
        if as_json:
            _print_json(_told(asked, late.run, None))
        else:
            common.err.print(f"{shown(late)} See aae inspect active.", highlight=False)
        raise typer.Exit(_STILL_RUNNING) from None
    except KeyboardInterrupt:
        common.err.print("Not waiting any longer; the run goes on: see aae inspect active.", highlight=False)
        raise
    _print_result(asked, ended, as_json=as_json)
    if not ended.succeeded:
        raise typer.Exit(1)


def _follow(asked: JobRun, patience: float | None, *, quiet: bool) -> FlowRun:
    if quiet:
        return asked.wait(patience)
    from aae.local.steps import bar  # noqa: PLC0415

    with common.out.status("waiting for a worker ...") as status:

        def show(progress: Progress) -> None:
            tasks = f"{progress.tasks_done} of {progress.tasks_known} tasks"
            state = progress.run.state_name
            how_far = f"{bar(progress.share)}, {tasks}" if progress.share is not None else f"{state}, {tasks}"
            status.update(shown(how_far if progress.run.started else f"{state}, waiting for its turn ..."))

        return asked.wait(patience, show=show)


def _print_result(asked: JobRun, ended: FlowRun, *, as_json: bool) -> None:
    try:
        result = asked.result
    except AaeError as error:
        common.err.print(f"The result cannot be read: {shown(error, 500)}", highlight=False)
        result = ended.message
    if as_json:
        _print_json(_told(asked, ended, result))
        return
    mark = "[green]✓[/]" if ended.succeeded else "[red]✗[/]"
    took = f" after {ended.seconds:.1f} s" if ended.seconds is not None else ""
    common.out.print(
        f"{mark} {shown(ended.state_name)}{took}: {shown(ended.message or 'without a word', 2000)}", highlight=False
    )
    if result is None or result == ended.message:
        return
    _print_lines(json.dumps(result, indent=2, ensure_ascii=False).splitlines())


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines[:_MOST_LINES]:
        indent = len(line) - len(line.lstrip())
        common.out.print(" " * indent + shown(line, 2000), highlight=False)
    if len(lines) > _MOST_LINES:
        common.out.print(f"... {len(lines) - _MOST_LINES} lines more: --json prints all of it.", highlight=False)


def _told(asked: JobRun, state: FlowRun, result: Any) -> dict[str, Any]:
    return {
        "id": asked.id,
        "job": asked.job,
        "run": state.name,
        "due": asked.due,
        "state": state.state_name,
        "message": state.message,
        "result": result,
    }


def _why_it_may_wait(api: PrefectApi) -> str:
    from aae.local.stack import POOL  # noqa: PLC0415

    pool = api.work_pool(POOL)
    if pool is not None and pool.paused:
        return "The work pool is paused: it waits for aae resume."
    if not any(one.online for one in api.workers(POOL)):
        return "No worker is online, so it waits for one: aae worker"
    return ""


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError("--param needs NAME=VALUE, for instance --param accounts=[1,2].")
    return name, value


def _span(text: str, option: str) -> float:
    """Seconds: ``10``, ``10s``, ``1.5m``, ``2h``, ``1d``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", text.strip())
    if not found:
        raise UserError(f"{option} needs a span of time like 10s, 5m, 2h or 1d.")
    return float(found[1]) * _UNITS[found[2]]


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError("--at needs a moment like 2026-11-22T14:30 or 2026-11-22T14:30+01:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# Moving in


@app.command(name="import-beat")
def import_beat(
    file: Annotated[str, typer.Argument(help="The Python file or module with the beat_schedule, or JSON.")],
    output: Annotated[Path | None, typer.Option(help="Where to write it; standard output without it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
) -> None:
    """Read a Celery beat schedule and write the prefect.yaml for it.

    The file is parsed, never run. crontab in all its forms, seconds, timedelta and schedule(...) become the same
    moments here; each is also said in words, so that you can check. A task named like one of our flows becomes that
    flow's deployment; for others a placeholder says what is to be done by hand. What has no counterpart is told entry
    by entry, with exit code 2, and then nothing is written at all.
    """
    from aae.local.stack import PROJECT  # noqa: PLC0415
    from aae.operate.beat.prefect_yaml import plan, write  # noqa: PLC0415
    from aae.operate.beat.source import read_beat  # noqa: PLC0415

    if output is not None and output.exists() and not force:
        raise UserError(f"{output} is there already: name another file, or say --force.")
    lines = plan(read_beat(file), PROJECT)
    text = write(lines, PROJECT, file)
    if output is None:
        typer.echo(text, nl=False)
    else:
        _replace(output, text)
    for line in lines:
        mark = "[green]✓[/]" if line.entrypoint else "[yellow]to do[/]"
        flow = f"{line.function.replace('_', '-')}/{line.name}"
        common.err.print(
            f"{mark} {shown(line.entry.name)} → {shown(flow)}: {shown(line.entry.timing)}", highlight=False
        )
        for note in line.notes:
            common.err.print(f"    {shown(note)}", highlight=False)
    undone = [line for line in lines if line.entrypoint is None]
    if undone:
        common.err.print(
            f"{len(undone)} of {len(lines)} tasks have no flow here: write it and replace the entrypoint that begins "
            "with flows/TO_DO.py, before you deploy.",
            highlight=False,
        )


def _replace(path: Path, text: str) -> None:
    """Write a file so that there is never half of it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        if path.exists():
            # A project's file, that the worker's user reads: unlike all else that we write it is not for us alone.
            draft.chmod(S_IMODE(path.stat().st_mode))
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({type(error).__name__}).") from None
    finally:
        draft.unlink(missing_ok=True)
