"""The plain script: what one would write in an afternoon with httpx, pandas and ``to_sql``; one account after the
other, page by page, appended as it comes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pandas as pd
from sqlalchemy import create_engine

from benchmarks.peers.wire import Job, Question, Row, main


def fetch(job: Job) -> int:
    """Append every account's days to two tables; returns the number of rows."""
    count, engine = 0, create_engine(job.database)
    with httpx.Client(base_url=job.url, timeout=60) as client:
        for question in job.questions():
            rows = [row for page in pages(client, question) for row in page]
            if rows:
                pd.DataFrame(rows).to_sql(question.table, engine, if_exists="append", index=False)
            count += len(rows)
    engine.dispose()
    return count


def pages(client: httpx.Client, question: Question) -> Iterator[list[Row]]:
    """Every page of an answer: by the link of the one before, or by number."""
    url: str | None = question.path
    params: dict[str, str] | None = question.params
    number = 1
    while url:
        sent = client.request(question.method, url, params=params, json=question.body, headers=question.headers)
        page = sent.raise_for_status().json()
        yield question.rows(page)
        if question.platform == "meta":
            url, params = page.get("paging", {}).get("next"), None
        elif question.platform == "tiktok" and number < page["data"]["page_info"]["total_page"]:
            number += 1
            params = {**question.params, "page": str(number)}
        else:
            return


if __name__ == "__main__":
    main(fetch)
