"""Keeping it running: ``aae watch``, ``drain``, ``resume`` and ``doctor``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from aae.cli import common
from aae.errors import UserError
from aae.local.steps import shown

app = typer.Typer()

_DELIVER_SECONDS = 20.0
"""How often the watch looks into the outbox."""


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
    from aae.operate.alerts import Alerts  # noqa: PLC0415
    from aae.operate.recovery import Watch, keep_delivering, keep_watch  # noqa: PLC0415
    from aae.storage.engine import connect  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stdout)
    settings = common.settings()
    engine = connect(settings.resolved_database_url, timeout=5)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    post = threading.Thread(target=keep_delivering, args=(engine, settings, _DELIVER_SECONDS, stop), daemon=True)
    post.start()
    common.out.print(f"watching the work pool {POOL}")
    with common.prefect(settings) as api:
        keep_watch(
            Watch(engine, api, settings.recovery, POOL, alerts=Alerts(engine, api, settings, POOL)),
            settings.recovery.watch_seconds,
            stop,
            say=common.out.print,
        )


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

    settings = common.settings()
    engine = common.tables(settings)
    limit = settings.recovery.drain_seconds if within is None else within
    with common.prefect(settings) as api, common.out.status("draining ...") as status:

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
    common.out.print(f"Drained: {told} Start the workers and say [bold]aae resume[/] to go on.")


@app.command()
def resume() -> None:
    """After aae drain: hand out runs again, those that were handed over first."""
    from aae.local.stack import POOL  # noqa: PLC0415
    from aae.operate.drain import resume  # noqa: PLC0415

    with common.prefect(common.settings()) as api:
        waiting = resume(api, POOL)
    common.out.print(f"Resumed. {len(waiting)} runs are waiting to be started.")


@app.command()
def doctor(as_json: common.AsJson = False) -> None:
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
            common.out.print(f"{mark} {shown(check.name):<42} {shown(check.detail)}", highlight=False)
            if check.remedy:
                common.out.print(f"  [yellow]→ {shown(check.remedy)}[/]", highlight=False)

    try:
        settings = common.settings()
        jobs = read_jobs(PROJECT)
    except UserError as error:
        show(Check("settings", False, str(error), "see .env.example for every setting"))
    else:
        show(Check("settings", True, "valid"))
        api = common.prefect(settings) if settings.prefect_api_url else None
        for check in examine(settings, api, jobs, POOL, now=common.now()):
            show(check)
    bad = sum(not check.ok for check in checks)
    if as_json:
        found = [{"check": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy} for one in checks]
        typer.echo(json.dumps({"ok": not bad, "checks": found}, indent=2, ensure_ascii=False))
    else:
        common.out.print("\nAll is well." if not bad else f"\n{bad} of {len(checks)} checks found something.")
    if bad:
        raise typer.Exit(1)
