"""The four jobs without Prefect, over real HTTP, on real databases: what the platforms say is what the tables say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
import redis
from sqlalchemy import Engine, func, select

from aae.deadline import Deadline
from aae.errors import Reauthorize
from aae.jobs.context import open_context, open_stores
from aae.jobs.detect import detect_user
from aae.jobs.fetch import publish, read_hot_frames
from aae.jobs.report import report_user
from aae.jobs.tokens import TokenResult, check_account, declare_dead
from aae.model import Account, Granularity, Platform, Slice
from aae.sandbox import World
from aae.storage import accounts, notifications
from aae.storage import fetches as log
from aae.storage.engine import reading
from aae.storage.schema import (
    ad_accounts,
    ad_metrics_daily,
    ad_metrics_hourly,
    fetches,
    incidents,
    metric_revisions,
    reports,
    token_refreshes,
)
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=45, users=2, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # Some days by the hour are enough to prove the point, and TikTok wants a call for each of them.
    with bench(world, engine, redis_url, monkeypatch, AAE_FETCH__FIRST_HOURLY_DAYS="5") as it:
        it.connect()
        yield it


def count(product: Bench, table: object) -> int:
    with reading(product.engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def check_tokens(product: Bench) -> list[TokenResult]:
    async def all_of_them() -> list[TokenResult]:
        async with open_context(product.settings, product.now) as context:
            with reading(product.engine) as connection:
                chosen = accounts.accounts_to_check(connection)
            return [await check_account(context, each, now=product.now(), run_id="check") for each in chosen]

    return asyncio.run(all_of_them())


def test_the_tables_say_exactly_what_the_platforms_say_by_day_and_by_hour(product: Bench) -> None:
    outcomes = {outcome.account: outcome for outcome in product.fetch("run-1")}
    today = ANCHOR.date()
    for account in product.accounts():
        assert outcomes[str(account)].outcome == "stored", outcomes[str(account)]
        assert outcomes[str(account)].drift == 0
        since = today - timedelta(days=30)
        assert product.stored(account, "daily", since, today) == product.truth(account, "daily", since, today)
        since = today - timedelta(days=3)
        hourly = product.truth(account, "hourly", since, today)
        if account.platform is Platform.META:  # which gives no purchases by the hour
            hourly = [row | {"conversions_micros": None, "revenue_micros": None} for row in hourly]
        assert product.stored(account, "hourly", since, today) == hourly
        assert hourly


def test_hours_that_do_not_add_up_to_their_day_are_recorded_and_said_in_the_report(product: Bench) -> None:
    (account,) = product.accounts(platforms=[Platform.TIKTOK])[:1]
    product.fetch("run-1")
    day = account.local_day(product.now()) - timedelta(days=1)
    pieces = [Slice(account.id, granularity, day, day) for granularity in Granularity]
    product.order("faults", name="restated", value=2, account=account.external_id, purpose="metrics", after=1)
    (outcome,) = product.fetch("run-2", [account], pieces=pieces)
    assert outcome.drift == 1.0  # twice the day
    with reading(product.engine) as connection:
        by_day, by_hour = log.covering(connection, account.id, day)[-2:]
        assert (by_day.granularity, by_day.drift, by_hour.granularity, by_hour.drift) == ("daily", 0, "hourly", 1)
        user = accounts.list_users(connection, [account.user_id])[0]
    stores = open_stores(product.settings)
    told = report_user(stores, user, now=product.now(), day=day, dry_run=True).markdown
    assert f"Sums of {account.name} differ from the platform's by 100" in told.replace("\\", "")
    product.forgive()
    product.fetch("run-3", [account], pieces=pieces)
    assert (
        "differ from the platform's" not in report_user(stores, user, now=product.now(), day=day, dry_run=True).markdown
    )


def test_rows_that_do_not_add_up_to_the_platforms_total_are_recorded_and_said_in_the_report(product: Bench) -> None:
    (account,) = product.accounts(platforms=[Platform.GOOGLE])[:1]
    product.fetch("run-1")
    day = account.local_day(product.now()) - timedelta(days=1)
    product.order("faults", name="restated", value=3, account=account.external_id, purpose="totals")
    (outcome,) = product.fetch("run-2", [account], pieces=[Slice(account.id, Granularity.DAILY, day, day)])
    assert outcome.outcome == "stored"
    assert outcome.drift == pytest.approx(2 / 3)
    with reading(product.engine) as connection:
        user = accounts.list_users(connection, [account.user_id])[0]
    told = report_user(open_stores(product.settings), user, now=product.now(), day=day, dry_run=True).markdown
    assert "differ from the platform's by 67" in told


def test_a_second_fetch_at_the_same_moment_changes_nothing(product: Bench) -> None:
    product.fetch("run-1")
    rows = count(product, ad_metrics_daily), count(product, ad_metrics_hourly)
    again = product.fetch("run-2")
    assert all(outcome.outcome == "stored" for outcome in again)
    assert sum(outcome.inserted + outcome.updated + outcome.deleted for outcome in again) == 0
    assert (count(product, ad_metrics_daily), count(product, ad_metrics_hourly)) == rows
    assert count(product, metric_revisions) == 0


def test_conversions_that_arrive_late_are_fetched_again_and_every_change_is_on_record(product: Bench) -> None:
    product.fetch("run-1")
    product.clock.advance(timedelta(days=2))
    product.fetch("run-2")
    day = ANCHOR.date() - timedelta(days=1)
    for account in product.accounts():
        assert product.stored(account, "daily", day, day) == product.truth(account, "daily", day, day)
    assert count(product, metric_revisions) > 0


def test_a_run_that_starts_over_asks_again_only_for_the_day_that_goes_on(product: Bench) -> None:
    product.fetch("run-1")
    again = product.fetch("run-1")
    assert {outcome.slices for outcome in again} == {2}


@pytest.mark.parametrize("platform", [Platform.META, Platform.GOOGLE])
def test_days_that_are_too_many_rows_together_are_fetched_in_halves(
    product: Bench, monkeypatch: pytest.MonkeyPatch, platform: Platform
) -> None:
    account = product.accounts(platforms=[platform])[0]
    unknown = {"conversions_micros": None, "revenue_micros": None} if platform is Platform.META else {}
    week = [ANCHOR.date() - timedelta(days=n) for n in range(7, 0, -1)]
    pieces = [Slice(account.id, each, week[0], week[-1]) for each in Granularity]
    days = [(each, len(product.truth(account, each, day, day))) for each in Granularity for day in week]
    largest = max(rows for _, rows in days)
    monkeypatch.setattr("aae.jobs.fetch.MOST_ROWS", largest)
    (outcome,) = product.fetch("run-1", [account], pieces=pieces)
    assert (outcome.outcome, outcome.owed) == ("stored", 0)
    assert product.stored(account, "daily", week[0], week[-1]) == product.truth(account, "daily", week[0], week[-1])
    hours = [row | unknown for row in product.truth(account, "hourly", week[0], week[-1])]
    assert product.stored(account, "hourly", week[0], week[-1]) == hours
    with reading(product.engine) as connection:
        rows = list(connection.scalars(select(fetches.c.rows_fetched)))
    assert max(rows) <= largest
    assert outcome.slices == len(rows) > len(pieces)
    # Started over, the run knows its halves again.
    (again,) = product.fetch("run-1", [account], pieces=pieces)
    assert (again.outcome, again.slices) == ("stored", 0)


def test_what_is_too_much_in_one_week_is_not_tried_in_the_next(product: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    account = product.accounts(platforms=[Platform.GOOGLE])[0]
    since, until = (ANCHOR.date() - timedelta(days=n) for n in (28, 1))
    pieces = [
        Slice(account.id, Granularity.HOURLY, since + timedelta(days=n), since + timedelta(days=n + 6))
        for n in range(0, 28, 7)
    ]
    halves = [len(product.truth(account, "hourly", half.since, half.until)) for each in pieces for half in each.halves]
    monkeypatch.setattr("aae.jobs.fetch.MOST_ROWS", max(halves))
    (outcome,) = product.fetch("run-1", [account], pieces=pieces)
    assert (outcome.outcome, outcome.slices) == ("stored", 8)
    assert product.stored(account, "hourly", since, until) == product.truth(account, "hourly", since, until)
    # Two queries a slice, and the one week that was tried whole may have been over before its second.
    assert 17 <= outcome.calls_by["metrics"] <= 18


def test_a_backfill_of_old_days_does_not_claim_that_the_numbers_are_complete_up_to_now(product: Bench) -> None:
    account = product.accounts()[0]
    day = ANCHOR.date() - timedelta(days=20)
    (outcome,) = product.fetch("run-1", [account], pieces=[Slice(account.id, Granularity.DAILY, day, day)])
    assert (outcome.outcome, outcome.slices) == ("stored", 1)
    with reading(product.engine) as connection:
        assert accounts.data_through(connection)[account.id] is None
        assert accounts.data_versions(connection)[account.id] == (1, 0)


def test_a_token_that_was_replaced_while_the_old_one_failed_pauses_nobody(product: Bench) -> None:
    account = product.accounts(platforms=[Platform.META])[0]
    stores = open_stores(product.settings)
    with reading(product.engine) as connection:
        old = accounts.read_token(connection, stores.vault, account.id)
    product.connect()  # the owner connects again: a newer version

    async def declare() -> TokenResult:
        async with open_context(product.settings, product.now) as context:
            error = Reauthorize("the old one is dead", code="190")
            return declare_dead(context, account, old, error, now=product.now(), run_id="run")

    assert asyncio.run(declare()).outcome == "lost_race"
    assert account.id in {each.id for each in product.accounts()}
    with reading(product.engine) as connection:
        assert notifications.list_for(connection, account.user_id) == []


def test_an_old_good_answer_does_not_revive_a_token_that_was_found_dead_since(product: Bench) -> None:
    account = product.accounts(platforms=[Platform.META])[0]

    async def play() -> TokenResult:
        async with open_context(product.settings, product.now) as context:
            with reading(product.engine) as connection:
                token = accounts.read_token(connection, context.vault, account.id)
            declare_dead(context, account, token, Reauthorize("dead"), now=product.now(), run_id="fetch")
            return await check_account(context, account, now=product.now(), run_id="check", within_hours=0)

    assert asyncio.run(play()).outcome == "still_valid"
    assert account.id not in {each.id for each in product.accounts()}


def test_a_google_token_that_the_platform_ends_early_is_replaced_on_the_way(product: Bench) -> None:
    account = product.accounts(platforms=[Platform.GOOGLE])[0]
    product.order("faults", name="google_token_expired", times=1, after=2, purpose="metrics")
    (outcome,) = product.fetch("run-1", [account])
    assert (outcome.outcome, outcome.owed) == ("stored", 0), outcome
    assert [fault["struck"] for fault in product.control("faults")["active"]] == [1]


def test_at_the_soft_limit_what_is_done_stays_and_the_rest_is_owed_and_caught_up_by_the_next_run(
    product: Bench,
) -> None:
    (account,) = product.accounts(platforms=[Platform.TIKTOK])[:1]
    ticks = iter(range(1000))
    deadline = Deadline(4, monotonic=lambda: float(next(ticks)))
    (cut,) = product.fetch("run-1", [account], deadline=deadline)
    assert cut.outcome == "partial"
    assert cut.owed > 0
    assert count(product, fetches) == cut.slices - cut.owed > 0
    (rest,) = product.fetch("run-2", [account])
    assert rest.outcome == "stored"
    since = ANCHOR.date() - timedelta(days=20)
    assert product.stored(account, "daily", since, ANCHOR.date()) == product.truth(
        account, "daily", since, ANCHOR.date()
    )


def test_one_revoked_account_is_paused_and_its_owner_told_once_while_the_others_are_stored(product: Bench) -> None:
    dead, *others = product.accounts()
    _revoke(product, dead)
    for run in ("run-1", "run-2"):
        outcomes = {outcome.account: outcome.outcome for outcome in product.fetch(run)}
        assert {outcomes[str(other)] for other in others} == {"stored"}
    (paused,) = product.accounts(statuses=("expired", "revoked"))
    assert paused.id == dead.id
    with reading(product.engine) as connection:
        told = [each.kind for each in notifications.list_for(connection, dead.user_id)]
    assert told == ["token_expired"]
    assert str(dead) not in outcomes


def test_an_account_connected_again_is_noticed_resumed_and_its_owner_told(product: Bench) -> None:
    dead = product.accounts()[0]
    _revoke(product, dead)
    product.fetch("run-1")
    product.forgive()
    product.connect()
    results = {result.account_id: result.outcome for result in check_tokens(product)}
    assert results[dead.id] == "recovered"
    with reading(product.engine) as connection:
        told = sorted(each.kind for each in notifications.list_for(connection, dead.user_id))
    assert told == ["token_expired", "token_recovered"]
    assert dead.id in {account.id for account in product.accounts()}


def test_tokens_are_refreshed_by_each_platforms_own_means_and_only_when_they_expire_soon(product: Bench) -> None:
    results = {result.account: result for result in check_tokens(product)}
    assert {result.outcome for result in results.values() if result.platform == "tiktok"} == {"still_valid"}
    assert {result.outcome for result in results.values() if result.platform == "google"} <= {
        "refreshed",
        "permanent_failure",
    }
    outcomes = {result.outcome for result in results.values()}
    assert {"refreshed", "still_valid"} <= outcomes
    refreshed = [result for result in results.values() if result.outcome == "refreshed"]
    assert all(result.expires_at and result.expires_at > product.now() for result in refreshed)
    assert count(product, token_refreshes) == len(results)
    # A second check right after it has nothing left to refresh but Google's hourly ones.
    again = {result.account: result.outcome for result in check_tokens(product)}
    assert {again[key] for key, result in results.items() if result.platform == "meta" and key in again} == {
        "still_valid"
    }


def test_a_platform_that_is_down_expires_nobody(product: Bench) -> None:
    before = {account.id for account in product.accounts()}
    product.order("faults", name="http_503")
    product.fetch("run-1")
    product.forgive()
    assert {account.id for account in product.accounts()} == before


def test_detection_says_each_thing_once_and_reports_are_written_once(product: Bench) -> None:
    product.fetch("run-1")
    stores = open_stores(product.settings)
    with reading(product.engine) as connection:
        users = accounts.list_users(connection)
    for user in users:
        first = detect_user(stores, user, now=product.now(), sensitivity="medium", again=False, dry_run=False)
        assert first.outcome == "judged"
        second = detect_user(stores, user, now=product.now(), sensitivity="medium", again=True, dry_run=False)
        assert (second.opened, second.findings) == (0, first.findings)
        third = detect_user(stores, user, now=product.now(), sensitivity="medium", again=False, dry_run=False)
        assert third.outcome == "unchanged"
        written = report_user(stores, user, now=product.now(), day=None, dry_run=False)
        assert (written.outcome, len(written.files)) == ("written", 2)
        assert report_user(stores, user, now=product.now(), day=None, dry_run=False).outcome == "exists"
    assert count(product, reports) == len(users)
    assert count(product, incidents) >= 1
    with reading(product.engine) as connection:
        seen = connection.execute(select(ad_accounts.c.data_version - ad_accounts.c.detected_version)).scalars()
        assert set(seen) == {0}


def test_a_wiped_cache_loses_nothing_but_time(product: Bench) -> None:
    product.fetch("run-1")
    stores = open_stores(product.settings)
    with reading(product.engine) as connection:
        user = accounts.list_users(connection)[0]
    warm = detect_user(stores, user, now=product.now(), sensitivity="medium", again=True, dry_run=True)
    with redis.Redis.from_url(product.settings.redis_url) as client:
        client.flushall()
    cold = detect_user(stores, user, now=product.now(), sensitivity="medium", again=True, dry_run=True)
    assert cold == warm


def test_what_a_fetch_publishes_is_what_the_tables_say_though_only_what_changed_is_read(product: Bench) -> None:
    product.fetch("run-1")
    product.clock.advance(timedelta(hours=1))  # the same day goes on
    product.fetch("run-2")
    stores = open_stores(product.settings)
    with reading(product.engine) as connection:
        versions = accounts.data_versions(connection)
    found = {account: stores.cache.get_frames(account, versions[account.id][0]) for account in product.accounts()}
    with redis.Redis.from_url(product.settings.redis_url) as client:
        client.flushall()
    for account, published in found.items():
        assert published is not None
        anew = read_hot_frames(stores, account, now=product.now(), version=versions[account.id][0])
        for name in ("entities", "daily", "hourly"):
            pd.testing.assert_frame_equal(getattr(published, name), getattr(anew, name))
        assert (published.version, published.data_through) == (anew.version, anew.data_through)


def test_a_huge_hot_window_is_not_published_and_read_from_the_tables_by_whoever_needs_it(
    product: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.fetch("run-1")
    stores = open_stores(product.settings)
    account = product.accounts()[0]
    with reading(product.engine) as connection:
        version, _ = accounts.data_versions(connection)[account.id]
        user = accounts.list_users(connection)[0]
    published = stores.cache.get_frames(account, version)
    assert published is not None
    judged = detect_user(stores, user, now=product.now(), sensitivity="medium", again=True, dry_run=True)
    rows = len(published.daily) + len(published.hourly)
    with redis.Redis.from_url(product.settings.redis_url) as client:
        client.flushall()

    monkeypatch.setattr("aae.jobs.fetch.MOST_HOT_ROWS", rows - 1)
    version = publish(stores, account, product.now(), complete=True)
    assert stores.cache.get_frames(account, version) is None
    anew = read_hot_frames(stores, account, now=product.now(), version=version)
    for name in ("entities", "daily", "hourly"):
        pd.testing.assert_frame_equal(getattr(published, name), getattr(anew, name))
    assert stores.cache.get_frames(account, version) is None
    monkeypatch.setattr("aae.jobs.fetch.MOST_HOT_ROWS", 0)
    assert detect_user(stores, user, now=product.now(), sensitivity="medium", again=True, dry_run=True) == judged

    monkeypatch.setattr("aae.jobs.fetch.MOST_HOT_ROWS", rows)
    version = publish(stores, account, product.now(), complete=True)
    assert stores.cache.get_frames(account, version) is not None

    # Nor is it read at all once it has outgrown what was published before.
    monkeypatch.setattr("aae.jobs.fetch.MOST_HOT_ROWS", rows - 1)
    monkeypatch.setattr("aae.storage.metrics.read_frames", None)
    version = publish(stores, account, product.now(), complete=True)
    assert stores.cache.get_frames(account, version) is None


REVOKED = {
    Platform.META: "meta_token_revoked",
    Platform.TIKTOK: "tiktok_token_revoked",
    Platform.GOOGLE: "google_invalid_grant",
}


def _revoke(product: Bench, account: Account) -> None:
    where = {} if account.platform is Platform.GOOGLE else {"account": account.external_id}
    product.order("faults", name=REVOKED[account.platform], platform=account.platform, **where)
