"""Each database user does its work with the rights of ``aae db grants``, and is refused everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, make_url, text
from typer.testing import CliRunner

from aae import cli
from aae.errors import UserError
from aae.jobs.context import open_context, open_stores
from aae.jobs.detect import detect_user
from aae.jobs.report import report_user
from aae.jobs.retention import keep_small
from aae.jobs.tokens import TokenResult, check_account
from aae.model import Platform
from aae.notify.outbox import deliver_pending
from aae.operate.processes import this_process
from aae.sandbox import World
from aae.storage import accounts, attempts, grants
from aae.storage import engine as database
from aae.storage.engine import reading
from aae.storage.schema import metadata
from aae.storage.transact import transact
from aae.vault import Vault
from tests.integration.bench import Bench, bench
from tests.servers import connected

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
HOST = "127.0.0.1"
PASSWORD = "pa-ss"

pytestmark = pytest.mark.mysql

As = Callable[[str], Engine]


@pytest.fixture
def as_user(mysql_url: str) -> Iterator[As]:
    """An engine for each of the users, on an empty database whose tables only ``aae_migrate`` has made."""
    url = make_url(mysql_url)
    engines: dict[str, Engine] = {}

    def log_in(name: str) -> Engine:
        if name not in engines:
            engines[name] = database.connect(
                url.set(username=name, password=PASSWORD).render_as_string(hide_password=False)
            )
        return engines[name]

    with connected(mysql_url) as root:
        _administer(root, "aae_migrate")
        database.upgrade(log_in("aae_migrate"))
        _administer(root, *(role.name for role in grants.ROLES if role.name != "aae_migrate"))
        try:
            yield log_in
        finally:
            for engine in engines.values():
                engine.dispose()
            with root.begin() as connection:
                for role in grants.ROLES:
                    connection.exec_driver_sql(f"DROP USER '{role.name}'@'{HOST}'")


def _administer(root: Engine, *names: str) -> None:
    """What an administrator does with the SQL that is printed."""
    database_name = str(root.url.database)
    options = [word for name in names for word in ("--user", name)]
    printed = CliRunner().invoke(cli.app, ["db", "grants", "--database", database_name, "--host", HOST, *options])
    assert printed.exit_code == 0, printed.output
    lines = [line for line in printed.stdout.splitlines() if not line.startswith("--")]
    lines += [grants.unlock(role, HOST).replace("...", PASSWORD) for role in grants.chosen(names)]
    with root.begin() as connection:
        for line in lines:
            connection.exec_driver_sql(line.removesuffix(";").replace("%", "%%"))


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=30, users=2, big_campaigns=1, ads_per_ad_set=1)


def test_the_jobs_live_through_their_days_with_the_rights_of_their_user(
    world: World, as_user: As, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"AAE_FETCH__FIRST_DAYS": "20", "AAE_FETCH__FIRST_HOURLY_DAYS": "2"}
    with bench(world, as_user("aae_jobs"), redis_url, monkeypatch, **settings) as product:
        replace(product, engine=as_user("aae_operator")).connect()
        dead = product.accounts(platforms=[Platform.META])[0]
        product.order("faults", name="meta_token_revoked", platform="meta", account=dead.external_id)
        assert [outcome.outcome for outcome in product.fetch("run-dead", [dead])] == ["reauthorize"]
        product.forgive()
        replace(product, engine=as_user("aae_operator")).connect()
        assert {"recovered", "still_valid"} <= {result.outcome for result in _check_tokens(product)}
        for day in range(2):  # restated days are updated, changes put on record
            outcomes = {outcome.outcome for outcome in product.fetch(f"run-{day}")}
            assert {"stored"} <= outcomes <= {"stored", "reauthorize"}
            product.clock.advance(timedelta(days=1))

        stores = open_stores(product.settings)
        for user in _users(product):
            judged = detect_user(stores, user, now=product.now(), sensitivity="high", again=True, dry_run=False)
            assert judged.outcome == "judged"
            assert report_user(stores, user, now=product.now(), day=None, dry_run=False).outcome == "written"
        assert deliver_pending(stores.engine, product.settings, clock=product.now).failed == 0
        _make_an_attempt(stores.engine)
        much_later = product.now() + timedelta(days=4000)
        done = keep_small(stores.engine, product.settings, now=much_later)
        assert done.failed == []
        assert done.days > 0
        assert {name for name, number in done.removed.items() if number} >= {"fetches", "reports", "notifications"}
        with as_user("aae_operator").begin() as connection:
            accounts.rotate_tokens(connection, Vault([("new", bytes(32)), ("test", bytes(range(32)))]))


def _check_tokens(product: Bench) -> list[TokenResult]:
    async def all_of_them() -> list[TokenResult]:
        async with open_context(product.settings, product.now) as context:
            with reading(product.engine) as connection:
                chosen = accounts.accounts_to_check(connection)
            return [await check_account(context, each, now=product.now(), run_id="check") for each in chosen]

    return asyncio.run(all_of_them())


def _users(product: Bench) -> list[accounts.User]:
    with reading(product.engine) as connection:
        return accounts.list_users(connection)


def _make_an_attempt(engine: Engine) -> None:
    token = transact(engine, attempts.take, "job", run_id="run", process=this_process())
    assert token is not None
    with engine.begin() as connection:
        assert attempts.beat(connection, token, doing="test")
    assert transact(engine, attempts.end, token, "ended")
    assert transact(engine, attempts.reclassify, token, "lost", reason="test")


def test_the_web_platform_connects_an_account_without_ever_reading_a_token(
    as_user: As, vault: Vault, now: datetime
) -> None:
    with as_user("aae_web").begin() as connection:
        account = _connect(connection, vault, now)
        again = _connect(connection, vault, now)
    assert account == again
    with reading(as_user("aae_web")) as connection:
        assert [each.id for each in accounts.list_accounts(connection)] == [account]
        with pytest.raises(UserError, match="denied"):
            accounts.read_token(connection, vault, account)
    with reading(as_user("aae_jobs")) as connection:
        assert accounts.read_token(connection, vault, account).access.get_secret_value() == "secret"


def _connect(connection: Connection, vault: Vault, now: datetime) -> int:
    user = accounts.add_user(connection, email="a@example.com", name="A", now=now)
    account, _ = accounts.connect_account(
        connection,
        vault,
        user_id=user,
        platform=Platform.META,
        external_id="1001",
        name="Shop",
        currency="EUR",
        timezone="UTC",
        login_customer_id=None,
        access_token=SecretStr("secret"),
        refresh_token=None,
        expires_at=None,
        now=now,
    )
    return account


LOGS = ("metric_revisions", "fetches", "incident_events")
FORBIDDEN = [
    *(("aae_jobs", f"UPDATE {log} SET id = 1") for log in LOGS),
    ("aae_jobs", "UPDATE api_calls SET calls = 1"),
    ("aae_jobs", "DELETE FROM ad_accounts"),
    ("aae_jobs", "DELETE FROM entities"),
    ("aae_jobs", "UPDATE users SET email = 'x'"),
    ("aae_jobs", "INSERT INTO users (email, name, active, preferences, created_at) VALUES ('a', 'b', 1, '{}', NOW())"),
    ("aae_jobs", "UPDATE reports SET html = ''"),
    ("aae_jobs", "UPDATE alembic_version SET version_num = '1'"),
    ("aae_jobs", "CREATE TABLE more (id INT)"),
    ("aae_jobs", "DROP TABLE users"),
    ("aae_jobs", "ALTER TABLE users ADD COLUMN more INT"),
    ("aae_operator", "DELETE FROM users"),
    ("aae_operator", "DROP TABLE users"),
    ("aae_web", "SELECT access_token FROM ad_accounts"),
    ("aae_web", "SELECT * FROM ad_accounts"),
    ("aae_web", "SELECT id FROM ad_accounts WHERE refresh_token LIKE 'v1%%'"),
    ("aae_web", "DELETE FROM ad_accounts"),
    ("aae_web", "UPDATE ad_metrics_daily SET spend = 0"),
    ("aae_web", "UPDATE incidents SET severity = 'low'"),
    ("aae_web", "UPDATE notifications SET email_state = 'sent'"),
    ("aae_web", "SELECT * FROM attempts"),
    ("aae_read", "SELECT access_token FROM ad_accounts"),
    ("aae_read", "SELECT email FROM users"),
    ("aae_read", "SELECT * FROM notifications"),
    ("aae_read", "UPDATE reports SET html = ''"),
    ("aae_read", "CREATE TEMPORARY TABLE more (id INT)"),
]
ALLOWED = [
    ("aae_jobs", "DELETE FROM ad_metrics_daily WHERE account_id = 1"),
    ("aae_jobs", "DELETE FROM ad_metrics_hourly WHERE account_id = 1"),
    ("aae_web", "SELECT status, token_expires_at FROM ad_accounts"),
    ("aae_web", "UPDATE incidents SET snoozed_until = NOW() WHERE id = 1"),
    ("aae_web", "UPDATE notifications SET read_at = NOW() WHERE id = 1"),
    ("aae_web", "SELECT * FROM reports"),
    ("aae_read", "SELECT name, currency FROM ad_accounts"),
    ("aae_read", "SELECT id, name FROM users"),
    ("aae_read", "SELECT SUM(spend) FROM ad_metrics_daily"),
]


def test_each_user_is_refused_what_is_not_its_business_in_one_sentence(as_user: As) -> None:
    for name, statement in ALLOWED:
        with as_user(name).begin() as connection:
            connection.execute(text(statement))
    for name, statement in FORBIDDEN:
        with as_user(name).connect() as connection, pytest.raises(UserError) as caught:
            connection.exec_driver_sql(statement)
        assert "denied" in str(caught.value), (name, statement)
        assert len(str(caught.value).splitlines()) == 1
        assert "aae db grants" in str(caught.value)


def test_no_user_sees_another_database(as_user: As) -> None:
    for role in grants.ROLES:
        with as_user(role.name).connect() as connection:
            seen = set(connection.scalars(text("SHOW DATABASES"))) - {"information_schema", "performance_schema"}
            assert seen == {connection.engine.url.database}


def test_every_table_is_somebodys_and_tokens_only_the_jobs() -> None:
    named = {role.name: set(role.tables) - {"alembic_version"} for role in grants.ROLES}
    assert named["aae_jobs"] == set(metadata.tables), "a new table: say in aae/storage/grants.py who may do what"
    secret = {name for name, role in zip(named, grants.ROLES, strict=True) if "access_token" in _granted(role)}
    assert secret == set()
    readers = {role.name for role in grants.ROLES if role.tables.get("ad_accounts", "").startswith("SELECT")}
    assert readers == {"aae_jobs", "aae_operator"}


def _granted(role: grants.Role) -> str:
    return "\n".join(grants.statements(role, "aae", "%"))


def test_a_user_comes_locked_and_from_elsewhere_only_by_tls() -> None:
    for role in grants.ROLES:
        made = next(grants.statements(role, "aae", "10.0.%"))
        assert made.endswith("REQUIRE SSL ACCOUNT LOCK")
        assert "REQUIRE" not in next(grants.statements(role, "aae", "localhost"))


@pytest.mark.parametrize("hostile", ["a'; DROP", "a`b", "", "a b", "x" * 300, "a\\"])
def test_names_cannot_say_more_than_a_name(hostile: str) -> None:
    for arguments in ((hostile, "%"), ("aae", hostile)):
        with pytest.raises(UserError, match="may only have letters"):
            list(grants.statements(grants.ROLES[0], *arguments))


def test_an_unknown_user_is_told_with_those_there_are() -> None:
    with pytest.raises(UserError, match="known are aae_migrate, aae_jobs"):
        grants.chosen(["root"])
