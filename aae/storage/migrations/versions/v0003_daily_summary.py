"""The daily summary tells how much of each sum is known. Nothing has written to it before this version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MICROS = sa.Numeric(18, 6).with_variant(sa.BigInteger, "sqlite")
ADDED = (
    ("fact_rows", sa.Integer()),
    ("conversions_rows", sa.Integer()),
    ("conversions_spend", MICROS),
    ("conversions_clicks", sa.BigInteger()),
    ("revenue_rows", sa.Integer()),
    ("revenue_spend", MICROS),
    ("from_hours", sa.Boolean()),
)


def upgrade() -> None:
    for name, kind in ADDED:
        op.add_column("daily_summary", sa.Column(name, kind, nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    for name, _ in reversed(ADDED):
        op.drop_column("daily_summary", name)
