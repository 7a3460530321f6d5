"""Accounts that a platform no longer gives to a good token: paused, their owner told once, well again by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from aae.errors import Retry
from aae.jobs import tokens
from aae.jobs.context import open_context
from aae.jobs.fetch import AccountOutcome
from aae.jobs.tokens import check_account
from aae.model import Account, AccountStatus, Granularity, Platform, Slice
from aae.sandbox import World
from aae.storage import accounts, notifications
from aae.storage.engine import reading
from aae.storage.schema import token_refreshes
from aae.storage.transact import transact
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 12, 20, tzinfo=UTC)
NEXT_RUN = timedelta(hours=6)
NO_ACCESS = {
    Platform.META: {"name": "meta_no_permission"},
    Platform.TIKTOK: {"name": "tiktok_no_permission"},
    Platform.GOOGLE: {"name": "google_customer_not_enabled"},
}


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=12, ahead=4, users=2, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    few = {"AAE_FETCH__FIRST_HOURLY_DAYS": "3"}
    with bench(world, engine, redis_url, monkeypatch, **few) as it:
        it.connect()
        yield it


@pytest.fixture(params=Platform)
def account(request: pytest.FixtureRequest, product: Bench) -> Account:
    return product.lasting(request.param)


def shut(product: Bench, account: Account, **more: Any) -> None:
    """From now on the platform refuses the account, and goes on taking its token."""
    product.order("faults", account=account.external_id, **NO_ACCESS[account.platform], **more)


def fetched(product: Bench, run: str, account: Account) -> AccountOutcome | None:
    """What a run came to for the account; None if it was none of the run's."""
    with reading(product.engine) as connection:
        chosen = accounts.accounts_to_check(connection, refused=False)
    # Its platform's are enough.
    chosen = [one for one in chosen if one.platform is account.platform]
    return next((one for one in product.fetch(run, chosen) if one.account_id == account.id), None)


def check(product: Bench) -> dict[int, str]:
    """What the daily check finds, by account."""

    async def all_of_them() -> dict[int, str]:
        async with open_context(product.settings, product.now) as context:
            with reading(product.engine) as connection:
                chosen = accounts.accounts_to_check(connection)
            return {
                one.id: (await check_account(context, one, now=product.now(), run_id="check")).outcome for one in chosen
            }

    return asyncio.run(all_of_them())


def told(product: Bench, account: Account) -> list[str]:
    """The titles of what its owner was told of the account, oldest first."""
    with reading(product.engine) as connection:
        every = notifications.list_for(connection, account.user_id)
        return [one.title for one in reversed(every) if account.name in one.title]


def given_up(product: Bench, account: Account) -> None:
    shut(product, account)
    fetched(product, "run-1", account)
    product.clock.advance(NEXT_RUN)
    fetched(product, "run-2", account)
    assert product.status(account) == AccountStatus.REVOKED


def test_an_account_refused_in_two_runs_in_a_row_is_paused_and_its_owner_told_once(
    product: Bench, account: Account
) -> None:
    shut(product, account)
    first = fetched(product, "run-1", account)
    assert first is not None
    assert (first.outcome, product.status(account), told(product, account)) == ("skipped", "active", [])
    product.clock.advance(NEXT_RUN)
    second = fetched(product, "run-2", account)
    assert second is not None
    assert (second.outcome, second.owes, second.retry) == ("skipped", False, False)
    assert str(second.detail).endswith("The account is paused and its owner told.")
    assert product.status(account) == AccountStatus.REVOKED
    (title,) = told(product, account)
    assert title.startswith("No access any more: ")
    product.clock.advance(NEXT_RUN)
    assert fetched(product, "run-3", account) is None
    assert check(product)[account.id] == "no_access"
    assert len(told(product, account)) == 1
    others = [one for one in product.accounts() if one.user_id == account.user_id]
    assert others
    assert {one.outcome for one in product.fetch("run-4", others)} == {"stored"}


def test_when_it_is_open_again_the_daily_check_resumes_it_and_the_next_run_catches_up(
    product: Bench, account: Account
) -> None:
    given_up(product, account)
    product.clock.advance(timedelta(days=1))
    assert check(product)[account.id] == "no_access"
    assert product.status(account) == AccountStatus.REVOKED
    product.forgive()
    product.clock.advance(timedelta(days=1))
    assert check(product)[account.id] == "recovered"
    assert product.status(account) == AccountStatus.ACTIVE
    lost, found = told(product, account)
    assert found.startswith("Connected again: ")
    outcome = fetched(product, "run-3", account)
    assert outcome is not None
    assert (outcome.outcome, outcome.owed) == ("stored", 0)
    today = account.local_day(product.now())
    assert product.stored(account, "daily", today - timedelta(days=7), today) == product.truth(
        account, "daily", today - timedelta(days=7), today
    )
    product.clock.advance(timedelta(minutes=1))
    assert check(product)[account.id] != "recovered"
    assert told(product, account) == [lost, found]


