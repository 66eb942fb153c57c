"""Whose database this is: one project's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NAME = sa.String(190)


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
        "owner",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("registry_id", sa.String(32), nullable=False),
        **binary,
    )


def downgrade() -> None:
    op.drop_table("owner")
