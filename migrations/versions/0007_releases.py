"""Which versions of a model answer whom, release by release: rows are added and never changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0007"
down_revision = "0006"


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
        "releases",
        sa.Column("model", NAME, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("made_at_us", sa.BigInteger, nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        **binary,
    )


def downgrade() -> None:
    op.drop_table("releases")
