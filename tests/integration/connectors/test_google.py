"""Google's own traps, met in the sandbox over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import pytest

from aae.errors import Reduce
from aae.model import Granularity, Level, Platform, Totals
from aae.operate.account_files import read_accounts
from aae.platforms import transport
from aae.platforms.base import Connector
from aae.platforms.transport import counting
from aae.sandbox import Fault
from tests.integration.connectors.readings import Bench, comparable, listing_of, totals_of, truth_of


def test_ids_have_no_hyphens_on_the_wire_however_people_write_them(bench: Bench) -> None:
    def written(digits: str | None) -> str:
        assert digits
        return f"{digits[:3]}-{digits[3:6]}-{digits[6:]}"

    account, token, truth = bench.account(Platform.GOOGLE)
    customer, manager = written(account.external_id), written(account.login_customer_id)
    person = {"user_email": "ada@example.com", "user_name": "Ada", "access_token": "x", "platform": "google"}
    (row,) = read_accounts(json.dumps([{**person, "external_id": customer, "login_customer_id": manager}]), "list.json")
    for way in (row.login_customer_id, manager):
        listed = replace(account, external_id=row.external_id, login_customer_id=way)
        piece = bench.piece(account, Granularity.DAILY, 1)
        frame = bench.rows(Platform.GOOGLE, listed, token, piece)
        pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, piece))


# -- listings ---------------------------------------------------------------------------------------------------------


def test_a_budget_for_a_period_is_no_daily_one(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.GOOGLE)
    read = partial(bench.run, Platform.GOOGLE, partial(listing_of, account, token))
    assert read()["daily_budget_micros"].notna().any()
    bench.faults.add(Fault("google_period_budgets"))
    assert read()["daily_budget_micros"].isna().all()


def test_ads_without_a_name_are_called_by_their_id_and_nothing_else_is(bench: Bench) -> None:
    account, token, truth = bench.account(Platform.GOOGLE)
    bench.faults.add(Fault("google_unnamed_ads"))
    frame = bench.run(Platform.GOOGLE, partial(listing_of, account, token))
    named = dict(zip(frame["external_id"], frame["name"], strict=True))
    above = [*truth.campaigns, *truth.ad_sets]
    assert named == {
        **{one.external_id: one.name for one in above},
        **{one.external_id: f"ad {one.external_id}" for one in truth.ads},
    }
    assert frame["level"].eq(Level.AD).sum() == len(truth.ads) > 0


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("faults", [("no_rows",), ("no_rows", "google_no_batches")])
def test_a_stream_without_rows_has_a_batch_without_results_or_none_at_all(
    bench: Bench, granularity: Granularity, faults: tuple[str, ...]
) -> None:
    account, token, _ = bench.account(Platform.GOOGLE)
    piece = bench.piece(account, granularity, 2)
    for fault in faults:
        bench.faults.add(Fault(fault, platform=Platform.GOOGLE))

    async def pages(connector: Connector) -> list[pd.DataFrame]:
        return [page async for page in connector.fetch_metrics(account, token, piece)]

    assert bench.run(Platform.GOOGLE, pages) == []
    nothing = Totals(conversions_micros=0, revenue_micros=0)
    assert bench.run(Platform.GOOGLE, partial(totals_of, account, token, piece)) == nothing


@pytest.mark.parametrize("granularity", Granularity)
def test_a_stream_larger_than_we_take_is_asked_for_by_fewer_days(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, granularity: Granularity
) -> None:
    account, _, truth = bench.account(Platform.GOOGLE)
    sizes, read = list[int](), transport._read

    async def measured(*asked: Any) -> bytes:
        body = await read(*asked)
        sizes.append(len(body))
        return body

    monkeypatch.setattr(transport, "_read", measured)
    bench.fetch(Platform.GOOGLE, granularity, 4)
    assert len(sizes) == 2
    monkeypatch.setattr(transport, "LARGEST_ANSWER", max(sizes) * 2 // 3)
    with counting() as calls:
        frame = bench.fetch(Platform.GOOGLE, granularity, 4)
    assert calls["metrics"] > 2
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, granularity, 4)))
    monkeypatch.setattr(transport, "LARGEST_ANSWER", 1000)
    with pytest.raises(Reduce):
        bench.fetch(Platform.GOOGLE, granularity, 4)
