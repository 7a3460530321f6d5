"""Meta's entities arrive whole, deleted ones too, with budgets in the right unit."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from aae.errors import Bug
from aae.model import ENTITY_COLUMNS, Platform
from tests.unit.platforms.support import account, ok, token, use


def world(request: httpx.Request) -> httpx.Response:
    assert {"DELETED", "ARCHIVED", "PAUSED"} <= set(json.loads(request.url.params["effective_status"]))
    rows: dict[str, list[dict[str, Any]]] = {
        "campaigns": [
            {
                "id": "1",
                "name": "Winter\ud800",
                "effective_status": "ACTIVE",
                "daily_budget": "5000",
                "objective": "OUTCOME_SALES",
            },
            {"id": "2", "name": "Old", "effective_status": "DELETED"},
        ],
        "adsets": [
            {"id": "3", "name": "S", "effective_status": "CAMPAIGN_PAUSED", "campaign_id": "1", "daily_budget": "0"}
        ],
        "ads": [{"id": "4", "name": "A", "effective_status": "WITH_ISSUES", "adset_id": "3"}],
    }
    return ok({"data": rows[request.url.path.rsplit("/")[-1]]})


def test_parents_come_before_children_and_every_column_is_there() -> None:
    frame, _, _ = use(Platform.META, world, lambda meta: meta.list_entities(account(Platform.META), token()))
    assert list(frame) == list(ENTITY_COLUMNS)
    assert frame["level"].tolist() == ["campaign", "campaign", "ad_set", "ad"]
    assert frame["external_id"].tolist() == ["1", "2", "3", "4"]
    assert frame["parent_external_id"].tolist()[2:] == ["1", "3"]
    assert frame["parent_external_id"].isna().tolist() == [True, True, False, False]
    assert frame["status"].tolist() == ["active", "deleted", "paused", "other"]
    assert frame["daily_budget_micros"].tolist()[0] == 50_000_000
    assert frame["daily_budget_micros"].isna().tolist() == [False, True, True, True]
    assert frame["channel"].tolist()[0] == "OUTCOME_SALES"
    assert frame["name"].tolist()[0] == "Winter?"


WHOLE = ["CLP", "COP", "CRC", "HUF", "ISK", "IDR", "JPY", "KRW", "PYG", "TWD", "VND"]
HUNDREDTHS = ["USD", "EUR", "BHD", "JOD", "KWD"]


@pytest.mark.parametrize(
    ("currency", "micros"),
    [*[(currency, 5_000_000_000) for currency in WHOLE], *[(currency, 50_000_000) for currency in HUNDREDTHS]],
)
def test_budgets_are_counted_by_metas_own_table_of_units(currency: str, micros: int) -> None:
    frame, _, _ = use(
        Platform.META, world, lambda meta: meta.list_entities(account(Platform.META, currency=currency), token())
    )
    assert frame["daily_budget_micros"].tolist()[0] == micros


def test_accounts_are_told_with_bare_ids() -> None:
    row = {
        "id": "act_1001",
        "account_id": "1001",
        "name": "Shop",
        "currency": "USD",
        "timezone_name": "America/New_York",
    }
    found, _, _ = use(Platform.META, [ok({"data": [row]})], lambda meta: meta.accounts(token()))
    assert [one.external_id for one in found] == ["1001"]
    one, network, _ = use(Platform.META, [ok(row)], lambda meta: meta.describe("1001", token(), None))
    assert one == found[0]
    assert network.requests[0].url.path == "/v26.0/act_1001"


@pytest.mark.parametrize("wrong", [{"timezone_name": "Mars/Olympus"}, {"currency": "usd"}, {"account_id": None}])
def test_an_account_without_a_usable_zone_currency_or_id_is_a_bug(wrong: dict[str, Any]) -> None:
    row = {"account_id": "1001", "name": "Shop", "currency": "USD", "timezone_name": "America/New_York", **wrong}
    with pytest.raises(Bug):
        use(Platform.META, [ok(row)], lambda meta: meta.describe("1001", token(), None))
