"""Which failed runs are told of, and until when a job counts as failing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import create_engine

from aae.operate.alerts import Alerts
from aae.operate.prefect_api import PrefectApi
from aae.settings import Settings

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
DEPLOYMENT = {
    "id": "d1",
    "flow_id": "f1",
    "name": "six-hourly",
    "paused": False,
    "created": NOW.isoformat(),
    "schedules": [],
}


def answer(request: httpx.Request, ran: list[str]) -> httpx.Response:
    if request.url.path.endswith("/deployments/filter"):
        return httpx.Response(200, json=[DEPLOYMENT])
    if request.url.path.endswith("/flows/filter"):
        return httpx.Response(200, json=[{"id": "f1", "name": "fetch-ad-data"}])
    assert "COMPLETED" in json.dumps(json.loads(request.content))
    found = []
    for number, told in enumerate(ran):
        state, share, *words = told.split()
        ended = (NOW - timedelta(minutes=60 - number)).isoformat()
        parameters = {"all": {}, "some": {"accounts": [3]}}.get(share, {"share": share})
        about = {"id": told, "name": told, "deployment_id": "d1", "end_time": ended, "parameters": parameters}
        found.append(about | {"state": {"type": state, "name": state, "message": " ".join(words)}})
    return httpx.Response(200, json=found)


@pytest.mark.parametrize(
    ("ran", "told"),
    [
        (["FAILED all 3 of 9", "COMPLETED all"], []),
        (["FAILED 1/2 3 of 9", "COMPLETED 2/2"], ["FAILED 1/2 3 of 9"]),
        (["FAILED 1/2 3 of 9", "COMPLETED 2/2", "COMPLETED 1/2"], []),
        (["FAILED 1/2 3 of 9", "COMPLETED all"], []),
        (["FAILED 1/2 3 of 9", "FAILED 2/2 5 of 8"], ["FAILED 1/2 3 of 9"]),
        (["FAILED 1/2 3 of 9", "FAILED 2/2 no database"], ["FAILED 1/2 3 of 9", "FAILED 2/2 no database"]),
        (["FAILED 3/4 3 of 9", "COMPLETED 1/2"], []),
        (["FAILED all 3 of 9", "COMPLETED some"], ["FAILED all 3 of 9"]),
        (["FAILED some 1 of 1", "COMPLETED some"], []),
        (["FAILED some 1 of 1", "COMPLETED all"], []),
    ],
    ids=[
        "well again",
        "hidden",
        "its share again",
        "all of it since",
        "same words",
        "other words",
        "fewer shares",
        "some are well",
        "the same some",
        "all are well",
    ],
)
def test_a_share_that_failed_is_told_whatever_became_of_the_others_and_the_same_words_once(
    ran: list[str], told: list[str]
) -> None:
    with PrefectApi("http://prefect/api", transport=httpx.MockTransport(lambda request: answer(request, ran))) as api:
        alerts = Alerts(create_engine("sqlite://"), api, Settings(_env_file=None), "aae")  # type: ignore[call-arg]
        assert alerts._failed(NOW) is bool(told)
        assert [alert.cause for alert, _ in alerts._waiting] == told
