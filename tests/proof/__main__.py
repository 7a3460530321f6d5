"""``make matrix``: what a fetch makes of every fault of the sandbox's catalogue, on every platform that it can strike.

It ends with 1 if in any cell the tables are not the sandbox's ledger after the healthy run, or an outcome is not the
one declared in ``tests/proof/expected.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from aae.model import Granularity
from aae.sandbox import CATALOGUE
from aae.storage import engine as database
from tests import servers
from tests.proof import matrix, table
from tests.proof.stage import HISTORY, Stage, staged

PAGE: Final = Path(__file__).parents[2] / "docs" / "faults.md"


def main() -> int:
    arguments = _arguments()
    with _stage(arguments.database) as stage:
        calm = table.calm(stage)
        chosen = [cell for cell in matrix.cells() if arguments.fault in (None, cell.kind.name)]
        results = []
        for cell in chosen:
            _progress(f"{len(results) + 1}/{len(chosen)} {cell}")
            results.append(matrix.play(stage, cell))
        _progress("")
    page = table.markdown(results, calm)
    if arguments.markdown:
        print(page, end="")  # noqa: T201 - the result
    else:
        table.show(results, calm, stage.engine.dialect.name)
    if arguments.write and arguments.fault is None:
        PAGE.write_text(page)
    return 1 if any(result.problems for result in results) else 0


@contextmanager
def _stage(kind: str) -> Iterator[Stage]:
    """A stage on a private server, or on a file."""
    daemon = servers.mysql_daemon()
    if kind == "mariadb" and daemon is None:
        raise SystemExit("There is no mariadbd or mysqld here: install mariadb-server or use --database sqlite.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aae-matrix-")))
        url = f"sqlite:///{folder / 'aae.db'}"
        if daemon is not None and kind == "mariadb":
            url = stack.enter_context(servers.database_on(stack.enter_context(servers.mysql_server(daemon))))
        engine = stack.enter_context(servers.connected(url))
        database.upgrade(engine)
        cache = stack.enter_context(servers.redis_server())
        yield stack.enter_context(staged(engine, cache, folder / "state", hourly_days=HISTORY[Granularity.HOURLY]))


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line:<78}", end="\r" if not line else "", file=sys.stderr, flush=True)  # noqa: T201 - for people


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--database", choices=("sqlite", "mariadb"), default="sqlite", help="a file or a private server"
    )
    parser.add_argument("--fault", choices=sorted(CATALOGUE), metavar="NAME", help="only this one")
    parser.add_argument("--markdown", action="store_true", help="print it as the page docs/faults.md")
    parser.add_argument("--write", action="store_true", help="write that page too, if all faults are played")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
