"""Old days become sums by campaign and nothing is lost, on both databases, wherever the process is ended.

The truth is a model of a few lines: what the facts of a day add up to by campaign, computed in Python.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection as Connecting
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, Table, event, func, insert, select, update

from aae.deadline import Deadline
from aae.jobs import retention
from aae.model import METRIC_COLUMNS, Account, Granularity, Level, Platform, Slice
from aae.notify.email import FileSender, Mail, compose
from aae.settings import RetentionSettings, Settings
from aae.storage import accounts, attempts, fetches, history, incidents, metrics, notifications, pruning, reports
from aae.storage.engine import connect as connect_to
from aae.storage.engine import reading
from aae.storage.entities import ensure
from aae.storage.schema import (
    ad_metrics_daily,
    ad_metrics_hourly,
    api_calls,
    attempt_beats,
    daily_summary,
    incident_events,
    metadata,
    metric_revisions,
    token_refreshes,
)
from aae.storage.schema import attempts as attempts_table
from aae.storage.schema import fetches as fetches_table
from aae.storage.schema import incidents as incidents_table
from aae.storage.schema import notifications as notifications_table
from aae.storage.schema import reports as reports_table
from aae.vault import Vault
from tests.proxy import Proxy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BEFORE = date(2026, 8, 24)  # of 22 November the 90th day before, the first that is kept whole
UNIX = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[str, date, int | None, int, int, int, int | None, int | None]
"""Entity, day, hour (None: a daily row), impressions, clicks, spend, conversions, revenue."""
CAMPAIGN_OF = {"ad1": "c1", "ad2": "c1", "ad3": "c2", "pmax": "pmax"}
Sums = dict[tuple[date, str], list[Any]]


class Killed(BaseException):
    """Ends the work as a signal would: nothing in the product handles it."""


@pytest.fixture
def account(engine: Engine, vault: Vault) -> Account:
    return connect(engine, vault, "1001")


def connect(engine: Engine, vault: Vault, external_id: str) -> Account:
    with engine.begin() as connection:
        user = accounts.add_user(connection, email="a@example.com", name="Ann", now=NOW)
        account_id, _ = accounts.connect_account(
            connection,
            vault,
            user_id=user,
            platform=Platform.META,
            external_id=external_id,
            name="Shop",
            currency="EUR",
            timezone="Europe/Berlin",
            login_customer_id=None,
            access_token=SecretStr("t"),
            refresh_token=None,
            expires_at=None,
            now=NOW,
        )
        campaigns = ensure(connection, account_id, Level.CAMPAIGN, dict.fromkeys(["c1", "c2", "pmax"]), now=NOW)
        sets = {"s1": campaigns["c1"], "s2": campaigns["c2"]}
        ad_sets = ensure(connection, account_id, Level.AD_SET, sets, now=NOW)
        ads = {"ad1": ad_sets["s1"], "ad2": ad_sets["s1"], "ad3": ad_sets["s2"]}
        ensure(connection, account_id, Level.AD, ads, now=NOW)
        return accounts.list_accounts(connection, ids=[account_id])[0]


def names(connection: Connection, account: Account) -> dict[str, int]:
    table = metadata.tables["entities"]
    rows = connection.execute(select(table.c.external_id, table.c.id).where(table.c.account_id == account.id))
    return {row.external_id: row.id for row in rows}


def fill(engine: Engine, account: Account, rows: list[Row]) -> None:
    with engine.begin() as connection:
        ids = names(connection, account)
        common = ["account_id", "entity_id", "local_date", "utc_start", "attribution"]
        measures = ["impressions", "clicks", "spend", "conversions", "revenue"]
        for table, hours in ((ad_metrics_daily, []), (ad_metrics_hourly, ["local_hour"])):
            given_rows = [
                (account.id, ids[name], day, UNIX, "", *([] if hour is None else [hour]), *numbers)
                for name, day, hour, *numbers in rows
                if (hour is None) == (table is ad_metrics_daily)
            ]
            if given_rows:
                columns = [*common, *hours, *measures]
                connection.execute(table.insert(), [dict(zip(columns, row, strict=True)) for row in given_rows])


def modelled(rows: list[Row]) -> Sums:
    """By day and campaign what is to be known for ever: of days without daily rows what the hours add up to."""
    daily_days = {day for _, day, hour, *_ in rows if hour is None}
    sums: Sums = {}
    for name, day, hour, impressions, clicks, spend, conversions, revenue in rows:
        young_or_known = day in daily_days or day >= BEFORE
        if hour is not None and young_or_known:
            continue
        row = sums.setdefault((day, CAMPAIGN_OF[name]), [0, 0, 0, 0, None, 0, 0, 0, None, 0, 0])
        row[0] += 1
        row[1] += impressions
        row[2] += clicks
        row[3] += spend
        if conversions is not None:
            row[4:8] = [(row[4] or 0) + conversions, row[5] + 1, row[6] + spend, row[7] + clicks]
        if revenue is not None:
            row[8:11] = [(row[8] or 0) + revenue, row[9] + 1, row[10] + spend]
    return sums


def known(engine: Engine, account: Account) -> Sums:
    """The same, as the product reads it."""
    with reading(engine) as connection:
        campaigns = {entity: name for name, entity in names(connection, account).items()}
        found = history.campaign_days(connection, [account.id], date(2000, 1, 1), date(2100, 1, 1))
    assert len({(row.local_date, row.campaign_id) for row in found}) == len(found)
    return {
        (row.local_date, campaigns[row.campaign_id]): [getattr(row, name) for name in history._SUMS] for row in found
    }


def settings_for(tmp_path: Path, **more: Any) -> Settings:
    return Settings(_env_file=None, state_dir=tmp_path, retention=RetentionSettings(**more))


def dates_of(engine: Engine, table: Table) -> set[date]:
    with reading(engine) as connection:
        return set(connection.scalars(select(table.c.local_date)))


def count(engine: Engine, table: Table) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def empty(engine: Engine, *tables: Table) -> None:
    with engine.begin() as connection:
        for table in tables:
            connection.execute(table.delete())


amounts = st.sampled_from([0, 1, 999_999, 1_000_001, 123_456_789_012_345_678])
numbers = st.tuples(st.integers(0, 9), st.integers(0, 9), amounts, st.none() | amounts, st.none() | amounts)


@st.composite
def worlds(draw: st.DrawFn) -> list[Row]:
    """Days around the limit: with days and hours, with days only, with hours only."""
    key = st.tuples(
        st.sampled_from(sorted(CAMPAIGN_OF)),
        st.sampled_from([BEFORE + timedelta(days=n) for n in (-400, -3, -2, -1, 0, 1)]),
        st.sampled_from([None, None, 0, 13, 23]),
    )
    drawn = draw(st.dictionaries(key, numbers, max_size=14))
    return [(*place, *values) for place, values in drawn.items()]


@contextmanager
def killed_after(engine: Engine, statements: int) -> Iterator[None]:
    """The work in the block ends at this statement, in the middle of its transaction."""
    left = iter(range(statements))

    def count_down(*_: object) -> None:
        if next(left, None) is None:
            raise Killed

    event.listen(engine, "before_cursor_execute", count_down)
    try:
        yield
    except Killed:
        pass
    finally:
        event.remove(engine, "before_cursor_execute", count_down)


@given(world=worlds(), data=st.data())
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_numbers_and_wherever_it_is_killed_every_sum_is_the_same_to_the_millionth(
    engine: Engine, account: Account, tmp_path: Path, world: list[Row], data: st.DataObject
) -> None:
    empty(engine, daily_summary, ad_metrics_daily, ad_metrics_hourly)
    fill(engine, account, world)
    settings = settings_for(tmp_path, rows_at_once=data.draw(st.integers(1, 4)))
    whole = {key: row for key, row in modelled(world).items() if key[0] in {r[1] for r in world if r[2] is None}}
    assert known(engine, account) == whole
    for statements in data.draw(st.lists(st.integers(1, 40), max_size=4)):
        with killed_after(engine, statements):
            retention.keep_small(engine, settings, now=NOW)
        seen = known(engine, account)
        assert {key: seen.get(key) for key in whole} == whole, "at every moment"
    first = retention.keep_small(engine, settings, now=NOW)
    assert (first.failed, first.finished) == ([], True)
    assert known(engine, account) == modelled(world)
    assert min(dates_of(engine, ad_metrics_daily) | dates_of(engine, ad_metrics_hourly), default=BEFORE) >= BEFORE
    assert max(dates_of(engine, daily_summary), default=date.min) < BEFORE
    again = retention.keep_small(engine, settings, now=NOW)
    assert (again.days, again.daily_rows, again.hourly_rows) == (0, 0, 0)
    assert known(engine, account) == modelled(world)


def big_world(days: int = 12, hours: int = 6) -> list[Row]:
    """Plain old days with every hour's rows, some numbers unknown."""
    rows: list[Row] = []
    for age in range(1, days + 1):
        day = BEFORE - timedelta(days=age)
        for number, name in enumerate(sorted(CAMPAIGN_OF)):
            for hour in [None, *range(hours)]:
                told = None if (number + age) % 3 == 0 else 1_000_003 * age
                rows.append((name, day, hour, age, number, 10_000_019 * age + number, told, told))
    return rows


