"""Users, accounts and tokens on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, select, update

from aae.errors import UserError
from aae.model import Account, AccountStatus, Platform, Token
from aae.storage import accounts
from aae.storage.schema import ad_accounts, token_refreshes
from aae.vault import Vault


def connect(connection: Connection, vault: Vault, now: datetime, **changes: Any) -> tuple[int, bool]:
    values: dict[str, Any] = {
        "platform": Platform.META,
        "external_id": "1001",
        "name": "Shop",
        "currency": "EUR",
        "timezone": "Europe/Berlin",
        "login_customer_id": None,
        "access_token": SecretStr("access-1"),
        "refresh_token": SecretStr("refresh-1"),
        "expires_at": now + timedelta(days=60),
        "now": now,
    }
    user_id = changes.pop("user_id", None) or accounts.add_user(connection, email="a@example.com", name="A", now=now)
    return accounts.connect_account(connection, vault, user_id=user_id, **values | changes)


def test_users_are_known_by_their_address_in_lower_case(engine: Engine, now: datetime) -> None:
    with engine.begin() as connection:
        one = accounts.add_user(connection, email=" Ann@Example.com", name="Ann", now=now)
        assert accounts.add_user(connection, email="ann@example.com", name="Ann B. 🎈", now=now) == one
        two = accounts.add_user(connection, email="bob@example.com", name="Bob", now=now)
        assert accounts.list_users(connection) == [
            accounts.User(one, "ann@example.com", "Ann B. 🎈", True, {}),
            accounts.User(two, "bob@example.com", "Bob", True, {}),
        ]
        assert [user.id for user in accounts.list_users(connection, [two])] == [two]


def test_connecting_again_replaces_tokens_and_reactivates(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        account_id, new = connect(connection, vault, now)
        assert new
        before = accounts.read_token(connection, vault, account_id)
        assert accounts.set_status(connection, account_id, AccountStatus.EXPIRED, "gone", now=now)
        again = connect(connection, vault, now, access_token=SecretStr("access-2"), refresh_token=None, name="Shop 2")
        assert again == (account_id, False)
        after = accounts.read_token(connection, vault, account_id)
        assert after.access.get_secret_value() == "access-2"
        assert after.refresh is None
        assert after.version > before.version
        (account,) = accounts.list_accounts(connection)
    assert account == Account(account_id, account.user_id, Platform.META, "1001", "Shop 2", "EUR", "Europe/Berlin")


def test_tokens_are_stored_encrypted_and_bound_to_their_row(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        one, _ = connect(connection, vault, now)
        two, _ = connect(connection, vault, now, external_id="1002")
        sealed = connection.scalar(select(ad_accounts.c.access_token).where(ad_accounts.c.id == one))
        assert isinstance(sealed, bytes)
        assert b"access-1" not in sealed
        connection.execute(update(ad_accounts).where(ad_accounts.c.id == two).values(access_token=sealed))
        with pytest.raises(UserError, match="changed or moved"):
            accounts.read_token(connection, vault, two)


def test_a_token_round_trips_with_its_expiry(engine: Engine, vault: Vault, now: datetime) -> None:
    expires = now + timedelta(days=60, microseconds=123456)
    with engine.begin() as connection:
        account_id, _ = connect(connection, vault, now, expires_at=expires)
        token = accounts.read_token(connection, vault, account_id)
    assert token.refresh is not None
    assert (token.access.get_secret_value(), token.refresh.get_secret_value()) == ("access-1", "refresh-1")
    assert token.expires_at == expires


def test_of_two_refreshes_the_later_one_to_write_loses(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        account_id, _ = connect(connection, vault, now)
        version = accounts.read_token(connection, vault, account_id).version
        winner, loser = Token(SecretStr("winner")), Token(SecretStr("loser"))
        write = {"expected_version": version, "now": now}
        assert accounts.replace_token(connection, vault, account_id, winner, **write)
        assert not accounts.replace_token(connection, vault, account_id, loser, **write)
        stored = accounts.read_token(connection, vault, account_id)
    assert stored == Token(SecretStr("winner"), None, None, version + 1)


def test_a_status_changes_once(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        account_id, _ = connect(connection, vault, now)
        assert accounts.set_status(connection, account_id, AccountStatus.REVOKED, "x" * 900, now=now)
        assert not accounts.set_status(connection, account_id, AccountStatus.REVOKED, "again", now=now)
        assert accounts.list_accounts(connection) == []
        assert len(accounts.list_accounts(connection, statuses=["revoked"])) == 1
        assert len(accounts.list_accounts(connection, statuses=None)) == 1


def test_accounts_are_filtered_by_everything_given(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        meta, _ = connect(connection, vault, now)
        google, _ = connect(connection, vault, now, platform=Platform.GOOGLE, login_customer_id="42")
        bob = accounts.add_user(connection, email="b@example.com", name="B", now=now)
        bobs, _ = connect(connection, vault, now, user_id=bob)

        def ids(**filters: Any) -> list[int]:
            return [account.id for account in accounts.list_accounts(connection, **filters)]

        assert ids() == [meta, google, bobs]
        assert ids(platforms=[Platform.META]) == [meta, bobs]
        assert ids(user_ids=[bob]) == [bobs]
        assert ids(ids=[meta, bobs], user_ids=[bob]) == [bobs]
        assert ids(ids=[]) == []


def test_accounts_are_found_by_any_of_their_names(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        meta, _ = connect(connection, vault, now)
        google, _ = connect(connection, vault, now, platform=Platform.GOOGLE, external_id="1234567890")
        bob = accounts.add_user(connection, email="b@example.com", name="B", now=now)
        bobs, _ = connect(connection, vault, now, user_id=bob)

        def ids(reference: str) -> list[int]:
            return [account.id for account in accounts.find_accounts(connection, reference)]

        assert ids(str(google)) == [google]
        assert ids("meta:1001") == ids("META:act_1001") == ids("1001") == [meta, bobs]
        assert ids("google:123-456-7890") == ids("123-456-7890") == [google]
        for unknown in ("99999", "meta:1", "tiktok:1001", "", ":", "9" * 40, "' OR 1=1 --"):
            with pytest.raises(UserError, match="There is no account"):
                accounts.find_accounts(connection, unknown)


@pytest.mark.parametrize("zone", ["Mars/Phobos", "../../etc/passwd", "", "/etc/localtime"])
def test_a_time_zone_that_is_none_is_refused(engine: Engine, vault: Vault, now: datetime, zone: str) -> None:
    with engine.begin() as connection, pytest.raises(UserError, match="time zone"):
        connect(connection, vault, now, timezone=zone)


def test_a_missing_token_is_said(engine: Engine, vault: Vault) -> None:
    with engine.begin() as connection, pytest.raises(UserError, match="Account 4711 has no token"):
        accounts.read_token(connection, vault, 4711)


def test_the_overview_shows_the_newest_log_entry_and_no_secret(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        checked, _ = connect(connection, vault, now)
        fresh, _ = connect(connection, vault, now, external_id="1002", refresh_token=None, expires_at=None)
        for hours, outcome in ((0, "transient_failure"), (1, "refreshed")):
            accounts.log_refresh(
                connection,
                account_id=checked,
                at=now + timedelta(hours=hours),
                outcome=outcome,
                token_version=1,
                detail="x" * 900,
                error_code="190/463",
            )
        one, two = accounts.token_overview(connection)
        assert connection.scalar(select(token_refreshes.c.error_code)) == "190/463"
    assert (one.account.id, one.last_outcome, one.last_checked_at) == (checked, "refreshed", now + timedelta(hours=1))
    assert (one.refreshable, one.expires_at) == (True, now + timedelta(days=60))
    assert (two.account.id, two.last_outcome, two.refreshable, two.expires_at) == (fresh, None, False, None)


def test_a_dead_account_is_worth_checking_again_once_its_token_was_replaced(
    engine: Engine, vault: Vault, now: datetime
) -> None:
    with engine.begin() as connection:
        account_id, _ = connect(connection, vault, now)

        def checked() -> list[int]:
            return [account.id for account in accounts.accounts_to_check(connection)]

        version = accounts.read_token(connection, vault, account_id).version
        assert checked() == [account_id]
        accounts.log_refresh(
            connection, account_id=account_id, at=now, outcome="permanent_failure", token_version=version
        )
        accounts.set_status(connection, account_id, AccountStatus.REVOKED, "dead", now=now)
        assert checked() == []
        loss = accounts.last_loss(connection, account_id)
        assert loss is not None
        assert (loss.outcome, loss.token_version) == ("permanent_failure", version)
        fresh = Token(SecretStr("fresh"))
        assert accounts.replace_token(connection, vault, account_id, fresh, expected_version=version, now=now)
        assert checked() == [account_id]
        accounts.log_refresh(connection, account_id=account_id, at=now, outcome="recovered", token_version=version + 1)
        assert accounts.last_loss(connection, account_id) is None
        accounts.set_status(connection, account_id, AccountStatus.PAUSED, None, now=now)
        assert checked() == []


def test_rotating_keys_leaves_every_token_as_it_was(engine: Engine, vault: Vault, now: datetime) -> None:
    rotating = Vault([("new", b"n" * 32), ("test", bytes(range(32)))])
    with engine.begin() as connection:
        one, _ = connect(connection, vault, now)
        connect(connection, vault, now, external_id="1002", refresh_token=None)
        before = accounts.read_token(connection, vault, one)
        assert accounts.rotate_tokens(connection, rotating) == 3
        assert accounts.rotate_tokens(connection, rotating) == 0
        assert accounts.read_token(connection, Vault([("new", b"n" * 32)]), one) == before


def test_versions_only_move_forward(engine: Engine, vault: Vault, now: datetime) -> None:
    with engine.begin() as connection:
        account_id, _ = connect(connection, vault, now)
        assert accounts.bump_data_version(connection, account_id, through=now, now=now) == 1
        assert accounts.bump_data_version(connection, account_id, through=None, now=now) == 2
        assert accounts.bump_data_version(connection, account_id, through=now - timedelta(days=1), now=now) == 3
        assert connection.scalar(select(ad_accounts.c.data_through)) == now
        accounts.set_detected_version(connection, account_id, 2)
        accounts.set_detected_version(connection, account_id, 1)
        assert accounts.data_versions(connection) == {account_id: (3, 2)}
