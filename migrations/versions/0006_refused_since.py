"""By which fields, declared later, a record is no event that was one before: its row stays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("history_refused", sa.Column("fields", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("history_refused", "fields")
