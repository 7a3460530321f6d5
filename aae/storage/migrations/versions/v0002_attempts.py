"""Attempts: which process works on which run, and its signs of life."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
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
    op.create_table(
        "attempts",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("holding", sa.String(64), nullable=True),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("place", sa.String(190), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("born", sa.BigInteger, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("reason", sa.String(500), nullable=True),
        sa.UniqueConstraint("holding", name="uq_attempts_holding"),
        sa.Index("ix_attempts_run_id", "run_id"),
        **MYSQL,
    )
    op.create_table(
        "attempt_beats",
        sa.Column(
            "attempt_id",
            KEY,
            sa.ForeignKey("attempts.id", name="fk_attempt_beats_attempt_id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("beats", sa.BigInteger, nullable=False),
        sa.Column("beat_at", MOMENT, nullable=False),
        sa.Column("doing", sa.String(300), nullable=False),
        **MYSQL,
    )


def downgrade() -> None:
    op.drop_table("attempt_beats")
    op.drop_table("attempts")
