"""The vault: what is sealed opens, only with its key, only at its place, only unchanged."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aae.errors import UserError
from aae.settings import Settings
from aae.vault import Vault

KEY_FILE = "encryption.key"
OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
PLACE = "ad_accounts:17:access_token"
texts = st.text(st.characters(exclude_categories=["Cs"]))


def written(*keys: tuple[str, bytes]) -> str:
    return ", ".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in keys)


@given(texts, texts)
def test_what_is_sealed_opens(secret: str, place: str) -> None:
    vault = Vault([NEW])
    assert vault.decrypt(vault.encrypt(SecretStr(secret), place), place).get_secret_value() == secret


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    vault = Vault([NEW])
    sealed = bytearray(vault.encrypt(SecretStr("token"), PLACE))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UserError):
        vault.decrypt(bytes(sealed), PLACE)


@given(st.integers(0, 36))
def test_anything_cut_off_is_noticed(length: int) -> None:
    vault = Vault([NEW])
    sealed = vault.encrypt(SecretStr("token"), PLACE)
    with pytest.raises(UserError):
        vault.decrypt(sealed[:length], PLACE)


def test_a_ciphertext_moved_elsewhere_does_not_open() -> None:
    vault = Vault([NEW])
    sealed = vault.encrypt(SecretStr("token"), PLACE)
    with pytest.raises(UserError, match="does not open with the key 'new'"):
        vault.decrypt(sealed, "ad_accounts:18:access_token")


def test_the_same_secret_looks_different_each_time_and_never_like_itself() -> None:
    vault = Vault([NEW])
    sealed = {vault.encrypt(SecretStr("token"), PLACE) for _ in range(50)}
    assert len(sealed) == 50
    assert not any(b"token" in one for one in sealed)


def test_the_format_is_compact() -> None:
    assert len(Vault([NEW]).encrypt(SecretStr("x" * 100), PLACE)) == 100 + 2 + len("new") + 12 + 16


def test_keys_rotate_without_losing_anything() -> None:
    before, during, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    sealed = before.encrypt(SecretStr("token"), PLACE)
    assert during.needs_rotation(sealed)
    rotated = during.rotate(sealed, PLACE)
    assert not during.needs_rotation(rotated)
    assert after.decrypt(rotated, PLACE).get_secret_value() == "token"


def test_a_missing_key_is_named_and_the_account_is_not_blamed() -> None:
    sealed = Vault([OLD]).encrypt(SecretStr("token"), PLACE)
    with pytest.raises(UserError, match="key 'old', which is not among the keys") as caught:
        Vault([NEW]).decrypt(sealed, PLACE)
    assert "connect" not in str(caught.value)
    assert "token" not in str(caught.value).replace("access_token", "")


def test_another_key_of_the_same_id_is_told_apart() -> None:
    sealed = Vault([OLD]).encrypt(SecretStr("token"), PLACE)
    with pytest.raises(UserError, match="this key differs"):
        Vault([("old", b"x" * 32)]).decrypt(sealed, PLACE)


@pytest.mark.parametrize(
    "keys",
    [
        lambda: [("", b"n" * 32)],
        lambda: [("a:b", b"n" * 32)],
        lambda: [("ä", b"n" * 32)],
        lambda: [("x" * 33, b"n" * 32)],
        lambda: [("short", b"n" * 31)],
        lambda: [NEW, NEW],
    ],
)
def test_unusable_keys_are_refused(keys: Callable[[], list[tuple[str, bytes]]]) -> None:
    with pytest.raises(UserError):
        Vault(keys())


def test_keys_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, encryption_keys=SecretStr(written(NEW, OLD)))
    vault = Vault.from_settings(settings)
    assert vault.needs_rotation(Vault([OLD]).encrypt(SecretStr("token"), PLACE))
    assert not vault.needs_rotation(Vault([NEW]).encrypt(SecretStr("token"), PLACE))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["secretsecret", "a:", "a:####", "a:c2hvcnQ=", written(NEW) + ",", ":" + "A" * 44])
def test_malformed_keys_are_refused_without_repeating_them(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="AAE_ENCRYPTION_KEYS") as caught:
        Vault.from_settings(Settings(state_dir=tmp_path, encryption_keys=SecretStr(text)))
    assert text not in str(caught.value)


def test_without_keys_one_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    sealed = Vault.from_settings(settings, make=True).encrypt(SecretStr("token"), PLACE)
    assert Vault.from_settings(settings).decrypt(sealed, PLACE).get_secret_value() == "token"
    assert stat.S_IMODE((tmp_path / "state" / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "state").iterdir()] == [KEY_FILE]


def test_processes_that_make_the_key_at_once_agree_on_it(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        vaults = list(pool.map(lambda _: Vault.from_settings(settings, make=True), range(16)))
    sealed = vaults[0].encrypt(SecretStr("token"), PLACE)
    assert {vault.decrypt(sealed, PLACE).get_secret_value() for vault in vaults} == {"token"}


def test_a_damaged_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("nonsense")
    with pytest.raises(UserError, match=KEY_FILE):
        Vault.from_settings(Settings(state_dir=tmp_path))


def test_no_key_is_made_unasked_and_the_vault_says_so_when_it_needs_one(tmp_path: Path) -> None:
    vault = Vault.from_settings(Settings(state_dir=tmp_path / "state"))
    assert not vault.has_key
    assert not (tmp_path / "state").exists()
    with pytest.raises(UserError, match="AAE_ENCRYPTION_KEYS"):
        vault.encrypt(SecretStr("token"), PLACE)
    with pytest.raises(UserError, match="the key 'new', which is not among the keys"):
        vault.decrypt(Vault([NEW]).encrypt(SecretStr("token"), PLACE), PLACE)


def test_the_key_file_may_lie_elsewhere(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", key_file=tmp_path / "keys" / "one")
    assert Vault.from_settings(settings, make=True).has_key
    assert (tmp_path / "keys" / "one").exists()
    assert not (tmp_path / "state").exists()
