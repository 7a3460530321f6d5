"""The connectors against the sandbox: what they read is what is in the world, whatever trouble strikes on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import numpy as np
import pandas as pd
import pytest

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import METRIC_COLUMNS, Granularity, Level, Platform, Slice
from aae.patience import LocalState
from aae.platforms import connectors
from aae.platforms.base import TokenState
from aae.platforms.meta import wire
from aae.platforms.transport import Transport, counting
from aae.sandbox import Clock, Fault, Faults, World, create_app, running
from tests.integration.connectors.readings import NOW, Bench, comparable, listing_of, totals_of, truth_of

EVERY = [(platform, granularity) for platform in Platform for granularity in Granularity]


@pytest.mark.parametrize(("platform", "granularity"), EVERY)
def test_the_rows_are_the_worlds_to_the_last_millionth(
    bench: Bench, platform: Platform, granularity: Granularity
) -> None:
    account, _, truth = bench.account(platform)
    frame = bench.fetch(platform, granularity)
    assert list(frame) == list(METRIC_COLUMNS)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, granularity, 3)))
    assert not frame.duplicated(["level", "external_id", "local_date", "local_hour"]).any()


@pytest.mark.parametrize("hours", [23, 25])
def test_on_days_when_clocks_change_every_hour_that_there_was_is_read_once(hours: int) -> None:
    day = {23: date(2027, 3, 14), 25: date(2026, 11, 1)}[hours]
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=2)
    world = World.generate(3, moment, days=4, ahead=1, users=1, big_campaigns=1, ads_per_ad_set=1)
    with running(create_app(world, clock=Clock(moment, frozen=True))) as url:
        bench = Bench(url, world, Faults())
        for platform in Platform:
            account, token, truth = bench.account(platform)
            piece = Slice(1, Granularity.HOURLY, day, day)
            frame = bench.rows(platform, account, token, piece)
            told = truth.leaf_facts(day, day, moment, hourly=True)
            assert frame["impressions"].sum() == sum(row[3] for row in told.rows())
            assert frame["local_hour"].nunique() == min(hours, 24)
            totals = bench.run(platform, partial(totals_of, account, token, piece))
            assert totals.spend_micros == frame["spend_micros"].sum()


@pytest.mark.parametrize(("platform", "granularity"), EVERY)
def test_the_rows_add_up_to_the_platforms_own_totals(
    bench: Bench, platform: Platform, granularity: Granularity
) -> None:
    account, token, _ = bench.account(platform)
    days = 1 if (platform, granularity) == (Platform.TIKTOK, Granularity.HOURLY) else 3
    piece = bench.piece(account, granularity, days)
    frame = bench.fetch(platform, granularity, days)
    totals = bench.run(platform, lambda connector: connector.fetch_totals(account, token, piece))
    assert totals.impressions == frame["impressions"].sum() > 0
    assert totals.clicks == frame["clicks"].sum()
    assert totals.spend_micros == frame["spend_micros"].sum()
    if (platform, granularity) == (Platform.META, Granularity.HOURLY):
        assert totals.conversions_micros is None
        assert frame["conversions_micros"].isna().all()
    elif platform is not Platform.TIKTOK:  # TikTok's totals count what its reach campaigns do not tell
        assert totals.conversions_micros == frame["conversions_micros"].sum()
        assert totals.revenue_micros == frame["revenue_micros"].sum()


@pytest.mark.parametrize("platform", Platform)
def test_every_entity_is_listed_deleted_ones_too_parents_first(bench: Bench, platform: Platform) -> None:
    account, token, truth = bench.account(platform)
    frame = bench.run(platform, lambda connector: connector.list_entities(account, token))
    known = [*truth.campaigns, *truth.ad_sets, *truth.ads]
    assert sorted(frame["external_id"]) == sorted(entity.external_id for entity in known)
    named = dict(zip(frame["external_id"], frame["name"], strict=True))
    assert named == {entity.external_id: entity.name for entity in known}
    above = dict(zip(frame["external_id"], frame["parent_external_id"], strict=True))
    assert {one: None if pd.isna(parent) else parent for one, parent in above.items()} == {
        entity.external_id: entity.parent for entity in known
    }
    order = {Level.CAMPAIGN: 0, Level.AD_SET: 1, Level.AD: 2}
    assert frame["level"].map(order).is_monotonic_increasing
    assert {"active", "paused", "deleted"} <= set(frame["status"])


SEATS = [
    *[(Platform.META, name) for name in ("ada", "kenji", "lea")],  # dollars, yen, euros
    *[(Platform.TIKTOK, name) for name in ("ada", "priya", "lea")],  # dollars, rupees, pounds
    *[(Platform.GOOGLE, name) for name in ("ada", "kenji", "priya")],  # dollars, yen, rupees
]


@pytest.mark.parametrize(("platform", "name"), SEATS)
def test_budgets_are_the_worlds_in_whatever_unit_they_are_told(bench: Bench, platform: Platform, name: str) -> None:
    account, token, truth = bench.account(platform, f"{name}@example.com")
    frame = bench.run(platform, partial(listing_of, account, token)).dropna(subset="daily_budget_micros")
    known = [*truth.campaigns, *truth.ad_sets]
    assert dict(zip(frame["external_id"], frame["daily_budget_micros"], strict=True)) == {
        one.external_id: one.daily_budget_micros for one in known if one.daily_budget_micros is not None
    }
    assert len(frame) > 3


def test_a_budget_that_campaigns_share_is_nobodys(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.GOOGLE)
    bench.faults.add(Fault("google_shared_budgets"))
    frame = bench.run(Platform.GOOGLE, partial(listing_of, account, token))
    assert frame["daily_budget_micros"].isna().all()


def test_an_account_that_several_managers_lead_to_is_found_once(bench: Bench) -> None:
    account, token, truth = bench.account(Platform.GOOGLE)
    bench.faults.add(Fault("google_two_managers"))
    found = bench.run(Platform.GOOGLE, lambda one: one.accounts(token))
    assert [one.external_id for one in found] == [account.external_id]
    assert found[0].login_customer_id
    moved = replace(account, login_customer_id=found[0].login_customer_id)
    frame = bench.rows(Platform.GOOGLE, moved, token, bench.piece(account, Granularity.DAILY, 1))
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 1)))


@pytest.mark.parametrize("platform", Platform)
def test_accounts_are_found_with_currency_and_zone(bench: Bench, platform: Platform) -> None:
    account, token, truth = bench.account(platform)
    found = bench.run(platform, lambda connector: connector.accounts(token))
    one = next(remote for remote in found if remote.external_id == account.external_id)
    assert (one.currency, one.timezone, one.login_customer_id) == (truth.currency, truth.timezone, truth.manager)
    described = bench.run(
        platform, lambda connector: connector.describe(account.external_id, token, account.login_customer_id)
    )
    assert described == one


@pytest.mark.parametrize(
    ("platform", "user", "state"),
    [
        (Platform.META, "ada@example.com", TokenState.REFRESHED),
        (Platform.META, "kenji@example.com", TokenState.STILL_VALID),
        (Platform.TIKTOK, "ada@example.com", TokenState.STILL_VALID),
        (Platform.GOOGLE, "ada@example.com", TokenState.REFRESHED),
    ],
)
def test_tokens_are_refreshed_when_they_end_soon(
    bench: Bench, platform: Platform, user: str, state: TokenState
) -> None:
    account, token, _ = bench.account(platform, user)
    check = bench.run(platform, lambda one: one.check_token(account, token, NOW, within_hours=24))
    assert check.state is state
    frame = bench.run(platform, lambda one: one.list_entities(account, check.token))
    assert len(frame)


def test_a_revoked_token_needs_its_owner(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.GOOGLE, "lea@example.com")
    with pytest.raises(Reauthorize):
        bench.run(Platform.GOOGLE, lambda one: one.check_token(account, token, NOW, within_hours=24))


def test_an_ended_google_token_with_time_on_paper_is_refreshed_by_the_probe(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.GOOGLE)
    bench.faults.add(Fault("google_plain_401", times=1))
    check = bench.run(Platform.GOOGLE, lambda one: one.check_token(account, token, NOW, within_hours=0.1))
    assert check.state is TokenState.REFRESHED


BLIPS = ["drop", "drop_midway", "truncated_json", "html", "empty_body", "http_500", "http_503"]
OWN_BLIPS = {
    Platform.META: ["meta_transient", "meta_error_in_200", "meta_unavailable_in_200", "meta_summary_param"],
    Platform.TIKTOK: ["tiktok_throttled", "tiktok_system_error", "tiktok_internal_timeout", "tiktok_maintenance"],
    Platform.GOOGLE: ["google_internal", "google_transient", "google_stream_error"],
}


@pytest.mark.parametrize(
    ("platform", "fault"), [(platform, fault) for platform in Platform for fault in [*BLIPS, *OWN_BLIPS[platform]]]
)
def test_two_blips_do_not_change_what_is_read(bench: Bench, platform: Platform, fault: str) -> None:
    account, _, truth = bench.account(platform)
    bench.faults.add(Fault(fault, platform=platform, times=2))
    frame = bench.fetch(platform, Granularity.DAILY)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))


@pytest.mark.parametrize(
    ("platform", "fault", "value", "kind"),
    [
        *[(platform, fault, None, Retry) for platform in Platform for fault in BLIPS],
        (Platform.META, "meta_token_expired", None, Reauthorize),
        (Platform.META, "meta_token_revoked", None, Reauthorize),
        (Platform.META, "meta_throttled", 5, Throttled),
        (Platform.META, "meta_management_throttled", 5, Throttled),
        (Platform.META, "meta_app_throttled", None, Throttled),
        (Platform.META, "meta_user_throttled", None, Throttled),
        (Platform.META, "meta_custom_throttled", None, Throttled),
        (Platform.META, "meta_no_permission", None, Skip),
        (Platform.META, "meta_deprecated_version", None, Bug),
        (Platform.TIKTOK, "tiktok_throttled", None, Throttled),
        (Platform.TIKTOK, "tiktok_advertiser_throttled", None, Throttled),
        (Platform.TIKTOK, "tiktok_token_expired", None, Reauthorize),
        (Platform.TIKTOK, "tiktok_token_revoked", None, Reauthorize),
        (Platform.TIKTOK, "tiktok_no_permission", None, Skip),
        (Platform.TIKTOK, "tiktok_not_found", None, Bug),
        (Platform.TIKTOK, "tiktok_range_refused", None, Bug),
        (Platform.GOOGLE, "google_token_expired", None, Retry),
        (Platform.GOOGLE, "google_plain_401", None, Retry),
        (Platform.GOOGLE, "google_throttled", None, Throttled),
        (Platform.GOOGLE, "google_account_throttled", 30, Throttled),
        (Platform.GOOGLE, "google_customer_not_enabled", None, Skip),
        (Platform.GOOGLE, "google_no_permission", None, Skip),
        (Platform.GOOGLE, "google_manager_metrics", None, Skip),
        (Platform.GOOGLE, "google_expired_page_token", None, Retry),
        (Platform.GOOGLE, "google_stream_error", None, Retry),
    ],
)
def test_lasting_trouble_ends_in_what_to_do_about_it(
    bench: Bench, platform: Platform, fault: str, value: float | None, kind: type[AaeError]
) -> None:
    bench.faults.add(Fault(fault, platform=platform, value=value))
    with pytest.raises(kind) as caught:
        bench.fetch(platform, Granularity.DAILY)
    assert issubclass(kind, Throttled) or not isinstance(caught.value, Throttled)


@pytest.mark.parametrize(
    ("platform", "version", "code"),
    [
        (Platform.META, "v24.0", "2635"),
        (Platform.TIKTOK, "v1.2", "40006"),
        (Platform.GOOGLE, "v21", "UNSUPPORTED_VERSION"),
        (Platform.GOOGLE, "v99", "404"),
    ],
)
def test_a_version_that_is_not_served_is_a_bug_that_names_the_setting(
    bench: Bench, platform: Platform, version: str, code: str
) -> None:
    own = bench.settings.of(platform).model_copy(update={"version": version})
    bench.settings = bench.settings.model_copy(update={platform.value: own})
    with pytest.raises(Bug, match=f"AAE_{platform.upper()}__VERSION") as caught:
        bench.fetch(platform, Granularity.DAILY)
    assert caught.value.code == code


def test_a_version_that_meta_replaced_without_a_word_is_said_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    account, _, truth = bench.account(Platform.META)
    bench.faults.add(Fault("meta_other_version"))
    wire._say_version.cache_clear()
    frame = bench.fetch(Platform.META, Granularity.DAILY)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))
    said = [record.getMessage() for record in caplog.records if record.name == "aae.platforms.meta.wire"]
    assert said == ["AAE_META__VERSION=v26.0 is over, or nearly so: Meta answered in v27.0"]


@pytest.mark.parametrize(
    ("platform", "code"), [(Platform.META, "3018"), (Platform.GOOGLE, "REQUESTED_DATE_GRANULARITY_NOT_SUPPORTED")]
)
def test_days_that_the_platform_has_forgotten_are_refused_once(bench: Bench, platform: Platform, code: str) -> None:
    account, token, _ = bench.account(platform)
    day = NOW.date() - timedelta(days=39 * 31)
    with pytest.raises(Bug) as caught:
        bench.rows(platform, account, token, Slice(1, Granularity.DAILY, day, day))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("platform", "fault", "other"),
    [
        (Platform.META, "meta_throttled", "kenji@example.com"),
        (Platform.TIKTOK, "tiktok_advertiser_throttled", "priya@example.com"),
        (Platform.GOOGLE, "google_account_throttled", "kenji@example.com"),
    ],
)
def test_one_accounts_limit_stops_that_account_and_no_other(
    bench: Bench, platform: Platform, fault: str, other: str
) -> None:
    store = LocalState(lambda: bench.now)
    (mine, token, _), (yours, your_token, _) = bench.account(platform), bench.account(platform, other)
    bench.faults.add(Fault(fault, account=mine.external_id))
    with pytest.raises(Throttled) as caught:
        bench.run(platform, partial(listing_of, mine, token), store=store)
    assert caught.value.scope == f"{platform}:account:{mine.external_id}"
    assert len(bench.run(platform, partial(listing_of, yours, your_token), store=store))
    bench.faults.clear()
    with pytest.raises(Throttled):
        bench.run(platform, partial(listing_of, mine, token), store=store)


def test_no_answer_in_time_is_a_retry(bench: Bench) -> None:
    bench.faults.add(Fault("hang", platform=Platform.META, value=5))
    with pytest.raises(Retry, match="did not answer within"):
        bench.fetch(Platform.META, Granularity.DAILY, limit=0.2)


def test_the_developers_quota_stops_every_account_at_once_for_as_long_as_google_says(bench: Bench) -> None:
    store = LocalState(lambda: bench.now)
    bench.faults.add(Fault("google_throttled", platform=Platform.GOOGLE, times=1))
    with pytest.raises(Throttled) as caught:
        bench.fetch(Platform.GOOGLE, Granularity.DAILY, store=store)
    assert caught.value.scope == "google:developer"
    assert caught.value.until - NOW == timedelta(seconds=43_201)
    account, token, _ = bench.account(Platform.GOOGLE, "kenji@example.com")
    with pytest.raises(Throttled):
        bench.run(Platform.GOOGLE, lambda one: one.list_entities(account, token), store=store)


def test_high_usage_makes_the_next_call_wait_before_it_is_sent(bench: Bench) -> None:
    store = LocalState(lambda: bench.now)
    bench.faults.add(Fault("meta_usage_high", platform=Platform.META, times=1))
    bench.fetch(Platform.META, Granularity.DAILY, store=store)
    with pytest.raises(Throttled):
        bench.fetch(Platform.META, Granularity.DAILY, store=store)
    bench.now += timedelta(minutes=10)
    bench.fetch(Platform.META, Granularity.DAILY, store=store)


def test_too_much_data_is_asked_for_in_ever_smaller_parts(bench: Bench) -> None:
    account, _, truth = bench.account(Platform.META)
    a_day = len(bench.fetch(Platform.META, Granularity.DAILY, days=1))
    bench.faults.add(Fault("meta_reduce_data", platform=Platform.META, value=a_day + 5))
    frame = bench.fetch(Platform.META, Granularity.DAILY, days=3)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))


def test_more_than_a_week_comes_by_a_report_run(bench: Bench) -> None:
    account, _, truth = bench.account(Platform.META)
    frame = bench.fetch(Platform.META, Granularity.DAILY, days=12)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 12)))
    assert bench.slept == 3.0


@pytest.mark.parametrize("fault", ["meta_job_failed", "meta_job_skipped"])
def test_a_report_run_that_fails_is_replaced_by_single_days(bench: Bench, fault: str) -> None:
    account, _, truth = bench.account(Platform.META)
    bench.faults.add(Fault(fault, platform=Platform.META))
    frame = bench.fetch(Platform.META, Granularity.DAILY, days=9)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 9)))


@pytest.mark.parametrize("fault", ["meta_job_stuck", "meta_job_incomplete", "meta_run_not_found"])
def test_a_report_run_that_never_ends_is_given_up(bench: Bench, fault: str) -> None:
    bench.faults.add(Fault(fault, platform=Platform.META))
    with pytest.raises(Retry):
        bench.fetch(Platform.META, Granularity.DAILY, days=9)


@pytest.mark.parametrize("fault", ["meta_reduce_data", "meta_job_failed"])
@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("ads", [1, 2])
def test_a_day_too_large_is_asked_for_by_campaign_then_ad_set_then_ad(
    bench: Bench, fault: str, granularity: Granularity, ads: int
) -> None:
    account, _, truth = bench.account(Platform.META)
    wanted = truth_of(truth, bench.piece(account, granularity, 2))
    most = ads * int(wanted.groupby(["external_id", "local_date"]).size().max())
    campaigns = wanted["external_id"].map(lambda ad: truth.campaign_of(truth.by_id[ad]).external_id)
    assert wanted.groupby([campaigns, "local_date"]).size().max() > most
    bench.faults.add(Fault(fault, platform=Platform.META, value=most))
    if fault == "meta_job_failed":  # else everything could be had at once
        bench.faults.add(Fault("meta_reduce_data", platform=Platform.META, value=most, path="/act_"))
    frame = bench.fetch(Platform.META, granularity, days=2)
    pd.testing.assert_frame_equal(comparable(frame), wanted)


def test_a_day_of_which_not_even_one_ad_can_be_had_says_so(bench: Bench) -> None:
    bench.faults.add(Fault("meta_reduce_data", platform=Platform.META, value=0))
    with pytest.raises(Reduce, match="not even a part at a time"):
        bench.fetch(Platform.META, Granularity.DAILY, days=1)


@pytest.mark.parametrize("granularity", Granularity)
def test_a_stream_that_is_cut_for_its_length_is_read_by_fewer_days(bench: Bench, granularity: Granularity) -> None:
    account, _, truth = bench.account(Platform.GOOGLE)
    wanted = truth_of(truth, bench.piece(account, granularity, 4))
    a_day = int(wanted.groupby("local_date").size().max())
    bench.faults.add(Fault("google_cut_stream", purpose="metrics", value=a_day))
    frame = bench.fetch(Platform.GOOGLE, granularity, days=4)
    pd.testing.assert_frame_equal(comparable(frame), wanted)
    bench.faults.add(Fault("google_cut_stream", purpose="metrics"))
    with pytest.raises(Retry):
        bench.fetch(Platform.GOOGLE, granularity, days=4)


def test_where_ad_sets_are_counted_differently_the_totals_still_have_their_purchases(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.META)
    piece = bench.piece(account, Granularity.DAILY, 3)
    bench.faults.add(Fault("meta_mixed_attribution"))
    frame = bench.rows(Platform.META, account, token, piece)
    totals = bench.run(Platform.META, partial(totals_of, account, token, piece))
    assert totals.conversions_micros == frame["conversions_micros"].sum() > 0
    assert totals.revenue_micros == frame["revenue_micros"].sum() > 0


@pytest.mark.parametrize("platform", [Platform.META, Platform.TIKTOK])
def test_what_no_listing_knows_keeps_its_numbers_and_its_place(bench: Bench, platform: Platform) -> None:
    account, token, truth = bench.account(platform)
    bench.faults.add(Fault("unlisted"))
    listing = bench.run(platform, partial(listing_of, account, token))
    frame = bench.fetch(platform, Granularity.DAILY)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))
    hidden = frame[~frame["external_id"].isin(listing["external_id"])]
    assert set(hidden["campaign_external_id"]) == {truth.campaigns[0].external_id}
    for ad, ad_set in zip(hidden["external_id"], hidden["ad_set_external_id"], strict=True):
        assert truth.by_id[ad].parent == ad_set


def test_no_answer_that_is_kept_for_reuse_repeats_a_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aae.platforms.meta.wire.LARGEST_PAGE", 5)
    kept: list[bytes] = []

    class Store(LocalState):
        async def put_answer(self, key: str, body: bytes) -> None:
            kept.append(body)

    for platform in Platform:
        account, token, _ = bench.account(platform)
        bench.run(platform, partial(listing_of, account, token), store=Store(lambda: bench.now))
        assert kept
        assert not [body for body in kept if token.access.get_secret_value().encode() in body]


def test_what_is_deleted_or_archived_keeps_its_numbers(bench: Bench) -> None:
    for platform in Platform:
        account, token, _ = bench.account(platform)
        piece = Slice(1, Granularity.DAILY, account.local_day(NOW) - timedelta(days=38), account.local_day(NOW))
        listing = bench.run(platform, partial(listing_of, account, token)).set_index("external_id")
        frame = bench.rows(platform, account, token, piece)
        statuses = set(listing.loc[frame["external_id"], "status"])
        gone = {"deleted", "archived"} if platform is Platform.META else {"deleted"}
        assert gone <= statuses, (platform, statuses)


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize(
    "fault",
    [
        *("tiktok_truncated_page_info", "tiktok_truncated_report", "tiktok_zero_rows"),
        *("meta_empty_page", "google_zeros_absent"),
    ],
)
def test_odd_shapes_change_nothing(bench: Bench, fault: str, granularity: Granularity) -> None:
    platform = Platform(fault.split("_", maxsplit=1)[0])
    account, _, truth = bench.account(platform)
    bench.faults.add(Fault(fault, platform=platform))
    frame = bench.fetch(platform, granularity)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, granularity, 3)))


@pytest.mark.parametrize("platform", Platform)
def test_restated_days_folded_hours_and_days_without_rows_are_read_as_they_are_told(
    bench: Bench, platform: Platform
) -> None:
    calm = bench.fetch(platform, Granularity.HOURLY)
    for fault, value, factor in (("restated", 3, 3), ("clock_change", 23, 1), ("no_rows", None, 0)):
        bench.faults.clear()
        bench.faults.add(Fault(fault, platform=platform, value=value))
        try:
            frame = bench.fetch(platform, Granularity.HOURLY)
        except ValueError:  # no page at all
            frame = calm.head(0)
        past = {
            name: rows.spend_micros.where(rows.local_date < rows.local_date.max(), 0).sum()
            for name, rows in (("calm", calm), ("odd", frame))
        }
        assert past["odd"] == past["calm"] * factor
        assert frame["local_hour"].eq(2).any() == (fault == "restated")


@pytest.mark.parametrize(("platform", "granularity"), EVERY)
def test_pages_that_shift_and_repeat_rows_change_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, platform: Platform, granularity: Granularity
) -> None:
    account, token, truth = bench.account(platform)
    calm = bench.run(platform, partial(listing_of, account, token))
    # Small pages, so that a small world has many; those of Google's streams are its own.
    monkeypatch.setattr("aae.platforms.meta.wire.LARGEST_PAGE", 5)
    monkeypatch.setattr("aae.platforms.tiktok.wire.PAGE_SIZE", 5)
    monkeypatch.setattr("aae.sandbox.google.PAGE_ROWS", 5)
    bench.faults.add(Fault("pages_overlap"))
    frame = bench.fetch(platform, granularity, days=2)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, granularity, 2)))
    pd.testing.assert_frame_equal(bench.run(platform, partial(listing_of, account, token)), calm)


def test_googles_ids_beyond_what_a_float_can_tell_are_read_exactly(bench: Bench) -> None:
    calm = bench.fetch(Platform.GOOGLE, Granularity.DAILY)
    bench.faults.add(Fault("google_large_ids"))
    odd = bench.fetch(Platform.GOOGLE, Granularity.DAILY)
    for name in ("external_id", "campaign_external_id", "ad_set_external_id"):
        assert odd[name].tolist() == [one if pd.isna(one) else str(int(one) + 2**53) for one in calm[name]]


def test_a_dash_is_missing_and_not_zero(bench: Bench) -> None:
    bench.faults.add(Fault("tiktok_dash_metrics", platform=Platform.TIKTOK))
    frame = bench.fetch(Platform.TIKTOK, Granularity.HOURLY)
    assert frame["conversions_micros"].isna().all()
    assert frame["revenue_micros"].isna().all()
    assert frame["spend_micros"].sum() > 0


def test_reading_again_within_five_minutes_costs_no_call(bench: Bench) -> None:
    store = LocalState(lambda: bench.now, answer_ttl_seconds=300)
    first = bench.fetch(Platform.GOOGLE, Granularity.DAILY, store=store)
    bench.faults.add(Fault("http_500", platform=Platform.GOOGLE))
    pd.testing.assert_frame_equal(bench.fetch(Platform.GOOGLE, Granularity.DAILY, store=store), first)


def test_calls_are_counted_by_purpose(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.GOOGLE)
    piece = bench.piece(account, Granularity.DAILY, 1)

    async def go() -> dict[str, int]:
        async with Transport(10, lambda: NOW, bench.sleep) as transport:
            google = connectors(bench.settings, transport)[Platform.GOOGLE]
            with counting() as calls:
                await google.list_entities(account, token)
                async for _ in google.fetch_metrics(account, token, piece):
                    pass
                await google.fetch_totals(account, token, piece)
            return calls

    assert asyncio.run(go()) == {"listing": 3, "metrics": 2, "totals": 1}


def test_performance_max_is_counted_once_by_its_campaign(bench: Bench) -> None:
    frame = bench.fetch(Platform.GOOGLE, Granularity.DAILY)
    by_campaign = frame[frame["level"] == Level.CAMPAIGN]
    assert len(by_campaign)
    assert by_campaign["ad_set_external_id"].isna().all()
    assert np.array_equal(by_campaign["external_id"], by_campaign["campaign_external_id"])
    assert not set(by_campaign["external_id"]) & set(frame.loc[frame["level"] == Level.AD, "campaign_external_id"])


@pytest.mark.parametrize("platform", Platform)
def test_a_body_that_drips_is_ended_by_the_time_limit(bench: Bench, platform: Platform) -> None:
    fault = Fault("drip", platform=platform, value=0.05)
    bench.faults.add(fault)
    with pytest.raises(Retry, match="did not answer within"):
        bench.fetch(platform, Granularity.DAILY, days=1, limit=0.5)
    assert fault.struck


@pytest.mark.parametrize("platform", Platform)
def test_a_redirect_is_refused_and_not_followed(bench: Bench, platform: Platform) -> None:
    fault = Fault("redirect", platform=platform)
    bench.faults.add(fault)
    with pytest.raises(Bug) as caught:
        bench.fetch(platform, Granularity.DAILY, days=1)
    assert (caught.value.code, fault.struck) == ("302", 1)
