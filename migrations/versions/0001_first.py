"""The first schema: streams, producers, records, and the journal and blobs of SQLite."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("tail", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("accessed_ms", sa.BigInteger, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("closed_by", sa.Text),
        sa.Column("ttl_s", sa.BigInteger),
        sa.Column("expires_at", sa.Text),
        sa.Column("expires_at_ms", sa.BigInteger),
        sa.Column("last_seq", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("source_id", sa.BigInteger),
        sa.Column("fork_position", sa.BigInteger, nullable=False),
        sa.Column("fork_offset", sa.Text),
        sa.Column("fork_sub_offset", sa.BigInteger, nullable=False),
        sa.Column("forks", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("deadline_ms", sa.BigInteger),
    )
    op.create_index("streams_by_deadline", "streams", ["deadline_ms"])
    op.create_table(
        "producers",
        sa.Column("stream_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("producer_id", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("due_ms", sa.BigInteger),
    )
    op.create_index("records_by_due", "records", ["kind", "due_ms"])
    op.create_table(
        "journal",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "blobs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("stream_id", sa.Integer, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("stop", sa.BigInteger, nullable=False),
        sa.Column("lengths", sa.LargeBinary),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("staged", sa.Integer),
        sa.Column("data", sa.LargeBinary),
    )
    op.create_index("blobs_by_stream", "blobs", ["stream_id", "start"], unique=True)
    op.create_index("blobs_by_staged", "blobs", ["staged"], sqlite_where=sa.text("staged IS NOT NULL"))
    op.create_table(
        "parts",
        sa.Column("staged", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("counters", "parts", "blobs", "journal", "records", "producers", "streams"):
        op.drop_table(table)
