"""Reports, notifications, incidents and the fetch log: what must happen once happens once, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import IntegrityError

from aae.model import Granularity, Platform, Slice, Totals
from aae.storage import accounts, fetches, incidents, notifications, reports
from aae.storage.engine import reading
from aae.storage.notifications import NotificationRow
from aae.storage.schema import api_calls
from aae.vault import Vault

DAY = date(2026, 11, 21)


@pytest.fixture
def user_id(engine: Engine, now: datetime) -> int:
    with engine.begin() as connection:
        return accounts.add_user(connection, email="a@example.com", name="Ann", now=now)


@pytest.fixture
def account_id(engine: Engine, vault: Vault, user_id: int, now: datetime) -> int:
    with engine.begin() as connection:
        return accounts.connect_account(
            connection,
            vault,
            user_id=user_id,
            platform=Platform.META,
            external_id="1001",
            name="Shop",
            currency="EUR",
            timezone="Europe/Berlin",
            login_customer_id=None,
            access_token=SecretStr("t"),
            refresh_token=None,
            expires_at=None,
            now=now,
        )[0]


def notify(connection: Connection, user_id: int, now: datetime, **changes: Any) -> bool:
    values: dict[str, Any] = {
        "kind": "daily_report",
        "urgency": "normal",
        "title": "Title",
        "message": "Message",
        "data": {"link": "x"},
        "dedupe_key": "key",
        "wants_email": True,
        "now": now,
    }
    return notifications.add(connection, user_id=user_id, **values | changes)


def open_incident(connection: Connection, user_id: int, now: datetime, **changes: Any) -> int | None:
    values: dict[str, Any] = {
        "account_id": None,
        "entity_id": None,
        "fingerprint": "1:cpa:7",
        "metric": "cpa",
        "level": "campaign",
        "state": "opened",
        "severity": "high",
        "currency": "EUR",
        "stake": 12_340_000,
        "data": {"current": 1.5},
        "now": now,
    }
    return incidents.insert(connection, user_id=user_id, **values | changes)


def save_report(connection: Connection, user_id: int, now: datetime) -> bool:
    return reports.save(
        connection,
        user_id=user_id,
        report_date=DAY,
        now=now,
        completeness=0.875,
        summary={"spend": 1, "missing": float("nan")},
        html="<p>" + "é" * 40_000,
        csv="a,b",
        markdown="# A",
    )


@pytest.mark.parametrize(
    "write",
    [
        save_report,
        notify,
        lambda connection, user_id, now: open_incident(connection, user_id, now) is not None,
    ],
    ids=["report", "notification", "incident"],
)
def test_of_many_at_once_one_writes(
    engine: Engine, user_id: int, now: datetime, write: Callable[[Connection, int, datetime], bool]
) -> None:
    def attempt(_: int) -> bool:
        with engine.begin() as connection:
            return write(connection, user_id, now)

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(attempt, range(6))) == [False] * 5 + [True]


def test_losing_the_race_leaves_the_rest_of_the_transaction(engine: Engine, user_id: int, now: datetime) -> None:
    with engine.begin() as connection:
        assert notify(connection, user_id, now)
        assert not notify(connection, user_id, now)
        assert notify(connection, user_id, now, dedupe_key="other")
    with reading(engine) as connection:
        assert {row.dedupe_key for row in notifications.list_for(connection, user_id)} == {"key", "other"}


def test_other_violations_are_not_taken_for_a_lost_race(engine: Engine, now: datetime) -> None:
    with engine.connect() as connection, pytest.raises(IntegrityError):
        notify(connection, 4711, now)


def test_a_report_comes_back_whole(engine: Engine, user_id: int, now: datetime) -> None:
    with engine.begin() as connection:
        assert not reports.exists(connection, user_id, DAY)
        assert save_report(connection, user_id, now)
        assert reports.exists(connection, user_id, DAY)
        report = reports.get(connection, user_id, DAY)
        assert reports.get(connection, user_id, DAY - timedelta(days=1)) is None
    assert report is not None
    assert (report.completeness, report.summary) == (0.875, {"spend": 1, "missing": None})
    assert (len(report.html), report.csv, report.markdown, report.created_at) == (40_003, "a,b", "# A", now)


def test_hostile_text_is_stored_as_it_is_or_cut(engine: Engine, user_id: int, now: datetime) -> None:
    hostile = "'; DROP TABLE users; -- \x00 \u202e 🎈 %s \\ \"\n"
    with engine.begin() as connection:
        notify(connection, user_id, now, title=hostile, message=hostile, data={hostile: [hostile]})
        notify(connection, user_id, now, title="x" * 301 + "\ud800", message="\ud800", dedupe_key="2")
        second, first = notifications.list_for(connection, user_id)
    assert (first.title, first.message, first.data) == (hostile, hostile, {hostile: [hostile]})
    assert (second.title, second.message) == ("x" * 299 + "…", "?")


def test_the_list_is_newest_first_and_its_owners(engine: Engine, user_id: int, now: datetime) -> None:
    with engine.begin() as connection:
        other = accounts.add_user(connection, email="b@example.com", name="Bob", now=now)
        for hours in range(3):
            notify(connection, user_id, now + timedelta(hours=hours), dedupe_key=str(hours))
        notify(connection, other, now, dedupe_key="bobs")
        assert [row.dedupe_key for row in notifications.list_for(connection, user_id, limit=2)] == ["2", "1"]


def test_an_email_is_claimed_by_one_worker_only(engine: Engine, user_id: int, now: datetime) -> None:
    with engine.begin() as connection:
        for number in range(12):
            notify(connection, user_id, now, dedupe_key=str(number))
        notify(connection, user_id, now, dedupe_key="silent", wants_email=False)

    def work(_: int) -> list[int]:
        claimed = []
        while True:
            with engine.begin() as connection:
                row = notifications.claim_email(connection, lease_seconds=60)
            if row is None:
                return claimed
            claimed.append(row.id)

    with ThreadPoolExecutor(4) as pool:
        claimed = [row for rows in pool.map(work, range(4)) for row in rows]
    assert len(claimed) == len(set(claimed)) == 12


@pytest.fixture
def database_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Set the database's clock."""
    return lambda moment: monkeypatch.setattr(notifications, "database_clock", lambda _: moment)


