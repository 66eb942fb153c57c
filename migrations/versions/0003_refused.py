"""Records that are no events as their source is defined now: kept as they came, for a definition by which they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMBLOB

revision = "0003"
down_revision = "0002"

NAME = sa.String(190)
RECORD = sa.LargeBinary().with_variant(MEDIUMBLOB(), "mysql", "mariadb")


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
        "history_refused",
        sa.Column("source", NAME, primary_key=True),
        sa.Column("partition_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record_offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("timestamp_us", sa.BigInteger, nullable=False),
        sa.Column("append_time", sa.SmallInteger, nullable=False),
        sa.Column("record_key", RECORD, nullable=True),
        sa.Column("record_value", RECORD, nullable=False),
        sa.Column("definition", sa.String(16), nullable=False),
        **binary,
    )


def downgrade() -> None:
    op.drop_table("history_refused")