def test_what_is_refused_once_in_a_while_is_not_given_up(product: Bench, account: Account) -> None:
    for number in range(3):
        shut(product, account)
        fetched(product, f"refused-{number}", account)
        product.clock.advance(NEXT_RUN)
        product.forgive()
        fetched(product, f"well-{number}", account)
        product.clock.advance(NEXT_RUN)
    assert product.status(account) == AccountStatus.ACTIVE
    assert told(product, account) == []


def test_the_tries_of_one_run_count_as_one(product: Bench, account: Account) -> None:
    shut(product, account)
    for number in range(4):
        fetched(product, f"run-{number}", account)
        product.clock.advance(timedelta(hours=1))
    assert product.status(account) == AccountStatus.ACTIVE


def test_an_account_of_which_something_can_be_had_is_not_given_up(product: Bench, account: Account) -> None:
    assert fetched(product, "run-0", account) is not None
    first = {Platform.GOOGLE: 2}.get(account.platform, 1)  # calls for the rows of the first slice
    shut(product, account, purpose="metrics", after=first)
    for number in (1, 2, 3):
        product.clock.advance(NEXT_RUN)
        outcome = fetched(product, f"run-{number}", account)
        assert outcome is not None
        assert outcome.outcome == "partial"
        product.forgive()
        shut(product, account, purpose="metrics", after=first)
    assert product.status(account) == AccountStatus.ACTIVE


def test_while_it_is_refused_no_run_asks_for_it_and_nobody_is_told_again(product: Bench, account: Account) -> None:
    given_up(product, account)
    for number in range(3, 7):
        product.clock.advance(NEXT_RUN)
        assert fetched(product, f"run-{number}", account) is None
        check(product)  # which gives Google's a new token
    assert len(told(product, account)) == 1


def test_what_the_platform_refuses_of_all_accounts_is_no_owners_to_mend(product: Bench) -> None:
    (account, *others) = product.accounts(platforms=[Platform.META])
    assert others
    product.order("faults", **NO_ACCESS[Platform.META], platform="meta")
    for number in range(3):
        fetched(product, f"run-{number}", account)
        product.clock.advance(NEXT_RUN)
    for one in (account, *others):
        assert (product.status(one), told(product, one)) == ("active", [])


def test_a_refusal_after_an_outage_or_of_a_backfill_is_not_the_second_one(product: Bench, account: Account) -> None:
    day = account.local_day(product.now()) - timedelta(days=9)
    product.order("faults", name="http_500", account=account.external_id, purpose="metrics", times=3)
    shut(product, account)
    product.fetch("backfill", [account], pieces=[Slice(account.id, Granularity.DAILY, day, day)])
    product.forgive()
    product.order("faults", name="http_500", account=account.external_id, purpose="metrics", times=3)
    shut(product, account, purpose="metrics")
    fetched(product, "amid", account)
    product.forgive()
    product.clock.advance(NEXT_RUN)
    shut(product, account)
    fetched(product, "after", account)
    assert product.status(account) == AccountStatus.ACTIVE
    product.clock.advance(NEXT_RUN)
    fetched(product, "again", account)
    assert product.status(account) == AccountStatus.REVOKED


def test_a_refusal_amid_an_outage_is_not_believed(product: Bench, account: Account) -> None:
    for number in (1, 2, 3):
        product.order("faults", name="http_500", account=account.external_id, purpose="metrics", times=3)
        shut(product, account, purpose="metrics")
        outcome = fetched(product, f"run-{number}", account)
        assert outcome is not None
        assert outcome.outcome == "partial"
        product.forgive()
        product.clock.advance(NEXT_RUN)
    assert product.status(account) == AccountStatus.ACTIVE


def test_an_account_whose_numbers_alone_are_refused_is_given_up_too(product: Bench, account: Account) -> None:
    shut(product, account, purpose="metrics")
    for number in (1, 2):
        outcome = fetched(product, f"run-{number}", account)
        assert outcome is not None
        assert outcome.owes == (number == 1)
        product.clock.advance(NEXT_RUN)
    assert product.status(account) == AccountStatus.REVOKED
    assert check(product)[account.id] == "no_access"
    product.forgive()
    shut(product, account, purpose="totals")
    assert check(product)[account.id] == "no_access"


def test_whoever_connects_it_again_has_it_back_at_once(product: Bench, account: Account) -> None:
    given_up(product, account)
    product.forgive()
    product.connect()
    outcome = fetched(product, "run-3", account)
    assert outcome is not None
    assert outcome.outcome == "stored"
    assert [title.split(":")[0] for title in told(product, account)] == ["No access any more", "Connected again"]


