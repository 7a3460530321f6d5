"""What the deployments need on the Prefect server before ``prefect deploy``: the work pool and the result storage.

    python -m deployments.setup

Idempotent. Results lie in Redis, in a database of their own (their keys have no prefix), as JSON.
"""

from __future__ import annotations

import sys

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from prefect_redis import RedisDatabase
from pydantic import SecretStr

from aae.errors import UserError
from aae.operate.redis_server import dial
from aae.settings import load

WORK_POOL = "aae"
RESULT_BLOCK = "aae-results"
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
    """The pool whose workers run each flow as a process."""
    try:
        client.create_work_pool(
            WorkPoolCreate(
                name=WORK_POOL,
                type=ProcessWorker.type,
                description="Runs AAE's jobs, each as a process of its own.",
                base_job_template=ProcessWorker.get_default_base_job_template(),
            )
        )
    except ObjectAlreadyExists:
        return


def save_result_block(url: str) -> None:
    """Register the Redis (or Valkey) database ``url`` as the storage of results."""
    block = RedisDatabase(connection_url=SecretStr(url), key_ttl=RESULT_TTL_SECONDS)
    block.save(RESULT_BLOCK, overwrite=True)


if __name__ == "__main__":
    main()
