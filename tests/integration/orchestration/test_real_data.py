"""A real campaign's quarter, through each platform's wire format, the connectors and the fetch flow, to the last cent.

The file is a published data set of 15,408 rows (1 April to 30 June, here of 2020). It is not part of the project; the
test needs it in the folder of shared data beside the checkout.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

import tasks.fetch
import tasks.resources
from aae.jobs.retention import keep_small
from aae.model import Platform, to_micros
from aae.sandbox import World
from aae.sandbox.replay import replay
from aae.settings import load
from aae.storage.engine import reading
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, daily_summary, entities, metric_revisions
from flows.data_fetch import fetch_ad_data
from tests.integration.bench import Bench, bench

FILE = Path(__file__).parents[3].parent / "shared" / "data" / "online_advertising_performance_data.csv"
AFTER = datetime(2020, 7, 2, 12, tzinfo=UTC)
FIRST, LAST = date(2020, 4, 1), date(2020, 6, 30)

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FILE.exists(), reason=f"no real data here: put {FILE.name} into ../shared/data"),
]

Sums = tuple[int, int, int, int, int]


def totals_of_the_file() -> tuple[dict[date, Sums], dict[str, Sums]]:
    """Impressions, clicks, and spend, conversions, revenue in micros, per day and campaign, straight from the CSV."""
    days: dict[date, Any] = defaultdict(lambda: [0] * 5)
    campaigns: dict[str, Any] = defaultdict(lambda: [0] * 5)
    with FILE.open(newline="") as file:
        for row in csv.DictReader(file):
            day = datetime.strptime(f"2020 {row['month']} {row['day']}", "%Y %B %d").replace(tzinfo=UTC).date()
            numbers = (
                int(row["displays"]),
                int(row["clicks"]),
                to_micros(Decimal(row["cost"])),
                to_micros(Decimal(row["post_click_conversions"])),
                to_micros(Decimal(row["post_click_sales_amount"])),
            )
            for place in (days[day], campaigns[row["campaign_number"]]):
                for index, number in enumerate(numbers):
                    place[index] += number
    return {day: tuple(sums) for day, sums in days.items()}, {name: tuple(sums) for name, sums in campaigns.items()}


def sums(table: Any) -> list[Any]:
    return [func.sum(table.c[name]) for name in ("impressions", "clicks", "spend", "conversions", "revenue")]


def stored_by_day(product: Bench, table: Any) -> dict[date, Sums]:
    query = select(table.c.local_date, *sums(table)).group_by(table.c.local_date)
    with reading(product.engine) as connection:
        return {
            row[0]: tuple(None if cell is None else int(cell) for cell in row[1:]) for row in connection.execute(query)
        }


def stored_by_campaign(product: Bench) -> dict[str, Sums]:
    ad, ad_set, campaign = entities.alias(), entities.alias(), entities.alias()
    query = (
        select(campaign.c.name, *sums(ad_metrics_daily))
        .join_from(ad_metrics_daily, ad, ad_metrics_daily.c.entity_id == ad.c.id)
        .join(ad_set, ad.c.parent_id == ad_set.c.id)
        .join(campaign, ad_set.c.parent_id == campaign.c.id)
        .group_by(campaign.c.name)
    )
    with reading(product.engine) as connection:
        return {row[0]: tuple(int(cell) for cell in row[1:]) for row in connection.execute(query)}


def folded_by_campaign(product: Bench) -> dict[str, Sums]:
    query = (
        select(entities.c.name, *sums(daily_summary))
        .join_from(daily_summary, entities, daily_summary.c.campaign_id == entities.c.id)
        .group_by(entities.c.name)
    )
    with reading(product.engine) as connection:
        return {row[0]: tuple(int(cell) for cell in row[1:]) for row in connection.execute(query)}


@pytest.fixture
def product(platform: Platform, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    world = replay(World(1, AFTER, (), ()), FILE, platform, year=2020)
    with bench(world, engine, redis_url, monkeypatch) as it:
        load.cache_clear()
        it.connect()
        monkeypatch.setattr(tasks.resources, "clock", it.now)
        monkeypatch.setattr(tasks.fetch, "clock", it.now)
        yield it


# Each platform once, each database with at least one of them.
@pytest.mark.parametrize(
    ("platform", "engine"),
    [
        (Platform.META, "sqlite"),
        pytest.param(Platform.TIKTOK, "mysql", marks=pytest.mark.mysql),
        (Platform.GOOGLE, "sqlite"),
        pytest.param(Platform.META, "mysql", marks=pytest.mark.mysql),
    ],
    indirect=["engine"],
)
async def test_every_total_per_day_and_per_campaign_is_the_files_and_a_second_run_changes_nothing(
    product: Bench,
) -> None:
    days, campaigns = totals_of_the_file()
    first = await fetch_ad_data(since=FIRST, until=LAST, return_state=True)
    assert first.is_completed(), first.message
    assert stored_by_day(product, ad_metrics_daily) == days
    assert stored_by_campaign(product) == campaigns
    assert_hours_add_up_to_days(product, days)

    second = await fetch_ad_data(since=FIRST, until=LAST, return_state=True)
    assert second.is_completed(), second.message
    assert stored_by_day(product, ad_metrics_daily) == days
    with reading(product.engine) as connection:
        assert connection.execute(select(func.count()).select_from(metric_revisions)).scalar_one() == 0
        names = set(connection.execute(select(entities.c.name).where(entities.c.level == "ad")).scalars())
    assert any("#N/A" in name for name in names)

    # Half a year later all of it is sums by campaign and day, to the last cent.
    retention = keep_small(product.engine, product.settings, now=AFTER + timedelta(days=180))
    assert (retention.days, retention.failed) == (len(days), [])
    assert stored_by_day(product, daily_summary) == days
    assert stored_by_day(product, ad_metrics_daily) == stored_by_day(product, ad_metrics_hourly) == {}
    assert folded_by_campaign(product) == campaigns


def assert_hours_add_up_to_days(product: Bench, days: dict[date, Sums]) -> None:
    hours = stored_by_day(product, ad_metrics_hourly)
    (account,) = product.accounts()
    if account.platform is Platform.META:  # which gives no purchases by the hour
        assert hours == {day: (*delivery[:3], None, None) for day, delivery in days.items()}
    else:
        assert hours == days
