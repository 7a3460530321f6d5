"""TikTok's own traps, met in the sandbox over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from aae.errors import AaeError, Reauthorize, Reduce, Retry
from aae.model import Granularity, Platform
from aae.patience import LocalState
from aae.platforms.base import TokenState
from aae.platforms.transport import counting
from aae.sandbox import APP, Clock, Fault, Faults, World, create_app, running
from tests.integration.connectors.readings import NOW, Bench, comparable, listing_of, truth_of

# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own() -> Iterator[Bench]:
    """A world of one's own, to be changed."""
    world, faults = World.generate(7, NOW, days=4, ahead=1, users=1, big_campaigns=1, ads_per_ad_set=1), Faults()
    with running(create_app(world, clock=Clock(NOW, frozen=True), faults=faults)) as url:
        yield Bench(url, world, faults)


def test_a_good_token_that_no_longer_reaches_the_account_needs_its_owner(own: Bench) -> None:
    account, token, truth = own.account(Platform.TIKTOK)
    check = partial(own.run, Platform.TIKTOK, lambda one: one.check_token(account, token, NOW, within_hours=24))
    assert check().state is TokenState.STILL_VALID
    own.world.change(truth, user=truth.user + 1)
    assert own.run(Platform.TIKTOK, lambda one: one.accounts(token)) == []
    with pytest.raises(Reauthorize, match=f"no longer reaches account {account.external_id}"):
        check()


@pytest.mark.parametrize("fault", ["slow", "echo", "html", "drop", "http_500"])
def test_the_apps_secret_in_the_probes_address_is_in_no_error_and_no_log(
    bench: Bench, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.DEBUG)
    account, token, _ = bench.account(Platform.TIKTOK)
    bench.faults.add(Fault(fault, platform=Platform.TIKTOK, path="oauth2/advertiser/get", value=0.01))
    said = ""
    try:
        bench.run(Platform.TIKTOK, lambda one: one.check_token(account, token, NOW, within_hours=24))
    except AaeError as error:
        said = f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"
    assert bool(said) == (fault != "slow")
    assert APP.tiktok_secret[:12] not in said + caplog.text


def test_more_than_a_hundred_advertisers_are_all_described() -> None:
    world = World.generate(7, NOW, days=4, ahead=1, users=1, big_campaigns=1, ads_per_ad_set=1)
    person, truth = world.users[0], world.accounts_of(0, Platform.TIKTOK)[0]
    many = [str(int(truth.external_id) + number) for number in range(1, 231)]
    for one in many:
        world = world.adopt(person, replace(truth, external_id=one))
    with running(create_app(world, clock=Clock(NOW, frozen=True))) as url:
        bench = Bench(url, world, Faults())
        token = bench.account(Platform.TIKTOK)[1]
        found = bench.run(Platform.TIKTOK, lambda one: one.accounts(token))
    assert [one.external_id for one in found] == [truth.external_id, *many]
    assert {one.timezone for one in found} == {truth.timezone}


# -- listings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["campaign/get", "adgroup/get", "ad/get"])
def test_a_listing_that_lacks_a_row_of_those_it_counted_is_no_listing(bench: Bench, path: str) -> None:
    account, token, _ = bench.account(Platform.TIKTOK)
    bench.faults.add(Fault("tiktok_cut_listing", path=path))
    with pytest.raises(Retry) as caught:
        bench.run(Platform.TIKTOK, partial(listing_of, account, token))
    assert caught.value.code == "cut"


@pytest.mark.parametrize("granularity", Granularity)
def test_a_report_that_lacks_a_row_of_those_it_counted_is_no_report(bench: Bench, granularity: Granularity) -> None:
    bench.faults.add(Fault("tiktok_cut_listing"))
    with pytest.raises(Retry) as caught:
        bench.fetch(Platform.TIKTOK, granularity)
    assert caught.value.code == "cut"


def test_a_budget_for_a_whole_lifetime_is_no_daily_one_nor_is_none_at_all(bench: Bench) -> None:
    account, token, truth = bench.account(Platform.TIKTOK)
    read = partial(bench.run, Platform.TIKTOK, partial(listing_of, account, token))
    daily = read().set_index("external_id")["daily_budget_micros"]
    without = [one.external_id for one in (*truth.campaigns, *truth.ad_sets) if one.daily_budget_micros is None]
    assert without
    assert daily[without].isna().all()
    assert daily.notna().any()
    bench.faults.add(Fault("tiktok_lifetime_budgets"))
    assert read()["daily_budget_micros"].isna().all()


@pytest.mark.parametrize("granularity", Granularity)
def test_parents_that_a_report_does_not_tell_are_those_of_the_listing(bench: Bench, granularity: Granularity) -> None:
    calm = bench.fetch(Platform.TIKTOK, granularity)
    assert calm["campaign_external_id"].nunique() > 1
    bench.faults.add(Fault("tiktok_no_parents"))
    pd.testing.assert_frame_equal(bench.fetch(Platform.TIKTOK, granularity), calm)


# -- reports ----------------------------------------------------------------------------------------------------------


def rows_of(bench: Bench, days: int) -> pd.DataFrame:
    account, _, truth = bench.account(Platform.TIKTOK)
    return truth_of(truth, bench.piece(account, Granularity.DAILY, days))


def fetched(bench: Bench, days: int, *, limit: float = 10, store: LocalState | None = None) -> tuple[pd.DataFrame, int]:
    """What is read, and in how many questions for rows."""
    with counting() as calls:
        frame = bench.fetch(Platform.TIKTOK, Granularity.DAILY, days, limit=limit, store=store)
    return comparable(frame), calls["metrics"]


def test_a_report_that_no_answer_came_to_in_time_is_not_asked_for_again_as_it_is(bench: Bench) -> None:
    bench.faults.add(Fault("hang", platform=Platform.TIKTOK, purpose="metrics", times=1, value=5))
    frame, questions = fetched(bench, 2, limit=2)
    pd.testing.assert_frame_equal(frame, rows_of(bench, 2))
    assert questions == 3  # both days, then each by itself


def test_a_report_too_slow_is_asked_for_by_days_then_by_ever_fewer_campaigns(bench: Bench) -> None:
    wanted, (_, _, truth) = rows_of(bench, 3), bench.account(Platform.TIKTOK)
    by_day = wanted.groupby("local_date").size()
    bench.faults.add(Fault("tiktok_slow_report", value=float(by_day.max())))
    frame, questions = fetched(bench, 3)
    pd.testing.assert_frame_equal(frame, wanted)
    assert questions == 5  # three days, one, two, one, one

    bench.faults.clear()
    campaigns = wanted["external_id"].map(lambda ad: truth.campaign_of(truth.by_id[ad]).external_id)
    most = int(wanted.groupby(["local_date", campaigns]).size().max())
    assert by_day.max() > most
    bench.faults.add(Fault("tiktok_slow_report", value=float(most)))
    frame, _ = fetched(bench, 3)
    pd.testing.assert_frame_equal(frame, wanted)


def test_what_is_too_slow_even_at_its_narrowest_is_left_alone_for_ten_minutes(bench: Bench) -> None:
    store, strikes = LocalState(lambda: bench.now), Fault("tiktok_slow_report", purpose="metrics")
    bench.faults.add(strikes)

    def asked() -> int:
        before = strikes.struck
        with pytest.raises(Reduce):
            fetched(bench, 1, store=store)
        return strikes.struck - before

    first = asked()
    assert first > 1
    bench.now += pd.Timedelta(minutes=9)
    assert asked() == 0
    bench.now += pd.Timedelta(minutes=2)
    assert asked() == first