def test_an_email_is_claimed_again_when_the_lease_ran_out(
    engine: Engine, user_id: int, now: datetime, database_says: Callable[[datetime], None]
) -> None:
    def claim(moment: datetime) -> NotificationRow | None:
        database_says(moment)
        return notifications.claim_email(connection, lease_seconds=60)

    with engine.begin() as connection:
        notify(connection, user_id, now)
        first = claim(now)
        assert first is not None
        assert (first.email, first.user_name, first.email_state, first.email_attempts) == (
            "a@example.com",
            "Ann",
            "sending",
            1,
        )
        assert claim(now + timedelta(seconds=59)) is None
        second = claim(now + timedelta(seconds=60))
        assert second is not None
        assert (second.id, second.email_attempts) == (first.id, 2)
        assert not notifications.email_failed(connection, first, error="too late", retry=True), "it is the second's now"
        assert notifications.email_sent(connection, second, now=now)
        assert claim(now + timedelta(days=1)) is None
        (row,) = notifications.list_for(connection, user_id)
    assert (row.email_state, row.email_sent_at, row.email_error) == ("sent", now, None)


def test_a_failed_email_waits_longer_each_time(
    engine: Engine, user_id: int, now: datetime, database_says: Callable[[datetime], None]
) -> None:
    def claim(moment: datetime) -> NotificationRow | None:
        database_says(moment)
        return notifications.claim_email(connection, lease_seconds=60)

    with engine.begin() as connection:
        notify(connection, user_id, now)
        moment = now
        for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
            row = claim(moment)
            assert row is not None
            notifications.email_failed(connection, row, error="450 busy", retry=True)
            due = moment + timedelta(minutes=minutes)
            assert claim(due - timedelta(seconds=1)) is None
            moment = due
        row = claim(moment)
        assert row is not None
        notifications.email_failed(connection, row, error="550 " + "x" * 900, retry=False)
        assert claim(now + timedelta(days=9)) is None
        (row,) = notifications.list_for(connection, user_id)
    assert (row.email_state, len(row.email_error or "")) == ("failed", 500)


