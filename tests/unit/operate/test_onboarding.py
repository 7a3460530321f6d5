"""Accounts are stored with the keys that the stored ones have, or not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, update

from aae.errors import UserError
from aae.operate.account_files import read_accounts
from aae.operate.onboarding import connect_all, open_vault
from aae.settings import Settings
from aae.storage import engine as database
from aae.storage.accounts import read_token
from aae.storage.schema import ad_accounts
from aae.vault import Vault
from tests import servers

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
K1, OTHER_K1, K2 = ("k1", b"a" * 32), ("k1", b"b" * 32), ("k2", b"c" * 32)

Import = Callable[..., None]


def settings_of(folder: Path, *keys: tuple[str, bytes]) -> Settings:
    written = ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in keys)
    return Settings(_env_file=None, state_dir=folder, encryption_keys=SecretStr(written))


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Engine]:
    with servers.connected(f"sqlite:///{tmp_path / 'aae.db'}") as engine:
        database.upgrade(engine)
        yield engine


@pytest.fixture
def store(tables: Engine, tmp_path: Path) -> Import:
    """Import one account with these keys."""

    def run(external_id: str, *keys: tuple[str, bytes]) -> None:
        fields = {"user_email": "a@b.c", "user_name": "A", "platform": "meta", "access_token": "s3cret"}
        described = {"external_id": external_id, "name": "Shop", "currency": "EUR", "timezone": "Europe/Vienna"}
        rows = read_accounts(json.dumps([fields | described]), "list")
        settings = settings_of(tmp_path / "state", *keys)
        vault = open_vault(settings, tables)
        connect_all(rows, "list", settings=settings, engine=tables, vault=vault, clock=lambda: NOW)

    return run


def stored(engine: Engine) -> dict[int, bytes]:
    with database.reading(engine) as connection:
        query = ad_accounts.select().with_only_columns(ad_accounts.c.id, ad_accounts.c.access_token)
        return {row.id: row.access_token for row in connection.execute(query)}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ([OTHER_K1], "does not open with the key 'k1'"),
        ([K2], "encrypted with the key 'k1', which is not among the keys"),
        ([], "encrypted with the key 'k1', which is not among the keys"),
    ],
    ids=["another key of the same id", "the key is missing", "no key is set"],
)
@pytest.mark.parametrize("external_id", ["1", "2"], ids=["again", "new"])
def test_wrong_keys_store_nothing_and_make_no_key_file(
    tables: Engine,
    store: Import,
    tmp_path: Path,
    keys: list[tuple[str, bytes]],
    complaint: str,
    external_id: str,
) -> None:
    store("1", K1)
    before = stored(tables)
    with pytest.raises(UserError, match=complaint):
        store(external_id, *keys)
    assert stored(tables) == before
    assert not (tmp_path / "state").exists()


def test_every_key_among_the_stored_tokens_must_be_there(store: Import) -> None:
    store("1", K1)
    store("2", K2, K1)
    with pytest.raises(UserError, match="'k1'"):
        store("3", K2)


def test_connect_all_itself_refuses_a_vault_that_does_not_fit(tables: Engine, store: Import, tmp_path: Path) -> None:
    store("1", K1)
    with pytest.raises(UserError, match="'k1'"):
        connect_all(
            [], "list", settings=settings_of(tmp_path), engine=tables, vault=Vault([OTHER_K1]), clock=lambda: NOW
        )


def test_a_new_first_key_beside_the_old_one_is_fine(tables: Engine, store: Import) -> None:
    store("1", K1)
    store("2", K2, K1)
    with database.reading(tables) as connection:
        assert read_token(connection, Vault([K2]), 2).access.get_secret_value() == "s3cret"


def test_a_database_without_tokens_gets_a_key_file_once(store: Import, tmp_path: Path) -> None:
    store("1")
    store("2")
    assert (tmp_path / "state" / "encryption.key").exists()


def test_a_damaged_token_does_not_stand_in_the_way_of_connecting_it_again(tables: Engine, store: Import) -> None:
    store("1", K1)
    with tables.begin() as connection:
        connection.execute(update(ad_accounts).values(access_token=b"damaged"))
    store("1", K1)
    with database.reading(tables) as connection:
        assert read_token(connection, Vault([K1]), 1).access.get_secret_value() == "s3cret"
