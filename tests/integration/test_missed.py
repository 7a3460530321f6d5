"""After downtime: the mornings that were missed get their reports, the days that were missed their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from aae.deadline import Deadline
from aae.frames import AccountFrames
from aae.jobs.context import open_stores
from aae.jobs.report import USEFUL_DAYS, Edition, ReportOutcome, editions, report_user
from aae.model import Account, Granularity, Platform, Slice
from aae.sandbox import World
from aae.storage import accounts, notifications
from aae.storage.accounts import User
from aae.storage.engine import reading
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, api_calls, fetches, reports
from tests.integration.bench import Bench, bench

BEFORE = datetime(2026, 11, 15, 13, 20, tzinfo=UTC)
ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
KEPT_DAYS = 12
"""The history window here."""


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=24, ahead=3, users=1, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    few = {
        "AAE_FETCH__FIRST_DAYS": str(KEPT_DAYS),
        "AAE_FETCH__FIRST_HOURLY_DAYS": "3",
        "AAE_FETCH__HOURLY_DAYS": "1",
    }
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        it.clock.set(BEFORE)
        it.connect()
        yield it


only_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
"""What the database has no part in."""


# --- reports ------------------------------------------------------------------------------------------------------


def owed(product: Bench, day: date | None = None) -> list[Edition]:
    stores = open_stores(product.settings)
    with reading(product.engine) as connection:
        users: list[User] = accounts.list_users(connection)
    return editions(stores, users, now=product.now(), day=day)


def write(product: Bench, edition: Edition) -> ReportOutcome:
    stores = open_stores(product.settings)
    return report_user(stores, edition.user, now=edition.at, day=edition.day, dry_run=False)


def have_report(product: Bench, user_id: int, day: date) -> None:
    """As if it had been written on its morning."""
    kept = {"user_id": user_id, "report_date": day, "created_at": BEFORE, "completeness": 1, "summary": {}}
    with product.engine.begin() as connection:
        connection.execute(insert(reports).values(**kept, html="", csv="", markdown=""))


@pytest.mark.parametrize(("mornings", "missed"), [(0, 0), (1, 0), (2, 1), (4, 3), (5, 3), (100, 3)])
def test_owed_are_the_mornings_since_the_last_report_oldest_first_and_nothing_older_than_useful(
    product: Bench, mornings: int, missed: int
) -> None:
    (user,) = {edition.user.id for edition in owed(product)}
    yesterday = BEFORE.date() - timedelta(days=1)
    have_report(product, user, yesterday - timedelta(days=20))
    have_report(product, user, yesterday)
    product.clock.set(BEFORE + timedelta(days=mornings))
    found = owed(product)
    late = [product.now().date() - timedelta(days=1 + age) for age in range(missed, 0, -1)]
    assert missed <= USEFUL_DAYS
    assert [edition.day for edition in found] == [*late, None]
    assert [edition.missed for edition in found] == [*(True for _ in late), False]


@only_sqlite
def test_who_never_had_a_report_misses_none_and_a_day_asked_for_is_the_only_one(product: Bench) -> None:
    assert [edition.day for edition in owed(product)] == [None]
    have_report(product, owed(product)[0].user.id, BEFORE.date() - timedelta(days=4))
    day = BEFORE.date() - timedelta(days=9)
    assert [(edition.day, edition.missed) for edition in owed(product, day)] == [(day, False)]


def test_a_late_report_is_written_once_and_its_mail_says_which_day_it_is_about(product: Bench) -> None:
    product.fetch("run-1", product.accounts(platforms=[Platform.META]))
    (user,) = {edition.user.id for edition in owed(product)}
    have_report(product, user, BEFORE.date() - timedelta(days=3))
    found = owed(product)
    assert [write(product, edition).outcome for edition in found] == ["written", "written"]
    assert [write(product, edition).outcome for edition in found] == ["exists", "exists"]
    with reading(product.engine) as connection:
        told = notifications.list_for(connection, user)
    assert sorted(each.title.split(":")[0] for each in told) == ["Fri 13 Nov", "Sat 14 Nov"]


@only_sqlite
def test_a_run_that_lasts_beyond_midnight_writes_about_the_day_it_was_begun_for(product: Bench) -> None:
    (edition,) = owed(product)
    product.clock.advance(timedelta(days=1))
    assert write(product, edition).report_date == BEFORE.date() - timedelta(days=1)
    assert [each.day for each in owed(product)] == [None], "today's is still owed"
    assert write(product, owed(product)[0]).report_date == BEFORE.date()
    with reading(product.engine) as connection:
        assert connection.scalar(select(func.count()).select_from(reports)) == 2


# --- numbers ------------------------------------------------------------------------------------------------------


def tables(product: Bench, account: Account) -> list[tuple[Any, ...]]:
    """Every number of the account, with the days in the order of their dates: one that is there twice shows."""
    with reading(product.engine) as connection:
        rows = [
            (table.name, *row)
            for table in (ad_metrics_daily, ad_metrics_hourly)
            for row in connection.execute(
                select(
                    table.c.entity_id,
                    table.c.local_date,
                    *([table.c.local_hour] if "local_hour" in table.c else []),
                    *(table.c[name] for name in ("impressions", "clicks", "spend", "conversions", "revenue")),
                ).where(table.c.account_id == account.id)
            )
        ]
    return sorted(rows, key=str)


def assert_complete(product: Bench, account: Account) -> None:
    today = account.local_day(product.now())
    since = today - timedelta(days=KEPT_DAYS - 1)
    assert product.stored(account, "daily", since, today) == product.truth(account, "daily", since, today)
    hours = {date.fromisoformat(row["local_date"]) for row in product.truth(account, "hourly", today, today)}
    assert {date.fromisoformat(row["local_date"]) for row in product.stored(account, "hourly", today, today)} == hours


def slices_of(product: Bench, run_id: str) -> list[Any]:
    with reading(product.engine) as connection:
        return list(connection.execute(select(fetches).where(fetches.c.run_id == run_id).order_by(fetches.c.id)))


@pytest.mark.parametrize("down", [timedelta(hours=23), timedelta(days=5)], ids=["hours", "days"])
@pytest.mark.parametrize("platform", Platform)
@only_sqlite
def test_what_was_missed_in_downtime_is_fetched_in_full(product: Bench, platform: Platform, down: timedelta) -> None:
    (account,) = product.accounts(platforms=[platform])[:1]
    product.fetch("run-1", [account])
    product.clock.advance(down)
    (outcome,) = product.fetch("run-2", [account])
    assert outcome.outcome == "stored"
    assert_complete(product, account)


@only_sqlite
def test_after_very_long_downtime_nothing_older_than_useful_is_asked_for(product: Bench) -> None:
    (account,) = product.accounts(platforms=[Platform.GOOGLE])[:1]
    product.fetch("run-1", [account])
    product.clock.advance(timedelta(days=100))
    (outcome,) = product.fetch("run-2", [account])
    assert outcome.outcome == "stored"
    today = account.local_day(product.now())
    oldest = {kind: min(row.since for row in slices_of(product, "run-2") if row.granularity == kind) for kind in KINDS}
    # Google restates thirty days; by the hour there is no more than the first fetch asks for.
    assert oldest == {"daily": today - timedelta(days=29), "hourly": today - timedelta(days=2)}


KINDS = ("daily", "hourly")


@only_sqlite
def test_each_account_is_caught_up_from_where_it_was_left(product: Bench) -> None:
    ahead, behind = product.accounts(platforms=[Platform.GOOGLE, Platform.META])[:2]
    product.fetch("run-1", [ahead, behind])
    product.clock.set(BEFORE + timedelta(days=4, hours=-3))
    product.fetch("run-2", [ahead])
    product.clock.set(BEFORE + timedelta(days=4, hours=11))
    product.fetch("run-3")
    for account in (ahead, behind):
        assert_complete(product, account)
    since = {row.account_id: row.since for row in reversed(slices_of(product, "run-3")) if row.granularity == "hourly"}
    assert since[behind.id] < since[ahead.id]


def test_a_fetch_that_died_half_way_is_finished_by_its_own_run_without_asking_twice(product: Bench) -> None:
    (account,) = product.accounts(platforms=[Platform.TIKTOK])[:1]
    (whole,) = product.fetch("run-0", [account])
    planned = {(row.granularity, row.since, row.until): row.api_calls for row in slices_of(product, "run-0")}
    listing = whole.calls - sum(planned.values())
    with product.engine.begin() as connection:
        for table in (api_calls, fetches, ad_metrics_daily, ad_metrics_hourly):
            connection.execute(table.delete())

    (cut,) = product.fetch("run-1", [account], deadline=_until_slice(3))
    assert (cut.outcome, cut.slices - cut.owed) == ("partial", 3)
    (rest,) = product.fetch("run-1", [account])
    assert rest.outcome == "stored"
    assert_complete(product, account)
    more = [row for row in slices_of(product, "run-1") if not planned.pop((row.granularity, row.since, row.until), 0)]
    # The day that goes on is all that is asked for once more.
    assert {row.since for row in more} == {account.local_day(product.now())}
    assert cut.calls + rest.calls == whole.calls + listing + sum(row.api_calls for row in more)


def _until_slice(number: int) -> Deadline:
    ticks = iter(range(1000))
    return Deadline(number + 1, monotonic=lambda: float(next(ticks)))


@only_sqlite
def test_what_another_run_has_settled_is_not_asked_for_again(product: Bench) -> None:
    (account,) = product.accounts(platforms=[Platform.META])[:1]
    product.fetch("run-1", [account], deadline=_until_slice(1))
    product.fetch("run-2", [account])
    numbers = tables(product, account)
    (again,) = product.fetch("run-1", [account])
    assert (again.outcome, again.inserted, again.updated, again.deleted) == ("stored", 0, 0, 0)
    today = account.local_day(product.now())
    asked = {row.since for row in slices_of(product, "run-1")[1:]}
    assert min(asked) >= today - timedelta(days=product.settings.fetch.recent_days - 1)
    assert tables(product, account) == numbers


class Killed(BaseException):
    """The process ends here."""


@only_sqlite
@pytest.mark.parametrize("backfill", [True, False], ids=["backfill", "regular"])
def test_what_a_killed_run_has_stored_is_published_by_the_run_that_is_made_again_whatever_it_meets(
    product: Bench, monkeypatch: pytest.MonkeyPatch, backfill: bool
) -> None:
    (account,) = product.accounts(platforms=[Platform.TIKTOK])[:1]
    day = account.local_day(product.now()) - timedelta(days=12)
    more: dict[str, Any] = {"pieces": [Slice(account.id, Granularity.DAILY, day, day)]} if backfill else {}

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("aae.jobs.fetch.publish", die)
        with pytest.raises(Killed):
            product.fetch("run-1", [account], **more)
    assert published(product, account) is None
    if not backfill:
        product.order("faults", name="http_500", purpose="metrics")
    (outcome,) = product.fetch("run-1", [account], **more)
    assert (outcome.outcome, outcome.inserted) == ("stored" if backfill else "partial", 0)
    frames = published(product, account)
    assert frames is not None
    assert len(frames.daily) + len(frames.hourly) == len(tables(product, account)) > 0


def published(product: Bench, account: Account) -> AccountFrames | None:
    """What detection and reports are handed."""
    with reading(product.engine) as connection:
        version, _ = accounts.data_versions(connection)[account.id]
    return open_stores(product.settings).cache.get_frames(account, version)
