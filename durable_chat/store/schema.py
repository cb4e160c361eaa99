"""
The tables, for SQLAlchemy and Alembic. Imported only to migrate and to check; the store itself speaks SQL.

`streams`, `producers` and `records` are what any SQL engine keeps; `journal` and `blobs` are how SQLite keeps
messages: each flush is one row of the journal, from which the other tables are filled in the background. Each `crc` is
one of `checks`; it is null in rows that were written before there were check sums.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text

metadata = MetaData()

streams = Table(
    "streams",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False, unique=True),
    Column("version", BigInteger, nullable=False),
    Column("content_type", Text, nullable=False),
    # As far as `blobs` goes; what was appended since is in the journal.
    Column("tail", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("accessed_ms", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("closed_by", Text),
    Column("ttl_s", BigInteger),
    Column("expires_at", Text),
    Column("expires_at_ms", BigInteger),
    Column("last_seq", Text),
    Column("source", Text),
    Column("source_id", BigInteger),
    Column("fork_position", BigInteger, nullable=False),
    Column("fork_offset", Text),
    Column("fork_sub_offset", BigInteger, nullable=False),
    Column("forks", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    # When the stream ends if nobody uses it; null for never, and for one that is kept for its forks.
    Column("deadline_ms", BigInteger),
    # The first numbers of its offsets: its own, and for a fork as JSON those of its sources, with how far they go.
    Column("life", BigInteger, nullable=False, server_default="0"),
    Column("source_lives", Text),
    Index("streams_by_deadline", "deadline_ms"),
)

producers = Table(
    "producers",
    metadata,
    Column("stream_id", Integer, primary_key=True, autoincrement=False),
    Column("producer_id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)

records = Table(
    "records",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("due_ms", BigInteger),
    Index("records_by_due", "kind", "due_ms"),
)

journal = Table(
    "journal",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    Column("crc", BigInteger),
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("stream_id", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    # Lengths of messages as little-endian 32-bit integers; or 0 and the lengths of appends, where there are no messages.
    Column("lengths", LargeBinary),
    Column("size", BigInteger, nullable=False),
    # Where the bytes are in `parts`, under this number; then `data` is null. Late, as the rest is read without it.
    Column("staged", Integer),
    Column("data", LargeBinary),
    Column("crc", BigInteger),
    Index("blobs_by_stream", "stream_id", "start", unique=True),
    Index("blobs_by_staged", "staged", sqlite_where=text("staged IS NOT NULL")),
)

# The bytes of large pieces, written part by part before the flush that they belong to.
parts = Table(
    "parts",
    metadata,
    Column("staged", Integer, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
    Column("crc", BigInteger),
)

# What a start has found and does not understand, moved here instead of being deleted. Nothing reads it but `doctor`.
orphans = Table(
    "orphans",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("found_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    # Where it belongs, as far as that is known: 0, and null for the path, where it is not.
    Column("path", Text),
    Column("stream_id", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("staged", Integer, nullable=False),
    Column("part", Integer, nullable=False),
    Column("lengths", LargeBinary),
    Column("data", LargeBinary, nullable=False),
    # A start that is repeated moves nothing twice.
    Index("orphans_by_place", "stream_id", "start", "staged", "part", unique=True),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
