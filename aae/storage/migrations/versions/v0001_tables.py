"""The first tables.

A version never imports ``aae.storage.schema``: the schema moves on, what this version made does not.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
MICROS = sa.Numeric(18, 6).with_variant(sa.BigInteger, "sqlite")
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
EXTERNAL_ID = sa.String(64).with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def upgrade() -> None:
    users_and_accounts()
    entities_and_facts()
    fetching()
    incidents()
    reports_and_notifications()


def downgrade() -> None:
    for name in (
        "notifications",
        "reports",
        "incident_events",
        "incidents",
        "daily_summary",
        "fetches",
        "metric_revisions",
        "ad_metrics_hourly",
        "ad_metrics_daily",
        "entities",
        "token_refreshes",
        "ad_accounts",
        "users",
    ):
        op.drop_table(name)


def users_and_accounts() -> None:
    table(
        "users",
        key(),
        required("email", sa.String(254)),
        required("name", sa.String(200)),
        required("active", sa.Boolean),
        required("preferences", sa.JSON),
        required("created_at", MOMENT),
        unique("users", "email"),
    )
    table(
        "ad_accounts",
        key(),
        reference("ad_accounts", "user_id", "users"),
        required("platform", sa.String(16)),
        required("external_id", EXTERNAL_ID),
        required("name", sa.String(400)),
        required("currency", sa.String(3)),
        required("timezone", sa.String(64)),
        sa.Column("login_customer_id", EXTERNAL_ID),
        required("status", sa.String(16)),
        sa.Column("status_reason", sa.String(500)),
        sa.Column("access_token", sa.LargeBinary(8192)),
        sa.Column("refresh_token", sa.LargeBinary(8192)),
        sa.Column("token_expires_at", MOMENT),
        required("token_version", sa.Integer),
        required("data_version", sa.Integer),
        required("detected_version", sa.Integer),
        sa.Column("data_through", MOMENT),
        required("created_at", MOMENT),
        required("updated_at", MOMENT),
        unique("ad_accounts", "user_id", "platform", "external_id"),
    )
    index("ad_accounts", "status", "platform")
    table(
        "token_refreshes",
        key(),
        reference("token_refreshes", "account_id", "ad_accounts"),
        required("at", MOMENT),
        required("outcome", sa.String(24)),
        required("token_version", sa.Integer),
        sa.Column("expires_at", MOMENT),
        sa.Column("error_code", sa.String(64)),
        sa.Column("detail", sa.String(500)),
        sa.Column("run_id", sa.String(64)),
    )
    index("token_refreshes", "account_id", "at")


def entities_and_facts() -> None:
    table(
        "entities",
        key(),
        reference("entities", "account_id", "ad_accounts"),
        required("level", sa.String(16)),
        required("external_id", EXTERNAL_ID),
        reference("entities", "parent_id", "entities", nullable=True),
        required("name", sa.String(400)),
        required("status", sa.String(32)),
        sa.Column("daily_budget", MICROS),
        sa.Column("channel", sa.String(64)),
        required("first_seen_at", MOMENT),
        required("last_seen_at", MOMENT),
        unique("entities", "account_id", "level", "external_id"),
    )
    index("entities", "parent_id")
    facts("ad_metrics_daily", required("local_date", sa.Date))
    facts("ad_metrics_hourly", required("local_date", sa.Date), required("local_hour", sa.SmallInteger))
    table(
        "metric_revisions",
        key(),
        reference("metric_revisions", "account_id", "ad_accounts"),
        reference("metric_revisions", "entity_id", "entities"),
        required("granularity", sa.String(8)),
        required("local_date", sa.Date),
        sa.Column("local_hour", sa.SmallInteger),
        required("metric", sa.String(16)),
        sa.Column("old", MICROS),
        sa.Column("new", MICROS),
        required("changed_at", MOMENT),
        sa.Column("run_id", sa.String(64)),
    )
    index("metric_revisions", "account_id", "local_date")
    table(
        "daily_summary",
        reference("daily_summary", "account_id", "ad_accounts"),
        required("local_date", sa.Date),
        reference("daily_summary", "campaign_id", "entities"),
        *measures(),
        primary("daily_summary", "account_id", "local_date", "campaign_id"),
    )


def facts(name: str, *time: sa.Column[Any]) -> None:
    table(
        name,
        reference(name, "account_id", "ad_accounts"),
        *time,
        reference(name, "entity_id", "entities"),
        required("utc_start", MOMENT),
        *measures(),
        required("attribution", sa.String(64)),
        primary(name, "account_id", *(column.name for column in time), "entity_id"),
    )


def fetching() -> None:
    table(
        "fetches",
        key(),
        reference("fetches", "account_id", "ad_accounts"),
        required("granularity", sa.String(8)),
        required("since", sa.Date),
        required("until", sa.Date),
        required("started_at", MOMENT),
        required("finished_at", MOMENT),
        required("outcome", sa.String(16)),
        required("rows_fetched", sa.Integer),
        required("rows_inserted", sa.Integer),
        required("rows_updated", sa.Integer),
        required("rows_deleted", sa.Integer),
        required("api_calls", sa.Integer),
        sa.Column("impressions", sa.BigInteger),
        sa.Column("spend", MICROS),
        sa.Column("platform_impressions", sa.BigInteger),
        sa.Column("platform_spend", MICROS),
        sa.Column("drift", sa.Numeric(9, 6)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("detail", sa.String(500)),
        sa.Column("run_id", sa.String(64)),
    )
    index("fetches", "account_id", "granularity", "finished_at")


def incidents() -> None:
    table(
        "incidents",
        key(),
        reference("incidents", "user_id", "users"),
        reference("incidents", "account_id", "ad_accounts", nullable=True),
        reference("incidents", "entity_id", "entities", nullable=True),
        required("fingerprint", sa.String(120)),
        sa.Column("open_fingerprint", sa.String(120)),
        required("metric", sa.String(16)),
        required("level", sa.String(16)),
        required("state", sa.String(16)),
        required("severity", sa.String(16)),
        required("opened_at", MOMENT),
        required("updated_at", MOMENT),
        sa.Column("resolved_at", MOMENT),
        sa.Column("snoozed_until", MOMENT),
        sa.Column("currency", sa.String(3)),
        sa.Column("stake", MICROS),
        required("data", sa.JSON),
        unique("incidents", "open_fingerprint"),
    )
    index("incidents", "user_id", "opened_at")
    index("incidents", "fingerprint", "resolved_at")
    table(
        "incident_events",
        key(),
        reference("incident_events", "incident_id", "incidents"),
        required("at", MOMENT),
        required("state", sa.String(16)),
        required("severity", sa.String(16)),
        required("data", sa.JSON),
    )
    index("incident_events", "incident_id", "at")


def reports_and_notifications() -> None:
    table(
        "reports",
        key(),
        reference("reports", "user_id", "users"),
        required("report_date", sa.Date),
        required("created_at", MOMENT),
        required("completeness", sa.Numeric(5, 4)),
        required("summary", sa.JSON),
        required("html", TEXT),
        required("csv", TEXT),
        required("markdown", TEXT),
        unique("reports", "user_id", "report_date"),
    )
    table(
        "notifications",
        key(),
        reference("notifications", "user_id", "users"),
        required("kind", sa.String(32)),
        required("urgency", sa.String(8)),
        required("title", sa.String(300)),
        required("message", TEXT),
        required("data", sa.JSON),
        required("dedupe_key", sa.String(190)),
        required("created_at", MOMENT),
        sa.Column("read_at", MOMENT),
        required("email_state", sa.String(16)),
        required("email_attempts", sa.Integer),
        sa.Column("email_claimed_until", MOMENT),
        sa.Column("email_sent_at", MOMENT),
        sa.Column("email_error", sa.String(500)),
        unique("notifications", "dedupe_key"),
    )
    index("notifications", "user_id", "created_at")
    index("notifications", "email_state", "email_claimed_until")


def table(name: str, *parts: Any) -> None:
    options: dict[str, Any] = {
        f"{dialect}_{option}": value
        for dialect in ("mysql", "mariadb")
        for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
    }
    op.create_table(name, *parts, **options)


def key() -> sa.Column[int]:
    return sa.Column("id", KEY, primary_key=True, autoincrement=True)


def required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def reference(owner: str, name: str, target: str, *, nullable: bool = False) -> sa.Column[int]:
    foreign = sa.ForeignKey(f"{target}.id", name=f"fk_{owner}_{name}")
    return sa.Column(name, KEY, foreign, nullable=nullable, autoincrement=False)


def measures() -> list[sa.Column[Any]]:
    return [
        required("impressions", sa.BigInteger),
        required("clicks", sa.BigInteger),
        required("spend", MICROS),
        sa.Column("conversions", MICROS),
        sa.Column("revenue", MICROS),
    ]


def primary(owner: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{owner}")


def unique(owner: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name="_".join(("uq", owner, *columns)))


def index(owner: str, *columns: str) -> None:
    op.create_index("_".join(("ix", owner, *columns)), owner, list(columns))
