"""A database that loses connections, is killed, deadlocks, locks, refuses and is full: nothing lost, nothing twice.

The real jobs work through a proxy on a MariaDB of their own. After every kind of trouble the tables must say, row for
row, what they say after an undisturbed run.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from itertools import chain, count, cycle, repeat
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import Connection, Engine, func, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from aae.detection import Finding
from aae.errors import Superseded
from aae.jobs.context import open_context, open_stores
from aae.jobs.detect import detect_user
from aae.jobs.fetch import AccountOutcome
from aae.jobs.tokens import TokenResult, check_account
from aae.model import Account, Platform, Process
from aae.notify import outbox
from aae.notify.outbox import Delivered, deliver_pending
from aae.sandbox import World
from aae.settings import Settings
from aae.storage import accounts, attempts, notifications, reports, transact
from aae.storage import engine as database
from aae.storage.engine import reading
from aae.storage.schema import (
    ad_accounts,
    ad_metrics_daily,
    ad_metrics_hourly,
    entities,
    fetches,
    incident_events,
    incidents,
    metric_revisions,
    token_refreshes,
    users,
)
from aae.storage.schema import notifications as outbox_table
from aae.storage.transact import look, transact_unfenced
from tests import servers
from tests.conftest import NEEDS_MARIADB
from tests.integration.bench import Bench, bench
from tests.proxy import Order, Proxy
from tests.servers import MysqlServer

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
LOCK_WAIT_SECONDS = 1


@dataclass(frozen=True)
class Stage:
    """The product, whose database connections go through ``proxy``; those of the test (``engine``) do not."""

    product: Bench
    proxy: Proxy
    server: MysqlServer
    outcomes: list[AccountOutcome] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        return self.product.engine

    @property
    def account(self) -> Account:
        """Google's: its tokens live for an hour, so that the second fetch needs a new one."""
        (account,) = self.product.accounts(platforms=[Platform.GOOGLE])
        return account

    def fetch_today(self) -> None:
        self._fetch("run-1")

    def fetch_tomorrow(self) -> None:
        self.product.clock.advance(timedelta(days=1))
        self._fetch("run-2")

    def _fetch(self, run_id: str) -> None:
        (outcome,) = self.product.fetch(run_id, [self.account])
        assert outcome.outcome == "stored", outcome
        self.outcomes.append(outcome)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the tables say, in natural keys, and in an order of their own: a row that is there twice shows.

        And what the fetches say that they did.
        """
        with reading(self.engine) as connection:
            found = {name: sorted(map(tuple, connection.execute(query)), key=str) for name, query in _QUERIES.items()}
        told = [(one.slices, one.rows, one.inserted, one.updated, one.deleted, one.calls) for one in self.outcomes]
        return found | {"told": told}


_ENTITY = (ad_accounts.c.external_id, entities.c.level, entities.c.external_id)
_MEASURES = ("impressions", "clicks", "spend", "conversions", "revenue", "attribution", "utc_start")
_parent = entities.alias()
_QUERIES = {
    "daily": select(
        *_ENTITY, ad_metrics_daily.c.local_date, *(ad_metrics_daily.c[name] for name in _MEASURES)
    ).select_from(ad_metrics_daily.join(entities).join(ad_accounts, entities.c.account_id == ad_accounts.c.id)),
    "hourly": select(
        *_ENTITY,
        ad_metrics_hourly.c.local_date,
        ad_metrics_hourly.c.local_hour,
        *(ad_metrics_hourly.c[name] for name in _MEASURES),
    ).select_from(ad_metrics_hourly.join(entities).join(ad_accounts, entities.c.account_id == ad_accounts.c.id)),
    "entities": select(
        *_ENTITY,
        _parent.c.external_id,
        *(entities.c[name] for name in ("name", "status", "daily_budget", "first_seen_at", "last_seen_at")),
    ).select_from(entities.join(ad_accounts).join(_parent, entities.c.parent_id == _parent.c.id, isouter=True)),
    "revisions": select(
        *_ENTITY,
        *(
            metric_revisions.c[name]
            for name in ("granularity", "local_date", "local_hour", "metric", "old", "new", "changed_at", "run_id")
        ),
    ).select_from(metric_revisions.join(entities).join(ad_accounts, entities.c.account_id == ad_accounts.c.id)),
    "fetches": select(
        *(
            fetches.c[name]
            for name in ("granularity", "since", "until", "outcome", "rows_fetched", "rows_inserted", "rows_updated")
        ),
        *(fetches.c[name] for name in ("rows_deleted", "api_calls", "impressions", "spend", "drift", "run_id")),
    ),
    "tokens": select(*(token_refreshes.c[name] for name in ("at", "outcome", "token_version", "expires_at", "run_id"))),
    "accounts": select(*(ad_accounts.c[name] for name in ("external_id", "status", "token_version", "data_through"))),
}


@pytest.fixture(scope="module")
def server() -> Iterator[MysqlServer]:
    daemon = servers.mysql_daemon()
    if daemon is None:
        pytest.skip(NEEDS_MARIADB)
    options = (*servers.DURABLE, f"--innodb-lock-wait-timeout={LOCK_WAIT_SECONDS}")
    with servers.mortal_mysql_server(daemon, *options) as server:
        yield server


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=12, ahead=3, users=1, big_campaigns=1, ads_per_ad_set=1)


@contextmanager
def staged(
    world: World, server: MysqlServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, *, user: str = "root"
) -> Iterator[Stage]:
    small = {"AAE_FETCH__FIRST_DAYS": "8", "AAE_FETCH__FIRST_HOURLY_DAYS": "3", "AAE_FETCH__HOURLY_DAYS": "1"}
    with servers.database_on(server.url) as url, servers.connected(url) as engine, Proxy(server.port) as proxy:
        database.upgrade(engine)
        if user != "root":
            with engine.begin() as connection:
                connection.execute(text(f"CREATE OR REPLACE USER {user}"))
                connection.execute(text(f"GRANT ALL ON {engine.url.database}.* TO {user}"))
        detour = make_url(url).set(port=proxy.port, username=user).render_as_string(hide_password=False)
        with bench(world, engine, redis_url, monkeypatch, AAE_DATABASE_URL=detour, **small) as product:
            product.connect()
            yield Stage(product, proxy, server)
            open_stores(product.settings).engine.dispose()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transact, "_FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(transact, "_LONGEST_PAUSE_SECONDS", 0.2)


@pytest.fixture
def stage(world: World, server: MysqlServer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with staged(world, server, redis_url, monkeypatch) as it:
        yield it


@pytest.fixture(scope="module")
def undisturbed(world: World, server: MysqlServer, _redis_server: str) -> dict[str, list[tuple[Any, ...]]]:
    """What the tables say after two fetches that nothing disturbed."""
    with pytest.MonkeyPatch.context() as monkeypatch, staged(world, server, _redis_server, monkeypatch) as it:
        it.fetch_today()
        it.fetch_tomorrow()
        tables = it.tables()
    assert all(tables.values()), "every table has something to compare"
    return tables


def faltered(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The numbers of the errors that were survived."""
    told = [record.getMessage() for record in caplog.records if "the database faltered" in record.getMessage()]
    return {message.split("(")[1].split(")")[0].split()[-1] for message in told}


