"""How many buckets the project's states are in: an online store that lost everything begins anew in as many."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("owner", sa.Column("buckets", sa.Integer, nullable=True))


def downgrade() -> None:
    op.drop_column("owner", "buckets")
