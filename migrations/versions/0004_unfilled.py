"""Fields that were declared after rows of their event had been written, and how far these were filled in since."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0004"
down_revision = "0003"

NAME = sa.String(190)
DOCUMENT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    dialect = op.get_bind().dialect
    binary = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin",
    }
    if dialect.name == "mariadb":
        binary = {key.replace("mysql", "mariadb"): value for key, value in binary.items()}
    op.create_table(
        "history_unfilled",
        sa.Column("source", NAME, primary_key=True),
        sa.Column("partition_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("fields", DOCUMENT, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        **binary,
    )


def downgrade() -> None:
    op.drop_table("history_unfilled")
