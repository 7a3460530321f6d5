"""API calls are a log of their own: by account and moment, with a fetch or without."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}


def upgrade() -> None:
    op.rename_table("api_calls", "api_calls_by_fetch")
    op.create_table(
        "api_calls",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("account_id", KEY, reference("account_id", "ad_accounts"), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=True),
        sa.Column("batch", sa.BigInteger, nullable=True),
        sa.UniqueConstraint("batch", "purpose", name="uq_api_calls_batch_purpose"),
        **MYSQL,
    )
    op.execute(
        "INSERT INTO api_calls (account_id, at, purpose, calls, run_id) "
        "SELECT account_id, finished_at, purpose, calls, run_id FROM api_calls_by_fetch "
        "JOIN fetches ON fetches.id = fetch_id ORDER BY fetch_id, purpose"
    )
    op.drop_table("api_calls_by_fetch")


def downgrade() -> None:
    op.drop_table("api_calls")
    op.create_table(
        "api_calls",
        sa.Column("fetch_id", KEY, reference("fetch_id", "fetches"), nullable=False, autoincrement=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("fetch_id", "purpose", name="pk_api_calls"),
        **MYSQL,
    )


def reference(column: str, target: str) -> sa.ForeignKey:
    return sa.ForeignKey(f"{target}.id", name=f"fk_api_calls_{column}")
