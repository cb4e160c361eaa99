"""Add checksums to everything that holds messages, and the table `orphans` for data that a start cannot place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHECKED = ("journal", "blobs", "parts")


def upgrade() -> None:
    for table in CHECKED:
        op.add_column(table, sa.Column("crc", sa.BigInteger))
    op.create_table(
        "orphans",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("found_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("stream_id", sa.Integer, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("staged", sa.Integer, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("lengths", sa.LargeBinary),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("orphans_by_place", "orphans", ["stream_id", "start", "staged", "part"], unique=True)


def downgrade() -> None:
    op.drop_table("orphans")
    for table in CHECKED:
        op.drop_column(table, "crc")
