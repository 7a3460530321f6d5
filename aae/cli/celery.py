"""What people know from Celery: ``aae import-beat``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aae.cli import common
from aae.errors import UserError
from aae.local.steps import shown

app = typer.Typer()


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
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({type(error).__name__}).") from None
    finally:
        draft.unlink(missing_ok=True)
