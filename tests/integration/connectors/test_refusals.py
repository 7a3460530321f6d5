"""Every code with which a platform refuses, played by the sandbox: what it means, and what it costs in calls."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pandas as pd
import pytest

from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Throttled
from aae.model import Granularity, Platform
from aae.patience import LocalState
from aae.platforms.transport import Blip, Caller, TimedOut
from aae.sandbox import Fault
from tests.integration.connectors.readings import NOW, Bench, comparable, listing_of, truth_of
from tests.unit.platforms.google.test_google import FAILURES
from tests.unit.platforms.google.test_google import OPERATORS as GOOGLE_OPERATORS
from tests.unit.platforms.meta.test_wire import REFUSALS as META_REFUSALS
from tests.unit.platforms.tiktok.test_tiktok import OUR_APPS as TIKTOK_APPS
from tests.unit.platforms.tiktok.test_tiktok import REFUSALS as TIKTOK_REFUSALS

M, T, G = Platform.META, Platform.TIKTOK, Platform.GOOGLE

META = [
    (M, f"{code}/{subcode}" if subcode else str(code), None, kind)
    for code, subcode, kind in META_REFUSALS
    if type(code) is int
]
TIKTOK = [(T, str(code), None, kind) for code, kind in TIKTOK_REFUSALS]
GOOGLE = [(G, f"{kind}.{name}", status, expected) for kind, name, status, expected in FAILURES]

BY_WORDS = [
    (M, "1", "Please reduce the amount of data you're asking for, then retry your request", Reduce),
    (M, "1", "Error validating client secret.", Bug),
    (M, "100", "(#100) Missing permissions", Skip),
    (M, "100", "(#100) Cannot include spend in summary param because they weren't there", Blip),
]
"""Codes of Meta that mean something else by their words."""

TRIES = {Blip: 3}
"""How often a call is made that is refused each time; once otherwise."""


def refuse(bench: Bench, platform: Platform, code: str | None, **more: object) -> Fault:
    fault = Fault(f"{platform}_refuses", purpose="metrics", code=code, **more)  # type: ignore[arg-type]
    bench.faults.add(fault)
    return fault


def refused(bench: Bench, platform: Platform, store: LocalState | None = None) -> AaeError:
    with pytest.raises(AaeError) as caught:
        bench.fetch(platform, Granularity.DAILY, days=1, store=store)
    return caught.value


def assert_all_there(bench: Bench, platform: Platform, days: int = 1) -> None:
    account, _, truth = bench.account(platform)
    frame = bench.fetch(platform, Granularity.DAILY, days=days)
    pd.testing.assert_frame_equal(comparable(frame), truth_of(truth, bench.piece(account, Granularity.DAILY, days)))


def single(cases: list[tuple[Platform, str, float | None, type[AaeError]]]) -> list[object]:
    """Those that end the question; after the others there is another one, or a pause."""
    return [
        pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in cases if case[3] not in (Throttled, Reduce, TimedOut)
    ]


@pytest.mark.parametrize(("platform", "code", "status", "kind"), single([*META, *TIKTOK, *GOOGLE]))
def test_what_a_code_means_and_how_often_its_call_is_made(
    bench: Bench, platform: Platform, code: str, status: float | None, kind: type[AaeError]
) -> None:
    fault = refuse(bench, platform, code, value=status)
    error = refused(bench, platform)
    assert isinstance(error, Retry if kind in TRIES else kind)
    assert not isinstance(error, Throttled | Reduce)
    assert fault.struck == TRIES.get(kind, 1)
    bench.faults.clear()
    assert_all_there(bench, platform)


@pytest.mark.parametrize(("platform", "code", "words", "kind"), BY_WORDS)
def test_what_only_the_words_tell(
    bench: Bench, platform: Platform, code: str, words: str, kind: type[AaeError]
) -> None:
    refuse(bench, platform, code, message=words)
    assert isinstance(refused(bench, platform), Retry if kind is Blip else kind)


@pytest.mark.parametrize(
    ("code", "status"), [(None, 400), ("999", 503)], ids=["said to be transient", "a server's status"]
)
def test_a_code_that_nobody_knows_may_still_be_known_to_pass(bench: Bench, code: str | None, status: int) -> None:
    refuse(bench, M, code, value=status, times=2)
    assert_all_there(bench, M)


def test_any_other_code_that_nobody_knows_is_asked_about_once(bench: Bench) -> None:
    fault = refuse(bench, M, "999")
    assert isinstance(refused(bench, M), Bug)
    assert fault.struck == 1


@pytest.mark.parametrize("code", [code for _, code, _, kind in META if kind is Reduce])
def test_too_much_data_by_whatever_code_is_asked_for_in_smaller_parts(bench: Bench, code: str) -> None:
    fault = refuse(bench, M, code, times=8)
    assert_all_there(bench, M, days=3)
    assert fault.struck == 8


THROTTLES = {
    platform: [code for _, code, _, kind in cases if kind is Throttled]
    for platform, cases in ((M, META), (T, TIKTOK), (G, GOOGLE))
}
OTHERS = {M: "lea@example.com", T: "priya@example.com", G: "kenji@example.com"}
APPS = {"4", "4/1504022", "4/1504039", "32", "341", "40016", "40100", "40132", "61000"}
"""Limits of the whole app; all others but Meta's 17 are one account's."""


@pytest.mark.parametrize(
    ("platform", "code"), [(platform, code) for platform, codes in THROTTLES.items() for code in codes]
)
def test_a_limit_by_whatever_code_is_a_pause_of_its_scope(bench: Bench, platform: Platform, code: str) -> None:
    caller = Caller.of(*bench.account(platform)[:2])
    store = LocalState(lambda: bench.now)
    fault = refuse(bench, platform, code)
    error = refused(bench, platform, store)
    assert isinstance(error, Throttled)
    own = caller.user if (platform, code) == (M, "17") else f"account:{caller.account}"
    assert error.scope == f"{platform}:{'app' if code in APPS else own}"
    assert error.until > bench.now
    struck = fault.struck
    assert isinstance(refused(bench, platform, store), Throttled)
    # A pause of seconds is waited for.
    assert fault.struck == struck or bench.now >= error.until, "nothing is asked while the pause lasts"


@pytest.mark.parametrize(
    ("platform", "code"), [(M, "17"), (M, "613"), (T, "40133"), (G, "quotaError.RESOURCE_EXHAUSTED")]
)
def test_a_limit_met_in_a_list_of_accounts_is_that_users_and_nobody_elses(
    bench: Bench, platform: Platform, code: str
) -> None:
    """It is about no account, and must not be about all who list theirs."""
    store = LocalState(lambda: bench.now)
    (_, mine, _), (_, theirs, _) = bench.account(platform), bench.account(platform, OTHERS[platform])
    fault = Fault(f"{platform}_refuses", code=code)
    bench.faults.add(fault)
    with pytest.raises(Throttled) as caught:
        bench.run(platform, lambda connector: connector.accounts(mine), store=store)
    assert caught.value.scope == f"{platform}:{Caller(mine.access).user}"
    bench.faults.clear()
    assert bench.run(platform, lambda connector: connector.accounts(theirs), store=store)
    assert bench.now < caught.value.until
    with suppress(Throttled):
        bench.run(platform, lambda connector: connector.accounts(mine), store=store)
        # A pause of seconds is waited for.
        assert bench.now >= caught.value.until


def test_a_users_limit_at_meta_stops_all_that_is_read_by_that_token_and_no_other(bench: Bench) -> None:
    store = LocalState(lambda: bench.now)
    (mine, token, _), (yours, your_token, _) = bench.account(M), bench.account(M, OTHERS[M])
    fault = refuse(bench, M, "17", times=1)
    assert isinstance(refused(bench, M, store), Throttled)
    assert fault.struck == 1
    with pytest.raises(Throttled):
        bench.run(M, lambda connector: connector.accounts(token), store=store)
    with pytest.raises(Throttled):
        bench.run(M, partial(listing_of, replace(yours, id=2), token), store=store)
    assert len(bench.run(M, partial(listing_of, yours, your_token), store=store))
    bench.now += timedelta(minutes=1)
    assert len(bench.run(M, partial(listing_of, mine, token), store=store))


@pytest.mark.parametrize(
    ("platform", "code", "pauses"),
    [
        (M, "80000", [60, 120, 240, 480, 600, 600]),
        (T, "40100", [60, 300, 300, 300]),  # a second and five are waited for
        (G, "quotaError.RESOURCE_EXHAUSTED", [20, 40, 80, 160]),  # and so are five and ten
    ],
)
def test_where_nobody_says_how_long_each_pause_in_a_row_is_longer(
    bench: Bench, platform: Platform, code: str, pauses: list[int]
) -> None:
    store = LocalState(lambda: bench.now)
    refuse(bench, platform, code)
    found = []
    for _ in pauses:
        error = refused(bench, platform, store)
        assert isinstance(error, Throttled)
        found.append(round((error.until - bench.now).total_seconds()))
        bench.now = error.until
    assert found == pauses


def test_minutes_until_a_limit_is_lifted_are_minutes_and_seconds_are_seconds(bench: Bench) -> None:
    for name, value, pause in (
        ("meta_throttled", 7, timedelta(minutes=7)),
        ("meta_user_throttled", 90, timedelta(seconds=90)),
        ("meta_user_throttled", None, timedelta(minutes=1)),
    ):
        bench.faults.clear()
        bench.faults.add(Fault(name, value=value))
        error = refused(bench, M)
        assert isinstance(error, Throttled)
        assert error.until - NOW == pause


@pytest.mark.parametrize(
    ("platform", "code", "setting"),
    [
        (M, "101", "AAE_META__APP_ID and AAE_META__APP_SECRET"),
        *[(T, str(code), "AAE_TIKTOK__APP_ID and AAE_TIKTOK__SECRET") for code in TIKTOK_APPS],
        *[(G, f"{kind}.{name}", "AAE_GOOGLE__DEVELOPER_TOKEN") for kind, name, _ in GOOGLE_OPERATORS],
    ],
)
def test_a_refusal_of_our_own_app_names_the_settings(bench: Bench, platform: Platform, code: str, setting: str) -> None:
    refuse(bench, platform, code)
    error = refused(bench, platform)
    assert isinstance(error, Bug)
    assert setting in str(error)


def test_the_tables_above_have_every_class_on_every_platform() -> None:
    for cases in (META, TIKTOK, GOOGLE):
        kinds = {kind for *_, kind in cases}
        assert {Reauthorize, Skip, Bug, Blip, Throttled} <= kinds
