"""The fixed tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0001"
down_revision = None

NAME = sa.String(190)
DOCUMENT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    dialect = op.get_bind().dialect
    binary = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        # by byte, trailing spaces included
        "mysql_collate": "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin",
    }
    if dialect.name == "mariadb":
        binary = {key.replace("mysql", "mariadb"): value for key, value in binary.items()}
    op.create_table(
        "history_offsets",
        sa.Column("source", NAME, primary_key=True),
        sa.Column("partition_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_offset", sa.BigInteger, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        **binary,
    )
    op.create_table(
        "topics",
        sa.Column("source", NAME, primary_key=True),
        sa.Column("topic", NAME, nullable=False),
        sa.Column("topic_id", NAME, nullable=False),
        sa.Column("partitions", sa.Integer, nullable=False),
        **binary,
    )
    op.create_table(
        "definitions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("applied_at_us", sa.BigInteger, nullable=False),
        sa.Column("project", DOCUMENT, nullable=False),
        **binary,
    )
    op.create_table(
        "view_versions",
        sa.Column("view_id", NAME, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("changed_at_us", sa.BigInteger, nullable=False),
        sa.Column("definition", DOCUMENT, nullable=False),
        **binary,
    )
    op.create_table(
        "positions",
        sa.Column("view_id", NAME, primary_key=True),
        sa.Column("source", NAME, primary_key=True),
        sa.Column("partition_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("topic_id", NAME, nullable=False),
        sa.Column("beginning", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        **binary,
    )


def downgrade() -> None:
    for table in ("positions", "view_versions", "definitions", "topics", "history_offsets"):
        op.drop_table(table)
