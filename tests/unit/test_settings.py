"""Every mistake in the settings is found at start and told in one sentence that names the variable and no secret."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from aae import settings
from aae.errors import UserError
from aae.settings import Settings, load

EXAMPLE = Path(__file__).parents[2] / ".env.example"
UNCOMMENTED = re.findall(r"^# ((?:AAE|PREFECT)_[A-Z_]+=.*)$", EXAMPLE.read_text(), re.MULTILINE)


def complaint(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    load.cache_clear()
    with pytest.raises(UserError) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AAE_META__ATTRIBUTION_WINDOWS", "7d_click", "must be JSON"),
        ("AAE_META", "{s3cret", "must be JSON"),
        ("AAE_FETCH__RECENT_DAYS", "three", "valid integer"),
        ("AAE_REDIS_URL", "http://host", "must begin with redis://"),
        ("AAE_REDIS_URL", "redis://host/abc", "database must be a number"),
        ("AAE_REDIS_URL", "redis://host?db=abc", "database must be a number"),
        ("AAE_REDIS_URL", "redis://:s3cret/@host/0", "port"),
        ("AAE_RESULTS_URL", "redis://host/-1", "database must be a number"),
        ("AAE_REDIS_URL", "unix://", "socket"),
        ("AAE_DATABASE_URL", "mysql+pymysql://me:s3cret@host", "must name a database"),
        ("AAE_DATABASE_URL", "mysql+pymysql://me:s3cret@host/?charset=utf8mb4", "must name a database"),
        ("AAE_DATABASE_URL", "mysql+pymysql://me:s3cret@host:99999/aae", "port"),
        ("AAE_DATABASE_URL", "mysql+pymysql://me:a@s3cret@host:3306/aae", "%-encoded (@ is %40)"),
        ("PREFECT_API_AUTH_STRING", "me:s3cret-\u00e4", "must be ASCII"),
        ("AAE_DATABASE_URL", "mysql+pymysql://me:s3cret@host:/aae", "port"),
        ("AAE_DATABASE_URL", "mysql+pymysql://me:s3cret@host:x/aae", "port"),
        ("AAE_EMAIL__SMTP_URL", "https://me:s3cret@host", "must begin with smtp://"),
        ("AAE_EMAIL__SMTP_URL", "smtp://me:s3cret/@host", "port"),
        ("AAE_EMAIL__SMTP_URL", "smtp://", "must name a host"),
        ("AAE_EMAIL__SENDER", "a@b.c\nBcc: d@e.f", "one line"),
        ("PREFECT_API_URL", "prefect.internal:4200", "must begin with http://"),
        ("PREFECT_API_URL", "http://me:s3cret@prefect.internal:4200/api", "no user name"),
        ("PREFECT_UI_URL", "https://me:s3cret@prefect.internal", "no user name"),
        ("AAE_PUBLIC_URL", "https://me:s3cret@app.example.com", "no user name"),
        ("AAE_PUBLIC_URL", "https://app.example.com@evil.example.com", "no user name"),
        ("AAE_PUBLIC_URL", "javascript:alert(1)", "must begin with http://"),
        ("AAE_PUBLIC_URL", "https://", "must be an http://"),
        ("AAE_PUBLIC_URL", "https://app.example.com/\n.evil.example.com", "must be an http://"),
        ("AAE_PUBLIC_URL", "https://app.example.com/?to=", "no ? and no #"),
        ("AAE_PUBLIC_URL", "https://app.example.com/#", "no ? and no #"),
        ("AAE_ALERTS__WEBHOOK_URL", "ftp://hooks.example.com/s3cret", "must begin with http://"),
        ("AAE_ALERTS__WEBHOOK_URL", "https:///s3cret", "must be an http://"),
        ("AAE_FETCH__RUNNER", "celery", "'local' or 'dask'"),
        ("AAE_FETCH", '{"cluster": "tcp://host:8786"}', "set AAE_FETCH__RUNNER=dask"),
        ("AAE_META__ATTRIBUTION_WINDOWS", '["7d_click", "7d_view"]', "'28d_click'"),
        ("AAE_META__ATTRIBUTION_WINDOWS", "[]", "at least 1 item"),
        ("AAE_FETCH__CLUSTER", "scheduler:8786", "must begin with tls:// or tcp://"),
        ("AAE_FETCH__CLUSTER", "tls://scheduler", "must name host and port, like tls://scheduler:8786"),
        ("AAE_FETCH__CLUSTER", "tls://me:s3cret@scheduler:8786", "must name host and port"),
        ("AAE_FETCH__CLUSTER", "tls://scheduler:s3cret", "port"),
        ("AAE_ALERTS__SILENT_SECONDS", "9", "greater than or equal to 10"),
    ],
)
def test_a_mistake_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str) -> None:
    said = complaint(monkeypatch, **{name: value})
    assert said.startswith(f"The setting {name} is wrong: ")
    assert reason in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AAE_FECTH__RECENT_DAYS", "AAE_FETCH__RECENT_DAYS"),
        ("AAE_META__BASEURL", "AAE_META__BASE_URL"),
        ("aae_redis_ulr", "AAE_REDIS_URL"),
        ("AAE_PREFECT_API_URL", ""),
        ("AAE_XYZZY", "see .env.example"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    said = complaint(monkeypatch, **{name: "s3cret"})
    assert f"no setting {name.upper()}" in said
    assert meant in said


def test_a_misspelt_variable_in_the_file_is_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AAE_SENSITIVTY=high\nOTHERS_OWN=1\n")
    monkeypatch.setitem(settings.Settings.model_config, "env_file", str(tmp_path / ".env"))
    assert "AAE_SENSITIVITY" in complaint(monkeypatch)


def test_a_name_unknown_to_a_group_given_as_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = complaint(monkeypatch, AAE_META='{"base_urll": "s3cret"}')
    assert said.startswith("The setting AAE_META__BASE_URLL is wrong: there is no such setting.")


def test_a_webhook_may_hold_a_password_and_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AAE_ALERTS__WEBHOOK_URL", "https://me:s3cret@hooks.example.com/x")
    assert load().alerts.webhook_url.get_secret_value() == "https://me:s3cret@hooks.example.com/x"
    assert "s3cret" not in repr(load())


def test_our_variables_that_are_no_settings_are_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AAE_DEBUG", "AAE_PROJECT_DIR", "AAE_STACK"):
        monkeypatch.setenv(name, "1")
    load()


@pytest.mark.parametrize(
    ("url", "results"),
    [
        ("", ""),
        ("redis://host", "redis://host/1"),
        ("redis://host:6379/0", "redis://host:6379/1"),
        ("rediss://u:p%40@host/14?ssl_cert_reqs=none", "rediss://u:p%40@host/15?ssl_cert_reqs=none"),
        ("redis://host/1?db=3", "redis://host/4"),
        ("redis://host?protocol=3&db=3", "redis://host/4?protocol=3"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=1"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=3"),
    ],
)
def test_results_go_to_the_next_database(url: str, results: str) -> None:
    assert Settings(_env_file=None, redis_url=url).resolved_results_url == results


@pytest.mark.parametrize("url", ["redis://host/15", "redis://host?db=15", "unix:///run/redis.sock?db=15"])
def test_after_the_last_database_the_results_need_a_word(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    said = complaint(monkeypatch, AAE_REDIS_URL=url)
    assert "set AAE_RESULTS_URL" in said
    monkeypatch.setenv("AAE_RESULTS_URL", "redis://host/7")
    load.cache_clear()
    assert load().resolved_results_url == "redis://host/7"


class TestExample:
    def test_every_setting_is_in_it_and_nothing_else(self) -> None:
        listed = {line.partition("=")[0] for line in UNCOMMENTED}
        groups = {
            "AAE_META",
            "AAE_TIKTOK",
            "AAE_GOOGLE",
            "AAE_LIMITS",
            "AAE_RECOVERY",
            "AAE_FETCH",
            "AAE_EMAIL",
            "AAE_RETENTION",
            "AAE_METRICS",
            "AAE_ALERTS",
        }
        own = {name for name, _ in settings._names(Settings)} - groups
        assert listed == own | {
            "AAE_PROJECT_DIR",
            "PREFECT_API_URL",
            "PREFECT_API_AUTH_STRING",
            "PREFECT_API_KEY",
            "PREFECT_API_SSL_CERT_FILE",
            "PREFECT_UI_URL",
        }

    def test_uncommented_a_shell_and_we_read_the_same(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("\n".join(UNCOMMENTED) + "\n")
        sourced = subprocess.run(
            ["bash", "-euc", f"set -a; source '{file}'; env -0"], check=True, capture_output=True, text=True
        )
        assert sourced.stderr == ""
        monkeypatch.delenv("AAE_STATE_DIR")
        monkeypatch.setitem(settings.Settings.model_config, "env_file", str(file))
        load.cache_clear()
        read = load()
        monkeypatch.setitem(settings.Settings.model_config, "env_file", None)
        for name, _, value in (entry.partition("=") for entry in sourced.stdout.split("\0")):
            if name.startswith(("AAE_", "PREFECT_")):
                monkeypatch.setenv(name, value)
        load.cache_clear()
        assert load() == read
        assert read.email == settings.EmailSettings()
        assert read.meta == settings.MetaSettings()
        assert os.environ["AAE_PROJECT_DIR"]

    def test_prefects_own_variables_in_the_file_count(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("PREFECT_API_URL=https://p/api\nPREFECT_API_AUTH_STRING=me:s3cret\nPREFECT_API_KEY=k3y\n")
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            monkeypatch.delenv(name)
        monkeypatch.setitem(settings.Settings.model_config, "env_file", str(file))
        load.cache_clear()
        read = load()
        assert read.prefect_api_url == "https://p/api"
        assert read.prefect_api_auth_string.get_secret_value() == "me:s3cret"
        assert read.prefect_api_key.get_secret_value() == "k3y"
        assert "s3cret" not in repr(read)
