"""Any parameters at all, as a worker gets them: one clear sentence as the run's end, at once, and no table touched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect import Flow, State, get_client
from prefect.flow_engine import run_flow
from sqlalchemy import Engine, select

import tasks.detection
import tasks.fetch
import tasks.reporting
import tasks.resources
import tasks.tokens
from aae.sandbox import World
from aae.storage.engine import reading
from aae.storage.schema import metadata
from flows.anomaly_detection import detect_anomalies
from flows.data_fetch import fetch_ad_data
from flows.reports import generate_daily_report
from flows.token_refresh import check_token_expiry
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def product(engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    world = World.generate(11, ANCHOR, days=3, users=1, big_campaigns=1, ads_per_ad_set=1)
    with bench(world, engine, redis_url, monkeypatch) as it:
        it.connect()
        for module in (tasks.resources, tasks.fetch, tasks.tokens, tasks.detection, tasks.reporting):
            monkeypatch.setattr(module, "clock", it.now)
        yield it


def everything(product: Bench) -> dict[str, list[Any]]:
    with reading(product.engine) as connection:
        return {table.name: connection.execute(select(table)).all() for table in metadata.sorted_tables}


async def run_as_a_worker(job: Flow[..., Any], parameters: dict[str, Any]) -> State[Any]:
    """The run is made at the server, and begun from what the server says of it."""
    async with get_client() as client:
        made = await client.create_flow_run(job, parameters=parameters)
        taken = await client.read_flow_run(made.id)
        try:
            await run_flow(job, flow_run=taken, parameters=taken.parameters, return_type="state")
        except Exception:
            state = (await client.read_flow_run(made.id)).state
            assert state is not None
            if not state.is_final():
                raise
        ended = (await client.read_flow_run(made.id)).state
    assert ended is not None
    return ended


CASES: list[tuple[Flow[..., Any], dict[str, Any], str]] = [
    (
        fetch_ad_data,
        {"since": "2026-11-20", "until": "2026-11-01"},
        "until 2026-11-01 lies before since 2026-11-20.",
    ),
    (fetch_ad_data, {"since": "9999-12-31"}, "since 9999-12-31 lies in the future"),
    (fetch_ad_data, {"until": "2026-12-24"}, "2026-12-24 lies in the future"),
    (fetch_ad_data, {"since": "0001-01-01"}, "further back than the 37 months"),
    (fetch_ad_data, {"since": "2026-11-31"}, "since: Input should be a valid date"),
    (fetch_ad_data, {"accounts": [2**63]}, "accounts.0: Input should be less than or equal to 9223372036854775807"),
    (fetch_ad_data, {"accounts": [2**63 - 1]}, "No active account has the id 9223372036854775807"),
    (fetch_ad_data, {"accounts": [-1]}, "accounts.0: Input should be greater than or equal to 1"),
    (fetch_ad_data, {"accounts": [True]}, "accounts.0: Input should be a valid integer"),
    (fetch_ad_data, {"accounts": list(range(100, 9000))}, "107, 108, 109 and more; see 'aae accounts list'."),
    (fetch_ad_data, {"accounts": list(range(1, 20_000))}, "at most 10000 items"),
    (fetch_ad_data, {"accounts": ["=1+1"] * 5000}, "accounts.0: Input should be a valid integer"),
    (fetch_ad_data, {"accounts": [[[[[]]]]]}, "accounts.0: Input should be a valid integer"),
    (fetch_ad_data, {"platforms": ["x"] * 5000}, "platforms.0: Input should be 'meta', 'tiktok' or 'google'"),
    (fetch_ad_data, {"sinse": "2026-11-20"}, "'sinse'"),
    (check_token_expiry, {"within_hours": "NaN"}, "within_hours: Input should be a finite number"),
    (check_token_expiry, {"within_hours": 1e300}, "within_hours: Input should be less than or equal to 8784"),
    (check_token_expiry, {"within_hours": -1}, "within_hours: Input should be greater than or equal to 0"),
    (generate_daily_report, {"day": "9999-12-31"}, "9999-12-31 is not over yet for user"),
    (generate_daily_report, {"day": "2026-11-22"}, "2026-11-22 is not over yet for user"),
    (generate_daily_report, {"day": "0001-01-01"}, "0001-01-01 is too long ago"),
    (generate_daily_report, {"users": [2**63]}, "users.0: Input should be less than or equal to"),
    (detect_anomalies, {"users": [10**18]}, "No active user has the id 1000000000000000000"),
    (detect_anomalies, {"sensitivity": "\u202eextreme"}, "sensitivity: Input should be 'low', 'medium' or 'high'"),
    (detect_anomalies, {"dry_run": {"a": [1]}}, "dry_run: Input should be a valid boolean"),
]


async def test_what_cannot_be_asked_for_ends_at_once_in_a_sentence_and_touches_no_table(product: Bench) -> None:
    """All in one world, since none of them changes anything in it."""
    before, calls = everything(product), product.control("calls")
    for job, parameters, said in CASES:
        state = await run_as_a_worker(job, parameters)
        assert state.is_failed(), (parameters, state)
        assert said in str(state.message), state.message
        assert len(str(state.message)) < 400, state.message
        assert "Traceback" not in str(state.message)
    assert everything(product) == before
    assert product.control("calls") == calls


async def test_an_id_named_twice_is_one_account(product: Bench) -> None:
    account = product.accounts()[0]
    state = await run_as_a_worker(fetch_ad_data, {"accounts": [account.id] * 1000, "dry_run": True})
    assert state.is_completed()
    assert str(state.message).startswith("1 accounts")
