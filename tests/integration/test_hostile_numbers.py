"""The largest numbers through the tables of both databases: kept, revised, folded and read to the last millionth."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, select

from aae.model import Account, Granularity, Level, Platform, Slice
from aae.platforms.columns import metrics_frame, metrics_page
from aae.storage import accounts, history, metrics
from aae.storage.engine import reading
from aae.storage.schema import metric_revisions
from aae.vault import Vault

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = date(2026, 11, 20)
MOST, MOST_OF_A_COUNT = 10**18 - 1, 10**12 - 1


@pytest.fixture
def account(engine: Engine, vault: Vault) -> Account:
    with engine.begin() as connection:
        user = accounts.add_user(connection, email="a@example.com", name="A", now=NOW)
        described = {"name": "A", "currency": "VND", "timezone": "UTC", "login_customer_id": None, "expires_at": None}
        account_id, _ = accounts.connect_account(
            connection,
            vault,
            user_id=user,
            platform=Platform.META,
            external_id="1",
            access_token=SecretStr("t"),
            refresh_token=None,
            now=NOW,
            **described,  # type: ignore[arg-type]
        )
        return accounts.list_accounts(connection, ids=[account_id])[0]


def store(engine: Engine, account: Account, day: date, spend: int, count: int) -> metrics.StoreResult:
    one = metrics_page(
        Level.AD,
        1,
        external_id=["3"],
        ad_set_external_id=["2"],
        campaign_external_id=["1"],
        local_date=[day],
        impressions=[count],
        clicks=[count],
        spend_micros=[spend],
        conversions_micros=[spend],
        revenue_micros=[spend],
    )
    rows = metrics_frame([one])
    piece = Slice(account.id, Granularity.DAILY, day, day)
    with engine.begin() as connection:
        return metrics.store_slice(connection, account, piece, rows, attribution="", run_id=None, now=NOW)


@pytest.mark.parametrize("spend", [MOST, -MOST, MOST - 1, 1, 0])
def test_the_largest_numbers_are_kept_revised_and_read_exactly(engine: Engine, account: Account, spend: int) -> None:
    store(engine, account, DAY, 7, 3)
    assert store(engine, account, DAY, spend, MOST_OF_A_COUNT).updated == 1
    assert store(engine, account, DAY, spend, MOST_OF_A_COUNT).updated == 0
    with reading(engine) as connection:
        frames = metrics.read_frames(connection, account.id, daily_since=DAY, hourly_since=DAY)
        changed = connection.execute(select(metric_revisions.c.metric, metric_revisions.c.old, metric_revisions.c.new))
        revisions = {row.metric: (row.old, row.new) for row in changed}
        (sums,) = metrics.daily_totals(connection, account.id, DAY, DAY).values()
    (row,) = frames.daily.to_dict("records")
    assert (row["impressions"], row["spend_micros"], row["revenue_micros"]) == (MOST_OF_A_COUNT, spend, spend)
    assert revisions == {
        **dict.fromkeys(("impressions", "clicks"), (3000000, MOST_OF_A_COUNT * 10**6)),
        **dict.fromkeys(("spend", "conversions", "revenue"), (7, spend)),
    }
    assert (sums.impressions, sums.spend_micros, sums.revenue_micros) == (MOST_OF_A_COUNT, spend, spend)


def test_days_of_the_largest_numbers_are_folded_without_losing_any(engine: Engine, account: Account) -> None:
    days = [DAY - timedelta(days=age) for age in range(12)]
    for day in days:
        store(engine, account, day, MOST, MOST_OF_A_COUNT)
    with engine.begin() as connection:
        folded = history.fold(connection, account.id, days[-1], days[0])
    assert (folded.days, folded.daily_rows) == (12, 12)
    with reading(engine) as connection:
        told = history.campaign_days(connection, [account.id], days[-1], days[0])
    assert {(one.spend, one.revenue, one.impressions, one.folded) for one in told} == {
        (MOST, MOST, MOST_OF_A_COUNT, True)
    }
