"""Meta's insights become exact rows by whatever way Meta agrees to give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from urllib.parse import parse_qs

import httpx
import pandas as pd
import pytest

from aae.errors import Bug, Reduce, Retry
from aae.model import Granularity, Platform, Slice, Totals
from aae.platforms.base import Connector, Rules
from tests.unit.platforms.support import (
    DAY,
    SETTINGS,
    Clock,
    Network,
    Script,
    account,
    gather,
    ok,
    piece,
    token,
    use,
)

HOUR = "hourly_stats_aggregated_by_advertiser_time_zone"
REDUCE = httpx.Response(
    500, json={"error": {"code": 1, "message": "Please reduce the amount of data you're asking for"}}
)


def row(ad: str = "3", day: date = DAY, **more: Any) -> dict[str, Any]:
    usual = {"campaign_id": "1", "adset_id": "2", "ad_id": ad, "impressions": "1204", "clicks": "37", "spend": "52.31"}
    return {**usual, "date_start": day.isoformat(), "date_stop": day.isoformat(), **more}


def entry(kind: str, value: str) -> dict[str, str]:
    return {"action_type": kind, "value": value, "7d_click": "2", "1d_view": "1"}


def fetch(script: Script, what: Slice | None = None, clock: Clock | None = None) -> tuple[pd.DataFrame, Network]:
    frame, network, _ = use(
        Platform.META,
        script,
        lambda meta: gather(meta.fetch_metrics(account(Platform.META), token(), what or piece())),
        clock=clock,
    )
    return frame, network


def one(**more: Any) -> pd.Series:
    return fetch([ok({"data": [row(**more)]})])[0].iloc[0]


def test_a_daily_row_is_exact() -> None:
    found = one(
        actions=[entry("link_click", "30"), entry("omni_purchase", "3")],
        action_values=[entry("omni_purchase", "149.7")],
    )
    assert (found["level"], found["external_id"], found["ad_set_external_id"], found["campaign_external_id"]) == (
        "ad",
        "3",
        "2",
        "1",
    )
    assert (found["impressions"], found["clicks"], found["spend_micros"]) == (1204, 37, 52_310_000)
    assert (found["conversions_micros"], found["revenue_micros"]) == (3_000_000, 149_700_000)
    assert found["local_date"] == pd.Timestamp(DAY)
    assert found["local_hour"] is pd.NA


@pytest.mark.parametrize(
    ("counts", "values", "expected"),
    [
        (["omni_purchase", "purchase", "offsite_conversion.fb_pixel_purchase"], None, "omni_purchase"),
        (["offsite_conversion.fb_pixel_purchase", "purchase"], None, "purchase"),
        (["offsite_conversion.fb_pixel_purchase"], None, "offsite_conversion.fb_pixel_purchase"),
        (["purchase"], ["omni_purchase"], "omni_purchase"),
    ],
)
def test_one_purchase_counter_is_chosen_and_never_summed(counts: Any, values: Any, expected: str) -> None:
    amount = {"omni_purchase": "5", "purchase": "4", "offsite_conversion.fb_pixel_purchase": "3"}
    found = one(
        actions=[entry(kind, amount[kind]) for kind in counts],
        action_values=[entry(kind, amount[kind]) for kind in values or counts],
    )
    assert found["conversions_micros"] == (int(amount[expected]) * 10**6 if expected in counts else 0)
    assert found["revenue_micros"] == int(amount[expected]) * 10**6


def test_an_entry_that_only_other_windows_counted_is_no_conversion() -> None:
    seen = {"action_type": "omni_purchase", "28d_click": "4"}
    found = one(actions=[seen, entry("purchase", "3")], action_values=[seen])
    assert (found["conversions_micros"], found["revenue_micros"]) == (0, 0)


def test_no_actions_on_a_day_are_no_conversions() -> None:
    found = one()
    assert (found["conversions_micros"], found["revenue_micros"]) == (0, 0)


def test_hours_carry_no_conversions_because_meta_does_not_tell_them() -> None:
    purchase = [entry("omni_purchase", "9")]
    hours = [{**row(actions=purchase), HOUR: f"{hour:02}:00:00 - {hour:02}:59:59"} for hour in (0, 23)]
    frame, network = fetch([ok({"data": hours})], piece(Granularity.HOURLY))
    assert frame["local_hour"].tolist() == [0, 23]
    assert frame["conversions_micros"].isna().all()
    assert frame["revenue_micros"].isna().all()
    asked = network.asked()
    assert json.loads(asked["breakdowns"]) == [HOUR]
    assert HOUR not in asked["fields"]


def test_the_question_names_its_windows_days_and_level() -> None:
    _, network = fetch([ok({"data": []})])
    asked = network.asked()
    assert json.loads(asked["action_attribution_windows"]) == ["7d_click", "1d_view"]
    assert json.loads(asked["time_range"]) == {"since": "2026-11-21", "until": "2026-11-21"}
    assert (asked["level"], asked["time_increment"], asked["limit"]) == ("ad", "1", "500")
    assert asked["fields"] == "campaign_id,adset_id,ad_id,impressions,clicks,spend,actions,action_values"
    assert asked.keys() == {
        *("level", "fields", "time_range", "time_increment", "action_attribution_windows", "filtering"),
        *("limit", "appsecret_proof"),
    }


def test_the_windows_asked_for_are_those_stored_beside_the_numbers() -> None:
    async def rules(meta: Connector) -> Rules:
        return meta.rules

    found, _, _ = use(Platform.META, [], rules)
    assert found.attribution.split(",") == list(SETTINGS.meta.attribution_windows)


class Runs:
    """Meta with report runs: ``sync`` answers questions at once, a run is done after ``states``."""

    def __init__(self, sync: Callable[[dict[str, str]], httpx.Response], states: list[Any]) -> None:
        self.sync, self.states, self.made = sync, states, 0
        self.rows = [row()]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.made += 1
            return ok({"report_run_id": "6001"})
        if request.url.path.endswith("/6001"):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return (
                state
                if isinstance(state, httpx.Response)
                else ok({"async_status": state[0], "async_percent_completion": state[1]})
            )
        if request.url.path.endswith("/6001/insights"):
            return ok({"data": self.rows})
        return self.sync(dict(request.url.params))


DONE = ("Job Completed", 100)


def test_what_is_too_much_at_once_is_computed_in_the_background() -> None:
    lost = httpx.Response(400, json={"error": {"code": 100, "error_subcode": 33, "message": "does not exist"}})
    waiting = [("Job Not Started", 0), ("Job Started", 0), ("Job Running", 40), ("Job Completed", 99)]
    clock, meta = Clock(), Runs(lambda _: REDUCE, [lost, *waiting, DONE])
    frame, network = fetch(meta, clock=clock)
    assert frame["external_id"].tolist() == ["3"]
    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 15.0, 30.0]
    post = next(request for request in network.requests if request.method == "POST")
    assert b"time_increment=1" in post.content


def test_more_than_a_week_is_computed_in_the_background_at_once() -> None:
    meta = Runs(lambda _: pytest.fail("asked at once"), [DONE])
    meta.rows = [row(day=DAY - timedelta(days=n)) for n in range(8)]
    frame, _ = fetch(meta, piece(since=DAY - timedelta(days=7)))
    assert len(frame) == 8


@pytest.mark.parametrize("end", ["Job Failed", "Job Skipped"])
def test_a_run_that_fails_is_asked_for_day_by_day(end: str) -> None:
    days: list[str] = []

    def sync(asked: dict[str, str]) -> httpx.Response:
        span = json.loads(asked["time_range"])
        if span["since"] != span["until"]:
            return REDUCE
        days.append(span["since"])
        return ok({"data": [row(day=date.fromisoformat(span["since"]))]})

    frame, _ = fetch(Runs(sync, [(end, 0)]), piece(since=DAY - timedelta(days=2)))
    assert days == ["2026-11-19", "2026-11-20", "2026-11-21"]
    assert len(frame) == 3


def test_rows_given_before_the_way_changed_are_given_once() -> None:
    def sync(asked: dict[str, str]) -> httpx.Response:
        if "after" in asked:
            return REDUCE
        return ok({"data": [row("3"), row("4")], "paging": {"next": "x", "cursors": {"after": "A"}}})

    meta = Runs(sync, [DONE])
    meta.rows = [row("4"), row("5"), row("3")]
    assert fetch(meta)[0]["external_id"].tolist() == ["3", "4", "5"]


def test_a_day_that_is_too_much_is_asked_for_by_halves_of_the_campaigns_that_meta_names() -> None:
    asked_for: list[list[str]] = []

    def sync(asked: dict[str, str]) -> httpx.Response:
        if asked["level"] == "campaign":
            assert "breakdowns" not in asked
            return ok({"data": [{"campaign_id": each} for each in ("11", "12", "13")]})
        ids = next((one["value"] for one in json.loads(asked["filtering"]) if one["field"] == "campaign.id"), None)
        asked_for.append(ids or [])
        return ok({"data": [row(f"9{ids[0]}", campaign_id=ids[0])]}) if ids else REDUCE

    meta = Runs(sync, [("Job Failed", 0), DONE])
    meta.rows = [row("912", campaign_id="12"), row("913", campaign_id="13")]
    frame, network = fetch(meta)
    assert sorted(frame["external_id"]) == ["911", "912", "913"]
    assert asked_for == [[]] * 5 + [["11"]]
    many = [
        json.loads(parse_qs(one.content.decode())["filtering"][0]) for one in network.requests if one.method == "POST"
    ]
    assert [[one["value"] for one in each if one["field"] == "campaign.id"] for each in many] == [[], [["12", "13"]]]


def test_a_day_that_meta_cannot_give_at_all_says_so() -> None:
    with pytest.raises(Reduce, match="cannot give 2026-11-21 of account 1001, not even a part at a time"):
        fetch(Runs(lambda _: REDUCE, [("Job Failed", 0)]))


def test_gone_ads_are_asked_for_by_name_in_whatever_part() -> None:
    _, network = fetch([ok({"data": []})])
    (condition,) = json.loads(network.asked()["filtering"])
    assert (condition["field"], condition["operator"]) == ("ad.effective_status", "IN")
    assert {"ACTIVE", "PAUSED", "ARCHIVED", "DELETED"} <= set(condition["value"])


@pytest.mark.parametrize("state", [("Job Running", 50), ("Job Completed", 99)])
def test_a_run_is_not_waited_for_forever(state: Any) -> None:
    clock = Clock()
    with pytest.raises(Retry, match="not done after twenty minutes"):
        fetch(Runs(lambda _: REDUCE, [state]), clock=clock)
    assert sum(clock.slept) == pytest.approx(1230)


def test_totals_are_the_accounts_own() -> None:
    answer = row(spend="100.01", actions=[entry("omni_purchase", "7")])
    totals, network, _ = use(
        Platform.META,
        [ok({"data": [answer]})],
        lambda meta: meta.fetch_totals(account(Platform.META), token(), piece()),
    )
    assert totals == Totals(1204, 37, 100_010_000, 7_000_000, 0)
    assert network.asked()["level"] == "account"
    nothing, _, _ = use(
        Platform.META, [ok({"data": []})], lambda meta: meta.fetch_totals(account(Platform.META), token(), piece())
    )
    assert nothing == Totals(0, 0, 0, 0, 0)
    by_hour, _, _ = use(
        Platform.META,
        [ok({"data": [answer]})],
        lambda meta: meta.fetch_totals(account(Platform.META), token(), piece(Granularity.HOURLY)),
    )
    assert by_hour == Totals(1204, 37, 100_010_000, None, None)


def test_totals_that_are_too_much_over_many_days_are_the_sum_of_the_days() -> None:
    def sync(asked: dict[str, str]) -> httpx.Response:
        span = json.loads(asked["time_range"])
        day = date.fromisoformat(span["since"])
        return REDUCE if span["since"] != span["until"] else ok({"data": [row(day=day, spend="1.10")]})

    totals, _, _ = use(
        Platform.META,
        Runs(sync, [("Job Failed", 0)]),
        lambda meta: meta.fetch_totals(account(Platform.META), token(), piece(since=DAY - timedelta(days=2))),
    )
    assert totals == Totals(3 * 1204, 3 * 37, 3_300_000, 0, 0)


@pytest.mark.parametrize("day", ["2026-11-21", [], {}])
def test_two_rows_of_totals_for_one_day_are_no_sum(day: object) -> None:
    twice = [row() | {"date_start": day}] * 2
    with pytest.raises(Bug, match="more than one row of account totals"):
        use(
            Platform.META,
            [ok({"data": twice})],
            lambda meta: meta.fetch_totals(account(Platform.META), token(), piece()),
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"ad_id": None},
        {"spend": "12.3456789"},
        {"spend": "NaN"},
        {"impressions": "-4"},
        {"date_start": "2026-11-20"},
        {"actions": [5]},
        {"actions": [entry("omni_purchase", "many")]},
        {"action_values": {"action_type": "omni_purchase"}},
    ],
)
def test_a_malformed_row_is_a_bug(wrong: dict[str, Any]) -> None:
    with pytest.raises(Bug):
        one(**wrong)
