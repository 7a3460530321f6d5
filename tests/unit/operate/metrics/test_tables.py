"""What the tables hold is what the metrics say, on both databases; nothing in a table adds a series or a long look."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, insert, text, update
from sqlalchemy.exc import DBAPIError

from aae.detection import scoring
from aae.model import Granularity, Platform, Process, Slice
from aae.operate.metrics import catalogue, tables
from aae.operate.metrics.catalogue import Metric, Sample
from aae.operate.metrics.exposition import expose
from aae.platforms.transport import Purpose
from aae.storage import accounts, attempts, fetches, incidents, notifications, reports
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, token_refreshes
from aae.storage.schema import incidents as incident_table
from aae.vault import Vault

HOSTILE = 'a"} 1\n# HELP x \\ \u202e<script>'


def read(engine: Engine, now: datetime, **more: Any) -> dict[tuple[str, ...], float]:
    """Metric name (without its prefix) and labels to value; the zeros left out."""
    found = tables.read(engine, now=now, **{"lost_seconds": 60, **more})
    keys = [(one.metric.name, one.labels) for one in found]
    assert len(keys) == len(set(keys)), "a series twice: Prometheus would refuse them all"
    return {(one.metric.name.removeprefix("aae_"), *one.labels): one.value for one in found if one.value}


def age(hours: float, now: datetime) -> datetime:
    return now - timedelta(hours=hours)


Connect = Callable[..., int]


@pytest.fixture
def connect(engine: Engine, vault: Vault, now: datetime) -> Connect:
    """Connect an account of a platform; its id."""
    with engine.begin() as connection:
        user = accounts.add_user(connection, email="a@example.com", name=HOSTILE, now=now)

    def made(platform: Platform, number: int, *, hours: float = 100, through: datetime | None = None) -> int:
        with engine.begin() as connection:
            account, _ = accounts.connect_account(
                connection,
                vault,
                user_id=user,
                platform=platform,
                external_id=str(number),
                name=HOSTILE,
                currency="EUR",
                timezone="Europe/Vienna",
                login_customer_id=None,
                access_token=SecretStr("t"),
                refresh_token=None,
                expires_at=None,
                now=age(hours, now),
            )
            accounts.bump_data_version(connection, account, through=through, now=now)
        return account

    return made


def fetch(engine: Engine, account: int, at: datetime, **more: Any) -> None:
    piece = Slice(account, Granularity.DAILY, date(2026, 11, 20), date(2026, 11, 21))
    values: dict[str, Any] = {"outcome": "stored", "run_id": str(random.random()), **more}
    with engine.begin() as connection:
        fetches.record(connection, account_id=account, piece=piece, started_at=at, finished_at=at, **values)


def test_empty_tables_say_zero_for_everything_they_count(engine: Engine, now: datetime) -> None:
    assert read(engine, now) == {}
    found = tables.read(engine, now=now, lost_seconds=60)
    ages = {catalogue.OLDEST, catalogue.MEDIAN, catalogue.COMPLETENESS, catalogue.SILENCE}
    by_flow = {catalogue.ATTEMPTS, catalogue.ATTEMPTS_RUNNING}
    assert {one.metric for one in found} == {one for one in catalogue.ALL if one.source == "tables"} - ages - by_flow


def test_the_age_of_the_data_is_that_of_the_last_complete_fetch_or_of_the_connection(
    engine: Engine, connect: Connect, now: datetime
) -> None:
    connect(Platform.META, 1, through=age(2, now))
    connect(Platform.META, 2, through=age(5, now))
    connect(Platform.META, 3, hours=30)
    connect(Platform.TIKTOK, 4, through=age(1, now))
    paused = connect(Platform.TIKTOK, 5, through=age(900, now))
    with engine.begin() as connection:
        connection.execute(update(ad_accounts).where(ad_accounts.c.id == paused).values(status="expired"))
    found = read(engine, now)
    assert found["data_age_oldest_seconds", "meta"] == 30 * 3600
    assert found["data_age_median_seconds", "meta"] == 5 * 3600
    assert found["data_age_oldest_seconds", "tiktok"] == 3600
    assert ("data_age_oldest_seconds", "google") not in found
    assert (found["accounts", "meta", "active"], found["accounts", "tiktok", "expired"]) == (3, 1)


def test_fetches_of_the_last_day_are_summed_by_platform(engine: Engine, connect: Connect, now: datetime) -> None:
    meta, google = connect(Platform.META, 1), connect(Platform.GOOGLE, 2)
    fetch(engine, meta, age(24.5, now), rows_fetched=1000, calls_by={"poll": 1000})
    fetch(
        engine,
        meta,
        age(23, now),
        rows_fetched=10,
        rows_inserted=4,
        rows_updated=3,
        calls_by={"metrics": 2},
        drift=0.02,
    )
    fetch(
        engine,
        meta,
        age(1, now),
        rows_fetched=10,
        rows_inserted=1,
        rows_deleted=2,
        calls_by={"metrics": 3, "totals": 1},
        drift=-0.009,
    )
    fetch(engine, meta, age(0.5, now), outcome="throttled", calls_by={"listing": 1, "of the future": 2})
    fetch(engine, google, age(0.1, now), outcome="of the future", drift=-0.5)
    found = {key: value for key, value in read(engine, now).items() if key[0] not in {"accounts"}}
    assert {key: value for key, value in found.items() if not key[0].startswith("data_age")} == {
        ("fetches_24h", "meta", "stored"): 2,
        ("fetches_24h", "meta", "throttled"): 1,
        ("fetches_24h", "google", "other"): 1,
        ("rows_fetched_24h", "meta"): 20,
        ("rows_stored_24h", "meta", "inserted"): 5,
        ("rows_stored_24h", "meta", "updated"): 3,
        ("rows_stored_24h", "meta", "deleted"): 2,
        ("api_calls_24h", "meta", "metrics"): 5,
        ("api_calls_24h", "meta", "totals"): 1,
        ("api_calls_24h", "meta", "listing"): 1,
        ("api_calls_24h", "meta", "other"): 2,
        ("fetches_drifted_24h", "meta"): 1,
        ("fetches_drifted_24h", "google"): 1,
    }


def test_tokens_incidents_reports_and_the_outbox_are_counted(engine: Engine, connect: Connect, now: datetime) -> None:
    account = connect(Platform.TIKTOK, 1, through=now)
    with engine.begin() as connection:
        user = accounts.list_users(connection)[0].id
        for at, outcome in ((1, "refreshed"), (2, "permanent_failure"), (30, "refreshed")):
            values = {"account_id": account, "at": age(at, now), "outcome": outcome, "token_version": 1}
            connection.execute(insert(token_refreshes).values(values))
        for number, (metric, severity) in enumerate([("roas", "critical"), ("cpa", "high"), ("cpa", "high")]):
            incident = incidents.insert(
                connection,
                user_id=user,
                account_id=account,
                entity_id=None,
                fingerprint=f"f{number}",
                metric=metric,
                level="ad",
                state="opened",
                severity=severity,
                currency="EUR",
                stake=1,
                data={},
                now=now,
            )
            assert incident is not None
        incidents.update(connection, incident, now=now, state=incidents.RESOLVED)
        for days, completeness in ((0, 1.0), (1, 0.5), (2, 0.1)):
            told = {"summary": {}, "html": "", "csv": "", "markdown": ""}
            at = age(1 if days < 2 else 50, now)
            day = date(2026, 11, 21) - timedelta(days=days)
            reports.save(connection, user_id=user, report_date=day, now=at, completeness=completeness, **told)
        for number, hours in enumerate((30, 3, 2, 1)):
            notifications.add(
                connection,
                user_id=user,
                kind="daily_report",
                urgency="normal",
                title=HOSTILE,
                message=HOSTILE,
                data={},
                dedupe_key=str(number),
                wants_email=number < 3,
                now=age(hours, now),
            )
        claim = notifications.claim_email(connection, lease_seconds=1000)
        assert claim is not None
        notifications.email_sent(connection, claim, now=now)
        assert notifications.claim_email(connection, lease_seconds=1000) is not None
    found = read(engine, now)
    assert found["token_refreshes_24h", "tiktok", "refreshed"] == 1
    assert found["token_refreshes_24h", "tiktok", "permanent_failure"] == 1
    assert (found["incidents_open", "critical", "roas"], found["incidents_open", "high", "cpa"]) == (1, 1)
    assert (found["reports_24h",], found["report_completeness_ratio",]) == (2, 0.75)
    assert (found["outbox_waiting",], found["outbox_oldest_seconds",]) == (2, 3 * 3600)
    assert {key[2]: value for key, value in found.items() if key[0] == "notifications_24h"} == {
        "sending": 1,
        "pending": 1,
        "not_wanted": 1,
    }


def test_attempts_are_counted_by_how_they_ended_and_the_watch_is_no_job(engine: Engine, now: datetime) -> None:
    here = Process("here", 1, 1)
    with engine.begin() as connection:
        for outcome in ("ended", "ended", "lost", None):
            token = attempts.take(connection, "fetch-ad-data", run_id="r", process=here)
            assert token is not None
            if outcome:
                attempts.end(connection, token, outcome)  # type: ignore[arg-type]
    # Attempts have the database's clock, whatever that of the jobs says.
    found = read(engine, now - timedelta(days=400))
    assert found["attempts_24h", "fetch-ad-data", "ended"] == 2
    assert found["attempts_24h", "fetch-ad-data", "lost"] == 1
    assert found["attempts_24h", "fetch-ad-data", "running"] == 1
    assert found["attempts_running", "fetch-ad-data"] == 1
    assert 0 <= found.get(("attempt_silence_seconds", "fetch-ad-data"), 0) < 60
    assert ("watch_leader",) not in found
    with engine.begin() as connection:
        attempts.take(connection, "watch", run_id="w", process=here)
    found = read(engine, now)
    assert found["watch_leader",] == 1
    assert not [key for key in found if "watch" in key]
    assert ("watch_leader",) not in read(engine, now, lost_seconds=-1), "one that has fallen silent does not lead"


def test_whatever_stands_in_the_tables_adds_no_series_and_breaks_no_line(
    engine: Engine, connect: Connect, now: datetime
) -> None:
    account = connect(Platform.META, 1, through=now)
    with engine.begin() as connection:
        user = accounts.list_users(connection)[0].id
        for number in range(200):
            attempts.take(connection, f"flow {number}", run_id=str(number), process=Process("here", 1, 1))
        attempts.take(connection, HOSTILE, run_id="x", process=Process("here", 1, 1))
        for number in range(60):
            values = {"account_id": account, "at": now, "outcome": f"word {number}", "token_version": 1}
            connection.execute(insert(token_refreshes).values(values))
            row = {"user_id": user, "fingerprint": str(number), "open_fingerprint": str(number), "level": "ad"}
            word = {"metric": f"m{number}", "severity": f"s{number}", "state": "opened", "data": {}}
            connection.execute(insert(incident_table).values({**row, **word, "opened_at": now, "updated_at": now}))
        connection.execute(update(ad_accounts).values(platform="myspace"))
    found = tables.read(engine, now=now, lost_seconds=60)
    values = {(one.metric.name, one.labels): one.value for one in found}
    assert values["aae_incidents_open", ("other", "other")] == 60
    assert values["aae_token_refreshes_24h", ("other", "other")] == 60
    assert values["aae_data_age_oldest_seconds", ("other",)] == 0
    assert values["aae_attempts_running", ("other",)] > 100
    assert len({one.labels[0] for one in found if one.metric is catalogue.ATTEMPTS_RUNNING}) <= tables.MOST_NAMES + 1
    written = expose(found)[0].decode()
    assert len(written.splitlines()) == len(found) + 2 * len({one.metric for one in found})
    assert "\u202e" not in written


@pytest.mark.parametrize("hours", [0, 0.5, 5, 47, 1000])
def test_the_first_row_since_a_moment_is_found_by_halving(
    engine: Engine, connect: Connect, now: datetime, hours: float
) -> None:
    chance = random.Random(hours)
    account = connect(Platform.META, 1)
    rows, moment, number = [], age(48, now), 0
    for _ in range(300):
        number += chance.choice((1, 1, 1, 7, 900))
        moment += timedelta(minutes=chance.choice((0, 0, 1, 30)))
        row = {"id": number, "account_id": account, "at": moment, "outcome": "refreshed", "token_version": 1}
        rows.append(row)
    since = age(hours, now)
    asked: list[str] = []
    with engine.begin() as connection:
        connection.execute(insert(token_refreshes), rows)
        event.listen(connection, "before_cursor_execute", lambda *about: asked.append(about[2]))
        first = tables.first_since(connection, token_refreshes, token_refreshes.c.at, since)
    wanted = {row["id"] for row in rows if row["at"] >= since}
    assert {row["id"] for row in rows if row["id"] >= first} == wanted
    assert len(asked) < 25


def test_a_statement_that_takes_too_long_is_ended(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PATIENCE_SECONDS", 1)
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT count(*) FROM n"
        if engine.dialect.name == "sqlite"
        else "SELECT count(*) FROM {0} a, {0} b, {0} c, {0} d".format("information_schema.collations")
    )
    with reading(engine) as connection, tables._hurried(connection), pytest.raises(DBAPIError):
        connection.execute(text(endless))
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    # The limit belongs to the exporter's own connections: the tests' shared engine must not keep it.
    engine.dispose()


def test_the_words_for_incidents_are_those_of_detection() -> None:
    assert tuple(scoring.SEVERITIES) == tables.SEVERITIES
    assert tuple(Purpose) == tables.PURPOSES
    assert set(scoring.FAMILY) == set(tables.INCIDENT_METRICS)


def test_a_metric_wants_as_many_labels_as_it_has() -> None:
    with pytest.raises(ValueError, match="aae_x has the labels"):
        Metric("aae_x", "tables", "Help.", ("a",)).of(1, "b", "c")


def test_samples_are_what_the_clock_and_the_tables_say_not_what_was_asked_before(engine: Engine, now: datetime) -> None:
    def watched() -> Iterator[Sample]:
        return (one for one in tables.read(engine, now=now, lost_seconds=60) if one.metric is catalogue.WATCHED)

    assert [one.value for one in watched()] == [0]
    with engine.begin() as connection:
        attempts.take(connection, "watch", run_id="w", process=Process("here", 1, 1))
    assert [one.value for one in watched()] == [1]


def test_a_database_that_is_not_there_is_said_and_not_made(tmp_path: Any) -> None:
    from aae.errors import UserError
    from tests import servers

    path = tmp_path / "none.db"
    with servers.connected(f"sqlite:///{path}") as engine, pytest.raises(UserError, match="aae db upgrade"):
        tables.read(engine, now=datetime.now(UTC), lost_seconds=60)
    assert not path.exists()
