"""Traps of Meta that are about more than a code, met in the sandbox."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from urllib.parse import parse_qsl

import pandas as pd
import pytest
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send

from aae.errors import Bug, Retry, Throttled
from aae.model import Granularity, Platform
from aae.patience import LocalState
from aae.platforms.base import TokenState
from aae.sandbox import Clock, Fault, Faults, World, create_app, running
from tests.integration.connectors.readings import NOW, Bench, comparable, listing_of, totals_of, truth_of

META = Platform.META


def assert_all_there(bench: Bench, granularity: Granularity = Granularity.DAILY, days: int = 3) -> None:
    account, _, truth = bench.account(META)
    frame = bench.fetch(META, granularity, days)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, granularity, days)))


def with_meta(bench: Bench, **changes: object) -> None:
    own = bench.settings.meta.model_copy(update=changes)
    bench.settings = bench.settings.model_copy(update={"meta": own})


# -- what is asked -----------------------------------------------------------------------------------------------------


class Wiretap:
    """The sandbox, and beside it what each call asked: its method, path, and the names and values it sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.queries: list[bytes] = []

    def before(self, app):  # type: ignore[no-untyped-def]
        async def tapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def heard() -> Message:
                message = await receive()
                self.bodies.append(message.get("body", b""))
                return message

            self.queries.append(scope["query_string"])
            pairs = dict(parse_qsl(scope["query_string"].decode()))
            self.asked.append((scope["method"], scope["path"], pairs))
            await app(scope, heard, send)

        return tapped


@pytest.fixture
def tapped() -> Iterator[tuple[Bench, Wiretap]]:
    world, faults, tap = World.generate(7, NOW, days=20, ahead=2, ads_per_ad_set=2), Faults(7), Wiretap()
    with running(tap.before(create_app(world, clock=Clock(NOW, frozen=True), faults=faults))) as url:
        yield Bench(url, world, faults), tap


def test_no_call_has_the_token_in_its_address_or_asks_what_meta_ignores_or_cannot_add_up(
    tapped: tuple[Bench, Wiretap],
) -> None:
    bench, tap = tapped
    account, token, _ = bench.account(META)
    for granularity in Granularity:
        bench.fetch(META, granularity)
        bench.run(META, partial(totals_of, account, token, bench.piece(account, granularity, 1)))
    bench.fetch(META, Granularity.DAILY, days=9)  # by a report run
    bench.run(META, partial(listing_of, account, token))
    secret = token.access.get_secret_value().encode()
    assert len(tap.queries) > 8
    assert not [sent for sent in (*tap.queries, *tap.bodies) if secret in sent]
    forms = [query for *_, query in tap.asked] + [dict(parse_qsl(body.decode())) for body in tap.bodies]
    names = {name for form in forms for name in form}
    assert {"fields", "time_range", "action_attribution_windows", "appsecret_proof"} <= names
    assert not names & {"access_token", "use_unified_attribution_setting", "action_report_time", "date_preset"}
    insights = [form for form in forms if "time_range" in form]
    assert insights
    for form in insights:
        assert tuple(json.loads(form["action_attribution_windows"])) == bench.settings.meta.attribution_windows
        assert not {"reach", "frequency"} & set(form["fields"].split(","))
        assert "hourly" not in form["fields"]
        assert "audience" not in form.get("breakdowns", "")


def test_windows_that_meta_no_longer_answers_are_not_to_be_had_from_it_and_refused_before_they_are_asked_for(
    tapped: tuple[Bench, Wiretap],
) -> None:
    bench, _ = tapped
    account, token, _ = bench.account(META)
    with_meta(bench, attribution_windows=("7d_view",))  # past the settings' own check
    told = bench.rows(META, account, token, bench.piece(account, Granularity.DAILY, 1))
    assert len(told), "Meta takes the question and leaves the window out"
    with pytest.raises(ValueError, match="7d_view"):
        type(bench.settings.meta)(attribution_windows=("7d_view",))


def test_where_the_app_demands_a_proof_of_its_secret_every_call_has_one(bench: Bench) -> None:
    account, token, _ = bench.account(META)
    bench.faults.add(Fault("meta_requires_proof"))
    assert_all_there(bench)
    assert_all_there(bench, days=9)
    assert len(bench.run(META, partial(listing_of, account, token)))
    with_meta(bench, app_secret=SecretStr(""))
    with pytest.raises(Bug, match="appsecret_proof"):
        bench.fetch(META, Granularity.DAILY)


# -- tokens and accounts -----------------------------------------------------------------------------------------------


def test_a_token_that_is_exchanged_for_one_without_end_is_only_probed_from_then_on(bench: Bench) -> None:
    account, token, _ = bench.account(META)
    bench.faults.add(Fault("meta_endless_token"))
    soon = replace(token, expires_at=NOW + timedelta(hours=1))
    check = bench.run(META, lambda meta: meta.check_token(account, soon, NOW, within_hours=24))
    assert (check.state, check.token.expires_at) == (TokenState.REFRESHED, None)
    later = NOW + timedelta(days=4000)
    again = bench.run(META, lambda meta: meta.check_token(account, check.token, later, within_hours=24))
    assert (again.state, again.token) == (TokenState.STILL_VALID, check.token)


def test_ids_are_bare_though_paths_want_them_with_act(bench: Bench) -> None:
    account, token, truth = bench.account(META)
    found = {one.external_id for one in bench.run(META, lambda meta: meta.accounts(token))}
    assert account.external_id in found
    assert all(one.isdigit() for one in found)
    assert truth.external_id in found


