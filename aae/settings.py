"""Every setting, described, validated once at start.

Read from the environment (prefix ``AAE_``, nested with two underscores: ``AAE_META__BASE_URL``), then from
``.env`` in the working directory. ``load()`` is the only way in; it turns every mistake into one
:class:`~aae.errors.UserError` that names the variable and says what to do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from aae.errors import UserError
from aae.model import Platform
from aae.shares import MOST as MOST_SHARES

_PREFIX: Final = "AAE_"
_NO_SETTINGS: Final = frozenset({"AAE_DEBUG", "AAE_PROJECT_DIR", "AAE_STACK"})
"""Variables of ours that are not read here: by the command line, prefect.yaml and the embedded stack."""

_LAST_REDIS_DATABASE: Final = 15
"""Redis and Valkey have 16 databases unless their ``databases`` setting says otherwise."""

# As SQLAlchemy reads URLs: what a password may hold unescaped is its business.
_MYSQL_URL: Final = re.compile(
    r"mysql\+pymysql://(?:[^:/]*(?::[^@]*)?@)?(?:\[[^/?]+\]|[^/:?]+)?(?::(?P<port>[^/?]*))?(?:/(?P<name>[^?]*))?(?:\?.*)?"
)


def _split(value: str, *schemes: str) -> SplitResult:
    """The parts of an address. Its text stays out of every message: there may be a password in it."""
    begins = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("its host or port is not one (a password's special characters must be %-encoded)") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {begins}")
    return parts


def _http(value: str) -> SplitResult:
    parts = _split(value, "http", "https")
    if not parts.hostname or not value.isprintable() or " " in value:
        raise ValueError("must be an http:// or https:// address")
    return parts


def _http_url(value: str) -> str:
    """An address that is shown: in links, logs and findings. So nothing secret may be in it."""
    if "@" in _http(value).netloc:
        raise ValueError("must hold no user name and no password")
    return value.rstrip("/")


def _link_base(value: str) -> str:
    if {"?", "#"} & set(value):
        raise ValueError("must end with its path, as paths are added to it: no ? and no #")
    return _http_url(value)


def _optional_http_url(value: str) -> str:
    return _http_url(value) if value else value


def _database_url(value: str) -> str:
    if value and not value.startswith(("sqlite:///", "mysql+pymysql://")):
        raise ValueError("must begin with mysql+pymysql:// or sqlite:///")
    if value.startswith("mysql"):
        if value.partition("?")[0].count("@") > 1:
            # What follows the first would be taken for the host, and shown as such.
            raise ValueError("special characters in its password must be %-encoded (@ is %40)")
        parts = _MYSQL_URL.fullmatch(value)
        port = parts and parts["port"]
        if parts is None or (port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536)):
            raise ValueError("its port must be a number from 1 to 65535")
        if not parts["name"]:
            raise ValueError("must name a database after the host, like mysql+pymysql://user:password@host:3306/aae")
    return value


def _redis_url(value: str) -> str:
    if value:
        parts = _split(value, "redis", "rediss", "unix")
        if parts.scheme == "unix" and not parts.path:
            raise ValueError("must name the socket's file, like unix:///run/redis.sock?db=0")
        _redis_database(parts)
    return value


def _redis_database(parts: SplitResult) -> int:
    """The number of the database; ``?db=`` wins over the path, as in redis-py."""
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    number = dict(parse_qsl(parts.query)).get("db", path) or "0"
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise ValueError("its database must be a number, like redis://host:6379/0")
    return int(number)


def _next_redis_database(url: str) -> str:
    """The same server's next database.

    Raises:
        ValueError: it has none by default.
    """
    parts = urlsplit(url)
    number = _redis_database(parts) + 1
    if number > _LAST_REDIS_DATABASE:
        raise ValueError(
            f"AAE_REDIS_URL names Redis's last database ({number - 1}), so there is no next one for Prefect's results: "
            "set AAE_RESULTS_URL to a database of its own"
        )
    others = [(name, each) for name, each in parse_qsl(parts.query, keep_blank_values=True) if name != "db"]
    if parts.scheme == "unix":
        return f"{url.partition('?')[0]}?{urlencode([*others, ('db', str(number))])}"
    return urlunsplit(parts._replace(path=f"/{number}", query=urlencode(others)))


def _cluster(value: str) -> str:
    """A Dask scheduler's address. It is shown: in logs, errors and findings."""
    if value:
        parts = _split(value, "tls", "tcp")
        if not parts.hostname or parts.port is None or "@" in value or not value.isprintable():
            raise ValueError("must name host and port, like tls://scheduler:8786")
    return value


