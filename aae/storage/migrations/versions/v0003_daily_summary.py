"""The daily summary tells how much of each sum is known. Made anew: no version before this one has written to it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MICROS = sa.Numeric(18, 6).with_variant(sa.BigInteger, "sqlite")
MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}
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
    make([sa.Column(name, kind, nullable=False) for name, kind in ADDED])


def downgrade() -> None:
    make([])


def make(added: list[sa.Column[Any]]) -> None:
    op.drop_table("daily_summary")
    op.create_table(
        "daily_summary",
        reference("account_id", "ad_accounts"),
        sa.Column("local_date", sa.Date, nullable=False),
        reference("campaign_id", "entities"),
        sa.Column("impressions", sa.BigInteger, nullable=False),
        sa.Column("clicks", sa.BigInteger, nullable=False),
        sa.Column("spend", MICROS, nullable=False),
        sa.Column("conversions", MICROS),
        sa.Column("revenue", MICROS),
        *added,
        sa.PrimaryKeyConstraint("account_id", "local_date", "campaign_id", name="pk_daily_summary"),
        **MYSQL,
    )


def reference(name: str, target: str) -> sa.Column[int]:
    foreign = sa.ForeignKey(f"{target}.id", name=f"fk_daily_summary_{name}")
    return sa.Column(name, KEY, foreign, nullable=False, autoincrement=False)
