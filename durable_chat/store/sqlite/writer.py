"""
The only connection that writes to the SQLite file, used in the writer thread.

A flush is one journal row. Compaction moves the content of the journal into the tables, some streams at a time, and
then deletes the journal rows. After a crash the journal is read again, so a crash may interrupt any step.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, starmap
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Piece, Write
from durable_chat.store.pieces import join
from durable_chat.store.sqlite.checksums import BlobRow, BytesDamaged, blob_crc, check_blob, journal_crc, part_crc
from durable_chat.store.sqlite.journal import encode_layout, encode_writes
from durable_chat.store.sqlite.replay import JOURNAL_END, JOURNAL_START, STAGED_MAX, STREAM_ID, Replayed, replay
from durable_chat.store.sqlite.rows import AMONG, BLOBS, COUNTERS, PRODUCERS, RECORDS, STREAMS, among, stream_to_row
from durable_chat.store.tables import Accepted, Row, Tables, judge

PAGE_BYTES = 4096
BLOB_BYTES = 64 * 1024
"""Blobs are filled up to this size. Cutting inside a blob is cheap, and reading a long session takes few blobs."""
WAL_BYTES_MAX = 64 * 1024 * 1024
"""Above this size the write-ahead log is truncated, for which the writer must wait until readers are done."""

CLEARED_BLOBS_MAX = 64
"""Blobs of dropped streams that one step deletes: some milliseconds."""
VACUUM_PAGES = 64
"""Pages that one step returns to the file system. Each of them may have to be moved first."""
FREE_PAGES_KEPT = 8_192
"""Free pages that stay in the file, 32 MiB: the journal grows and shrinks by about as much."""
FREE_SHARE_KEPT = 1 / 8
"""The same limit as a share of the file, because a growing file soon uses its free pages."""

VERSIONS_MAX = 10_000
"""The most cached record versions: somewhat more than the runs at a time, at 200 bytes each."""

# The open blobs: the last blob of each stream, unless it is full or staged.
_OPEN_BLOBS = f"""
SELECT {", ".join(f"blob.{name}" for name in BlobRow._fields)} FROM json_each(?) AS wanted CROSS JOIN blobs AS blob
ON blob.id = (SELECT id FROM blobs WHERE stream_id = wanted.value ORDER BY start DESC LIMIT 1)
WHERE blob.size < ? AND blob.data IS NOT NULL
"""
_INSERT = "INSERT INTO journal (seq, payload, crc) VALUES (?, ?, ?)"
# The write depends on these streams not existing. A separate query would be one more step.
_INSERT_NEW = f"""
INSERT INTO journal (seq, payload, crc) SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM streams WHERE path {AMONG})
"""
# Returns one row for all paths: see `rows`.
_STREAM_VERSIONS = f"SELECT json_group_object(path, version) FROM streams WHERE path {AMONG}"
_INSERT_PART = "INSERT INTO parts (staged, part, data, crc) VALUES (?, ?, ?, ?)"
_CLEARED = "SELECT id, staged FROM blobs WHERE stream_id = ? ORDER BY start LIMIT ?"
_DROPS = (
    f"DELETE FROM parts WHERE staged IN (SELECT staged FROM blobs WHERE stream_id {AMONG} AND staged IS NOT NULL)",
    f"DELETE FROM blobs WHERE stream_id {AMONG}",
    f"DELETE FROM producers WHERE stream_id {AMONG}",
    f"DELETE FROM streams WHERE id {AMONG}",
)
_VERSIONS = msgspec.json.Decoder(dict[str, int])


_STAGED = attrgetter("staged")

log = logging.getLogger(__name__)

Flushed = tuple[frozenset[int], list[Accepted]]
"""The indexes of the refused writes, and the accepted writes."""


@dataclass(frozen=True, slots=True)
class StreamJob:
    """
    A stream to compact. `pieces` are its pieces that are not in the tables, `size` bytes in all. With `whole` they are
    everything up to the journal row `seq`. Without it, `state` is the state after the last of the pieces.
    """

    state: StreamState
    pieces: tuple[Piece, ...]
    producers: tuple[tuple[str, ProducerState], ...]
    seq: int
    size: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class CompactionJob:
    """One step of compaction, done in one transaction. `records` are the new values; None deletes a record."""

    streams: tuple[StreamJob, ...] = ()
    records: tuple[Row, ...] = ()
    dropped: tuple[int, ...] = ()
    strays: tuple[int, ...] = ()


class SqliteWriter:
    """
    Mutable state: the connection; `_rows`, the journal rows with their sizes; `journal_bytes`, the sum of the sizes;
    `journal_seq`, the newest row; `log_bytes`, about how much the write-ahead log has grown since its last restart;
    `staged_max`, the highest staged number; `_versions`, a cache of the versions of stored records.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection
        self._rows: deque[tuple[int, int]] = deque()
        self._versions: dict[tuple[str, str], int] = {}
        self.journal_seq = 0
        self.journal_bytes = 0
        self.log_bytes = 0
        self.staged_max = 0

    def open(self) -> None:
        # One thread at a time uses the connection. Another thread may use it later, between open and close.
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        # Debian's SQLite defaults to overwriting every freed page with zeros, which doubles the writes.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=0",
            "busy_timeout=5000",
            "secure_delete=FAST",
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()

    def close(self) -> None:
        self._connection.close()

    def replay(self) -> Replayed:
        """Recover the state from the database: see `replay`."""
        found = replay(self._connection)
        self._rows.extend(found.rows)
        self.journal_bytes = sum(size for _, size in found.rows)
        self.journal_seq, self.staged_max = found.journal_seq, found.staged_max
        return found

    def note_end(self) -> None:
        """Record the newest journal row as the last write, so that the next start notices when a row is missing."""
        with self._transaction():
            self._count({JOURNAL_END: self.journal_seq})

    def _count(self, counters: Mapping[str, int]) -> None:
        """Store counters in one statement: see `rows`."""
        COUNTERS.store(self._connection, list(counters.items()))

    # Flushing.

    def stage(self, staged: int, part: int, data: bytes) -> None:
        """Write one part of a large piece. Durable on return."""
        self.log_bytes += len(data)
        self._connection.execute(_INSERT_PART, (staged, part, data, part_crc(staged, part, data)))

    def commit(self, writes: Sequence[Write], tables: Tables) -> Flushed:
        """Write one flush, durable on return. Returns the indexes of the refused writes, and the accepted writes."""
        expected: dict[str, int] = {}
        for write in writes:
            for change in write.streams:
                if change.state.path not in tables.streams:
                    expected.setdefault(change.state.path, change.state.version - 1)
        new = [path for path, version in expected.items() if version == 0]
        known = [path for path, version in expected.items() if version != 0]
        done = self._commit(writes, tables, dict.fromkeys(new, 0) | self._stream_versions(known), new)
        if done is None:
            done = self._commit(writes, tables, self._stream_versions(list(expected)))
            assert done is not None
        return done

    def _commit(
        self, writes: Sequence[Write], tables: Tables, versions: dict[str, int], new: Sequence[str] = ()
    ) -> Flushed | None:
        """
        Write one flush. `versions` are the versions of the streams that are not in the tables in memory. The `new`
        streams are assumed not to exist. If one exists, nothing is written and the result is None.
        """

        def stored_version(path: str) -> int:
            if path not in versions:  # compaction has just removed it from the tables in memory
                versions.update(self._stream_versions([path]))
            return versions[path]

        def stream_version(path: str) -> int:
            return tables.stream_version(path, stored_version)

        def record_version(kind: str, key: str) -> int:
            return tables.record_version(kind, key, self._record_version)

        refused, accepted = judge(writes, stream_version, record_version)
        if not accepted:
            return refused, accepted
        payload = encode_writes(accepted)
        # SQLite would restart at 1 once the journal is empty, and a new row would then look old.
        seq = self.journal_seq + 1
        row = (seq, payload, journal_crc(seq, payload))
        if new:
            inserted = self._connection.execute(_INSERT_NEW, (*row, *among(new))).rowcount
        else:
            inserted = self._connection.execute(_INSERT, row).rowcount
        if not inserted:
            return None
        self.journal_seq = seq
        self.journal_bytes += len(payload)
        self._rows.append((seq, len(payload)))
        self.log_bytes += PAGE_BYTES + len(payload)
        return refused, accepted

    def _stream_versions(self, paths: Sequence[str]) -> dict[str, int]:
        """The versions of the streams at these paths; 0 where there is no stream."""
        if not paths:
            return {}
        row = self._connection.execute(_STREAM_VERSIONS, among(paths)).fetchone()
        return dict.fromkeys(paths, 0) | _VERSIONS.decode(row[0])

    def _record_version(self, kind: str, key: str) -> int:
        """
        The version of a stored record. It is cached: every append of a run depends on one record, which does not change
        for seconds.
        """
        version = self._versions.get((kind, key))
        if version is None:
            query = "SELECT version FROM records WHERE kind = ? AND key = ?"
            row = self._connection.execute(query, (kind, key)).fetchone()
            version = 0 if row is None else int(row[0])
            if len(self._versions) >= VERSIONS_MAX:
                self._versions.clear()
            self._versions[kind, key] = version
        return version

    # Compaction.

    def compact(self, job: CompactionJob) -> None:
        """
        Carry out one step in one transaction. Drops come first, because a new stream may use the path of a dropped one.
        """
        self.log_bytes += sum(PAGE_BYTES + stream.size for stream in job.streams) + PAGE_BYTES * len(job.dropped)
        with self._transaction():
            self._drop(job.dropped)
            self._connection.executemany("DELETE FROM parts WHERE staged = ?", [(stray,) for stray in job.strays])
            STREAMS.store(self._connection, [stream_to_row(stream.state) for stream in job.streams])
            PRODUCERS.store(self._connection, [row for stream in job.streams for row in _producer_rows(stream)])
            self._store_pieces([stream for stream in job.streams if stream.pieces])
            self._store_records(job.records)

    def _drop(self, stream_ids: Sequence[int]) -> None:
        for statement in _DROPS if stream_ids else ():
            self._connection.execute(statement, among(stream_ids))

    def _store_pieces(self, streams: Sequence[StreamJob]) -> None:
        if not streams:
            return
        begins = {stream.state.id: stream.pieces[0].start for stream in streams}
        rows = self._connection.execute(_OPEN_BLOBS, (*among(list(begins)), BLOB_BYTES)).fetchall()
        blobs = {
            row.stream_id: blob for row in starmap(BlobRow, rows) if (blob := open_blob(row, begins[row.stream_id]))
        }
        BLOBS.store(
            self._connection,
            [
                _blob_row(stream.state.id, blob_id, pieces)
                for stream in streams
                for blob_id, pieces in blobs_of(stream.pieces, blobs.get(stream.state.id))
            ],
        )

    def _store_records(self, rows: Sequence[Row]) -> None:
        for kind, key, _ in rows:
            self._versions.pop((kind, key), None)
        gone = [(kind, key) for kind, key, record in rows if record is None]
        self._connection.executemany("DELETE FROM records WHERE kind = ? AND key = ?", gone)
        RECORDS.store(
            self._connection,
            [
                (kind, key, record.version, record.value, record.due_ms)
                for kind, key, record in rows
                if record is not None
            ],
        )

    def forget(self, journal_seq: int, stream_id_max: int, bytes_max: int) -> bool:
        """
        Delete journal rows up to `journal_seq`, about `bytes_max` bytes of them. The tables must hold all of their
        content. Returns whether there are more.
        """
        last_seq, size = 0, 0
        while self._rows and self._rows[0][0] <= journal_seq and size < bytes_max:
            last_seq, row_bytes = self._rows.popleft()
            size += row_bytes
        if not last_seq:
            return False
        self.log_bytes += PAGE_BYTES
        with self._transaction():
            self._connection.execute("DELETE FROM journal WHERE seq <= ?", (last_seq,))
            self._count(
                {
                    JOURNAL_START: last_seq,
                    JOURNAL_END: self.journal_seq,
                    STAGED_MAX: self.staged_max,
                    STREAM_ID: stream_id_max,
                }
            )
        self.journal_bytes -= size
        return bool(self._rows) and self._rows[0][0] <= journal_seq

    # Space.

    def clear(self, stream_ids: Sequence[int]) -> list[int]:
        """Delete some blobs of dropped streams. Returns the streams that may have more of them."""
        left = list(stream_ids)
        room = CLEARED_BLOBS_MAX
        self.log_bytes += PAGE_BYTES * room
        with self._transaction():
            while left and room:
                blobs = self._connection.execute(_CLEARED, (left[-1], room)).fetchall()
                staged = [(number,) for _, number in blobs if number is not None]
                self._connection.executemany("DELETE FROM parts WHERE staged = ?", staged)
                self._connection.executemany("DELETE FROM blobs WHERE id = ?", [(blob,) for blob, _ in blobs])
                room -= len(blobs)
                if room:
                    left.pop()
        return left

    def vacuum(self) -> bool:
        """
        Return some free pages to the file system. Returns whether there are more. Does nothing in files of earlier
        versions.
        """
        free = self._pragma("freelist_count")
        kept = max(FREE_PAGES_KEPT, int(self._pragma("page_count") * FREE_SHARE_KEPT))
        if free <= kept:
            return False
        self.log_bytes += PAGE_BYTES * VACUUM_PAGES
        # `execute` would run only one step of a statement without columns, which frees one page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({min(VACUUM_PAGES, free - kept)})")
        left = self._pragma("freelist_count")
        return kept < left < free

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def restart_log(self) -> None:
        """
        Checkpoint the rest of the write-ahead log. Unless there is a reader, the next flush then restarts the log from
        its beginning. Overwriting a file is faster on the disk than growing it.
        """
        wal = Path(self._path + "-wal")
        mode = "TRUNCATE" if wal.exists() and wal.stat().st_size > WAL_BYTES_MAX else "PASSIVE"
        self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self.log_bytes = 0


