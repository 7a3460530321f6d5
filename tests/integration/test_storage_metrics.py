"""Numbers in the tables on both databases: replacing slices, the revision ledger, and reading columns back.

The properties are checked against a model of a few lines: a table is a dictionary from key to values.
"""

# ruff: noqa: DTZ001 - local and stored times are naive on purpose

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, Table, insert, select, update

from aae.frames import DAILY, ENTITIES, HOURLY
from aae.model import ENTITY_COLUMNS, METRIC_COLUMNS, Account, Granularity, Level, Platform, Slice, Totals
from aae.storage import accounts, fetches, metrics
from aae.storage.engine import reading
from aae.storage.entities import retire
from aae.storage.schema import ad_metrics_daily, ad_metrics_hourly, entities, metric_revisions, users
from aae.vault import Vault

FIRST = date(2026, 3, 28)  # Berlin's clocks go forward on the 29th
MEASURES = ("impressions", "clicks", "spend", "conversions", "revenue")
LARGEST = 10**18 - 1  # DECIMAL(18,6) in micros

Key = tuple[str, str, date, int | None]
Values = tuple[int, int, int, int | None, int | None]
Content = dict[Key, Values]

properties = hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
counts = st.integers(0, 3)
amounts = st.sampled_from([0, 1, 1_000_001, LARGEST, -LARGEST])
values = st.tuples(counts, counts, amounts, st.none() | amounts, st.none() | amounts)


@st.composite
def contents(draw: st.DrawFn, granularity: Granularity | None = None) -> tuple[Granularity, Content]:
    """Some rows of two campaigns with ads and one without, over three days."""
    granularity = granularity or draw(st.sampled_from(list(Granularity)))
    hours = st.none() if granularity is Granularity.DAILY else st.sampled_from([0, 2, 23])
    entity = st.sampled_from([("ad", "1"), ("ad", "2"), ("ad", "3"), ("campaign", "1")])
    day = st.sampled_from([FIRST + timedelta(days=n) for n in range(3)])
    key = st.tuples(entity, day, hours).map(lambda parts: (*parts[0], parts[1], parts[2]))
    return granularity, draw(st.dictionaries(key, values, max_size=6))


def above(level: str, external_id: str) -> tuple[str | None, str]:
    return (f"set-{external_id}", "camp") if level == "ad" else (None, external_id)


def frame(content: Content) -> pd.DataFrame:
    rows = [
        (level, external_id, *above(level, external_id), day, hour, *numbers)
        for (level, external_id, day, hour), numbers in content.items()
    ]
    # As objects first: a missing value must not turn the integers beside it into floats.
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS), dtype=object).astype(METRIC_COLUMNS)


def whole(account: Account, granularity: Granularity) -> Slice:
    return Slice(account.id, granularity, FIRST, FIRST + timedelta(days=2))


def store(
    connection: Connection, account: Account, piece: Slice, content: Content, **changes: Any
) -> metrics.StoreResult:
    arguments: dict[str, Any] = {"attribution": "7d", "run_id": "run", "now": datetime(2026, 4, 1, tzinfo=UTC)}
    return metrics.store_slice(connection, account, piece, frame(content), **arguments | changes)


def stored(connection: Connection, granularity: Granularity) -> Content:
    """The tables, as the dictionary that was stored."""
    facts: Table = ad_metrics_daily if granularity is Granularity.DAILY else ad_metrics_hourly
    hour = [facts.c.local_hour] if granularity is Granularity.HOURLY else []
    query = select(
        entities.c.level, entities.c.external_id, facts.c.local_date, *hour, *(facts.c[name] for name in MEASURES)
    ).join_from(facts, entities, facts.c.entity_id == entities.c.id)
    content: Content = {}
    for row in connection.execute(query):
        level, external_id, day, *rest = row
        at = rest.pop(0) if hour else None
        content[level, external_id, day, at] = tuple(rest)  # type: ignore[assignment]
    return content


def revisions(connection: Connection) -> set[tuple[Any, ...]]:
    table = metric_revisions
    query = select(
        entities.c.level,
        entities.c.external_id,
        table.c.local_date,
        table.c.local_hour,
        table.c.metric,
        table.c.old,
        table.c.new,
    ).join_from(table, entities, table.c.entity_id == entities.c.id)
    rows = [tuple(row) for row in connection.execute(query)]
    assert len(rows) == len(set(rows))
    return set(rows)


