"""Accounts do not stay as they were connected: renamed, moved, counted in another zone or currency, shared, left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from sqlalchemy import Engine, select, update

from aae.errors import UserError
from aae.jobs.context import open_stores
from aae.model import Account, AccountStatus, Platform, Token
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all
from aae.platforms.meta import MetaConnector
from aae.sandbox import World
from aae.sandbox.entities import Status
from aae.storage import accounts
from aae.storage import fetches as log
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, ad_metrics_hourly, entities, metric_revisions
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def world() -> World:
    """One for each test: it is changed."""
    return World.generate(11, ANCHOR, days=20, ahead=4, users=2, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    few = {"AAE_FETCH__FIRST_DAYS": "6", "AAE_FETCH__FIRST_HOURLY_DAYS": "3"}
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        it.connect()
        yield it


def first(product: Bench, platform: Platform) -> Account:
    """Of the second user, whose tokens last for more than a day."""
    return product.accounts(platforms=[platform])[-1]


def assert_true(product: Bench, account: Account, days: int = 6) -> None:
    today = account.local_day(product.now())
    for granularity, span in (("daily", days), ("hourly", 3)):
        since = today - (span - 1) * DAY
        truth = product.truth(account, granularity, since, today + DAY)
        if granularity == "hourly" and account.platform is Platform.META:
            truth = [row | {"conversions_micros": None, "revenue_micros": None} for row in truth]
        assert product.stored(account, granularity, since, today + 2 * DAY) == truth
        assert truth


@pytest.mark.parametrize("zone", ["America/Denver", "Pacific/Auckland"])
@pytest.mark.parametrize("platform", Platform)
def test_in_a_new_time_zone_every_day_that_can_be_read_is_read_again(
    product: Bench, platform: Platform, zone: str
) -> None:
    account = first(product, platform)
    product.fetch("run-1", [account])
    product.order("account", account=str(account), timezone=zone)
    product.clock.advance(DAY)
    # The run that notices gets nowhere; that the days are other days is not forgotten.
    product.order("faults", name="http_500", account=account.external_id, purpose="metrics")
    (outcome,) = product.fetch("run-2", [account])
    assert outcome.owes
    product.forgive()
    (moved,) = product.accounts(ids=[account.id])
    assert moved.timezone == zone
    (outcome,) = product.fetch("run-3", [moved])
    assert outcome.outcome == "stored", outcome
    assert_true(product, moved)
    with reading(product.engine) as connection:
        outcomes = [one.outcome for one in log.covering(connection, account.id, moved.local_day(product.now()))]
        assert outcomes.count("rezoned") == 2
        rows = connection.execute(
            select(ad_metrics_hourly.c["utc_start", "local_date", "local_hour"]).where(
                ad_metrics_hourly.c.local_date > moved.local_day(product.now()) - 3 * DAY
            )
        ).all()
    for row in rows:
        local = row.utc_start.astimezone(ZoneInfo(zone))
        assert (local.date(), local.hour) == (row.local_date, row.local_hour)
    (again,) = product.fetch("run-4", [moved])
    assert again.rows < outcome.rows, "its days are settled again"


def test_an_account_counted_further_west_has_nothing_of_the_day_that_has_not_begun_there(product: Bench) -> None:
    account = first(product, Platform.META)
    product.order("account", account=str(account), timezone="Pacific/Auckland")
    product.connect()
    (account,) = product.accounts(ids=[account.id])
    product.fetch("run-1", [account])
    product.clock.advance(DAY)
    product.order("account", account=str(account), timezone="America/Denver")
    product.fetch("run-2", [account])
    (account,) = product.accounts(ids=[account.id])
    assert account.local_day(product.now()) == date(2026, 11, 23)
    assert_true(product, account)


@pytest.mark.parametrize(("before", "after"), [("Europe/Paris", "America/Denver"), ("Pacific/Auckland", "Asia/Tokyo")])
def test_a_time_zone_that_somebody_else_corrects_in_the_table_is_a_new_one_too(
    product: Bench, before: str, after: str
) -> None:
    account = first(product, Platform.GOOGLE)
    product.order("account", account=str(account), timezone=before)
    product.connect()
    product.fetch("run-1", product.accounts(ids=[account.id]))
    product.order("account", account=str(account), timezone=after)
    with product.engine.begin() as connection:
        connection.execute(update(ad_accounts).where(ad_accounts.c.id == account.id).values(timezone=after))
    (moved,) = product.accounts(ids=[account.id])
    (outcome,) = product.fetch("run-2", [moved])
    assert outcome.outcome == "stored", outcome
    assert_true(product, moved)
    product.clock.advance(timedelta(hours=1))
    (again,) = product.fetch("run-3", [moved])
    assert again.rows < outcome.rows, "its days are settled again"


def test_the_new_name_and_the_new_manager_are_found_by_the_fetch(product: Bench) -> None:
    account = next(one for one in product.accounts(platforms=[Platform.GOOGLE]) if one.login_customer_id)
    product.fetch("run-1", [account])
    product.order("account", account=str(account), name="Shop, renamed", manager="5550001111")
    product.clock.advance(timedelta(hours=1))
    (outcome,) = product.fetch("run-2", [account])  # the way through the old manager is closed at once
    assert outcome.outcome == "stored", outcome
    (moved,) = product.accounts(ids=[account.id])
    assert (moved.name, moved.login_customer_id) == ("Shop, renamed", "5550001111")
    assert_true(product, moved)
    product.order("account", account=str(account), name="Shop, renamed again")
    product.clock.advance(DAY)
    product.fetch("run-3", [moved])
    assert product.accounts(ids=[account.id])[0].name == "Shop, renamed again"


def test_amounts_of_another_currency_are_never_put_beside_those_that_are_stored(product: Bench) -> None:
    account, *others = (first(product, platform) for platform in Platform)
    product.fetch("run-1")
    before = product.stored(account, "daily", ANCHOR.date() - 6 * DAY, ANCHOR.date() + DAY)
    product.order("account", account=str(account), currency="CHF")
    product.clock.advance(DAY)
    outcomes = {outcome.account_id: outcome for outcome in product.fetch("run-2")}
    assert outcomes[account.id].outcome == "skipped"
    assert f"in CHF now, its stored amounts are in {account.currency}" in (outcomes[account.id].detail or "")
    assert {outcomes[other.id].outcome for other in others} == {"stored"}
    assert product.stored(account, "daily", ANCHOR.date() - 6 * DAY, ANCHOR.date() + DAY) == before
    with pytest.raises(UserError, match=f"is kept in {account.currency}"):
        product.connect()


def test_one_ad_account_connected_by_two_users_is_two_accounts_with_the_same_numbers(product: Bench) -> None:
    account, other = first(product, Platform.META), {"user_email": "other@example.com", "user_name": "Other"}
    rows = [row | other for row in product.control("accounts") if row["external_id"] == account.external_id]
    connect_all(
        read_accounts(json.dumps(rows), "list"),
        "list",
        settings=product.settings,
        engine=product.engine,
        vault=open_stores(product.settings).vault,
        clock=product.now,
    )
    mine, yours = product.accounts(platforms=[Platform.META])[-2:]
    assert (mine.external_id, mine.user_id) != (yours.external_id, yours.user_id)
    assert mine.external_id == yours.external_id
    assert {outcome.outcome for outcome in product.fetch("run-1", [mine, yours])} == {"stored"}
    assert_true(product, mine)
    assert_true(product, yours)
    with reading(product.engine) as connection:
        both = accounts.find_accounts(connection, str(mine))
    assert [one.id for one in both] == [mine.id, yours.id]


def test_an_account_that_was_left_and_is_connected_again_is_the_same_one_and_is_caught_up(product: Bench) -> None:
    account = first(product, Platform.TIKTOK)
    product.fetch("run-1", [account])
    with product.engine.begin() as connection:
        accounts.set_status(connection, account.id, AccountStatus.REVOKED, "left", now=product.now())
    product.clock.advance(3 * DAY)
    assert account.id not in {one.id for one in product.accounts()}
    product.connect()
    (back,) = product.accounts(ids=[account.id])
    (outcome,) = product.fetch("run-2", [back])
    assert outcome.outcome == "stored"
    assert_true(product, back)


def test_an_ad_that_is_deleted_keeps_its_numbers_and_its_name(product: Bench, world: World) -> None:
    for account in (first(product, platform) for platform in Platform):
        product.fetch("run-1", [account])
        known = world.account(account.platform, account.external_id)
        assert known is not None
        statuses = [Status.DELETED, Status.ARCHIVED if account.platform is Platform.META else Status.DELETED]
        gone = [known.ads[leaf.ad] for leaf in known.leaves if leaf.ad is not None][:2]
        changed = {ad.external_id: replace(ad, status=status) for ad, status in zip(gone, statuses, strict=True)}
        world.change(known, ads=tuple(changed.get(ad.external_id, ad) for ad in known.ads))
        (outcome,) = product.fetch("run-2", [account])
        assert (outcome.outcome, outcome.deleted, outcome.drift) == ("stored", 0, 0)
        assert_true(product, account)
        with reading(product.engine) as connection:
            rows = connection.execute(
                select(entities.c["external_id", "name", "status"]).where(entities.c.external_id.in_(changed))
            ).all()
        assert {(row.external_id, row.name, row.status) for row in rows} == {
            (ad.external_id, ad.name, ad.status.value) for ad in changed.values()
        }


def test_an_ad_that_is_no_longer_listed_at_all_is_deleted_and_keeps_its_numbers(
    product: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, whole = first(product, Platform.META), MetaConnector.list_entities
    product.fetch("run-1", [account])
    (gone,) = listed(product, account, "active")[:1]

    async def without(self: MetaConnector, account: Account, token: Token) -> pd.DataFrame:
        found = await whole(self, account, token)
        return found[found["external_id"] != gone]

    with monkeypatch.context() as patch:
        patch.setattr(MetaConnector, "list_entities", without)
        for day, status in ((1, "active"), (3, "deleted")):
            product.clock.set(ANCHOR + day * DAY)
            product.fetch(f"day {day}", [account])
            assert gone in listed(product, account, status)
            assert_true(product, account)
    product.fetch("found again", [account])
    assert gone in listed(product, account, "active")


def listed(product: Bench, account: Account, status: str) -> list[str]:
    """The account's ads of this status."""
    own = (entities.c.account_id == account.id, entities.c.level == "ad", entities.c.status == status)
    with reading(product.engine) as connection:
        return list(connection.scalars(select(entities.c.external_id).where(*own).order_by(entities.c.id)))


def test_what_a_platform_withdraws_disappears_and_what_it_was_is_on_record(product: Bench) -> None:
    account = first(product, Platform.GOOGLE)
    product.fetch("run-1", [account])
    today = account.local_day(product.now())
    before = product.stored(account, "daily", today - 2 * DAY, today)
    product.order("faults", name="no_rows", account=account.external_id)
    (outcome,) = product.fetch("run-2", [account])
    assert outcome.deleted >= len(before) > 0
    assert product.stored(account, "daily", today - 2 * DAY, today) == []
    with reading(product.engine) as connection:
        withdrawn = connection.execute(
            select(metric_revisions.c.old).where(
                metric_revisions.c.granularity == "daily",
                metric_revisions.c.metric == "spend",
                metric_revisions.c.new.is_(None),
                metric_revisions.c.run_id == "run-2",
            )
        ).scalars()
        assert sum(withdrawn) == sum(row["spend_micros"] for row in before)
