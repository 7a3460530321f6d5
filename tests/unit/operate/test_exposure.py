"""What anybody on the network could read or do is found; what stays on this machine is not complained of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from aae.operate import exposure
from aae.settings import EmailSettings, FetchSettings, MetaSettings, Settings


def found(**given: Any) -> list[str]:
    exposures = exposure.in_the_settings(Settings(**given))
    assert "hunter2" not in repr(exposures)
    return [f"{each.what}: {each.remedy}" for each in exposures]


def test_the_defaults_expose_nothing() -> None:
    assert found() == []


DB = "mysql+pymysql://aae:hunter2@db.example.com/aae"
REDIS = "rediss://:hunter2@redis.example.com/0"
SAFE: list[dict[str, Any]] = [
    {"database_url": "mysql+pymysql://aae:hunter2@127.0.0.1/aae"},
    {"database_url": f"{DB}?ssl_ca=/ca.pem"},
    {"database_url": f"{DB}?unix_socket=/run/mysqld.sock"},
    {"redis_url": "redis://localhost:6379/0"},
    {"redis_url": "unix:///run/redis.sock"},
    {"redis_url": REDIS, "results_url": f"{REDIS}?ssl_ca_certs=/ca.pem"},
    {"email": EmailSettings(smtp_url=SecretStr("smtp://u:hunter2@mail.example.com"))},
    {"email": EmailSettings(smtp_url=SecretStr("smtp://localhost:25?tls=off"))},
    {"PREFECT_API_URL": "https://prefect.example.com/api"},
    {"PREFECT_API_URL": "http://127.0.0.1:4200/api"},
    {"fetch": FetchSettings(runner="dask")},
    {"fetch": FetchSettings(runner="dask", cluster="tcp://127.0.0.1:8786")},
    {"fetch": FetchSettings(runner="dask", cluster="tcp://[::1]:8786")},
    {"fetch": FetchSettings(runner="dask", cluster="tls://scheduler.example.com:8786")},
]
EXPOSED: list[tuple[dict[str, Any], str]] = [
    ({"database_url": DB}, "ssl_ca"),
    ({"database_url": f"{DB}?ssl_ca=/ca.pem&ssl_check_hostname=false"}, "ssl_ca"),
    ({"redis_url": "redis://:hunter2@10.0.0.5/0"}, "rediss:// in AAE_REDIS_URL"),
    ({"redis_url": f"{REDIS}?ssl_cert_reqs=none"}, "rediss:// in AAE_REDIS_URL"),
    ({"redis_url": f"{REDIS}?ssl_check_hostname=False"}, "rediss:// in AAE_REDIS_URL"),
    ({"redis_url": "rediss://10.0.0.5/0"}, "no password"),
    ({"redis_url": REDIS, "results_url": "redis://:hunter2@10.0.0.5/1"}, "AAE_RESULTS_URL"),
    ({"email": EmailSettings(smtp_url=SecretStr("smtp://mail.example.com:25?tls=off"))}, "tls=off"),
    ({"PREFECT_API_URL": "http://prefect.example.com/api"}, "https in PREFECT_API_URL"),
    ({"meta": MetaSettings(base_url="http://meta.example.com")}, "https in AAE_META__BASE_URL"),
    ({"public_url": "http://app.example.com"}, "https in AAE_PUBLIC_URL"),
    ({"fetch": FetchSettings(runner="dask", cluster="tcp://10.0.0.5:8786")}, "tls:// in AAE_FETCH__CLUSTER"),
]


@pytest.mark.parametrize("given", SAFE)
def test_what_is_safe_is_not_complained_of(given: dict[str, Any]) -> None:
    assert found(**given) == []


@pytest.mark.parametrize(("given", "remedy"), EXPOSED)
def test_what_is_exposed_is_told_once_with_its_remedy(given: dict[str, Any], remedy: str) -> None:
    (told,) = found(**given)
    assert remedy in told


def test_an_open_api_beyond_this_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(exposure, "lets_anybody_in", lambda url, ca: not asked.append(url))
    assert exposure.on_the_api(Settings(PREFECT_API_URL="http://127.0.0.1:4200/api")) == []
    (told,) = exposure.on_the_api(Settings(PREFECT_API_URL="https://prefect.example.com/api"))
    assert "PREFECT_SERVER_API_AUTH_STRING" in told.remedy
    assert asked == ["https://prefect.example.com/api"]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
@pytest.mark.parametrize("name", [".env", "encryption.key"])
def test_a_file_with_secrets_that_others_can_open_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    settings = Settings(state_dir=tmp_path)
    assert exposure.in_files(settings) == []
    file = tmp_path / name
    file.write_text("AAE_LOG_LEVEL=info\n")
    file.chmod(mode)
    (told,) = exposure.in_files(settings)
    assert str(file) in told.what
    assert told.remedy.startswith("chmod 600 ")
    for well in (0o600, 0o400, 0o640):
        file.chmod(well)
        assert exposure.in_files(settings) == []