def differences(before: Content, after: Content) -> set[tuple[Any, ...]]:
    """What the ledger must say, counts in micros too: every value that changed, of rows that were there or came late.

    Late is a row of a day or hour of which there were others before.
    """
    nothing = (None,) * len(MEASURES)
    scales = (1_000_000, 1_000_000, 1, 1, 1)
    known = {key[2:] for key in before}
    return {
        (*key, metric, old if old is None else old * scale, new if new is None else new * scale)
        for key in before.keys() | {key for key in after if key[2:] in known}
        for metric, scale, old, new in zip(
            MEASURES, scales, before.get(key, nothing), after.get(key, nothing), strict=True
        )
        if old != new
    }


@contextmanager
def forgotten(engine: Engine) -> Iterator[Connection]:
    """A transaction that leaves nothing behind, so that every example finds the same tables."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def account(engine: Engine, vault: Vault, now: datetime) -> Account:
    return connect(engine, vault, now, "Europe/Berlin", "1001")


def connect(engine: Engine, vault: Vault, now: datetime, timezone: str, external_id: str) -> Account:
    with engine.begin() as connection:
        account_id, _ = accounts.connect_account(
            connection,
            vault,
            user_id=accounts.add_user(connection, email="a@example.com", name="Ann", now=now),
            platform=Platform.META,
            external_id=external_id,
            name="Shop",
            currency="EUR",
            timezone=timezone,
            login_customer_id=None,
            access_token=SecretStr("t"),
            refresh_token=None,
            expires_at=None,
            now=now,
        )
        return accounts.list_accounts(connection, ids=[account_id])[0]


@given(given_content=contents())
@properties
def test_storing_twice_is_storing_once(
    engine: Engine, account: Account, given_content: tuple[Granularity, Content]
) -> None:
    granularity, content = given_content
    piece = whole(account, granularity)
    with forgotten(engine) as connection:
        first = store(connection, account, piece, content)
        assert first == metrics.StoreResult(len(content), len(content), 0, 0)
        assert stored(connection, granularity) == content
        assert store(connection, account, piece, content) == metrics.StoreResult(len(content), 0, 0, 0)
        assert stored(connection, granularity) == content
        assert revisions(connection) == set()


@given(data=st.data())
@properties
def test_what_is_stored_last_holds_and_the_ledger_says_exactly_what_changed(
    engine: Engine, account: Account, data: st.DataObject
) -> None:
    granularity, before = data.draw(contents())
    _, after = data.draw(contents(granularity))
    # Often the same keys with other values, which independent drawing would seldom give.
    after |= {key: data.draw(values) for key in before if data.draw(st.booleans())}
    piece = whole(account, granularity)
    with forgotten(engine) as connection:
        store(connection, account, piece, before)
        result = store(connection, account, piece, after)
        assert stored(connection, granularity) == after
        assert revisions(connection) == differences(before, after)
        assert result == metrics.StoreResult(
            rows=len(after),
            inserted=len(after.keys() - before.keys()),
            updated=sum(before[key] != after[key] for key in before.keys() & after.keys()),
            deleted=len(before.keys() - after.keys()),
        )


@given(given_content=contents(), seed=st.integers(0, 99))
@properties
def test_the_order_of_slices_is_irrelevant(
    engine: Engine, account: Account, given_content: tuple[Granularity, Content], seed: int
) -> None:
    granularity, content = given_content
    pieces = [Slice(account.id, granularity, FIRST + timedelta(days=n), FIRST + timedelta(days=n)) for n in range(3)]
    random.Random(seed).shuffle(pieces)
    with forgotten(engine) as connection:
        for piece in pieces:
            part = {key: numbers for key, numbers in content.items() if key[2] == piece.since}
            store(connection, account, piece, part)
        assert stored(connection, granularity) == content
        assert revisions(connection) == set()


@given(given_content=contents())
@properties
def test_frames_and_totals_say_what_is_stored(
    engine: Engine, account: Account, given_content: tuple[Granularity, Content]
) -> None:
    granularity, content = given_content
    with forgotten(engine) as connection:
        store(connection, account, whole(account, granularity), content)
        frames = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST)
        totals = metrics.slice_totals(connection, account.id, whole(account, granularity))
        by_day = metrics.daily_totals(connection, account.id, FIRST, FIRST + timedelta(days=2))
    for found, dtypes in ((frames.entities, ENTITIES), (frames.daily, DAILY), (frames.hourly, HOURLY)):
        assert {name: str(dtype) for name, dtype in found.dtypes.items()} == dtypes
    found = frames.daily if granularity is Granularity.DAILY else frames.hourly
    other = frames.hourly if granularity is Granularity.DAILY else frames.daily
    assert other.empty
    named = frames.entities.set_index("entity_id")
    read = {}
    for row in found.astype(object).where(found.notna(), None).to_dict("records"):
        entity = named.loc[row["entity_id"]]
        key = (entity["level"], entity["external_id"], row["local_date"].date(), row.get("local_hour"))
        read[key] = (
            row["impressions"],
            row["clicks"],
            row["spend_micros"],
            row["conversions_micros"],
            row["revenue_micros"],
        )
    assert read == content
    assert totals == sum_up(content)
    if granularity is Granularity.DAILY:
        days = {key[2] for key in content}
        assert by_day == {day: sum_up({key: v for key, v in content.items() if key[2] == day}) for day in days}


@given(first=contents(), later=st.lists(st.tuples(contents(), st.integers(0, 2), st.booleans()), max_size=3))
@properties
def test_frames_brought_up_to_date_are_those_read_anew(
    engine: Engine,
    account: Account,
    first: tuple[Granularity, Content],
    later: list[tuple[tuple[Granularity, Content], int, bool]],
) -> None:
    now = datetime(2026, 4, 1, tzinfo=UTC)
    window = {"daily_since": FIRST, "hourly_since": FIRST + timedelta(days=1)}

    def fetch(piece: Slice, content: Content, minute: int) -> None:
        done = store(connection, account, piece, content)
        fetches.record(
            connection,
            account_id=account.id,
            piece=piece,
            started_at=now + timedelta(minutes=minute),
            finished_at=now + timedelta(minutes=minute),
            outcome="stored",
            rows_inserted=done.inserted,
            rows_updated=done.updated,
            rows_deleted=done.deleted,
        )

    with forgotten(engine) as connection:
        fetch(whole(account, first[0]), first[1], 0)
        frames = metrics.read_frames(connection, account.id, **window)
        for minute, ((granularity, content), offset, look) in enumerate(later, start=1):
            day = FIRST + timedelta(days=offset)
            part = {key: numbers for key, numbers in content.items() if key[2] == day}
            fetch(Slice(account.id, granularity, day, day), part, minute)
            if look:
                frames = metrics.read_frames(connection, account.id, **window, before=frames)
        known = metrics.read_frames(connection, account.id, **window, before=frames)
        anew = metrics.read_frames(connection, account.id, **window)
    for name in ("entities", "daily", "hourly"):
        pd.testing.assert_frame_equal(getattr(known, name), getattr(anew, name))
    assert (known.reach, known.version, known.account) == (anew.reach, anew.version, anew.account)


def test_only_the_days_that_changed_are_read_again_and_everything_once_a_day(engine: Engine, account: Account) -> None:
    day, key = timedelta(days=1), ("ad", "1", FIRST + timedelta(days=1), None)
    with forgotten(engine) as connection:
        store(connection, account, whole(account, Granularity.DAILY), {key: (1, 1, 1, 1, 1)})
        before = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST)
        # Behind the back of the log of fetches.
        connection.execute(update(ad_metrics_daily).values(clicks=9))
        same = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST, before=before)
        moved = metrics.read_frames(connection, account.id, daily_since=FIRST + day, hourly_since=FIRST, before=before)
    assert same.daily["clicks"].tolist() == [1]
    assert moved.daily["clicks"].tolist() == [9]


def test_hours_are_in_the_order_of_time_also_where_the_account_has_moved_to_another_zone(
    engine: Engine, account: Account
) -> None:
    """In the far west the 28th begins after the 29th has begun in the far east."""
    with forgotten(engine) as connection:
        for zone, day in (("Pacific/Pago_Pago", FIRST), ("Pacific/Kiritimati", FIRST + timedelta(days=1))):
            moved = replace(account, timezone=zone)
            content: Content = {("ad", ad, day, hour): (1, 1, 1, 1, 1) for ad in "21" for hour in range(24)}
            store(connection, moved, Slice(account.id, Granularity.HOURLY, day, day), content)
        hourly = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST).hourly
    keys = list(zip(*(hourly[name] for name in ("utc_start", "local_date", "local_hour", "entity_id")), strict=True))
    assert keys == sorted(keys)
    assert hourly["local_date"].iloc[0].date() == FIRST + timedelta(days=1)
    assert len(keys) == 96


def sum_up(content: Content) -> Totals:
    columns = list(zip(*content.values(), strict=True)) or [()] * 5
    known = [[value for value in column if value is not None] for column in columns]
    return Totals(*(sum(column) for column in known[:3]), *(sum(column) if column else None for column in known[3:]))


@given(micros=st.integers(-LARGEST, LARGEST))
@properties
def test_micros_round_trip_exactly(engine: Engine, account: Account, micros: int) -> None:
    content: Content = {("ad", "1", FIRST, None): (1, 1, micros, micros, None)}
    with forgotten(engine) as connection:
        store(connection, account, whole(account, Granularity.DAILY), content)
        assert stored(connection, Granularity.DAILY) == content
        frames = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST)
    assert frames.daily["spend_micros"].tolist() == frames.daily["conversions_micros"].tolist() == [micros]


def test_a_slice_leaves_everything_around_it_alone(engine: Engine, vault: Vault, now: datetime) -> None:
    one, other = (connect(engine, vault, now, "Europe/Berlin", name) for name in ("1", "2"))
    numbers: Values = (1, 1, 1, None, None)
    daily: Content = {("ad", "1", FIRST + timedelta(days=n), None): numbers for n in range(3)}
    hourly: Content = {("ad", "1", FIRST + timedelta(days=1), 5): numbers}
    with engine.begin() as connection:
        for account in (one, other):
            store(connection, account, whole(account, Granularity.DAILY), daily)
            store(connection, account, whole(account, Granularity.HOURLY), hourly)
        middle = Slice(one.id, Granularity.DAILY, FIRST + timedelta(days=1), FIRST + timedelta(days=1))
        assert store(connection, one, middle, {}).deleted == 1
        assert set(stored(connection, Granularity.HOURLY)) == set(hourly)
        left = [
            (row.account_id, row.local_date)
            for row in connection.execute(select(ad_metrics_daily).order_by(ad_metrics_daily.c.account_id))
        ]
    days = [FIRST + timedelta(days=n) for n in range(3)]
    assert left == [(one.id, days[0]), (one.id, days[2]), *((other.id, day) for day in days)]


def test_a_change_of_attribution_alone_is_stored_but_is_no_revision(engine: Engine, account: Account) -> None:
    content: Content = {("ad", "1", FIRST, None): (1, 1, 1, None, None)}
    piece = whole(account, Granularity.DAILY)
    with engine.begin() as connection:
        store(connection, account, piece, content, attribution="7d_click")
        assert store(connection, account, piece, content, attribution="1d_click").updated == 1
        assert connection.scalars(select(ad_metrics_daily.c.attribution)).all() == ["1d_click"]
        assert revisions(connection) == set()


@pytest.mark.parametrize(
    ("zone", "day", "hour", "utc"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 1, datetime(2026, 3, 29, 0)),
        ("Europe/Berlin", date(2026, 3, 29), 2, datetime(2026, 3, 29, 1)),  # skipped: becomes 03:00 summer time
        ("Europe/Berlin", date(2026, 3, 29), 3, datetime(2026, 3, 29, 1)),
        ("Europe/Berlin", date(2026, 10, 25), 2, datetime(2026, 10, 25, 0)),  # twice: the first
        ("Europe/Berlin", date(2026, 10, 25), 3, datetime(2026, 10, 25, 2)),
        ("America/New_York", date(2026, 3, 8), 2, datetime(2026, 3, 8, 7)),
        ("America/New_York", date(2026, 11, 1), 1, datetime(2026, 11, 1, 5)),
        ("Asia/Kathmandu", date(2026, 1, 1), 0, datetime(2025, 12, 31, 18, 15)),
        ("Australia/Lord_Howe", date(2026, 10, 4), 2, datetime(2026, 10, 3, 15, 30)),  # half an hour is skipped
        ("Africa/Cairo", date(2026, 4, 24), None, datetime(2026, 4, 23, 22)),  # midnight is skipped
        ("Europe/Berlin", date(2026, 3, 29), None, datetime(2026, 3, 28, 23)),
    ],
)
def test_local_hours_have_their_utc_beside_them(
    engine: Engine, vault: Vault, now: datetime, zone: str, day: date, hour: int | None, utc: datetime
) -> None:
    account = connect(engine, vault, now, zone, "1001")
    granularity = Granularity.DAILY if hour is None else Granularity.HOURLY
    facts = ad_metrics_daily if hour is None else ad_metrics_hourly
    with engine.begin() as connection:
        piece = Slice(account.id, granularity, day, day)
        store(connection, account, piece, {("ad", "1", day, hour): (1, 1, 1, None, None)})
        assert connection.scalar(select(facts.c.utc_start)) == utc.replace(tzinfo=UTC)
        frames = metrics.read_frames(connection, account.id, daily_since=day, hourly_since=day)
    if hour is not None:
        assert frames.hourly["utc_start"].tolist() == [pd.Timestamp(utc)]
        assert frames.hourly["local_hour"].tolist() == [hour]


@given(
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    day=st.dates(date(2020, 1, 1), date(2030, 12, 31)),
    hour=st.integers(0, 23),
)
def test_utc_starts_are_that_local_hour_or_just_after_a_gap(zone: str, day: date, hour: int) -> None:
    start = metrics._utc_start(ZoneInfo(zone), day, hour)
    local = start.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    wanted = datetime(day.year, day.month, day.day, hour)
    assert timedelta(0) <= local - wanted <= timedelta(hours=1)
    hour_before = (start - timedelta(hours=1)).replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    assert hour_before != wanted, "of two equal hours the first"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"local_date": pd.Timestamp(FIRST - timedelta(days=1))}, "outside of the slice"),
        ({"local_date": pd.Timestamp(FIRST + timedelta(days=3))}, "outside of the slice"),
        ({"local_date": pd.NaT}, "outside of the slice"),
        ({"local_hour": 3}, "hour does not fit"),
        ({"level": "ad_set"}, "of ads, or of campaigns"),
        ({"campaign_external_id": None}, "without the ids of what is above"),
        ({"ad_set_external_id": None}, "without the ids of what is above"),
    ],
)
def test_rows_that_do_not_belong_are_refused(
    engine: Engine, account: Account, change: dict[str, Any], complaint: str
) -> None:
    rows = frame({("ad", "1", FIRST, None): (1, 1, 1, None, None)}).assign(**change).astype(METRIC_COLUMNS)
    piece = whole(account, Granularity.DAILY)
    with forgotten(engine) as connection, pytest.raises(ValueError, match=complaint):
        metrics.store_slice(
            connection, account, piece, rows, attribution="", run_id=None, now=datetime(2026, 4, 1, tzinfo=UTC)
        )


def test_frames_of_another_shape_are_refused(engine: Engine, account: Account) -> None:
    rows = frame({("ad", "1", FIRST, 3): (1, 1, 1, None, None)})
    daily, hourly = whole(account, Granularity.DAILY), whole(account, Granularity.HOURLY)
    elsewhere = Slice(account.id + 1, Granularity.HOURLY, FIRST, FIRST)
    cases = [
        (daily, rows, "hour does not fit"),
        (hourly, rows.assign(local_hour=pd.NA).astype(METRIC_COLUMNS), "hour does not fit"),
        (hourly, rows.assign(local_hour=24).astype(METRIC_COLUMNS), "hour does not fit"),
        (hourly, pd.concat([rows, rows]), "two rows for the same"),
        (hourly, rows.drop(columns="clicks"), "have the columns"),
        (elsewhere, rows, "cannot be stored for account"),
    ]
    for piece, bad, complaint in cases:
        with forgotten(engine) as connection, pytest.raises(ValueError, match=complaint):
            metrics.store_slice(
                connection, account, piece, bad, attribution="", run_id=None, now=datetime(2026, 4, 1, tzinfo=UTC)
            )


def test_an_unknown_account_has_no_frames(engine: Engine) -> None:
    with reading(engine) as connection, pytest.raises(LookupError, match="no account 4711"):
        metrics.read_frames(connection, 4711, daily_since=FIRST, hourly_since=FIRST)


# Entities


def listing(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(ENTITY_COLUMNS)).astype(ENTITY_COLUMNS)


HIERARCHY = (
    ("campaign", "c", None, "Campaign", "active", 5_000_000, "sales"),
    ("ad_set", "s", "c", "Set", "paused", None, None),
    ("ad", "a", "s", "Ad", "active", None, None),
)


def known(connection: Connection) -> dict[tuple[str, str], Any]:
    return {(row.level, row.external_id): row for row in connection.execute(select(entities))}


def test_a_listing_is_stored_with_its_hierarchy(engine: Engine, account: Account, now: datetime) -> None:
    with engine.begin() as connection:
        assert metrics.upsert_entities(connection, account.id, listing(*HIERARCHY), now=now) == 3
        rows = known(connection)
        frames = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST)
    campaign, ad_set, ad = rows["campaign", "c"], rows["ad_set", "s"], rows["ad", "a"]
    assert (campaign.parent_id, ad_set.parent_id, ad.parent_id) == (None, campaign.id, ad_set.id)
    assert (campaign.daily_budget, campaign.channel, ad.name, ad.status) == (5_000_000, "sales", "Ad", "active")
    by_id = frames.entities.set_index("external_id")
    assert by_id["campaign_id"].tolist() == [campaign.id] * 3
    assert by_id["ad_set_id"].astype(object).where(by_id["ad_set_id"].notna(), None).tolist() == [
        None,
        ad_set.id,
        ad_set.id,
    ]
    assert by_id.loc["c", "daily_budget_micros"] == 5_000_000
    assert pd.isna(by_id.loc["a", "channel"])


def test_only_what_changed_is_counted_and_ids_stay(engine: Engine, account: Account, now: datetime) -> None:
    renamed = ("ad", "a", "s", "New name", "deleted", None, None)
    with engine.begin() as connection:
        metrics.upsert_entities(connection, account.id, listing(*HIERARCHY), now=now)
        before = known(connection)
        again = listing(*HIERARCHY[:2], HIERARCHY[2], renamed)  # pages may overlap: the last one holds
        assert metrics.upsert_entities(connection, account.id, again, now=now) == 1
        assert metrics.upsert_entities(connection, account.id, again, now=now) == 0
        after = known(connection)
    assert {key: row.id for key, row in after.items()} == {key: row.id for key, row in before.items()}
    assert (after["ad", "a"].name, after["ad", "a"].status) == ("New name", "deleted")


def test_when_an_entity_was_last_seen_is_kept_to_the_day(engine: Engine, account: Account, now: datetime) -> None:
    later = now + timedelta(days=1)
    with engine.begin() as connection:
        metrics.upsert_entities(connection, account.id, listing(*HIERARCHY), now=now)
        assert metrics.upsert_entities(connection, account.id, listing(HIERARCHY[0]), now=later) == 0
        rows = known(connection)
    assert (rows["campaign", "c"].first_seen_at, rows["campaign", "c"].last_seen_at) == (now, later)
    assert rows["ad", "a"].last_seen_at == now


def test_what_no_listing_names_for_two_days_is_called_deleted_until_one_names_it_again(
    engine: Engine, account: Account, now: datetime
) -> None:
    archived, pending = ("ad", "b", "s", "Old", "archived", None, None), ("ad", "p", "s", "New", "other", None, None)
    with engine.begin() as connection:
        metrics.upsert_entities(connection, account.id, listing(*HIERARCHY, archived, pending), now=now)
        before = known(connection)
        for hours, wanted in ((24, 0), (48, 0), (54, 2), (60, 0)):
            at = now + timedelta(hours=hours)
            metrics.upsert_entities(connection, account.id, listing(HIERARCHY[0]), now=at)
            assert retire(connection, account.id, now=at) == wanted, hours
        after = known(connection)
        assert [after[key].status for key in before] == ["active", "deleted", "deleted", "archived", "other"]
        metrics.upsert_entities(connection, account.id, listing(*HIERARCHY), now=at)
        assert retire(connection, account.id, now=at) == 0
        again = known(connection)
    for key, row in before.items():
        same = {name: value for name, value in row._mapping.items() if name != "last_seen_at"}
        assert {name: again[key]._mapping[name] for name in same} == same


def test_hostile_and_endless_names_are_stored_or_cut(engine: Engine, account: Account, now: datetime) -> None:
    hostile = "'; DROP TABLE entities; -- %s %(x)s :x \x00 🎈\u202e"
    rows = listing(
        ("campaign", "1", None, hostile, "active", None, hostile * 9),
        ("campaign", "2", None, "🎈" * 999, "x" * 99, None, None),
        ("campaign", "3", None, None, None, None, None),
    )
    with engine.begin() as connection:
        metrics.upsert_entities(connection, account.id, rows, now=now)
        assert metrics.upsert_entities(connection, account.id, rows, now=now) == 0
        found = known(connection)
    assert found["campaign", "1"].name == hostile
    assert len(found["campaign", "1"].channel) == 64
    assert found["campaign", "2"].name == "🎈" * 399 + "…"
    assert (found["campaign", "3"].name, found["campaign", "3"].status) == ("3", "other")


def test_children_of_unknown_parents_wait_or_bring_their_campaign(
    engine: Engine, account: Account, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        assert metrics.upsert_entities(connection, account.id, listing(HIERARCHY[2]), now=now) == 0
        assert "parent is unknown" in caplog.text
        assert metrics.upsert_entities(connection, account.id, listing(*HIERARCHY[1:]), now=now) == 2
        assert known(connection)["campaign", "c"].name == "c"
        assert metrics.upsert_entities(connection, account.id, listing(*HIERARCHY), now=now) == 1
        assert known(connection)["campaign", "c"].name == "Campaign"


def test_numbers_create_the_entities_they_name_until_a_listing_describes_them(
    engine: Engine, account: Account, now: datetime
) -> None:
    with engine.begin() as connection:
        piece = whole(account, Granularity.DAILY)
        store(connection, account, piece, {("ad", "7", FIRST, None): (1, 1, 1, None, None)})
        rows = known(connection)
        ad, ad_set, campaign = rows["ad", "7"], rows["ad_set", "set-7"], rows["campaign", "camp"]
        assert (ad.name, ad.parent_id, ad_set.parent_id, campaign.parent_id) == ("7", ad_set.id, campaign.id, None)
        described = listing(
            ("campaign", "camp", None, "Campaign", "active", None, None),
            ("ad_set", "set-7", "camp", "Set", "active", None, None),
            ("ad", "7", "set-7", "Seventh", "active", None, None),
        )
        assert metrics.upsert_entities(connection, account.id, described, now=now) == 3
        assert known(connection)["ad", "7"].id == ad.id
        assert known(connection)["ad", "7"].name == "Seventh"


def test_ids_differ_by_case_and_accounts_do_not_share_them(engine: Engine, vault: Vault, now: datetime) -> None:
    one, other = (connect(engine, vault, now, "UTC", name) for name in ("1", "2"))
    rows = listing(
        ("campaign", "abc", None, "a", "active", None, None), ("campaign", "ABC", None, "b", "active", None, None)
    )
    with engine.begin() as connection:
        for account in (one, other):
            assert metrics.upsert_entities(connection, account.id, rows, now=now) == 2
        assert len(connection.execute(select(entities)).all()) == 4


def test_many_rows_are_stored_and_read(engine: Engine, account: Account) -> None:
    content: Content = {
        ("ad", str(n), FIRST + timedelta(days=day), None): (n, 1, n * 1_000_003, None, n)
        for n in range(1500)
        for day in range(3)
    }
    with engine.begin() as connection:
        result = store(connection, account, whole(account, Granularity.DAILY), content)
        assert result.inserted == 4500
        frames = metrics.read_frames(connection, account.id, daily_since=FIRST, hourly_since=FIRST)
        totals = metrics.slice_totals(connection, account.id, whole(account, Granularity.DAILY))
    assert totals == sum_up(content)
    assert int(frames.daily["spend_micros"].sum()) == totals.spend_micros
    assert frames.daily[["local_date", "entity_id"]].apply(tuple, axis=1).is_monotonic_increasing


def test_levels_are_walked_top_down() -> None:
    """upsert_entities and read_frames rely on the order of the enumeration."""
    assert [level.value for level in Level] == ["campaign", "ad_set", "ad"]


@pytest.mark.parametrize("engine", [pytest.param("mysql", marks=pytest.mark.mysql)], indirect=True)
def test_amounts_beyond_the_columns_are_refused_not_cut(engine: Engine, account: Account) -> None:
    content: Content = {("ad", "1", FIRST, None): (1, 1, LARGEST + 1, None, None)}
    with forgotten(engine) as connection, pytest.raises(Exception, match="Out of range"):
        store(connection, account, whole(account, Granularity.DAILY), content)


@pytest.mark.parametrize("engine", [pytest.param("mysql", marks=pytest.mark.mysql)], indirect=True)
def test_a_name_too_long_for_its_column_is_refused_on_mysql(engine: Engine, now: datetime) -> None:
    with forgotten(engine) as connection, pytest.raises(Exception, match="Data too long"):
        connection.execute(insert(users).values(email="a" * 300, name="A", created_at=now))
