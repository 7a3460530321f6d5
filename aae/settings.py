"""Every setting, described, validated once at start.

Read from the environment (prefix ``AAE_``, nested with two underscores: ``AAE_META__BASE_URL``), then from
``.env`` in the working directory. ``load()`` is the only way in; it turns every mistake into one
:class:`~aae.errors.UserError` that names the variable and says what to do.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aae.errors import UserError
from aae.model import Platform


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("must be an http:// or https:// address")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    if value and not value.startswith(("sqlite:///", "mysql+pymysql://")):
        raise ValueError("must begin with mysql+pymysql:// or sqlite:///")
    return value


def _redis_url(value: str) -> str:
    if value and not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Part(BaseModel):
    """A group of settings; frozen like the whole, so that settings can be a key."""

    model_config = ConfigDict(frozen=True)


class MetaSettings(Part):
    """The Meta Marketing API."""

    base_url: HttpUrl = Field("https://graph.facebook.com", description="Where the API lives")
    version: str = Field("v26.0", pattern=r"^v\d+\.\d+$", description="First path segment of every call")
    app_id: str = Field("", description="The app's id, needed to exchange tokens")
    app_secret: SecretStr = Field(SecretStr(""), description="The app's secret, needed to exchange tokens")
    attribution_windows: tuple[str, ...] = Field(
        ("7d_click", "1d_view"), description="Asked for explicitly and stored beside every number"
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
    retries: int = Field(3, ge=0, description="Tries after the first")
    retry_delay_seconds: float = Field(300, ge=0, description="Wait between tries")

    @model_validator(mode="after")
    def _soft_before_hard(self) -> LimitSettings:
        if self.soft_seconds >= self.hard_seconds:
            raise ValueError("soft_seconds must be less than hard_seconds")
        return self


class FetchSettings(Part):
    """What a fetch asks for and how hard it pulls."""

    recent_days: int = Field(3, ge=1, le=28, description="Local days fetched by every run, today included")
    hourly_days: int = Field(2, ge=1, le=14, description="Local days fetched by the hour in every run")
    first_days: int = Field(42, ge=1, le=1000, description="Local days fetched for an account never seen before")
    first_hourly_days: int = Field(29, ge=1, le=90, description="The same by the hour")
    accounts_at_once: int = Field(8, ge=1, le=256, description="Accounts fetched at the same time by one run")
    request_timeout_seconds: float = Field(60, gt=0, description="Limit of one HTTP request")
    answer_ttl_seconds: int = Field(300, ge=0, description="How long an API answer may be reused; 0 turns it off")


class EmailSettings(Part):
    """How e-mail leaves the house."""

    smtp_url: SecretStr = Field(
        SecretStr(""),
        description="smtp://user:password@host:587 (STARTTLS) or smtps://...; empty: .eml files in the outbox folder",
    )
    sender: str = Field("AAE Reports <reports@aae.example>", description="From address")


class Settings(BaseSettings):
    """All settings. Secrets are ``SecretStr``: they print as stars."""

    model_config = SettingsConfigDict(
        env_prefix="AAE_", env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    state_dir: Path = Field(Path(".aae"), description="Where the embedded parts keep their files")
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        "",
        repr=False,  # may hold a password
        description="mysql+pymysql://user:password@host/db?charset=utf8mb4; empty: SQLite in the state folder",
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "",
        repr=False,  # may hold a password
        description="redis://host:6379/0; empty: the embedded server on loopback (aae up)",
    )
    results_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "",
        repr=False,
        description="Redis database of Prefect's results, of its own; empty: the one after redis_url's number",
    )
    encryption_keys: SecretStr = Field(
        SecretStr(""),
        description="id:base64-of-32-bytes, several separated by commas; the first encrypts, all decrypt. "
        "Empty: a key made once, in the key file",
    )
    key_file: Path | None = Field(None, description="Where that key is kept; empty: encryption.key in the state folder")
    public_url: HttpUrl = Field("http://localhost:8000", description="The web platform, for links in e-mails")
    sensitivity: Literal["low", "medium", "high"] = Field("medium", description="How eagerly anomalies are reported")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the logs")

    meta: MetaSettings = MetaSettings()
    tiktok: TikTokSettings = TikTokSettings()
    google: GoogleSettings = GoogleSettings()
    limits: LimitSettings = LimitSettings()
    fetch: FetchSettings = FetchSettings()
    email: EmailSettings = EmailSettings()
    prefect_api_url: str = Field(
        "", validation_alias="PREFECT_API_URL", description="Prefect's own variable: where its API lives"
    )

    @property
    def resolved_database_url(self) -> str:
        """The database's URL: the one set, or SQLite in the state folder."""
        return self.database_url or f"sqlite:///{(self.state_dir / 'aae.db').absolute()}"

    @property
    def resolved_results_url(self) -> str:
        """Where Prefect keeps the results of runs."""
        if self.results_url or not self.redis_url:
            return self.results_url
        parts = urlsplit(self.redis_url)
        return urlunsplit(parts._replace(path=f"/{int(parts.path.strip('/') or 0) + 1}"))

    @property
    def resolved_key_file(self) -> Path:
        """Where the key is that is made when none is set."""
        return self.key_file or self.state_dir / "encryption.key"

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
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "AAE_" + "__".join(str(part) for part in first["loc"]).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"The setting {name} is wrong: {reason}. Correct it in the environment or in .env.") from None