def test_an_incident_lives_once_at_a_time(engine: Engine, user_id: int, now: datetime) -> None:
    later = now + timedelta(hours=3)
    with engine.begin() as connection:
        first = open_incident(connection, user_id, now)
        assert first is not None
        assert open_incident(connection, user_id, now) is None
        incidents.add_event(connection, first, at=now, state="opened", severity="high", data={"a": 1})
        assert incidents.update(connection, first, now=later, severity="critical", data={"b": 2}, stake=5)
        (row,) = incidents.open_incidents(connection, [user_id])
        assert (row.severity, row.state, row.data, row.stake, row.updated_at) == (
            "critical",
            "opened",
            {"b": 2},
            5,
            later,
        )
        assert incidents.recently_resolved(connection, user_id, now) == []
        assert incidents.update(connection, first, now=later, state="resolved")
        assert not incidents.update(connection, first, now=later, state="escalated"), "what is over stays over"
        assert incidents.open_incidents(connection) == []
        (resolved,) = incidents.recently_resolved(connection, user_id, later)
        assert (resolved.id, resolved.resolved_at) == (first, later)
        assert incidents.recently_resolved(connection, user_id, later + timedelta(seconds=1)) == []
        second = open_incident(connection, user_id, later)
        assert second not in {None, first}
        assert [event.data for event in incidents.events(connection, first)] == [{"a": 1}]


def test_a_resolved_incident_is_reopened_unless_its_fingerprint_is_open(
    engine: Engine, user_id: int, now: datetime
) -> None:
    anew: dict[str, Any] = {"now": now, "state": "opened", "severity": "critical", "stake": None, "data": {"again": 1}}
    with engine.begin() as connection:
        first = open_incident(connection, user_id, now)
        assert first is not None
        assert not incidents.reopen(connection, first, **anew), "it is open"
        incidents.update(connection, first, now=now, state="resolved")
        assert incidents.reopen(connection, first, **anew)
        (row,) = incidents.open_incidents(connection)
        assert (row.id, row.severity, row.resolved_at, row.stake) == (first, "critical", None, None)
        incidents.update(connection, first, now=now, state="resolved")
        second = open_incident(connection, user_id, now)
        assert not incidents.reopen(connection, first, **anew), "its fingerprint is open"
        assert [row.id for row in incidents.open_incidents(connection)] == [second]
        assert not incidents.reopen(connection, 4711, **anew)


def test_incidents_of_a_time_are_those_open_in_it(engine: Engine, user_id: int, now: datetime) -> None:
    hour = timedelta(hours=1)
    with engine.begin() as connection:
        over = open_incident(connection, user_id, now, fingerprint="over")
        still = open_incident(connection, user_id, now + hour, fingerprint="still")
        assert over is not None
        incidents.update(connection, over, now=now + 2 * hour, state="resolved")

        def ids(since: datetime, until: datetime, **filters: Any) -> list[int]:
            return [row.id for row in incidents.list_between(connection, since, until, **filters)]

        assert ids(now - hour, now) == []
        assert ids(now, now + hour) == [over]
        assert ids(now + 2 * hour, now + 3 * hour) == [over, still]
        assert ids(now + 3 * hour, now + 4 * hour) == [still]
        assert ids(now, now + 9 * hour, user_ids=[]) == []


