"""What the deployments need on the Prefect server before ``prefect deploy``: the work pool and the result storage.

    python -m deployments.setup

Idempotent. Results lie in Redis, in a database of their own (their keys have no prefix), as JSON.
"""

from __future__ import annotations

import sys

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from prefect_redis import RedisDatabase
from pydantic import SecretStr

from aae.errors import UserError
from aae.operate.redis_server import dial
from aae.settings import load

WORK_POOL = "aae"
RESULT_BLOCK = "aae-results"
COMMAND = "python -m tasks.launch"
"""How a worker starts every run of the pool: one run of a job at a time, and none lost (``tasks/launch.py``)."""
RESULT_TIMEOUTS = "socket_timeout=1&socket_connect_timeout=1"
"""A Redis that hangs costs a step two of these (seconds); without its result the step is only made again."""
RESULT_TTL_SECONDS = 7 * 24 * 3600
"""As long as Prefect keeps the events of a run."""


def main() -> None:
    """Create or update both; nothing if there is no Redis for the results, which is then told in a sentence."""
    try:
        url = load().resolved_results_url
        if not url:
            raise UserError("Prefect's results need a Redis: set AAE_REDIS_URL or AAE_RESULTS_URL.")
        dial(url, "AAE_RESULTS_URL")
    except UserError as error:
        sys.stderr.write(f"deployments.setup: {error}\n")
        sys.exit(2)
    with get_client(sync_client=True) as client:
        ensure_work_pool(client)
    save_result_block(url)


def ensure_work_pool(client: SyncPrefectClient) -> None:
    """The pool whose workers run each flow as a process of its own, around :mod:`tasks.launch`."""
    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["command"]["default"] = COMMAND
    try:
        client.create_work_pool(
            WorkPoolCreate(
                name=WORK_POOL,
                type=ProcessWorker.type,
                description="Runs AAE's jobs, each as a process of its own.",
                base_job_template=template,
            )
        )
    except ObjectAlreadyExists:
        client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=template))


def save_result_block(url: str) -> None:
    """Register the Redis (or Valkey) database ``url`` as the storage of results."""
    brief = f"{url}{'&' if '?' in url else '?'}{RESULT_TIMEOUTS}"
    block = RedisDatabase(connection_url=SecretStr(brief), key_ttl=RESULT_TTL_SECONDS)
    block.save(RESULT_BLOCK, overwrite=True)


if __name__ == "__main__":
    main()