def _producer_rows(job: StreamJob) -> Iterator[tuple[object, ...]]:
    for name, producer in job.producers:
        yield job.state.id, name, producer.epoch, producer.seq, producer.updated_ms


class Blob(NamedTuple):
    """A row of `blobs` that has room, and its content."""

    id: int
    piece: Piece


def open_blob(row: BlobRow, begin: int) -> Blob | None:
    """
    A blob that can be extended by what begins at the position `begin`, or None. A damaged blob, or one before a hole,
    is not extended: a new checksum would hide the damage.
    """
    try:
        piece = check_blob(row)
    except BytesDamaged as error:
        log.error("the stream %d is damaged: %s", row.stream_id, error)
        return None
    return Blob(row.id, piece) if piece.stop == begin else None


def blobs_of(pieces: Sequence[Piece], blob: Blob | None) -> Iterator[tuple[int | None, list[Piece]]]:
    """
    Divide pieces into blobs. First fills up the open blob, then makes new ones. A staged piece is a blob of its own.
    """
    for staged, run in groupby(pieces, _STAGED):
        if staged is not None:
            yield from ((None, [piece]) for piece in run)
            blob = None
            continue
        begun, blob_id = ([], None) if blob is None else ([blob.piece], blob.id)
        gathered, blob = [*begun, *run], None
        ends = list(accumulate([len(piece.data) for piece in gathered]))
        start = size = 0
        while start < len(gathered):
            stop = min(bisect_left(ends, size + BLOB_BYTES, start) + 1, len(ends))
            yield blob_id, gathered[start:stop]
            blob_id, start, size = None, stop, ends[stop - 1]


def _blob_row(stream_id: int, blob_id: int | None, pieces: Sequence[Piece]) -> tuple[object, ...]:
    piece = join(pieces)
    data = piece.data if piece.staged is None else None
    row = (stream_id, piece.start, piece.stop, encode_layout(piece), len(piece.data), piece.staged, data)
    return blob_id, *row, blob_crc(*row)


def checkpoint(path: str) -> int:
    """
    Checkpoint the write-ahead log on a separate connection, without blocking the writer. Returns how many of its frames
    have been moved in total.
    """
    # `connect(path)` would create a new file if the database was removed.
    connection = sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", uri=True)
    try:
        _, _, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(moved)
    finally:
        connection.close()
