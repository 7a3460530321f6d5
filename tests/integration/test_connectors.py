"""The connectors against the sandbox: what they read is what is in the world, whatever trouble strikes on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import METRIC_COLUMNS, Account, Granularity, Level, Platform, Slice, Token, Totals
from aae.patience import LocalState, SharedState
from aae.platforms import connectors
from aae.platforms.base import Connector, TokenState
from aae.platforms.transport import Transport
from aae.sandbox import APP, Clock, Fault, Faults, World, create_app, running
from aae.sandbox.entities import AdAccount
from aae.settings import GoogleSettings, MetaSettings, Settings, TikTokSettings

NOW = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)
T = TypeVar("T")


class Bench:
    """A sandbox that runs, and the connectors pointed at it."""

    def __init__(self, url: str, world: World, faults: Faults) -> None:
        self.world, self.faults = world, faults
        self.now, self.slept = NOW, 0.0
        self.settings = Settings(
            _env_file=None,
            meta=MetaSettings(base_url=url, app_id=APP.meta_app_id, app_secret=SecretStr(APP.meta_app_secret)),
            tiktok=TikTokSettings(base_url=url, app_id=APP.tiktok_app_id, secret=SecretStr(APP.tiktok_secret)),
            google=GoogleSettings(
                base_url=url,
                token_url=f"{url}/token",
                client_id=APP.google_client_id,
                client_secret=SecretStr(APP.google_client_secret),
                developer_token=SecretStr(APP.google_developer_token),
            ),
        )

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += timedelta(seconds=seconds)

    def run(
        self,
        platform: Platform,
        action: Callable[[Connector], Coroutine[Any, Any, T]],
        *,
        store: SharedState | None = None,
        limit: float = 10,
    ) -> T:
        async def go() -> T:
            async with Transport(limit, lambda: self.now, self.sleep, store) as transport:
                return await action(connectors(self.settings, transport)[platform])

        return asyncio.run(go())

    def account(self, platform: Platform, user: str = "ada@example.com") -> tuple[Account, Token, AdAccount]:
        person = next(one for one in self.world.users if one.email == user)
        truth = next(one for one in self.world.accounts_of(person.index, platform) if one.enabled)
        access, refresh, expires_at = self.world.credentials(truth)
        account = Account(
            id=1,
            user_id=1,
            platform=platform,
            external_id=truth.external_id,
            name=truth.name,
            currency=truth.currency,
            timezone=truth.timezone,
            login_customer_id=truth.manager,
        )
        return account, Token(SecretStr(access), SecretStr(refresh) if refresh else None, expires_at), truth

    def fetch(self, platform: Platform, granularity: Granularity, days: int = 3, **more: Any) -> pd.DataFrame:
        account, token, _ = self.account(platform)
        return self.rows(platform, account, token, self.piece(account, granularity, days), **more)

    def rows(self, platform: Platform, account: Account, token: Token, piece: Slice, **more: Any) -> pd.DataFrame:
        async def gather(connector: Connector) -> pd.DataFrame:
            pages = [page async for page in connector.fetch_metrics(account, token, piece)]
            return pd.concat(pages, ignore_index=True)

        return self.run(platform, gather, **more)

    @staticmethod
    def piece(account: Account, granularity: Granularity, days: int) -> Slice:
        today = account.local_day(NOW)
        return Slice(1, granularity, today - timedelta(days=days - 1), today)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, World, Faults]]:
    world = World.generate(7, NOW, days=40, ahead=2, big_campaigns=2, ads_per_ad_set=2)
    faults = Faults(7)
    with running(create_app(world, clock=Clock(NOW, frozen=True), faults=faults)) as url:
        yield url, world, faults


@pytest.fixture
def bench(served: tuple[str, World, Faults]) -> Iterator[Bench]:
    url, world, faults = served
    yield Bench(url, world, faults)
    faults.clear()


async def _totals(account: Account, token: Token, piece: Slice, connector: Connector) -> Totals:
    return await connector.fetch_totals(account, token, piece)


def truth_of(account: AdAccount, piece: Slice) -> pd.DataFrame:
    """The ledger's rows in the contract's columns, as seen at the sandbox's moment."""
    by_hour = piece.granularity is Granularity.HOURLY
    rows = []
    for leaf, day, hour, *numbers in account.leaf_facts(piece.since, piece.until, NOW, hourly=by_hour).rows():
        entity = account.leaf_entity(account.leaves[leaf])
        told = entity.tells_conversions and not (by_hour and account.platform is Platform.META)
        moment = pd.Timestamp(date.fromordinal(day))
        rows.append(
            (entity.external_id, moment, hour if by_hour else -1, *numbers[:3], *(numbers[3:5] if told else (-1, -1)))
        )
    return _sorted(pd.DataFrame(rows, columns=COMPARED))