# --- fetching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orders",
    [("cut before", "pass"), ("cut after", "pass"), ("pass", "cut after"), ("cut after", "cut before", "pass")],
    ids=["before", "after", "after others", "after and before"],
)
def test_connections_cut_at_commits_change_nothing(
    stage: Stage, undisturbed: dict[str, Any], orders: tuple[Order, ...]
) -> None:
    stage.proxy.at_commits(cycle(orders))
    stage.fetch_today()
    stage.fetch_tomorrow()
    stage.proxy.at_commits([])
    assert stage.proxy.cuts >= 4
    assert stage.tables() == undisturbed


@pytest.mark.parametrize("moment", ["before a commit", "after a commit"])
def test_a_server_that_is_killed_and_comes_back_changes_nothing(
    stage: Stage, undisturbed: dict[str, Any], moment: str
) -> None:
    stage.fetch_today()
    due, dead = threading.Event(), threading.Event()

    def stop_here() -> None:
        due.set()
        dead.wait(30)

    stage.proxy.at_commits(chain(repeat("pass", 2), [stop_here if moment == "before a commit" else "cut after"]))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(stage.fetch_tomorrow)
        until(lambda: due.is_set() or stage.proxy.cuts > 0, fetching)
        stage.server.kill()
        dead.set()
        stage.server.start()
        fetching.result()
    assert stage.tables() == undisturbed


