"""Singer: a tap and a target of Meltano's singer-sdk, two processes joined by a pipe.

No target for MySQL is to be had ready-made. Of those that the Python registry lists, thk-target-mysql 0.1.3,
macrometa-target-mysql 0.0.12 and target-mysql 0.8.0 ask for old versions of others that have no wheel for this Python,
and singer-target-mysql 0.0.2 holds no code. So the target is the SDK's own SQL target with the length that MySQL wants
of a text column, and the tap the SDK's REST stream. Both use what the SDK offers to be quick: messages by msgspec, no
validation of records, no metadata in them, its batches of 10,000.
"""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import requests
from singer_sdk import RESTStream, SQLConnector, SQLSink, SQLTarget, Tap
from singer_sdk import typing as th
from singer_sdk.connectors.sql import JSONSchemaToSQL
from singer_sdk.contrib.msgspec import MsgSpecReader, MsgSpecWriter
from singer_sdk.pagination import (
    BaseAPIPaginator,
    BaseHATEOASPaginator,
    BasePageNumberPaginator,
    SinglePagePaginator,
)
from singer_sdk.streams.rest import HTTPRequest, PageContext
from sqlalchemy import types

from benchmarks.peers.wire import NUMBERS, TABLES, TEXTS, Job, Question, main

SCHEMA = th.PropertiesList(
    *(th.Property(name, th.StringType) for name in TEXTS), *(th.Property(name, th.NumberType) for name in NUMBERS)
).to_dict()
TEXT_LENGTH = 64


def fetch(job: Job) -> int:
    """Run the tap into the target; returns the number of rows that came through the pipe."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    reading, writing = os.pipe()
    tap = os.fork()
    if tap == 0:
        os.close(reading)
        os.dup2(writing, 1)
        try:
            AdsTap(config=asdict(job)).sync_all()
            os._exit(0)
        finally:  # whatever happens, it must not go on as the target
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    target = Counting(config=settings(job))
    with os.fdopen(reading) as messages:
        target.listen(messages)
    if os.waitpid(tap, 0)[1]:
        raise SystemExit("the tap failed")
    return target.rows


def settings(job: Job) -> dict[str, Any]:
    """The target's."""
    return {"sqlalchemy_url": job.database, "validate_records": False, "add_record_metadata": False}


# The tap


class Links(BaseHATEOASPaginator):
    """Meta's pages."""

    def get_next_url(self, response: requests.Response) -> str | None:
        """The whole address of the next one."""
        following: str | None = response.json().get("paging", {}).get("next")
        return following


class Numbers(BasePageNumberPaginator):
    """TikTok's pages."""

    def has_more(self, response: requests.Response) -> bool:
        """By the count that each page tells."""
        told: int = response.json()["data"]["page_info"]["total_page"]
        return self.current_value < told


PAGINATORS = {"meta": Links, "tiktok": partial(Numbers, start_value=1), "google": SinglePagePaginator}


class Ads(RESTStream[Any]):
    """One platform's rows by day or by hour; a partition is one question."""

    def __init__(self, tap: Tap, platform: str, table: str, questions: Sequence[Question]) -> None:
        self._platform, self._questions = platform, questions
        self._question = questions[0]
        super().__init__(tap, schema=SCHEMA, name=f"{platform}_{table}", path="/")
        self.state_partitioning_keys = []

    @property
    def url_base(self) -> str:
        """Of all three platforms."""
        base: str = self.config["url"]
        return base

    @property
    def partitions(self) -> list[dict[str, Any]]:
        """The numbers of the questions."""
        return [{"question": number} for number in range(len(self._questions))]

    def get_records(self, context: Mapping[str, Any] | None) -> Iterable[dict[str, Any]]:
        """The rows of one question."""
        self._question = self._questions[(context or {})["question"]]
        return super().get_records(context)

    def get_http_request(self, *, page: PageContext[Any]) -> HTTPRequest:
        """The question, on its next page."""
        question, token = self._question, page.next_page_token
        params = dict(question.params)
        if self._platform == "meta" and token:
            params = dict(parse_qsl(token.query))
        elif self._platform == "tiktok" and token > 1:
            params["page"] = str(token)
        return HTTPRequest(
            url=f"{self.url_base}{question.path}",
            method=question.method,
            headers=question.headers,
            params=params,
            data=question.body,  # type: ignore[arg-type]
        )

    payload_as_json = True

    def get_new_paginator(self) -> BaseAPIPaginator[Any]:
        """The platform's way."""
        return PAGINATORS[self._platform]()

    def parse_response(self, response: requests.Response) -> Iterable[dict[str, Any]]:
        """The rows of a page."""
        return self._question.rows(response.json())


class AdsTap(Tap):
    """All accounts of a job."""

    name = "tap-ads"
    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(th.Property("url", th.StringType)).to_dict()
    message_writer_class = MsgSpecWriter

    def discover_streams(self) -> Sequence[Ads]:
        """A stream for each platform and table that there are questions for."""
        asked = list(Job(**{name: self.config[name] for name in Job.__slots__}).questions())
        streams = {
            (platform, table): [one for one in asked if (one.platform, one.table) == (platform, table)]
            for platform in dict.fromkeys(one.platform for one in asked)
            for table in TABLES
        }
        return [Ads(self, *named, questions) for named, questions in streams.items()]


# The target


class Connector(SQLConnector):
    """The SDK's own, where a text has a length."""

    @cached_property
    def jsonschema_to_sql(self) -> JSONSchemaToSQL:
        """A text without one has MySQL refuse the table; an amount is a float, as the plain script's."""
        mapper = JSONSchemaToSQL()
        mapper.register_type_handler("string", lambda _: types.VARCHAR(TEXT_LENGTH))
        mapper.register_type_handler("number", types.Double)
        return mapper


class Sink(SQLSink[Connector]):
    """The SDK's own: it inserts each batch in a transaction."""

    connector_class = Connector


class Counting(SQLTarget):
    """The SDK's own, and how many rows it has read."""

    name = "target-mysql"
    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property("sqlalchemy_url", th.StringType, required=True)
    ).to_dict()
    message_reader_class = MsgSpecReader
    default_sink_class = Sink
    rows = 0

    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        self.rows += 1
        super()._process_record_message(message_dict)


if __name__ == "__main__":
    main(fetch)
