"""Add the life of each stream, which is part of its offsets. Existing streams get 0, so their offsets stay the same."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("streams", sa.Column("life", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("streams", sa.Column("source_lives", sa.Text))


def downgrade() -> None:
    op.drop_column("streams", "source_lives")
    op.drop_column("streams", "life")