def test_whoever_connects_it_again_in_vain_is_told_so(product: Bench, account: Account) -> None:
    given_up(product, account)
    product.clock.advance(timedelta(minutes=5))
    product.connect()
    outcome = fetched(product, "run-3", account)
    assert outcome is not None
    assert outcome.outcome == "skipped"
    assert product.status(account) == AccountStatus.REVOKED
    assert [title.split(":")[0] for title in told(product, account)] == ["No access any more"] * 2


def test_a_check_that_cannot_tell_changes_nothing(product: Bench, account: Account) -> None:
    given_up(product, account)
    product.forgive()
    product.order("faults", name="http_500", account=account.external_id, purpose="listing")
    with pytest.raises(Retry) as caught:
        check(product)
    assert caught.value.code == "500"
    assert product.status(account) == AccountStatus.REVOKED
    product.forgive()
    assert check(product)[account.id] == "recovered"


def test_an_account_that_its_operator_has_paused_stays_so(product: Bench, account: Account) -> None:
    shut(product, account)
    fetched(product, "run-1", account)
    product.clock.advance(NEXT_RUN)
    with product.engine.begin() as connection:
        accounts.set_status(connection, account.id, AccountStatus.PAUSED, "by hand", now=product.now())
    product.fetch("run-2", [account])
    assert product.status(account) == AccountStatus.PAUSED
    assert told(product, account) == []


def test_an_account_paused_by_hand_after_it_was_given_up_is_not_resumed(product: Bench, account: Account) -> None:
    given_up(product, account)
    with product.engine.begin() as connection:
        accounts.set_status(connection, account.id, AccountStatus.PAUSED, "by hand", now=product.now())
    product.forgive()
    assert account.id not in check(product)
    assert product.status(account) == AccountStatus.PAUSED


def test_a_user_whom_the_platform_knows_no_more_is_found_by_the_look_and_told(product: Bench) -> None:
    account = product.lasting(Platform.GOOGLE)
    given_up(product, account)
    product.forgive()
    gone = {"name": "google_refuses", "code": "authenticationError.NOT_ADS_USER", "account": account.external_id}
    product.order("faults", **gone)
    assert check(product)[account.id] == "permanent_failure"
    assert [title.split(":")[0] for title in told(product, account)] == ["No access any more", "Authorization expired"]
    assert account.id not in check(product)


def test_another_currency_is_not_taken_for_lost_access(product: Bench) -> None:
    account = product.lasting(Platform.META)
    assert fetched(product, "run-0", account) is not None
    product.order("account", account=str(account), currency="ISK")
    for number in range(1, 4):
        product.clock.advance(NEXT_RUN)
        fetched(product, f"run-{number}", account)
    assert (product.status(account), told(product, account)) == ("active", [])


def test_giving_up_and_resuming_made_twice_are_done_once(
    product: Bench, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the answer to a commit is lost."""

    def twice(engine: Engine, work: Any, *args: Any, **kwargs: Any) -> Any:
        first = transact(engine, work, *args, **kwargs)
        again = transact(engine, work, *args, **kwargs)
        assert again == first
        return again

    monkeypatch.setattr("aae.jobs.access.transact", twice)
    given_up(product, account)
    assert len(told(product, account)) == 1
    product.forgive()
    notice = tokens._notice_recovery
    monkeypatch.setattr(
        "aae.jobs.tokens._notice_recovery", lambda *args, **kwargs: notice(*args, **kwargs) and notice(*args, **kwargs)
    )
    assert check(product)[account.id] == "recovered"
    assert len(told(product, account)) == 2
    with reading(product.engine) as connection:
        logged = connection.scalars(
            select(token_refreshes.c.outcome).where(
                token_refreshes.c.account_id == account.id,
                token_refreshes.c.outcome.not_in(["refreshed", "still_valid"]),
            )
        ).all()
    assert list(logged) == ["access_doubted", "access_refused", "recovered"]


def test_a_token_that_dies_meanwhile_is_another_matter(product: Bench) -> None:
    account = product.lasting(Platform.META)
    given_up(product, account)
    product.forgive()
    product.order("faults", name="meta_token_revoked", account=None, platform="meta")
    found = check(product)
    assert found[account.id] == "permanent_failure"
    assert [title.split(":")[0] for title in told(product, account)] == ["No access any more", "Authorization expired"]
    with reading(product.engine) as connection:
        logged = connection.scalars(
            select(token_refreshes.c.outcome)
            .where(token_refreshes.c.account_id == account.id)
            .order_by(token_refreshes.c.id)
        ).all()
    assert list(logged)[-2:] == ["access_refused", "permanent_failure"]
