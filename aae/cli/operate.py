"""Keeping it running: ``aae worker``, ``watch``, ``drain``, ``resume`` and ``doctor``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from aae import logs
from aae.cli import common
from aae.errors import AaeError, UserError
from aae.local.steps import shown

app = typer.Typer()

_DELIVER_SECONDS = 20.0
"""How often the watch looks into the outbox."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """Run a worker until told to stop: then its runs may finish, or are handed over to other workers, and it ends.

    A Prefect worker of the work pool, as prefect worker start runs it (further options are passed on: --name,
    --with-healthcheck), which at SIGTERM or Ctrl-C takes no new runs and gives those it has
    AAE_RECOVERY__DRAIN_SECONDS to finish. Whatever supervises it should wait a minute longer before it kills it.
    """
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from aae.local.stack import POOL, PROJECT  # noqa: PLC0415
    from aae.operate.drain import step_down  # noqa: PLC0415
    from aae.operate.worker import work  # noqa: PLC0415
    from aae.storage.engine import connect  # noqa: PLC0415

    settings = common.settings()
    common.enter(settings)
    state_dir = settings.state_dir.absolute()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def drain_it(pid: int) -> None:
        limit, beat = settings.recovery.drain_seconds, settings.recovery.beat_seconds
        common.out.print(f"told to stop: no new runs, and the running ones get {limit:.0f} s to finish")
        try:
            with common.prefect(settings) as api:
                engine = connect(settings.resolved_database_url, timeout=5)
                done = step_down(api, engine, {pid}, state_dir=state_dir, within=limit, beat_seconds=beat)
        except (AaeError, SQLAlchemyError) as error:
            # A foreign message may quote anything, an address with its password too.
            why = str(error) if isinstance(error, AaeError) else f"the database cannot be used ({type(error).__name__})"
            raise UserError(f"Stopped without a drain, the watch will run again what is cut off: {why}") from None
        common.out.print(f"drained: {done.finished} runs finished, {len(done.handed_over)} handed over")

    environment = {
        # The jobs start elsewhere than here.
        "AAE_STATE_DIR": str(state_dir),
        "AAE_PROJECT_DIR": os.environ.get("AAE_PROJECT_DIR") or str(PROJECT),
        # The work pool's command says "python".
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    raise typer.Exit(work(POOL, context.args, environment, stop, drain_it))


@app.command()
def watch() -> None:
    """Watch over the runs: run lost ones again, skip what piled up, make what was missed, send mail that waits.

    Run one beside the workers, or several on different machines: one leads, the others take over when it falls silent.
    Needs the database and the Prefect server; waits for both when they are away. AAE_RECOVERY__... say how soon. Where
    AAE_METRICS__LISTEN says so it serves metrics and health endpoints, too.
    """
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from aae.cli.metrics import serve_metrics  # noqa: PLC0415
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.alerts import Alerts  # noqa: PLC0415
    from aae.operate.recovery import Watch, keep_delivering, keep_watch  # noqa: PLC0415
    from aae.storage.engine import connect  # noqa: PLC0415

    settings = common.settings()
    logs.configure(settings, sys.stdout)
    common.enter(settings)
    engine = connect(settings.resolved_database_url, timeout=5)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    post = threading.Thread(target=keep_delivering, args=(engine, settings, _DELIVER_SECONDS, stop), daemon=True)
    post.start()
    logs.announce(f"watching the work pool {POOL}")
    looked = serve_metrics(settings, stop) if settings.metrics.listen else None
    with common.prefect(settings) as api:
        keep_watch(
            Watch(engine, api, settings.recovery, POOL, alerts=Alerts(engine, api, settings, POOL)),
            settings.recovery.watch_seconds,
            stop,
            say=logs.announce,
            looked=looked,
        )


@app.command()
def drain(
    within: Annotated[
        float | None,
        typer.Option(help="Seconds that running jobs get to finish; AAE_RECOVERY__DRAIN_SECONDS without it."),
    ] = None,
    keep_worker: Annotated[bool, typer.Option("--keep-worker", help="Leave this machine's workers running.")] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Stop this machine's workers only; the others go on and take its runs.")
    ] = False,
) -> None:
    """Before a deploy or a reboot: start no new runs, let the running ones finish, then stop this machine's workers.

    What has not finished within the limit is handed over: it stops where it is and goes on, as the same run, after
    aae resume. Nothing is lost or done twice. Of what falls due meanwhile, the last run of each job is made then.

    With --here nothing is paused and there is nothing to resume. (aae worker does that by itself when it is stopped.)
    """
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.drain import AtWork, drain, step_down, workers_here  # noqa: PLC0415

    if here and keep_worker:
        raise UserError("--here stops this machine's workers: it does not go together with --keep-worker.")

    settings = common.settings()
    engine = common.tables(settings)
    limit = settings.recovery.drain_seconds if within is None else within
    with common.prefect(settings) as api, common.out.status("draining ...") as status:
        # Before a worker is stopped whose runs could then not be handed over.
        api.require_entry()

        def show(still: Sequence[AtWork]) -> None:
            jobs = ", ".join(f"{one.job} since {one.since:%H:%M:%S} ({one.doing})" for one in still)
            status.update(f"waiting for {shown(jobs) or 'a run that is just being started'}")

        beat = settings.recovery.beat_seconds
        try:
            if here:
                pids, folder = workers_here(api, POOL), settings.state_dir.absolute()
                done = step_down(api, engine, pids, state_dir=folder, within=limit, beat_seconds=beat, show=show)
            else:
                done = drain(
                    api, engine, POOL, within=limit, beat_seconds=beat, stop_workers=not keep_worker, show=show
                )
        except KeyboardInterrupt:
            after = "the workers go on" if here else "no new runs are started until you say aae resume"
            raise UserError(f"Interrupted: {after}.") from None
    told = f"{done.finished} runs finished, {len(done.handed_over)} handed over, {done.workers} workers stopped."
    then = "The work pool stays open." if here else "Start the workers and say [bold]aae resume[/] to go on."
    common.out.print(f"Drained: {told} {then}")


@app.command()
def resume() -> None:
    """After aae drain: hand out runs again, those that were handed over first."""
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.drain import resume  # noqa: PLC0415

    with common.prefect(common.settings()) as api:
        waiting = resume(api, POOL)
    common.out.print(f"Resumed. {len(waiting)} runs are waiting to be started.")


@app.command()
def doctor(
    job: Annotated[str | None, typer.Argument(help="Only this one, like detect-anomalies/hourly.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """Why do jobs not run, keep failing, or not follow their schedule? Each finding with the command that helps.

    Looks at settings, disk, tables, keys, cache and clocks; at the way of a run from Prefect's server over pool, queue
    and worker to its process; at how the last runs of each job ended; at what prefect.yaml says and the server has.
    Nothing is changed by looking. The exit code is 0 only if all is well.
    """
    from aae.local.stack import POOL, PROJECT  # noqa: PLC0415
    from aae.operate.doctor import Check, Group, examine  # noqa: PLC0415

    titles = {
        Group.BASICS: "Basics",
        Group.EXECUTING: "Jobs not executing?",
        Group.FAILING: "Failing repeatedly?",
        Group.SCHEDULE: "Schedule not updating?",
    }
    checks: list[Check] = []

    def show(check: Check) -> None:
        if not as_json:
            if not checks or checks[-1].group != check.group:
                common.out.print(f"{'' if not checks else chr(10)}[bold]{titles[check.group]}[/]", highlight=False)
            mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
            common.out.print(f"{mark} {shown(check.name):<38} {shown(check.detail, 1000)}", highlight=False)
            if check.remedy:
                common.out.print(f"  [yellow]→ {shown(check.remedy)}[/]", highlight=False)
        checks.append(check)

    try:
        settings = common.settings()
    except UserError as error:
        show(Check("settings", False, str(error), "see .env.example for every setting"))
    else:
        show(Check("settings", True, "valid"))
        api = common.prefect(settings) if settings.prefect_api_url else None
        for check in examine(settings, api, PROJECT, POOL, clock=common.now, only=job):
            show(check)
    bad = sum(not check.ok for check in checks)
    if as_json:
        found = [
            {
                "name": group.value,
                "ok": all(one.ok for one in checks if one.group == group),
                "checks": [
                    {"check": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy}
                    for one in checks
                    if one.group == group
                ],
            }
            for group in Group
        ]
        typer.echo(json.dumps({"ok": not bad, "groups": found}, indent=2, ensure_ascii=False))
    else:
        common.out.print("\nAll is well." if not bad else f"\n{bad} of {len(checks)} checks found something.")
    if bad:
        raise typer.Exit(1)