def _smtp_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if url and not _split(url, "smtp", "smtps").hostname:
        raise ValueError("must name a host, like smtp://user:password@host:587")
    return value


def _secret_http_url(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        _http(value.get_secret_value())
    return value


def _login(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().isascii():
        raise ValueError("must be ASCII, as Prefect's server compares nothing else")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable() or "@" not in value:
        raise ValueError("must be an address on one line, like AAE Reports <reports@aae.example>")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]


AttributionWindow = Literal["1d_click", "7d_click", "28d_click", "1d_view", "1d_ev", "default", "incrementality"]
"""What Meta still counts by. 7d_view and 28d_view stopped in January 2026: they are taken and never answered."""


class Part(BaseModel):
    """A group of settings; frozen like the whole, so that settings can be a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetaSettings(Part):
    """The Meta Marketing API."""

    base_url: HttpUrl = Field("https://graph.facebook.com", description="Where the API lives")
    version: str = Field("v26.0", pattern=r"^v\d+\.\d+$", description="First path segment of every call")
    app_id: str = Field("", description="The app's id, needed to exchange tokens")
    app_secret: SecretStr = Field(SecretStr(""), description="The app's secret, needed to exchange tokens")
    attribution_windows: tuple[AttributionWindow, ...] = Field(
        ("7d_click", "1d_view"), min_length=1, description="Asked for explicitly and stored beside every number"
    )


class TikTokSettings(Part):
    """The TikTok Business API."""

    base_url: HttpUrl = Field("https://business-api.tiktok.com", description="Where the API lives")
    version: str = Field("v1.3", pattern=r"^v\d+\.\d+$", description="Path segment after /open_api/")
    app_id: str = Field("", description="The app's id, needed to probe tokens")
    secret: SecretStr = Field(SecretStr(""), description="The app's secret, needed to probe tokens")


class GoogleSettings(Part):
    """The Google Ads API (REST) and Google's token endpoint."""

    base_url: HttpUrl = Field("https://googleads.googleapis.com", description="Where the API lives")
    token_url: HttpUrl = Field("https://oauth2.googleapis.com/token", description="Where tokens are refreshed")
    version: str = Field("v26", pattern=r"^v\d+$", description="First path segment of every call")
    client_id: str = Field("", description="OAuth client id")
    client_secret: SecretStr = Field(SecretStr(""), description="OAuth client secret")
    developer_token: SecretStr = Field(SecretStr(""), description="Developer token, sent with every call")


class LimitSettings(Part):
    """Time limits and retries of every task (the customer's Celery numbers by default)."""

    soft_seconds: float = Field(3300, gt=0, description="An attempt takes no new work after this")
    hard_seconds: float = Field(3600, gt=0, description="An attempt is stopped after this, whatever it does")
    grace_seconds: float = Field(10, gt=0, description="A process that ignores its stop is ended this much later")
    retries: int = Field(3, ge=0, description="Tries after the first")
    retry_delay_seconds: float = Field(300, ge=0, description="Wait between tries")

    @model_validator(mode="after")
    def _soft_before_hard(self) -> LimitSettings:
        if self.soft_seconds >= self.hard_seconds:
            raise ValueError("soft_seconds must be less than hard_seconds")
        return self


class RecoverySettings(Part):
    """How soon a lost run is noticed and run again (``aae watch``)."""

    beat_seconds: float = Field(10, gt=0, description="A running job says this often that it is alive")
    lost_seconds: float = Field(60, gt=0, description="One that says nothing for this long is lost")
    pending_seconds: float = Field(60, gt=0, description="A run that a worker took and that did not begin is stuck")
    settle_seconds: float = Field(4, ge=0, description="What looks lost must look so for this long")
    watch_seconds: float = Field(3, gt=0, description="The watch looks this often")
    turn_seconds: float = Field(30, gt=0, description="A run that is due while its job still runs tries again after")
    max_recoveries: int = Field(3, ge=0, description="A run is run again this often, then it has failed")
    drain_seconds: float = Field(300, ge=0, description="aae drain lets running jobs finish for this long")

    @model_validator(mode="after")
    def _several_beats(self) -> RecoverySettings:
        if self.lost_seconds < 3 * self.beat_seconds:
            raise ValueError("lost_seconds must be at least three times beat_seconds")
        return self


class FetchSettings(Part):
    """What a fetch asks for and how hard it pulls."""

    recent_days: int = Field(3, ge=1, le=28, description="Local days fetched by every run, today included")
    hourly_days: int = Field(2, ge=1, le=14, description="Local days fetched by the hour in every run")
    first_days: int = Field(42, ge=1, le=1000, description="Local days fetched for an account never seen before")
    first_hourly_days: int = Field(29, ge=1, le=90, description="The same by the hour")
    accounts_at_once: int = Field(8, ge=1, le=256, description="Accounts fetched at the same time by one run")
    shares: int = Field(
        1, ge=1, le=MOST_SHARES, description="Runs that the users are dealt out to, each for any worker (aae deploy)"
    )
    shares_at_once: int = Field(1, ge=1, le=MOST_SHARES, description="Shares at work at the same time on one machine")
    request_timeout_seconds: float = Field(60, gt=0, description="Limit of one HTTP request")
    answer_ttl_seconds: int = Field(300, ge=0, description="How long an API answer may be reused; 0 turns it off")
    runner: Annotated[Literal["local", "dask"], BeforeValidator(_lower)] = Field(
        "local", description="Where accounts are fetched: in the run's own process, or on a Dask cluster"
    )
    cluster: Annotated[str, AfterValidator(_cluster)] = Field(
        "",
        description="That cluster's address, like tls://scheduler:8786 (tcp:// is in clear and open to anybody); "
        "empty: two processes on this machine",
    )

    @model_validator(mode="after")
    def _cluster_of_some_kind(self) -> FetchSettings:
        if self.cluster and self.runner == "local":
            raise ValueError("a cluster needs a runner: set AAE_FETCH__RUNNER=dask")
        return self


class RetentionSettings(Part):
    """How long things are kept (``aae retention``, and every night after the token check)."""

    metrics_days: int = Field(
        90,
        ge=75,
        description="Local days of numbers kept by ad and hour; older ones are sums by campaign and day, for ever",
    )
    revisions_days: int = Field(90, ge=1, description="Days that a change of a stored number is kept on record")
    fetches_days: int = Field(
        90, ge=30, description="Days that API calls are kept on record, and fetches, those as long as planning asks"
    )
    tokens_days: int = Field(
        365, ge=30, description="Days that a token check is kept on record; each kind's last stays"
    )
    incidents_days: int = Field(365, ge=30, description="Days that an incident and its history are kept after its end")
    notifications_days: int = Field(90, ge=7, description="Days that a notification is kept that was read")
    unread_days: int = Field(365, ge=7, description="Days that one is kept that was not; what waits to be sent stays")
    reports_days: int = Field(90, ge=7, description="Days that reports and their files are kept")
    attempts_days: int = Field(30, ge=7, description="Days that ended attempts at running a job are kept")
    rows_at_once: int = Field(2000, ge=1, le=50_000, description="Rows of one short transaction, about")


class EmailSettings(Part):
    """How e-mail leaves the house."""

    smtp_url: Annotated[SecretStr, AfterValidator(_smtp_url)] = Field(
        SecretStr(""),
        description="smtp://user:password@host:587 (STARTTLS) or smtps://..., ?ca=/path/to/ca.pem for an "
        "authority of one's own; empty: .eml files in the outbox folder",
    )
    sender: Annotated[str, AfterValidator(_one_line)] = Field(
        "AAE Reports <reports@aae.example>", description="From address"
    )


def _listen_at(value: str) -> str:
    if value:
        host, _, port = value.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError("must be host:port, like 127.0.0.1:9778 (port 0 takes a free one)")
    return value


class MetricsSettings(Part):
    """Where ``aae watch`` and ``aae metrics`` serve metrics and health endpoints, and to whom."""

    listen: Annotated[str, AfterValidator(_listen_at)] = Field(
        "", description="host:port, for instance 127.0.0.1:9778; empty: aae watch serves none"
    )
    token: SecretStr = Field(
        SecretStr(""), description="Who reads metrics must send it as a bearer token; needed outside loopback"
    )

    @model_validator(mode="after")
    def _nobody_unknown(self) -> MetricsSettings:
        token = self.token.get_secret_value()
        if token and not re.fullmatch(r"[!-~]{16,}", token):
            raise ValueError("token must be 16 printable ASCII characters or more, without spaces")
        if self.listen and not token and not _is_loopback(self.address[0]):
            raise ValueError("its address is not on loopback, so AAE_METRICS__TOKEN must be set too")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host (an IPv6 address without its brackets) and port of ``listen``, which is not empty."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def at(self, listen: str) -> MetricsSettings:
        """The same, listening there.

        Raises:
            UserError: that is no address, or one that needs a token.
        """
        try:
            return MetricsSettings(listen=listen, token=self.token)
        except ValidationError as error:
            raise UserError(f"Cannot listen there: {_reason(error)}.") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AlertSettings(Part):
    """Where operators are told of trouble with the jobs themselves, and when (``aae deploy``, ``aae watch``)."""

    webhook_url: Annotated[SecretStr, AfterValidator(_secret_http_url)] = Field(
        SecretStr(""), description="Gets each alert as a JSON object by POST"
    )
    allow_internal: bool = Field(
        False, description="The webhook and Apprise addresses may lead to this machine or its network"
    )
    apprise_urls: SecretStr = Field(
        SecretStr(""), description="Apprise URLs, separated by spaces: Slack, Teams, PagerDuty, ..."
    )
    email_to: str = Field("", description="E-mail addresses, separated by commas; sent through email.smtp_url")
    late_seconds: float = Field(600, gt=0, description="A run that nobody has started this long after it was due")
    stuck_seconds: float = Field(18_000, gt=0, description="A run that has been at work for this long")
    no_worker_seconds: float = Field(300, ge=0, description="No worker for this long")
    stale_hours: float = Field(13, gt=0, description="An account that has had no fresh data for this long")
    silent_seconds: float = Field(600, ge=10, description="The watch has said nothing for this long")

    @property
    def beat_seconds(self) -> float:
        """How often the watch says that it is there: one beat may be late, or get lost."""
        return self.silent_seconds / 5


class Settings(BaseSettings):
    """All settings. Secrets are ``SecretStr``: they print as stars."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    state_dir: Path = Field(Path(".aae"), description="Where the embedded parts keep their files")
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        "",
        repr=False,  # may hold a password
        description="mysql+pymysql://user:password@host/db?charset=utf8mb4&ssl_ca=/path/to/ca.pem; "
        "empty: SQLite in the state folder",
    )
    redis_url: RedisUrl = Field(
        "",
        repr=False,  # may hold a password
        description="redis://host:6379/0, by TLS rediss://host:6379/0?ssl_ca_certs=/path/to/ca.pem; "
        "empty: the embedded server on loopback (aae up)",
    )
    results_url: RedisUrl = Field(
        "",
        repr=False,
        description="Redis database of Prefect's results, of its own; empty: the one after redis_url's number",
    )
    encryption_keys: SecretStr = Field(
        SecretStr(""),
        description="id:base64-of-32-bytes, several separated by commas; the first encrypts, all decrypt. "
        "Empty: a key made once, in the key file",
    )
    key_file: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = Field(
        None, description="Where that key is kept; empty: encryption.key in the state folder"
    )
    public_url: Annotated[str, AfterValidator(_link_base)] = Field(
        "http://localhost:8000", description="The web platform, for links in e-mails and reports"
    )
    sensitivity: Literal["low", "medium", "high"] = Field("medium", description="How eagerly anomalies are reported")
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        "text", description="Logs as text, or one JSON object per line"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="Logs from this level on"
    )
    clock_offset_seconds: float = Field(
        0, description="Rehearsals only: the jobs' clock is this far ahead of the machine's"
    )

    meta: MetaSettings = MetaSettings()
    tiktok: TikTokSettings = TikTokSettings()
    google: GoogleSettings = GoogleSettings()
    limits: LimitSettings = LimitSettings()
    recovery: RecoverySettings = RecoverySettings()
    fetch: FetchSettings = FetchSettings()
    retention: RetentionSettings = RetentionSettings()
    email: EmailSettings = EmailSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertSettings = AlertSettings()
    prefect_api_url: Annotated[str, AfterValidator(_optional_http_url)] = Field(
        "", validation_alias="PREFECT_API_URL", description="Prefect's own variable: where its API lives"
    )
    prefect_ui_url: Annotated[str, AfterValidator(_optional_http_url)] = Field(
        "", validation_alias="PREFECT_UI_URL", description="Prefect's own: its pages, for links in alerts"
    )
    prefect_api_auth_string: Annotated[SecretStr, AfterValidator(_login)] = Field(
        SecretStr(""), validation_alias="PREFECT_API_AUTH_STRING", description="Prefect's own: user:password"
    )
    prefect_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="PREFECT_API_KEY",
        description="Prefect's own: a key, where a server asks for it",
    )

    prefect_api_ssl_cert_file: str = Field(
        "",
        validation_alias="PREFECT_API_SSL_CERT_FILE",
        description="Prefect's own: PEM file of the authority that vouches for an https:// API",
    )

    @model_validator(mode="after")
    def _results_have_a_place(self) -> Settings:
        _ = self.resolved_results_url
        return self

    @property
    def resolved_database_url(self) -> str:
        """The database's URL: the one set, or SQLite in the state folder."""
        return self.database_url or f"sqlite:///{(self.state_dir / 'aae.db').absolute()}"

    @property
    def resolved_results_url(self) -> str:
        """Where Prefect keeps the results of runs."""
        if self.results_url or not self.redis_url:
            return self.results_url
        return _next_redis_database(self.redis_url)

    @property
    def resolved_key_file(self) -> Path:
        """Where the key is that is made when none is set."""
        return self.key_file or self.state_dir / "encryption.key"

    @property
    def resolved_ui_url(self) -> str:
        """Prefect's pages: as set, or beside its API."""
        return self.prefect_ui_url or self.prefect_api_url.removesuffix("/api")

    @property
    def outbox_dir(self) -> Path:
        """Where e-mails are written when no SMTP server is set."""
        return self.state_dir / "outbox"

    @property
    def reports_dir(self) -> Path:
        """Where the rendered reports are written."""
        return self.state_dir / "reports"

    def of(self, platform: Platform) -> MetaSettings | TikTokSettings | GoogleSettings:
        """The settings of one platform."""
        match platform:
            case Platform.META:
                return self.meta
            case Platform.TIKTOK:
                return self.tiktok
            case Platform.GOOGLE:
                return self.google


@cache
def load() -> Settings:
    """Read and validate the settings, once per process.

    Raises:
        UserError: a variable is wrong; the message names it and says why.
    """
    written = _written()
    _refuse_unknown(written)
    try:
        return Settings()
    except ValidationError as error:
        raise UserError(_what_is_wrong(error)) from None
    except (SettingsError, RecursionError):
        # Its message names the group, not the variable.
        names = [name for name, is_json in _names(Settings) if is_json and not _is_json(written.get(name, "null"))]
        example = ' such as ["7d_click","1d_view"]' if names and names[0].endswith("ATTRIBUTION_WINDOWS") else ""
        raise UserError(
            f"The setting {', '.join(names) or 'of a group'} is wrong: it must be JSON{example}. {_CORRECT}"
        ) from None


_CORRECT: Final = "Correct it in the environment or in .env."


def _written() -> dict[str, str]:
    """Every variable that may be meant for us, by its name in capitals; the environment wins over the file."""
    file = Settings.model_config.get("env_file")
    both = {**(dotenv_values(str(file)) if file else {}), **os.environ}
    return {name.upper(): value or "" for name, value in both.items() if name.upper().startswith(_PREFIX)}


def _names(model: type[BaseModel], prefix: str = _PREFIX) -> Iterator[tuple[str, bool]]:
    """The variable of every setting and every group, and whether its text is JSON."""
    for name, field in model.model_fields.items():
        if field.validation_alias:
            continue
        variable, kind = prefix + name.upper(), field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield variable, True
            yield from _names(kind, f"{variable}__")
        else:
            yield variable, str(kind).startswith("tuple")


def _refuse_unknown(written: dict[str, str]) -> None:
    known = {name for name, _ in _names(Settings)} | _NO_SETTINGS
    for name in sorted(written.keys() - known):
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see .env.example for those there are."
        raise UserError(f"There is no setting {name}: {hint}")


def _what_is_wrong(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    reason = _reason(error)
    path = "__".join(part for part in first["loc"] if isinstance(part, str)).upper()  # not the place in a list
    if not path:
        return f"{reason}."
    name = path if path.startswith("PREFECT_") else _PREFIX + path
    if first["type"] == "extra_forbidden":
        reason = "there is no such setting"
    return f"The setting {name} is wrong: {reason}. {_CORRECT}"


def _reason(error: ValidationError) -> str:
    return str(error.errors(include_input=False, include_url=False)[0]["msg"]).removeprefix("Value error, ")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
