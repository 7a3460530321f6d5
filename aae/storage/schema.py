"""The tables: the contract with the web platform, the same on MySQL, MariaDB and SQLite.

Rules that hold everywhere:

- Facts are stored once, at the finest level the platform gives (an ad; a campaign where there are no ads).
  Every other level is a sum.
- Facts carry the account's local date and hour as the platform said them, and UTC beside it.
- Money and conversions are ``Micros``: ``DECIMAL(18,6)`` on MySQL, an integer of millionths on SQLite (which has
  no exact decimal type). In Python they are always ``int`` micros.
- ``conversions`` and ``revenue`` are nullable: unknown is not zero.
- Every moment is UTC, stored without an offset (``UtcDateTime`` gives and takes aware datetimes).
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import JSON, TypeEngine

from aae.model import from_micros, to_micros


class Micros(TypeDecorator[int]):
    """An exact decimal with six places that is an ``int`` of millionths in Python."""

    impl = Numeric(18, 6)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Integers on SQLite, which would store a decimal as a float; DECIMAL(18,6) elsewhere."""
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(18, 6))

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | Decimal | None:
        """Python to database."""
        return value if value is None or dialect.name == "sqlite" else from_micros(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> int | None:
        """Database to Python; also for sums, which MySQL gives as wider decimals."""
        return None if value is None else int(value) if dialect.name == "sqlite" else to_micros(value)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC moment, with microseconds, stored without an offset."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """DATETIME(6) on MySQL, whose plain DATETIME drops the fraction."""
        return dialect.type_descriptor(mysql.DATETIME(fsp=6) if dialect.name in {"mysql", "mariadb"} else DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses naive datetimes: they are how time zones get lost."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Stored moments are UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


def _id() -> Column[int]:
    # SQLite only auto-increments INTEGER PRIMARY KEY.
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _external_id(name: str = "external_id", **more: Any) -> Column[str]:
    # Platform ids are opaque ASCII strings; a binary collation compares them exactly and indexes them small.
    kind = String(64).with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
    return Column(name, kind, **more)


def _text() -> TypeEngine[str]:
    return Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


_REFERENCE = BigInteger().with_variant(Integer, "sqlite")
_MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("email", String(254), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("active", Boolean, nullable=False, default=True),
    # {"mute": ["daily_report", ...]}: kinds not wanted by e-mail; urgent ones are sent all the same.
    Column("preferences", JSON, nullable=False, default=dict),
    Column("created_at", UtcDateTime, nullable=False),
    **_MYSQL,
)

ad_accounts = Table(
    "ad_accounts",
    metadata,
    _id(),
    Column("user_id", _REFERENCE, ForeignKey("users.id"), nullable=False),
    Column("platform", String(16), nullable=False),
    _external_id(nullable=False),
    Column("name", String(400), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("timezone", String(64), nullable=False),
    _external_id("login_customer_id", nullable=True),
    Column("status", String(16), nullable=False, default="active"),
    Column("status_reason", String(500), nullable=True),
    # AES-256-GCM, bound to this row (aae.vault).
    Column("access_token", LargeBinary(8192), nullable=True),
    Column("refresh_token", LargeBinary(8192), nullable=True),
    Column("token_expires_at", UtcDateTime, nullable=True),
    # Compare-and-set: a refresh writes only if nobody else has written since it read.
    Column("token_version", Integer, nullable=False, default=0),
    # Moves with every publication of new numbers; detection looks only at accounts whose version moved.
    Column("data_version", Integer, nullable=False, default=0),
    Column("detected_version", Integer, nullable=False, default=0),
    Column("data_through", UtcDateTime, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("user_id", "platform", "external_id"),
    Index(None, "status", "platform"),
    **_MYSQL,
)

token_refreshes = Table(
    "token_refreshes",
    metadata,
    _id(),
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    # refreshed | still_valid | permanent_failure | transient_failure | access_doubted | access_refused | recovered |
    # lost_race, and while and after a check is made: checking (expires_at: its latest end, detail: by whom) |
    # unanswered
    Column("outcome", String(24), nullable=False),
    Column("token_version", Integer, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("error_code", String(64), nullable=True),
    Column("detail", String(500), nullable=True),
    Column("run_id", String(64), nullable=True),
    Index(None, "account_id", "at"),
    **_MYSQL,
)

entities = Table(
    "entities",
    metadata,
    _id(),
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), nullable=False),
    Column("level", String(16), nullable=False),
    _external_id(nullable=False),
    Column("parent_id", _REFERENCE, ForeignKey("entities.id"), nullable=True),
    Column("name", String(400), nullable=False),
    Column("status", String(32), nullable=False),
    Column("daily_budget", Micros, nullable=True),
    Column("channel", String(64), nullable=True),
    Column("first_seen_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    UniqueConstraint("account_id", "level", "external_id"),
    Index(None, "parent_id"),
    **_MYSQL,
)


def _facts(name: str, *time: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), primary_key=True, autoincrement=False),
        *time,
        Column("entity_id", _REFERENCE, ForeignKey("entities.id"), primary_key=True, autoincrement=False),
        Column("utc_start", UtcDateTime, nullable=False),
        Column("impressions", BigInteger, nullable=False),
        Column("clicks", BigInteger, nullable=False),
        Column("spend", Micros, nullable=False),
        Column("conversions", Micros, nullable=True),
        Column("revenue", Micros, nullable=True),
        # The windows that conversions and revenue were counted with, e.g. "7d_click,1d_view".
        Column("attribution", String(64), nullable=False, default=""),
        **_MYSQL,
    )


# The key begins with the account and the day, so that a slice is one contiguous range of the clustered index.
ad_metrics_daily = _facts(
    "ad_metrics_daily",
    Column("local_date", Date, primary_key=True),
)
ad_metrics_hourly = _facts(
    "ad_metrics_hourly",
    Column("local_date", Date, primary_key=True),
    Column("local_hour", SmallInteger, primary_key=True, autoincrement=False),
)

metric_revisions = Table(
    "metric_revisions",
    metadata,
    _id(),
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), nullable=False),
    Column("entity_id", _REFERENCE, ForeignKey("entities.id"), nullable=False),
    Column("granularity", String(8), nullable=False),
    Column("local_date", Date, nullable=False),
    Column("local_hour", SmallInteger, nullable=True),
    Column("metric", String(16), nullable=False),
    # Both in micros, also for impressions and clicks; a missing new value means the row was withdrawn,
    # a missing old one that the platform began to tell, or that the row came late.
    Column("old", Micros, nullable=True),
    Column("new", Micros, nullable=True),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("run_id", String(64), nullable=True),
    Index(None, "account_id", "local_date"),
    **_MYSQL,
)

fetches = Table(
    "fetches",
    metadata,
    _id(),
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), nullable=False),
    Column("granularity", String(8), nullable=False),
    Column("since", Date, nullable=False),
    Column("until", Date, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    # stored | throttled | failed | reauthorize | skipped
    Column("outcome", String(16), nullable=False),
    Column("rows_fetched", Integer, nullable=False, default=0),
    Column("rows_inserted", Integer, nullable=False, default=0),
    Column("rows_updated", Integer, nullable=False, default=0),
    Column("rows_deleted", Integer, nullable=False, default=0),
    Column("api_calls", Integer, nullable=False, default=0),
    # Leaf sums beside the platform's own account totals, and how far they are apart (a share of the platform's).
    Column("impressions", BigInteger, nullable=True),
    Column("spend", Micros, nullable=True),
    Column("platform_impressions", BigInteger, nullable=True),
    Column("platform_spend", Micros, nullable=True),
    Column("drift", Numeric(9, 6, asdecimal=False), nullable=True),
    Column("error_code", String(64), nullable=True),
    Column("detail", String(500), nullable=True),
    Column("run_id", String(64), nullable=True),
    Index(None, "account_id", "granularity", "finished_at"),
    **_MYSQL,
)

# Every call made for an account, by what it was for (aae.platforms.transport.Purpose).
api_calls = Table(
    "api_calls",
    metadata,
    _id(),
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("purpose", String(16), nullable=False),
    Column("calls", Integer, nullable=False),
    Column("run_id", String(64), nullable=True),
    # Decides "once" for those that come with no row of fetches, which is on record once itself.
    Column("batch", BigInteger, nullable=True),
    UniqueConstraint("batch", "purpose"),
    **_MYSQL,
)

# Days that are older than the facts are kept: one row per campaign (aae.storage.history). A day of an account is either
# here or in ad_metrics_daily, never in both. Unknown is not zero here either: ``*_rows`` count the facts that told the
# number, and spend and clicks of just those are kept, so that CPA, ROAS and the conversion rate stay exact.
daily_summary = Table(
    "daily_summary",
    metadata,
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), primary_key=True, autoincrement=False),
    Column("local_date", Date, primary_key=True),
    Column("campaign_id", _REFERENCE, ForeignKey("entities.id"), primary_key=True, autoincrement=False),
    Column("fact_rows", Integer, nullable=False),
    Column("impressions", BigInteger, nullable=False),
    Column("clicks", BigInteger, nullable=False),
    Column("spend", Micros, nullable=False),
    Column("conversions", Micros, nullable=True),
    Column("conversions_rows", Integer, nullable=False),
    Column("conversions_spend", Micros, nullable=False),
    Column("conversions_clicks", BigInteger, nullable=False),
    Column("revenue", Micros, nullable=True),
    Column("revenue_rows", Integer, nullable=False),
    Column("revenue_spend", Micros, nullable=False),
    # Made of the hours because the day itself was never stored; Meta tells no conversions by the hour.
    Column("from_hours", Boolean, nullable=False),
    **_MYSQL,
)

incidents = Table(
    "incidents",
    metadata,
    _id(),
    Column("user_id", _REFERENCE, ForeignKey("users.id"), nullable=False),
    # Missing where one cause spans several accounts of the user.
    Column("account_id", _REFERENCE, ForeignKey("ad_accounts.id"), nullable=True),
    Column("entity_id", _REFERENCE, ForeignKey("entities.id"), nullable=True),
    # What makes two findings the same incident: user, metric family, entity.
    Column("fingerprint", String(120), nullable=False),
    # Holds the fingerprint while the incident is open and is empty after: at most one open incident each.
    Column("open_fingerprint", String(120), nullable=True, unique=True),
    Column("metric", String(16), nullable=False),
    Column("level", String(16), nullable=False),
    # opened | escalated | easing | resolved
    Column("state", String(16), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("resolved_at", UtcDateTime, nullable=True),
    Column("snoozed_until", UtcDateTime, nullable=True),
    Column("currency", String(3), nullable=True),
    Column("stake", Micros, nullable=True),
    # current, expected, deviation, window, cause, recommendation, funnel, children ...
    Column("data", JSON, nullable=False),
    Index(None, "user_id", "opened_at"),
    Index(None, "fingerprint", "resolved_at"),
    **_MYSQL,
)

incident_events = Table(
    "incident_events",
    metadata,
    _id(),
    Column("incident_id", _REFERENCE, ForeignKey("incidents.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("data", JSON, nullable=False),
    Index(None, "incident_id", "at"),
    **_MYSQL,
)

reports = Table(
    "reports",
    metadata,
    _id(),
    Column("user_id", _REFERENCE, ForeignKey("users.id"), nullable=False),
    # The day the report is about ("yesterday" for its reader), whatever the accounts' zones.
    Column("report_date", Date, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # 0..1: share of the accounts whose numbers for that day are all there.
    Column("completeness", Numeric(5, 4, asdecimal=False), nullable=False),
    Column("summary", JSON, nullable=False),
    Column("html", _text(), nullable=False),
    Column("csv", _text(), nullable=False),
    Column("markdown", _text(), nullable=False),
    UniqueConstraint("user_id", "report_date"),
    **_MYSQL,
)

notifications = Table(
    "notifications",
    metadata,
    _id(),
    Column("user_id", _REFERENCE, ForeignKey("users.id"), nullable=False),
    # token_expired | token_recovered | anomaly_alert | daily_report
    Column("kind", String(32), nullable=False),
    Column("urgency", String(8), nullable=False),
    Column("title", String(300), nullable=False),
    Column("message", _text(), nullable=False),
    Column("data", JSON, nullable=False),
    # Decides "once": the same news has the same key.
    Column("dedupe_key", String(190), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("read_at", UtcDateTime, nullable=True),
    # pending | sending | sent | not_wanted | failed
    Column("email_state", String(16), nullable=False),
    Column("email_attempts", Integer, nullable=False, default=0),
    Column("email_claimed_until", UtcDateTime, nullable=True),
    Column("email_sent_at", UtcDateTime, nullable=True),
    Column("email_error", String(500), nullable=True),
    Index(None, "user_id", "created_at"),
    Index(None, "email_state", "email_claimed_until"),
    **_MYSQL,
)

# Which process works on which run: one row per attempt. Its id is the fencing token of everything the attempt writes.
attempts = Table(
    "attempts",
    metadata,
    _id(),
    Column("job", String(64), nullable=False),
    # Holds the job's name while the attempt lasts and is empty after: at most one attempt of a job at any time.
    Column("holding", String(64), nullable=True, unique=True),
    Column("run_id", String(64), nullable=False),
    # Where its process lives, so that a neighbour can see whether it still does: machine, process id, start.
    Column("place", String(190), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", BigInteger, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=True),
    # ended | lost | crashed | handed_over
    Column("outcome", String(16), nullable=True),
    Column("reason", String(500), nullable=True),
    Index(None, "run_id"),
    **_MYSQL,
)

# Signs of life, apart from the rows that fence: a sign of life must not wait for a transaction, nor stop one.
attempt_beats = Table(
    "attempt_beats",
    metadata,
    Column("attempt_id", _REFERENCE, ForeignKey("attempts.id"), primary_key=True, autoincrement=False),
    Column("beats", BigInteger, nullable=False),
    Column("beat_at", UtcDateTime, nullable=False),
    Column("doing", String(300), nullable=False),
    **_MYSQL,
)
