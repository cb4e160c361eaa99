"""
The tables, for SQLAlchemy and Alembic. Imported only to migrate and to check; the store itself uses SQL.

Any SQL engine would have `streams`, `producers` and `records`. `journal` and `blobs` are how SQLite keeps messages:
each flush is one row of the journal, and a background task fills the other tables from it. Each `crc` is a checksum
(see `store.sqlite.checksums`). It is null in rows that were written before checksums were added.
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
    # The end of what `blobs` holds. Later appends are in the journal.
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
    # When the stream expires if nobody uses it. Null means never, also for a stream that is kept for its forks.
    Column("deadline_ms", BigInteger),
    # The life in the stream's offsets, and for a fork the lives of its sources as JSON, each with the position where it
    # ends.
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
    # Lengths of messages as little-endian 32-bit integers. Without messages, a 0 and the lengths of the appends.
    Column("lengths", LargeBinary),
    Column("size", BigInteger, nullable=False),
    # The number of the bytes in `parts`; then `data` is null. These columns are last, because the others are read
    # without them.
    Column("staged", Integer),
    Column("data", LargeBinary),
    Column("crc", BigInteger),
    Index("blobs_by_stream", "stream_id", "start", unique=True),
    Index("blobs_by_staged", "staged", sqlite_where=text("staged IS NOT NULL")),
)

# The bytes of large pieces, written part by part before the flush that refers to them.
parts = Table(
    "parts",
    metadata,
    Column("staged", Integer, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
    Column("crc", BigInteger),
)

# Data that a start found and could not place. It is moved here instead of being deleted. Only `doctor` reads this
# table.
orphans = Table(
    "orphans",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("found_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    # Where the data belongs. If that is not known, the path is null and the numbers are 0.
    Column("path", Text),
    Column("stream_id", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("staged", Integer, nullable=False),
    Column("part", Integer, nullable=False),
    Column("lengths", LargeBinary),
    Column("data", LargeBinary, nullable=False),
    # So that a repeated start moves nothing twice.
    Index("orphans_by_place", "stream_id", "start", "staged", "part", unique=True),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