def test_a_deadlock_with_a_rival_changes_nothing(
    stage: Stage, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stage.fetch_today()
    waiting = text("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
    with ThreadPoolExecutor(1) as pool, stage.engine.connect() as rival, stage.engine.connect() as observer:
        # The server ends the one of the two that has written less.
        rival.execute(text("CREATE TABLE weight (id INT PRIMARY KEY)"))
        rival.execute(text("INSERT INTO weight VALUES (:id)"), [{"id": number} for number in range(5000)])
        rival.execute(text("SELECT id FROM entities FOR UPDATE"))
        fetching = pool.submit(stage.fetch_tomorrow)
        # More often than every tenth of a second the server gives its old answer.
        until(lambda: observer.scalar(waiting) > 0, fetching, pause=0.15)
        rival.execute(text("SELECT id FROM ad_accounts FOR UPDATE"))
        rival.rollback()
        fetching.result()
    assert "1213" in faltered(caplog)
    assert stage.tables() == undisturbed


def test_a_rival_that_holds_rows_for_longer_than_the_server_waits_changes_nothing(
    stage: Stage, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stage.fetch_today()
    with ThreadPoolExecutor(1) as pool, stage.engine.connect() as rival:
        rival.execute(text("SELECT id FROM ad_accounts FOR UPDATE"))
        fetching = pool.submit(stage.fetch_tomorrow)
        until(lambda: "1205" in faltered(caplog), fetching)
        rival.rollback()
        fetching.result()
    assert stage.tables() == undisturbed


def test_a_server_that_is_read_only_for_a_while_changes_nothing(
    world: World,
    server: MysqlServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read_only(state: str) -> None:
        with servers.connected(server.url) as engine, engine.begin() as connection:
            connection.execute(text(f"SET GLOBAL read_only = {state}"))

    # Who may administer the server may write all the same.
    with staged(world, server, redis_url, monkeypatch, user="job") as stage, ThreadPoolExecutor(1) as pool:
        stage.fetch_today()
        stage.proxy.at_commits(["pass", "pass", lambda: read_only("ON")])
        try:
            fetching = pool.submit(stage.fetch_tomorrow)
            until(lambda: "1290" in faltered(caplog), fetching)
        finally:
            read_only("OFF")
        fetching.result()
        assert stage.tables() == undisturbed


def test_a_full_disk_on_which_somebody_makes_room_changes_nothing(
    world: World,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon = servers.mysql_daemon()
    assert daemon is not None, "else the undisturbed run would have been skipped"
    small = ("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:24M")
    with (
        servers.mortal_mysql_server(daemon, *small) as server,
        staged(world, server, redis_url, monkeypatch) as stage,
        ThreadPoolExecutor(1) as pool,
    ):
        fill(stage.engine)
        fetching = pool.submit(stage.fetch_today)
        until(lambda: "1114" in faltered(caplog), fetching)
        with stage.engine.begin() as connection:
            connection.execute(text("DROP DATABASE ballast"))
        fetching.result()
        stage.fetch_tomorrow()
        assert stage.tables() == undisturbed


def test_a_database_that_stays_away_is_said_to_be_worth_another_try_and_nothing_is_lost(
    stage: Stage, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transact, "PATIENCE_SECONDS", 0.2)

    def vanish() -> None:
        stage.proxy.refuse()
        stage.proxy.cut()

    stage.proxy.at_commits(["pass", "pass", vanish])
    (outcome,) = stage.product.fetch("run-1", [stage.account])
    assert (outcome.outcome, outcome.retry) == ("failed", True)
    assert outcome.detail == "The database did not do its part (OperationalError)."
    assert outcome.inserted > 0, "what was stored before is told"
    stage.proxy.accept()
    stage.fetch_today()
    stage.fetch_tomorrow()
    tables = stage.tables()
    for name in ("daily", "hourly", "entities", "revisions", "accounts"):
        assert tables[name] == undisturbed[name], name


# --- detection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orders", [(), ("cut before", "pass"), ("cut after", "pass")], ids=["", "before", "after"])
def test_connections_cut_at_commits_change_nothing_in_the_life_of_an_incident(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, orders: tuple[Order, ...]
) -> None:
    stage.fetch_today()
    stores = open_stores(stage.product.settings)
    with reading(stage.engine) as connection:
        (user,) = accounts.list_users(connection)
    stage.proxy.at_commits(cycle(orders))
    for minutes, severity in enumerate(("high", "critical", "", "")):
        found = [something_wrong(stage.account, severity)] if severity else []
        monkeypatch.setattr("aae.jobs.detect.detect", lambda *_, found=found, **__: found)
        now = stage.product.now() + timedelta(minutes=minutes)
        judged = detect_user(stores, user, now=now, sensitivity="medium", again=True, dry_run=False)
        assert judged.outcome == "judged"
    stage.proxy.at_commits([])
    assert stage.proxy.cuts == (4 if orders else 0)
    with reading(stage.engine) as connection:
        (state,) = connection.scalars(select(incidents.c.state))
        events = connection.scalars(select(incident_events.c.state).order_by(incident_events.c.id)).all()
        told = connection.scalars(select(outbox_table.c.kind)).all()
    assert state == "resolved"
    assert events == ["opened", "escalated", "easing", "resolved"]
    assert told == ["anomaly_alert"] * 3


def something_wrong(account: Account, severity: str) -> Finding:
    return Finding(
        user_id=account.user_id,
        account_id=account.id,
        entity_id=None,
        level="account",
        entity_name=account.name,
        platform=account.platform,
        metric="cpa",
        window="yesterday",
        since="2026-11-21T00:00:00",
        until="2026-11-22T00:00:00",
        current=20.0,
        expected=10.0,
        deviation=1.0,
        severity=severity,
        p_value=1e-6,
        currency=account.currency,
        stake_micros=5_000_000,
        cause="c",
        recommendation="r",
        data={"family": "conversion", "path": [], "accounts": [account.id]},
    )


# --- tokens -------------------------------------------------------------------------------------------------------


def check_token(stage: Stage) -> TokenResult:
    async def check() -> TokenResult:
        async with open_context(stage.product.settings, stage.product.now) as context:
            return await check_account(context, stage.account, now=stage.product.now(), run_id="check")

    return asyncio.run(check())


@pytest.mark.parametrize("moment", ["cut before", "cut after", "away"])
def test_a_new_token_is_kept_though_the_database_is_in_trouble_when_it_comes(
    stage: Stage, moment: Literal["cut before", "cut after", "away"]
) -> None:
    stage.product.clock.advance(timedelta(hours=2))
    away = threading.Event()

    def vanish() -> None:
        stage.proxy.refuse()
        stage.proxy.cut()
        away.set()

    stage.proxy.at_commits([vanish if moment == "away" else moment])
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(check_token, stage)
        until(lambda: away.is_set() or stage.proxy.cuts > 0, checking)
        if moment == "away":
            time.sleep(1)
            assert not checking.done()
            stage.proxy.accept()
        result = checking.result()
    assert result.outcome == "refreshed"
    with reading(stage.engine) as connection:
        stored = accounts.read_token(connection, open_stores(stage.product.settings).vault, stage.account.id)
        log = connection.execute(select(token_refreshes.c.outcome, token_refreshes.c.token_version)).all()
    assert [tuple(row) for row in log] == [("refreshed", stored.version)]
    assert stored.expires_at == result.expires_at
    # The platform was asked for a token once, and what is stored is good.
    assert [call["count"] for call in stage.product.control("calls") if "token" in call["path"]] == [1]
    stage.fetch_today()


# --- the fence ----------------------------------------------------------------------------------------------------


@pytest.fixture
def held(stage: Stage) -> Iterator[int]:
    """The token of an attempt that this process holds."""
    with stage.engine.begin() as connection:
        token = attempts.take(connection, "fetch-ad-data", run_id="run-1", process=Process("here", 1, 1))
    assert token is not None
    attempts.hold(token)
    yield token
    attempts.hold(None)


def test_whoever_ends_an_attempt_waits_for_its_transaction_and_lets_no_other_follow(stage: Stage, held: int) -> None:
    ended_at_commit: list[bool] = []

    def end() -> bool:
        return transact_unfenced(stage.engine, attempts.end, held, "lost", reason="taken for dead")

    with ThreadPoolExecutor(1) as pool:
        ending: list[Future[bool]] = []

        def declare_over() -> None:
            ending.append(pool.submit(end))
            time.sleep(0.3)
            ended_at_commit.append(ending[0].done())

        stage.proxy.at_commits(["pass", declare_over])
        with pytest.raises(Superseded):
            stage.fetch_today()
        assert ended_at_commit == [False]
        assert ending[0].result()
    stored = stage.tables()
    assert len(stored["fetches"]) == 1, "the slice whose transaction was under way"
    assert stored["daily"]
    assert not stored["hourly"]
    with pytest.raises(Superseded):
        stage.fetch_today()
    assert stage.tables() == stored


def test_a_transaction_that_is_made_again_meets_the_fence_again(
    stage: Stage, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transact, "_FIRST_PAUSE_SECONDS", 1.0)
    stage.proxy.at_commits(["cut before"])
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(insert(users).values(**(ADA | {"email": "late@x.example"})))

    through = open_stores(stage.product.settings).engine
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(transact.transact, through, work)
        until(lambda: stage.proxy.cuts > 0, working)
        assert transact_unfenced(stage.engine, attempts.end, held, "lost")
        with pytest.raises(Superseded):
            working.result()
    with reading(stage.engine) as connection:
        assert connection.scalar(select(func.count()).where(users.c.email == "late@x.example")) == 0
    assert len(tries) == 1


# --- the outbox ---------------------------------------------------------------------------------------------------

ADA = {"email": "ada@x.example", "name": "Ada", "active": True, "preferences": {}, "created_at": ANCHOR}


class Letterbox:
    """A sender that keeps what it is given; ``then`` happens after that."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.ids: list[str] = []
        self._then = then

    def __enter__(self) -> Letterbox:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, message: EmailMessage) -> None:
        self.ids.append(message["Message-ID"])
        self._then()


def one_mail(engine: Engine, **changes: Any) -> None:
    with engine.begin() as connection:
        user_id = connection.execute(insert(users).values(**ADA)).inserted_primary_key
        assert user_id is not None
        note: dict[str, Any] = {"kind": "anomaly_alert", "urgency": "normal", "title": "t", "message": "m", "data": {}}
        notifications.add(
            connection, user_id=user_id[0], dedupe_key="news", wants_email=True, now=ANCHOR, **(note | changes)
        )


def mail_states(engine: Engine) -> list[tuple[str, int]]:
    with reading(engine) as connection:
        rows = connection.execute(select(outbox_table.c.email_state, outbox_table.c.email_attempts))
        return [tuple(row) for row in rows]


def deliver(engine: Engine, sender: Letterbox, *, ahead: timedelta = timedelta()) -> Delivered:
    return deliver_pending(engine, Settings(), clock=lambda: datetime.now(UTC) + ahead, sender=sender)


def test_two_senders_whose_clocks_are_hours_apart_send_a_mail_once(engine: Engine) -> None:
    one_mail(engine)
    others = [Letterbox(), Letterbox()]

    def meanwhile() -> None:
        for other, hours in zip(others, (9, -9), strict=True):
            assert deliver(engine, other, ahead=timedelta(hours=hours)).sent == 0

    assert deliver(engine, Letterbox(meanwhile)).sent == 1
    assert [other.ids for other in others] == [[], []]
    assert mail_states(engine) == [("sent", 1)]


def test_a_sender_that_is_killed_before_it_could_note_it_is_followed_by_one_with_the_same_message(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for the end of the process."""

    def die() -> None:
        raise Killed

    monkeypatch.setattr(outbox, "LEASE_SECONDS", 0.5)
    one_mail(engine)
    first, second = Letterbox(die), Letterbox()
    with pytest.raises(Killed):
        deliver(engine, first)
    assert deliver(engine, second, ahead=timedelta(hours=9)).sent == 0, "the lease runs on the database's clock"
    end = time.monotonic() + 20
    while deliver(engine, second).sent == 0:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert first.ids == second.ids
    assert mail_states(engine) == [("sent", 2)]


def test_a_sender_that_lost_its_claim_leaves_the_outcome_to_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LEASE_SECONDS", 0.0)
    one_mail(engine)
    taken_over, noted = threading.Event(), threading.Event()

    def take_over() -> None:
        taken_over.set()
        noted.wait(20)

    with ThreadPoolExecutor(1) as pool:
        others: list[Future[Delivered]] = []

        def fail_late() -> None:
            monkeypatch.setattr(outbox, "LEASE_SECONDS", 300.0)
            others.append(pool.submit(deliver, engine, Letterbox(take_over)))
            assert taken_over.wait(20)
            raise OSError("the line went dead")

        assert deliver(engine, Letterbox(fail_late)) == Delivered(sent=0, failed=1)
        assert mail_states(engine) == [("sending", 2)]
        noted.set()
        assert others[0].result().sent == 1
    assert mail_states(engine) == [("sent", 2)]


@pytest.mark.parametrize("orders", [("cut before",), ("cut after",), ("pass", "cut before"), ("pass", "cut after")])
def test_a_mail_leaves_once_though_connections_are_cut_while_it_is_claimed_or_noted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, orders: tuple[Order, ...]
) -> None:
    one_mail(stage.engine)
    through = open_stores(stage.product.settings).engine
    box = Letterbox()
    stage.proxy.at_commits(orders)
    monkeypatch.setattr(outbox, "LEASE_SECONDS", 0.5)
    end = time.monotonic() + 20
    while mail_states(stage.engine)[0][0] != "sent":
        deliver(through, box)
        assert time.monotonic() < end
        time.sleep(0.05)
    assert stage.proxy.cuts == 1
    assert len(box.ids) == 1


@pytest.mark.parametrize("times", [1, 1000])
def test_a_report_that_could_not_be_read_is_not_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(transact, "PATIENCE_SECONDS", 0.2)
    left = iter(range(times))
    get = reports.get

    def killed(connection: Connection, *args: Any) -> Any:
        if next(left, None) is not None:
            connection.execute(text("KILL CONNECTION_ID()"))
        return get(connection, *args)

    monkeypatch.setattr(reports, "get", killed)
    one_mail(stage.engine, kind="daily_report", data={"report_date": "2026-11-21"})
    if times == 1:
        assert deliver(stage.engine, Letterbox()).sent == 1
        assert mail_states(stage.engine) == [("sent", 1)]
    else:
        with pytest.raises(OperationalError):
            deliver(stage.engine, Letterbox())
        assert mail_states(stage.engine) == [("sending", 1)], "until its lease ends"


# --- single transactions ------------------------------------------------------------------------------------------


def test_what_does_not_pass_by_itself_is_not_tried_again(engine: Engine) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(insert(users).values(**ADA))
        connection.execute(insert(users).values(**ADA))

    with pytest.raises(IntegrityError):
        transact.transact(engine, work)
    assert len(tries) == 1
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(users)) == 0


def test_patience_ends_with_the_databases_own_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transact, "PATIENCE_SECONDS", 0.3)
    url = f"mysql+pymysql://root@127.0.0.1:{servers.free_port()}/nowhere"
    for ask in (transact.transact, transact_unfenced, look):
        caplog.clear()
        begun = time.monotonic()
        with servers.connected(url) as engine, pytest.raises(OperationalError):
            ask(engine, lambda connection: connection.scalar(select(1)))
        assert time.monotonic() - begun >= 0.3
        assert len(caplog.records) == 1, "it is said once"


def test_a_deadlock_inside_a_savepoint_is_tried_again_too(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Going back to a savepoint that the deadlock has taken away fails with an error of its own."""
    engine = stage.engine
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE pair (id INT PRIMARY KEY, value INT)"))
        connection.execute(text("CREATE TABLE weight (id INT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO pair VALUES (1, 0), (2, 0)"))
    met = threading.Barrier(2)
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("UPDATE pair SET value = value + 1 WHERE id = 1"))
        if len(tries) == 1:
            met.wait(10)
        with connection.begin_nested():
            connection.execute(text("UPDATE pair SET value = value + 1 WHERE id = 2"))

    with ThreadPoolExecutor(1) as pool, engine.connect() as rival:
        rival.execute(text("INSERT INTO weight VALUES (:id)"), [{"id": number} for number in range(1000)])
        rival.execute(text("UPDATE pair SET value = value + 10 WHERE id = 2"))
        working = pool.submit(transact.transact, engine, work)
        met.wait(10)
        rival.execute(text("UPDATE pair SET value = value + 10 WHERE id = 1"))
        rival.commit()
        working.result()
    assert len(tries) > 1
    assert faltered(caplog) <= {"1213", "1305"}
    with reading(engine) as connection:
        assert connection.scalars(text("SELECT value FROM pair ORDER BY id")).all() == [11, 11]


def test_a_locked_sqlite_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        servers.connected(f"sqlite:///{tmp_path}/aae.db") as owner,
        disposed_of(database.connect(f"sqlite:///{tmp_path}/aae.db", timeout=0)) as engine,
        ThreadPoolExecutor(1) as pool,
    ):
        with owner.begin() as connection:
            connection.execute(text("CREATE TABLE t (id INT)"))
            writing = pool.submit(
                transact.transact, engine, lambda other: other.execute(text("INSERT INTO t VALUES (1)"))
            )
            until(lambda: bool(caplog.records), writing)
        writing.result()
        with reading(owner) as connection:
            assert connection.scalar(text("SELECT COUNT(*) FROM t")) == 1


def test_a_full_sqlite_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with servers.connected(f"sqlite:///{tmp_path}/aae.db") as engine:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (load_ BLOB)"))
        pages = iter([10, 10, 10_000])

        def work(connection: Connection) -> None:
            connection.execute(text(f"PRAGMA max_page_count = {next(pages)}"))
            connection.execute(text("INSERT INTO t VALUES (zeroblob(100000))"))

        transact.transact(engine, work)
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT COUNT(*) FROM t")) == 1
    assert len(caplog.records) == 1


@contextmanager
def disposed_of(engine: Engine) -> Iterator[Engine]:
    yield engine
    engine.dispose()


def fill(engine: Engine) -> None:
    """Write into a database of its own until nothing fits any more, neither long rows nor single pages."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE ballast"))
        connection.execute(text("CREATE TABLE ballast.rows (id INT AUTO_INCREMENT PRIMARY KEY, load_ VARBINARY(8000))"))
        for attempt in range(2):
            with suppress(DBAPIError):
                while True:
                    connection.execute(text("INSERT INTO ballast.rows (load_) VALUES (:load)"), {"load": b"x" * 7000})
            with suppress(DBAPIError):
                for number in count():
                    connection.execute(
                        text(f"CREATE TABLE ballast.t{attempt}_{number} (a INT, KEY (a), b INT, KEY (b))")
                    )


def until(condition: Callable[[], bool], working: Future[Any], *, pause: float = 0.01) -> None:
    """Wait for ``condition``; what goes wrong in ``working`` is raised here."""
    end = time.monotonic() + 60
    while not condition():
        if working.done():
            working.result()
            pytest.fail("it was done before it came to that")
        assert time.monotonic() < end, "it never came to that"
        time.sleep(pause)