def test_a_zone_that_nobody_knows_is_an_error_and_not_another_zone(bench: Bench) -> None:
    account, token, _ = bench.account(META)
    bench.faults.add(Fault("meta_unknown_zone"))
    with pytest.raises(Bug, match="timezone_name"):
        bench.run(META, lambda meta: meta.accounts(token))
    with pytest.raises(Bug, match="timezone_name"):
        bench.run(META, lambda meta: meta.describe(account.external_id, token, None))


@pytest.mark.parametrize("currency", ["HUF", "IDR", "TWD", "JPY", "BHD", "KWD"])
def test_budgets_are_counted_by_metas_own_table_of_units(bench: Bench, currency: str) -> None:
    account, token, truth = bench.account(META)
    try:
        bench.world.change(truth, currency=currency)
        frame = bench.run(META, partial(listing_of, replace(account, currency=currency), token))
    finally:
        bench.world.change(truth, currency=truth.currency)
    told = frame.dropna(subset="daily_budget_micros").set_index("external_id")["daily_budget_micros"]
    whole = currency in {"HUF", "IDR", "TWD", "JPY"}
    wanted = {
        one.external_id: one.daily_budget_micros // 1_000_000 * 1_000_000 if whole else one.daily_budget_micros
        for one in (*truth.campaigns, *truth.ad_sets)
        if one.daily_budget_micros is not None
    }
    assert told.to_dict() == wanted


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_next_that_leads_to_another_host_is_not_followed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aae.platforms.meta.wire.LARGEST_PAGE", 7)
    bench.faults.add(Fault("meta_next_elsewhere"))
    assert_all_there(bench)


def test_cursors_that_lead_in_a_circle_are_an_error(bench: Bench) -> None:
    fault = Fault("meta_cursor_circle", purpose="metrics")
    bench.faults.add(fault)
    with pytest.raises(Bug, match="the same cursor twice"):
        bench.fetch(META, Granularity.DAILY)
    assert fault.struck == 2


@pytest.mark.parametrize("granularity", Granularity)
def test_a_page_that_is_too_much_is_halved_and_keeps_its_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, granularity: Granularity
) -> None:
    monkeypatch.setattr("aae.platforms.meta.wire.LARGEST_PAGE", 20)
    monkeypatch.setattr("aae.platforms.meta.wire.SMALLEST_PAGE", 5)
    fault = Fault("meta_page_too_large", value=6, after=1, purpose="metrics")
    bench.faults.add(fault)
    assert_all_there(bench, granularity)
    assert fault.struck >= 3, "20, 10, 5"


def test_what_came_before_the_way_was_changed_comes_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aae.platforms.meta.wire.LARGEST_PAGE", 5)
    account, token, truth = bench.account(META)
    rows = len(truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))
    assert rows > 20
    # Two pages come; then everything that is asked of the account itself is too much, until it is one day.
    bench.faults.add(Fault("meta_reduce_data", value=rows // 2, after=2, path="/act_"))
    bench.faults.add(Fault("meta_job_failed", value=rows // 2))
    frame = bench.rows(META, account, token, bench.piece(account, Granularity.DAILY, 3))
    assert Counter(zip(frame["external_id"], frame["local_date"], strict=True)).most_common(1)[0][1] == 1
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, 3)))


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_an_entry_without_a_value_of_its_own_setting_is_no_purchase_whatever_other_windows_counted(
    bench: Bench,
) -> None:
    bench.faults.add(Fault("meta_windows_without_value"))
    frame = bench.fetch(META, Granularity.DAILY)
    assert len(frame)
    assert (frame["conversions_micros"] == 0).all()
    assert (frame["revenue_micros"] == 0).all()


def test_a_day_without_actions_is_a_day_without_purchases(bench: Bench) -> None:
    account, token, _ = bench.account(META)
    piece = bench.piece(account, Granularity.DAILY, 3)
    frame = bench.rows(META, account, token, piece)
    assert (frame["conversions_micros"] == 0).any()
    assert frame["conversions_micros"].notna().all()


# -- report runs -------------------------------------------------------------------------------------------------------


def test_a_report_run_is_done_when_it_says_so_and_is_at_100_percent(bench: Bench) -> None:
    bench.faults.add(Fault("meta_job_slow"))
    assert_all_there(bench, days=9)
    assert bench.slept == 1 + 2 + 4 + 8 + 15


def test_a_report_run_whose_answer_is_lost_is_not_made_twice(bench: Bench) -> None:
    account, token, _ = bench.account(META)
    lost = Fault("drop_after", platform=META, path="/insights")
    bench.faults.add(lost)
    with pytest.raises(Retry):
        bench.rows(META, account, token, bench.piece(account, Granularity.DAILY, 9))
    assert lost.struck == 1


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_usage_of_another_account_slows_nobody_down(bench: Bench) -> None:
    store = LocalState(lambda: bench.now)
    bench.faults.add(Fault("meta_usage_elsewhere"))
    for _ in range(2):
        bench.fetch(META, Granularity.DAILY, store=store)
    assert bench.slept == 0
    bench.faults.add(Fault("meta_usage_high", value=100, times=1))
    bench.fetch(META, Granularity.DAILY, store=store)
    with pytest.raises(Throttled):
        bench.fetch(META, Granularity.DAILY, store=store)
