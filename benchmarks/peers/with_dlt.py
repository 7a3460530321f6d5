"""dlt: its REST client, a resource per account and table, into its SQLAlchemy destination.

Resources run side by side in threads. They yield Arrow tables, which go through dlt as Parquet files, without its
normalizer looking at each value; that is the quickest way it documents. Files are cut so that several load at once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

import dlt
import pyarrow as pa
from dlt.extract import DltResource
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import (
    BasePaginator,
    JSONLinkPaginator,
    PageNumberPaginator,
    SinglePagePaginator,
)
from sqlalchemy import make_url

from benchmarks.peers.wire import NUMBERS, TEXTS, Job, Question, main

SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), *((name, pa.float64()) for name in NUMBERS)])

SETTINGS = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "EXTRACT__WORKERS": "8",
    "LOAD__WORKERS": "4",
    "DATA_WRITER__FILE_MAX_ITEMS": "50000",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "50000",
}

PAGINATORS: dict[str, Callable[[], BasePaginator]] = {
    "meta": partial(JSONLinkPaginator, next_url_path="paging.next"),
    "tiktok": partial(PageNumberPaginator, base_page=1, page_param="page", total_path="data.page_info.total_page"),
    "google": SinglePagePaginator,
}


def fetch(job: Job) -> int:
    """Load every account's days into two tables by one pipeline; returns the number of rows."""
    os.environ |= SETTINGS
    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            "peer",
            pipelines_dir=folder,
            destination=dlt.destinations.sqlalchemy(credentials=job.database),
            dataset_name=make_url(job.database).database if job.database.startswith("mysql") else "main",
        )
        pipeline.run(ads(job), loader_file_format="parquet").raise_on_failed_jobs()
        counts = pipeline.last_trace.last_normalize_info.row_counts
    return sum(count for table, count in counts.items() if not table.startswith("_dlt"))


@dlt.source(max_table_nesting=0)
def ads(job: Job) -> Iterator[DltResource]:
    """A resource for each account and table."""
    client = RESTClient(base_url=job.url)
    for (platform, account, table), questions in groupby(
        job.questions(), lambda each: (each.platform, each.account, each.table)
    ):
        yield dlt.resource(
            pages(client, list(questions)),
            name=f"{platform}_{account}_{table}",
            table_name=table,
            write_disposition="append",
            parallelized=True,
        )


def pages(client: RESTClient, questions: list[Question]) -> Iterator[pa.Table]:
    """The pages of the answers, empty ones left out."""
    for question in questions:
        for page in client.paginate(
            question.path,
            method=question.method,  # type: ignore[arg-type]
            params=question.params,
            json=question.body,
            headers=question.headers,
            paginator=PAGINATORS[question.platform](),
            data_selector="$",
        ):
            rows: list[dict[str, Any]] = question.rows(page.response.json())
            if rows:
                yield pa.Table.from_pylist(rows, SCHEMA)


if __name__ == "__main__":
    main(fetch)
