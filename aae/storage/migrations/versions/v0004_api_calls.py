"""API calls by what they were for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}


def upgrade() -> None:
    fetch = sa.ForeignKey("fetches.id", name="fk_api_calls_fetch_id")
    op.create_table(
        "api_calls",
        sa.Column("fetch_id", KEY, fetch, nullable=False, autoincrement=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("fetch_id", "purpose", name="pk_api_calls"),
        **MYSQL,
    )


def downgrade() -> None:
    op.drop_table("api_calls")
