"""The life of each stream, which its offsets name: 0 for those that are there, whose offsets stay as they were."""

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