def test_the_same_try_is_logged_once(engine: Engine, account_id: int, now: datetime) -> None:
    piece = Slice(account_id, Granularity.DAILY, date(2026, 11, 1), date(2026, 11, 3))
    other = Slice(account_id, Granularity.HOURLY, date(2026, 11, 1), date(2026, 11, 3))

    def record(slice_: Slice = piece, at: datetime = now, run_id: str | None = "run") -> int:
        return fetches.record(
            connection,
            account_id=account_id,
            piece=slice_,
            started_at=at,
            finished_at=at,
            outcome="stored",
            run_id=run_id,
        )

    with engine.begin() as connection:
        assert fetches.find(connection, piece, started_at=now, run_id="run") is None
        once = record()
        assert record() == once
        later = now + timedelta(microseconds=1)
        assert len({once, record(other), record(at=later), record(run_id="other"), record(run_id=None)}) == 5
        found = fetches.find(connection, piece, started_at=now, run_id="run")
    assert found is not None
    assert (found.id, found.outcome) == (once, "stored")


def test_the_fetch_log_knows_what_is_covered_and_what_it_cost(engine: Engine, account_id: int, now: datetime) -> None:
    daily, hourly = Granularity.DAILY, Granularity.HOURLY

    def piece(granularity: Granularity, first: int, last: int) -> Slice:
        return Slice(account_id, granularity, date(2026, 11, first), date(2026, 11, last))

    with engine.begin() as connection:

        def record(slice_: Slice, outcome: str, **more: Any) -> None:
            fetches.record(
                connection,
                account_id=account_id,
                piece=slice_,
                started_at=now,
                finished_at=now,
                outcome=outcome,
                run_id="run",
                **more,
            )

        record(piece(daily, 1, 3), "stored", calls_by={"metrics": 3, "totals": 1})
        record(piece(daily, 3, 5), "stored")
        record(piece(daily, 8, 9), "failed", calls_by={"metrics": 2}, detail="x" * 900, error_code="100/33")
        record(
            piece(hourly, 1, 1),
            "stored",
            rows_fetched=24,
            totals=Totals(10, 1, 52_310_000),
            platform_totals=Totals(10, 1, 52_320_000),
            drift=1e9,
        )
        assert fetches.stored_windows(connection, account_id, daily, date(2026, 11, 3)) == [
            fetches.StoredWindow(date(2026, 11, first), date(2026, 11, last), now, "run")
            for first, last in ((1, 3), (3, 5))
        ]
        assert fetches.stored_windows(connection, account_id, hourly, date(2026, 11, 2)) == []
        latest = fetches.latest(connection, account_id)
        columns = (api_calls.c.account_id, api_calls.c.at, api_calls.c.purpose, api_calls.c.calls, api_calls.c.run_id)
        assert sorted(map(tuple, connection.execute(select(*columns)))) == [
            (account_id, now, purpose, calls, "run")
            for purpose, calls in (("metrics", 2), ("metrics", 3), ("totals", 1))
        ]
    assert (latest[daily].outcome, latest[daily].api_calls) == ("failed", 2)
    assert (latest[daily].outcome, latest[daily].since, latest[daily].error_code) == (
        "failed",
        date(2026, 11, 8),
        "100/33",
    )
    row = latest[hourly]
    assert (row.spend, row.platform_spend, row.impressions, row.drift) == (52_310_000, 52_320_000, 10, 999.0)


def test_calls_without_a_fetch_are_logged_once_however_often_the_transaction_is_made(
    engine: Engine, account_id: int, now: datetime
) -> None:
    one, other = fetches.new_batch(), fetches.new_batch()
    for batch in (one, other, one, one):
        with engine.begin() as connection:
            calls = {"auth": 2, "listing": 1}
            fetches.record_calls(connection, account_id, calls, at=now, run_id=None, batch=batch)
    with reading(engine) as connection:
        logged = connection.execute(select(api_calls.c.batch, api_calls.c.purpose, api_calls.c.calls))
        assert sorted(map(tuple, logged)) == sorted(
            (batch, purpose, calls) for batch in (one, other) for purpose, calls in (("auth", 2), ("listing", 1))
        )