def keep_small_apart(url: str, folder: Path, begun: Connecting) -> None:
    """In a process of its own, in many small transactions."""
    engine = connect_to(url)
    begun.send(True)
    done = retention.keep_small(engine, settings_for(folder, rows_at_once=8), now=NOW)
    begun.send((done.finished, done.failed))


def test_a_process_that_is_killed_again_and_again_loses_nothing_and_the_last_one_finishes(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    # What takes long to import is imported once.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    world = big_world()
    fill(engine, account, world)
    url = engine.url.render_as_string(hide_password=False)
    chance = random.Random(7)
    for round_number in range(6):
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=keep_small_apart, args=(url, tmp_path, theirs))
        process.start()
        theirs.close()
        assert ours.recv() is True
        if round_number < 5:
            time.sleep(chance.uniform(0.005, 0.15))
            process.kill()
        else:
            assert ours.recv() == (True, [])
        process.join()
        ours.close()
        assert known(engine, account) == modelled(world), "nothing is lost or counted twice at any moment"
    assert count(engine, ad_metrics_daily) == count(engine, ad_metrics_hourly) == 0


@pytest.mark.mysql
@pytest.mark.parametrize("before", [True, False], ids=["never heard of", "answer lost"])
def test_a_commit_that_is_cut_off_is_made_again_or_found_made(
    engine: Engine, account: Account, tmp_path: Path, before: bool
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("no network to cut")
    from tests.servers import connected

    world = big_world(days=6)
    fill(engine, account, world)
    with Proxy(engine.url.port or 3306) as proxy:
        through = engine.url.set(port=proxy.port).render_as_string(hide_password=False)
        with connected(through) as shaky:
            proxy.cut_at_commit(before=before, skip=1, times=4)
            outcome = retention.keep_small(shaky, settings_for(tmp_path, rows_at_once=8), now=NOW)
            assert (proxy.cuts, outcome.failed) == (4, [])
    assert known(engine, account) == modelled(world)
    assert count(engine, ad_metrics_daily) == count(engine, ad_metrics_hourly) == 0


def frame(rows: list[Row]) -> pd.DataFrame:
    given_rows = [
        ("campaign", name, None, name, day, hour, *values)
        if name == "pmax"
        else ("ad", name, "s", "c", day, hour, *values)
        for name, day, hour, *values in rows
    ]
    return pd.DataFrame(given_rows, columns=list(METRIC_COLUMNS), dtype=object).astype(METRIC_COLUMNS)


def store(engine: Engine, account: Account, rows: list[Row], since: date, until: date) -> None:
    piece = Slice(account.id, Granularity.DAILY, since, until)
    with engine.begin() as connection:
        metrics.store_slice(connection, account, piece, frame(rows), attribution="", run_id="backfill", now=NOW)


def test_a_backfill_of_a_folded_day_replaces_it_and_a_day_the_platform_has_forgotten_keeps_its_sums(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    settings, days = settings_for(tmp_path), [BEFORE - timedelta(days=age) for age in (3, 2, 1)]
    world: list[Row] = [("ad1", day, None, 5, 1, 7_000_000, None, 9) for day in days]
    fill(engine, account, world)
    retention.keep_small(engine, settings, now=NOW)
    # The platform tells of the second day only, with other numbers, and with another campaign.
    told: list[Row] = [("ad1", days[1], None, 6, 2, 8_000_001, 3, None), ("pmax", days[1], None, 1, 0, 1, None, None)]
    store(engine, account, told, days[0], days[2])
    expected = modelled([world[0], world[2], *told])
    assert known(engine, account) == expected, "at once, the summary's old day is not counted beside it"
    assert dates_of(engine, daily_summary) == {days[0], days[2]}
    retention.keep_small(engine, settings, now=NOW)
    assert known(engine, account) == expected
    assert dates_of(engine, ad_metrics_daily) == set()


def test_facts_beside_a_summary_are_the_newer_ones(engine: Engine, account: Account, tmp_path: Path) -> None:
    # As a process of the version before this one stores them.
    day = BEFORE - timedelta(days=1)
    fill(engine, account, [("ad1", day, None, 5, 1, 7, None, 9)])
    retention.keep_small(engine, settings_for(tmp_path), now=NOW)
    newer: list[Row] = [("ad3", day, None, 1, 1, 1, 1, 1)]
    fill(engine, account, newer)
    retention.keep_small(engine, settings_for(tmp_path), now=NOW)
    assert known(engine, account) == modelled(newer)


def test_days_are_the_accounts_own(engine: Engine, vault: Vault, tmp_path: Path) -> None:
    account = connect(engine, vault, "1002")
    fill(engine, account, [("ad1", BEFORE, None, 1, 1, 1, 1, 1)])
    berlins_midnight = datetime(2026, 11, 22, 23, tzinfo=UTC)
    retention.keep_small(engine, settings_for(tmp_path), now=berlins_midnight - timedelta(seconds=1))
    assert dates_of(engine, daily_summary) == set()
    retention.keep_small(engine, settings_for(tmp_path), now=berlins_midnight)
    assert dates_of(engine, daily_summary) == {BEFORE}


def test_a_preview_says_exactly_what_then_goes_and_changes_nothing(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    fill(engine, account, [*big_world(days=3), ("ad1", BEFORE - timedelta(days=9), 4, 1, 1, 1, None, None)])
    settings = settings_for(tmp_path, rows_at_once=5)
    settings.reports_dir.mkdir(parents=True)
    for name in ("2026-08-01-user-1.html", "2026-11-20-user-1.html", "2026-08-01-notes.txt"):
        (settings.reports_dir / name).write_text("x")
    mails = {
        f"{'a' * 32}.eml": LONG_AGO,
        f".{'b' * 32}.77.tmp": LONG_AGO,
        f"{'c' * 32}.eml": NOW,
        "notes.eml": LONG_AGO,
    }
    settings.outbox_dir.mkdir()
    for name, at in mails.items():
        (settings.outbox_dir / name).write_text("x")
        os.utime(settings.outbox_dir / name, (at.timestamp(), at.timestamp()))
    before = known(engine, account)
    told = retention.preview(engine, settings, now=NOW)
    assert known(engine, account) == before
    assert (told.removed["report files"], told.removed["mail files"]) == (1, 2)
    assert {path.name for path in settings.outbox_dir.iterdir()} == set(mails)
    steps: list[int] = []
    done = retention.keep_small(engine, settings, now=NOW, show=lambda so_far: steps.append(so_far.hourly_rows))
    assert replace(done, longest_seconds=0) == told
    assert (done.days, done.hourly_rows) == (4, 3 * 4 * 6 + 1)
    assert len(set(steps)) > 3, "progress is shown as it goes"
    assert sorted(path.name for path in settings.reports_dir.iterdir()) == [
        "2026-08-01-notes.txt",
        "2026-11-20-user-1.html",
    ]
    assert {path.name for path in settings.outbox_dir.iterdir()} == {f"{'c' * 32}.eml", "notes.eml"}


def test_the_mails_that_are_kept_as_files_go_with_the_reports_in_them(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, reports_days=30)
    message = compose(
        Mail("a@example.com", "A", False, "Title", "Text", {}, "key", NOW),
        sender="AAE <a@b.example>",
        public_url="http://x",
    )
    FileSender(settings.outbox_dir).send(message)
    (file,) = settings.outbox_dir.iterdir()
    for age, left in ((30, [file]), (32, [])):
        at = (NOW - timedelta(days=age)).timestamp()
        os.utime(file, (at, at))
        retention.keep_small(engine, settings, now=NOW)
        assert list(settings.outbox_dir.iterdir()) == left


def test_at_the_time_limit_it_stops_and_the_next_one_goes_on(engine: Engine, account: Account, tmp_path: Path) -> None:
    fill(engine, account, big_world(days=4))
    settings = settings_for(tmp_path, rows_at_once=1)
    ticks = iter(range(1000))
    deadline = Deadline(4, monotonic=lambda: float(next(ticks)))
    first = retention.keep_small(engine, settings, now=NOW, deadline=deadline)
    assert not first.finished
    assert 0 < first.days < 4
    assert retention.keep_small(engine, settings, now=NOW).finished
    assert known(engine, account) == modelled(big_world(days=4))


def test_sums_that_would_differ_stop_that_account_and_no_other(
    engine: Engine, vault: Vault, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = connect(engine, vault, "1002")
    world = big_world(days=2, hours=1)
    for each in (account, other):
        fill(engine, each, world)
    honest = history._sums_where

    def wrong(connection: Connection, facts: Table, where: Any) -> tuple[int, ...]:
        sums = honest(connection, facts, where)
        mine = where.compile().params.get("account_id_1") == account.id
        return (sums[0], sums[1] + 1, *sums[2:]) if mine else sums

    monkeypatch.setattr(history, "_sums_where", wrong)
    outcome = retention.keep_small(engine, settings_for(tmp_path), now=NOW)
    assert len(outcome.failed) == 1
    assert "nothing was folded" in outcome.failed[0]
    assert known(engine, account) == known(engine, other) == modelled(world)
    with reading(engine) as connection:
        assert set(connection.scalars(select(daily_summary.c.account_id))) == {other.id}
        assert set(connection.scalars(select(ad_metrics_daily.c.account_id))) == {account.id}


def test_somebody_who_stores_numbers_meanwhile_hardly_waits(engine: Engine, account: Account, tmp_path: Path) -> None:
    world = big_world(days=20)
    fill(engine, account, world)
    today = NOW.date()
    waits: list[float] = []
    over = threading.Event()

    def keep_storing() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            store(engine, account, [("pmax", today, None, len(waits), 0, 1, None, None)], today, today)
            waits.append(time.perf_counter() - begun)
            time.sleep(0.02)

    writer = threading.Thread(target=keep_storing)
    writer.start()
    try:
        outcome = retention.keep_small(engine, settings_for(tmp_path, rows_at_once=50), now=NOW)
    finally:
        over.set()
        writer.join()
    assert outcome.finished
    assert len(waits) > 2, "it went on storing"
    assert max(waits) < 20, "it never came near SQLite's patience of 30 s"
    seen = {key: row for key, row in known(engine, account).items() if key[0] < BEFORE}
    assert seen == modelled(world)


# Records


LONG_AGO = NOW - timedelta(days=800)


def kept_ids(engine: Engine, table: Table) -> set[int]:
    with reading(engine) as connection:
        return set(connection.scalars(select(table.c.id)))


def prune(engine: Engine, tmp_path: Path, **more: Any) -> retention.RetentionOutcome:
    return retention.keep_small(engine, settings_for(tmp_path, **more), now=NOW)


def test_fetches_stay_as_long_as_planning_or_the_last_of_each_kind_needs_them(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    def record(until: date, finished: datetime, granularity: Granularity = Granularity.DAILY) -> int:
        with engine.begin() as connection:
            return fetches.record(
                connection,
                account_id=account.id,
                piece=Slice(account.id, granularity, until, until),
                started_at=finished,
                finished_at=finished,
                outcome="stored",
            )

    old_day, day = date(2024, 1, 1), NOW.date()
    gone = record(old_day, LONG_AGO)
    planned = record(day - timedelta(days=40), LONG_AGO)
    last_hourly = record(old_day, LONG_AGO, Granularity.HOURLY)
    backfill = record(old_day, NOW)
    newest = record(day, NOW)
    outcome = prune(engine, tmp_path)
    assert outcome.removed["fetches"] == 1
    assert kept_ids(engine, fetches_table) == {planned, last_hourly, backfill, newest}
    assert gone not in kept_ids(engine, fetches_table)


def test_calls_go_with_the_fetches_of_their_time(engine: Engine, account: Account, tmp_path: Path) -> None:
    for at in (LONG_AGO, NOW - timedelta(days=80), NOW):
        with engine.begin() as connection:
            fetches.record_calls(connection, account.id, {"metrics": 2, "totals": 1}, at=at, run_id="run")
    assert prune(engine, tmp_path).removed["api_calls"] == 2
    assert count(engine, api_calls) == 4


def test_an_account_with_a_year_of_history_keeps_the_record_of_having_fetched_it(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    day = NOW.date() - timedelta(days=300)
    with engine.begin() as connection:
        for _ in range(2):
            fetches.record(
                connection,
                account_id=account.id,
                piece=Slice(account.id, Granularity.DAILY, day, day + timedelta(days=_)),
                started_at=LONG_AGO,
                finished_at=LONG_AGO,
                outcome="stored",
            )
        connection.execute(
            insert(fetches_table).from_select(
                [
                    "account_id",
                    "granularity",
                    "since",
                    "until",
                    "started_at",
                    "finished_at",
                    "outcome",
                    "rows_fetched",
                    "rows_inserted",
                    "rows_updated",
                    "rows_deleted",
                    "api_calls",
                ],
                select(
                    *(
                        fetches_table.c[name]
                        for name in (
                            "account_id",
                            "granularity",
                            "since",
                            "until",
                            "started_at",
                            "finished_at",
                            "outcome",
                            "rows_fetched",
                            "rows_inserted",
                            "rows_updated",
                            "rows_deleted",
                            "api_calls",
                        )
                    )
                ).limit(1),
            )
        )
    year = settings_for(tmp_path).model_copy(
        update={"fetch": settings_for(tmp_path).fetch.model_copy(update={"first_days": 365})}
    )
    retention.keep_small(engine, year, now=NOW)
    assert count(engine, fetches_table) == 3
    prune(engine, tmp_path)
    assert count(engine, fetches_table) == 1


def test_what_says_whether_an_owner_was_told_stays(engine: Engine, account: Account, tmp_path: Path) -> None:
    def log(outcome: str, version: int, at: datetime) -> None:
        with engine.begin() as connection:
            accounts.log_refresh(connection, account_id=account.id, at=at, outcome=outcome, token_version=version)

    for number, outcome in enumerate(["still_valid", "refreshed", "permanent_failure", "still_valid"]):
        log(outcome, number, LONG_AGO + timedelta(hours=number))
    log("still_valid", 9, NOW)
    assert prune(engine, tmp_path).removed["token_refreshes"] == 2
    with reading(engine) as connection:
        kept = list(connection.execute(select(token_refreshes.c.outcome, token_refreshes.c.token_version)))
        assert sorted(map(tuple, kept)) == [("permanent_failure", 2), ("refreshed", 1), ("still_valid", 9)]
        assert (loss := accounts.last_loss(connection, account.id)) is not None
        assert loss.token_version == 2


def open_incident(connection: Connection, user_id: int, fingerprint: str, at: datetime) -> int:
    made = incidents.insert(
        connection,
        user_id=user_id,
        account_id=None,
        entity_id=None,
        fingerprint=fingerprint,
        metric="cpa",
        level="campaign",
        state="opened",
        severity="high",
        currency="EUR",
        stake=None,
        data={},
        now=at,
    )
    assert made is not None
    incidents.add_event(connection, made, at=at, state="opened", severity="high", data={})
    return made


def test_incidents_go_with_their_history_a_year_after_their_end_and_open_ones_never(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        over = open_incident(connection, account.user_id, "over", LONG_AGO)
        incidents.update(connection, over, now=LONG_AGO, state="resolved")
        long = open_incident(connection, account.user_id, "long", LONG_AGO)
        incidents.update(connection, long, now=NOW - timedelta(days=10), state="resolved")
        still = open_incident(connection, account.user_id, "still", LONG_AGO)
        newest = open_incident(connection, account.user_id, "newest", LONG_AGO)
        incidents.update(connection, newest, now=LONG_AGO, state="resolved")
    assert prune(engine, tmp_path).removed["incidents"] == 1
    assert kept_ids(engine, incidents_table) == {long, still, newest}, "the newest id is never given away again"
    with reading(engine) as connection:
        assert set(connection.scalars(select(incident_events.c.incident_id))) == {long, still, newest}


def test_an_incident_that_is_taken_up_again_in_between_stays(engine: Engine, account: Account) -> None:
    with engine.begin() as connection:
        over = open_incident(connection, account.user_id, "over", LONG_AGO)
        incidents.update(connection, over, now=LONG_AGO, state="resolved")
        open_incident(connection, account.user_id, "newest", NOW)
    (rule,) = (r for r in pruning.rules(RetentionSettings(), now=NOW, planning_days=42) if r.name == "incidents")
    with reading(engine) as connection:
        chosen = pruning.choose(connection, rule, after=0)
    assert chosen.ids == (over,)
    with engine.begin() as connection:
        assert incidents.reopen(connection, over, now=NOW, state="opened", severity="high", stake=None, data={})
    with engine.begin() as connection:
        assert pruning.remove(connection, rule, chosen.ids) == 0
    assert over in kept_ids(engine, incidents_table)


def test_notifications_that_wait_to_be_sent_stay_and_unread_ones_stay_longer(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    def notify(key: str, days: int, *, state: str, read: bool) -> None:
        at = NOW - timedelta(days=days)
        with engine.begin() as connection:
            notifications.add(
                connection,
                user_id=account.user_id,
                kind="daily_report",
                urgency="normal",
                title="T",
                message="M",
                data={},
                dedupe_key=key,
                wants_email=True,
                now=at,
            )
            table = notifications_table
            values = {"email_state": state, "read_at": at if read else None}
            connection.execute(update(table).where(table.c.dedupe_key == key).values(**values))

    notify("ancient, waits", 800, state="pending", read=True)
    notify("ancient, being sent", 800, state="sending", read=False)
    notify("ancient, unread", 800, state="sent", read=False)
    notify("old, unread", 100, state="failed", read=False)
    notify("old, read", 100, state="not_wanted", read=True)
    notify("young, read", 10, state="sent", read=True)
    notify("newest", 0, state="sent", read=True)
    assert prune(engine, tmp_path).removed["notifications"] == 2
    with reading(engine) as connection:
        kept = set(connection.scalars(select(notifications_table.c.dedupe_key)))
    assert kept == {"ancient, waits", "ancient, being sent", "old, unread", "young, read", "newest"}


def test_reports_revisions_and_ended_attempts_go_and_the_newest_attempts_number_is_never_used_again(
    engine: Engine, account: Account, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        for day in (date(2024, 1, 1), NOW.date() - timedelta(days=80), NOW.date()):
            reports.save(
                connection,
                user_id=account.user_id,
                report_date=day,
                now=datetime.combine(day, datetime.min.time(), UTC),
                completeness=1,
                summary={},
                html="",
                csv="",
                markdown="",
            )
        entity = names(connection, account)["ad1"]
        for day, at in ((date(2024, 1, 1), LONG_AGO), (date(2024, 1, 1), NOW), (NOW.date(), NOW)):
            values = {"account_id": account.id, "entity_id": entity, "granularity": "daily", "local_date": day}
            connection.execute(insert(metric_revisions).values(**values, metric="spend", old=1, new=2, changed_at=at))
        tokens = []
        for number in range(3):
            token = attempts.take(connection, f"job {number}", run_id="r", process=attempts.Process("here", 1, 1))
            assert token is not None
            tokens.append(token)
            connection.execute(update(attempts_table).where(attempts_table.c.id == token).values(started_at=LONG_AGO))
            if number != 1:
                attempts.end(connection, token, "ended")
                connection.execute(update(attempts_table).where(attempts_table.c.id == token).values(ended_at=LONG_AGO))
    removed = prune(engine, tmp_path).removed
    assert (removed["reports"], removed["metric_revisions"], removed["attempts"]) == (1, 1, 1)
    assert kept_ids(engine, attempts_table) == set(tokens[1:])
    assert count(engine, attempt_beats) == 2
    assert count(engine, reports_table) == 2
    with engine.begin() as connection:
        taken = attempts.take(connection, "job 0", run_id="r2", process=attempts.Process("here", 1, 1))
    assert taken not in tokens


def test_many_records_go_in_small_pieces_and_all_of_them(engine: Engine, account: Account, tmp_path: Path) -> None:
    with engine.begin() as connection:
        entity = names(connection, account)["ad1"]
        columns = ["account_id", "entity_id", "granularity", "local_date", "metric", "old", "new", "changed_at"]
        old = [(account.id, entity, "daily", date(2024, 1, 1), "spend", n, n, LONG_AGO) for n in range(4500)]
        young = [(account.id, entity, "daily", NOW.date(), "spend", n, n, NOW) for n in range(10)]
        connection.execute(metric_revisions.insert(), [dict(zip(columns, row, strict=True)) for row in old + young])
    removed = prune(engine, tmp_path, rows_at_once=700).removed
    assert removed["metric_revisions"] == 4500
    assert count(engine, metric_revisions) == 10