COMPARED = [
    *("external_id", "local_date", "local_hour", "impressions", "clicks", "spend_micros"),
    *("conversions_micros", "revenue_micros"),
]


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    return _sorted(frame[COMPARED])


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame.fillna({"local_hour": -1, "conversions_micros": -1, "revenue_micros": -1})
    kinds = dict.fromkeys(COMPARED[2:], "int64") | {"external_id": "str", "local_date": "datetime64[s]"}
    return numbers.astype(kinds).sort_values(COMPARED[:3], ignore_index=True)


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
            totals = bench.run(platform, partial(_totals, account, token, piece))
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
    Platform.META: ["meta_transient", "meta_error_in_200", "meta_unavailable_in_200"],
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


def test_what_is_deleted_or_archived_keeps_its_numbers(bench: Bench) -> None:
    for platform in Platform:
        account, token, _ = bench.account(platform)
        piece = Slice(1, Granularity.DAILY, account.local_day(NOW) - timedelta(days=38), account.local_day(NOW))
        listing = bench.run(platform, partial(_listing, account, token)).set_index("external_id")
        frame = bench.rows(platform, account, token, piece)
        statuses = set(listing.loc[frame["external_id"], "status"])
        gone = {"deleted", "archived"} if platform is Platform.META else {"deleted"}
        assert gone <= statuses, (platform, statuses)


async def _listing(account: Account, token: Token, connector: Connector) -> pd.DataFrame:
    return await connector.list_entities(account, token)


@pytest.mark.parametrize("fault", ["tiktok_truncated_page_info", "tiktok_zero_rows", "meta_empty_page"])
def test_odd_shapes_change_nothing(bench: Bench, fault: str) -> None:
    platform = Platform(fault.split("_", maxsplit=1)[0])
    account, _, truth = bench.account(platform)
    bench.faults.add(Fault(fault, platform=platform))
    frame = bench.fetch(platform, Granularity.DAILY)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))


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


def test_calls_are_counted_for_the_account(bench: Bench) -> None:
    account, token, _ = bench.account(Platform.GOOGLE)
    piece = bench.piece(account, Granularity.DAILY, 1)

    async def go() -> dict[str, int]:
        async with Transport(10, lambda: NOW, bench.sleep) as transport:
            google = connectors(bench.settings, transport)[Platform.GOOGLE]
            await google.list_entities(account, token)
            async for _ in google.fetch_metrics(account, token, piece):
                pass
            await google.fetch_totals(account, token, piece)
            return transport.calls_for(account).by_purpose

    assert asyncio.run(go()) == {"listing": 3, "metrics": 2, "totals": 1}


def test_performance_max_is_counted_once_by_its_campaign(bench: Bench) -> None:
    frame = bench.fetch(Platform.GOOGLE, Granularity.DAILY)
    by_campaign = frame[frame["level"] == Level.CAMPAIGN]
    assert len(by_campaign)
    assert by_campaign["ad_set_external_id"].isna().all()
    assert np.array_equal(by_campaign["external_id"], by_campaign["campaign_external_id"])
    assert not set(by_campaign["external_id"]) & set(frame.loc[frame["level"] == Level.AD, "campaign_external_id"])
