"""
Recovery of the SQLite store at startup: find what only the journal holds, and everything that is damaged.

Two rules apply. The blobs decide what is already stored: by their positions and, for a staged piece, by its number.
Recovery never deletes what could be the last copy of acknowledged data. It moves such data to the table `orphans` and
marks the stream that lacks it as damaged.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import msgspec

from durable_chat.errors import StartError
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Piece
from durable_chat.store.sqlite.backlog import Backlog
from durable_chat.store.sqlite.checksums import (
    BLOB_COLUMNS,
    BlobRow,
    BytesDamaged,
    check_blob,
    check_part,
    journal_crc,
    size_of,
)
from durable_chat.store.sqlite.journal import decode_writes, encode_lengths
from durable_chat.store.sqlite.rows import AMONG, among
from durable_chat.store.tables import Accepted, Tables

JOURNAL_START, JOURNAL_END, STAGED_MAX, STREAM_ID = "journal_start", "journal_end", "staged", "stream_id"
"""
Names of counters: the newest row that was removed from the journal, a row that must still exist unless it was removed,
the highest number of a staged piece, and the highest stream id.
"""

_LAST_STOP = "SELECT stop FROM blobs WHERE stream_id = ? ORDER BY start DESC LIMIT 1"
_LAST_BLOB = f"SELECT {BLOB_COLUMNS} FROM blobs WHERE stream_id = ? ORDER BY start DESC LIMIT 1"
SELECT_PARTS = "SELECT part, data, crc FROM parts WHERE staged = ? ORDER BY part"
_MOVE_PARTS = """
INSERT OR IGNORE INTO orphans (found_ms, reason, path, stream_id, start, staged, part, data)
SELECT ?, ?, ?, ?, ?, staged, part, data FROM parts WHERE staged = ?
"""
_MOVE_PIECE = """
INSERT OR IGNORE INTO orphans (found_ms, reason, path, stream_id, start, staged, part, lengths, data)
VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?)
"""
_UNNAMED_PARTS = """
SELECT DISTINCT staged FROM parts WHERE staged NOT IN (SELECT staged FROM blobs WHERE staged IS NOT NULL)
"""
# A hole is a gap where acknowledged data may be missing. Streams that are being dropped have holes, so they are
# excluded.
_HOLE = f"""
SELECT EXISTS (
    SELECT 1 FROM (
        SELECT stream_id, stop, lead(start) OVER (PARTITION BY stream_id ORDER BY start) AS next FROM blobs
    ) WHERE next <> stop AND stream_id NOT {AMONG}
) OR EXISTS (
    SELECT 1 FROM streams WHERE id NOT {AMONG} AND (
        tail <> coalesce((SELECT stop FROM blobs WHERE stream_id = streams.id ORDER BY start DESC LIMIT 1), fork_position)
        OR fork_position <> coalesce((SELECT min(start) FROM blobs WHERE stream_id = streams.id), fork_position))
)
"""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Replayed:
    """
    The result of a recovery. `rows` are the journal rows as (seq, bytes). `damages` says by stream id what is damaged.
    """

    tables: Tables = field(default_factory=Tables)
    backlog: Backlog = field(default_factory=Backlog)
    rows: list[tuple[int, int]] = field(default_factory=list)
    journal_seq: int = 0
    staged_max: int = 0
    damages: dict[int, str] = field(default_factory=dict)


def replay(connection: sqlite3.Connection) -> Replayed:
    """Recover the state from the database. Raises StartError, without any change, when the journal is damaged."""
    return _Replay(connection).run()


class _Replay:
    """
    Mutable state: the result `_found`; `_named`, which maps each staged number in the journal to its piece and to the
    stream's state after that write; the `_counters`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._found = Replayed()
        self._named: dict[int, tuple[StreamState, Piece]] = {}
        self._counters: dict[str, int] = dict(connection.execute("SELECT name, value FROM counters").fetchall())

    def run(self) -> Replayed:
        found = self._found
        for seq, payload in self._journal():
            found.rows.append((seq, len(payload)))
            writes = decode_writes(payload)
            for write in writes:
                self._note_staged(write)
                found.tables.apply(write)
            found.backlog.note(writes, seq, time.monotonic())
        self._connection.execute("BEGIN IMMEDIATE")
        for state in list(found.tables.streams.values()):
            if state is not None:
                self._keep_unstored(state)
        self._clear_parts()
        self._connection.execute("COMMIT")
        found.tables.size = sum(len(piece.data) for pieces in found.tables.pieces.values() for piece in pieces)
        found.tables.stream_id_max = max(found.tables.stream_id_max, self._number_max(STREAM_ID, "streams", "id"))
        # A staged number that anything refers to is not used again, even when its parts are gone.
        tables = [self._number_max(STAGED_MAX, table, "staged") for table in ("parts", "blobs", "orphans")]
        found.staged_max = max(*self._named, *tables)
        found.backlog.weigh(found.tables)
        return found

    def _number_max(self, counter: str, table: str, column: str) -> int:
        newest = self._connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0]
        return max(int(newest), self._counters.get(counter, 0))

    # The journal.

    def _journal(self) -> Iterator[tuple[int, bytes]]:
        """Yield the journal's rows. Raises StartError when a row is missing or damaged."""
        before = self._counters.get(JOURNAL_START)
        for seq, payload, crc in self._connection.execute("SELECT seq, payload, crc FROM journal ORDER BY seq"):
            if before is not None and seq != before + 1:
                raise _journal_damaged(f"row {before + 1} is missing")
            if crc is not None and crc != journal_crc(seq, payload):
                raise _journal_damaged(f"row {seq} fails its checksum")
            before = seq
            yield seq, payload
        end = self._counters.get(JOURNAL_END, 0)
        if end > max(before or 0, self._counters.get(JOURNAL_START, 0)):
            raise _journal_damaged(f"row {end} is missing")
        self._found.journal_seq = max(before or 0, end)

    def _note_staged(self, write: Accepted) -> None:
        for change in write.streams:
            if change.piece is not None and change.piece.staged is not None:
                self._named[change.piece.staged] = (change.state, change.piece)

    # Pieces.

    def _keep_unstored(self, state: StreamState) -> None:
        """Keep those of a stream's journal pieces that its blobs do not hold, and load their bytes."""
        pieces = self._found.tables.pieces.pop(state.id, [])
        try:
            end = self._stored_end(state, pieces)
        except BytesDamaged as error:
            for piece in pieces:
                self._set_aside(state, piece, str(error))
            self._note_damage(state, str(error))
            return
        kept: list[Piece] = []
        at = end
        for piece in pieces:
            stop = self._stop(piece)
            if stop <= end:
                self._check_stored(state, piece)
                continue
            whole = self._restored(state, piece, end)
            if whole is not None:
                if piece.start != at:
                    self._note_damage(state, f"nothing holds the positions from {at} to {piece.start}")
                kept.append(whole)
                at = stop
        if at != state.tail:
            self._note_damage(state, f"nothing holds the positions from {at} to {state.tail}")
        if kept:
            self._found.tables.pieces[state.id] = kept

    def _stop(self, piece: Piece) -> int:
        """
        The position after a piece. A staged piece of a byte stream does not know its own end until its bytes are
        loaded. It ends at the stream's tail after that write.
        """
        return piece.stop if piece.staged is None else self._named[piece.staged][0].tail

    def _stored_end(self, state: StreamState, pieces: list[Piece]) -> int:
        """The position up to which blobs hold a stream. Raises BytesDamaged when the last blob is damaged."""
        row = self._connection.execute(_LAST_STOP, (state.id,)).fetchone()
        if row is None:
            return state.fork_position
        if pieces and pieces[0].start < row[0]:  # the journal has them too: trust only a whole blob
            check_blob(BlobRow(*self._connection.execute(_LAST_BLOB, (state.id,)).fetchone()))
        return int(row[0])

    def _check_stored(self, state: StreamState, piece: Piece) -> None:
        if piece.staged is None:
            return
        query = "SELECT 1 FROM blobs WHERE staged = ? AND stream_id = ? AND start = ?"
        if self._connection.execute(query, (piece.staged, state.id, piece.start)).fetchone() is None:
            self._set_aside(state, piece, f"its blob at position {piece.start} is missing")
            self._note_damage(state, f"the blob at position {piece.start} is missing")

    def _restored(self, state: StreamState, piece: Piece, end: int) -> Piece | None:
        """
        A piece that is not stored yet, with its bytes. If they are unusable, mark the stream as damaged and return
        None.
        """
        try:
            if piece.start < end:
                raise BytesDamaged(
                    f"the piece at {piece.start} begins before {end}, where the stored blobs end, and ends after it"
                )
            if piece.staged is None:
                return piece
            data = self._read_parts(piece.staged)
            size = self._stop(piece) - piece.start if piece.lengths is None else size_of(piece.lengths)
            if len(data) != size:
                raise BytesDamaged(f"the piece at {piece.start} has {len(data)} of its {size} bytes")
            return msgspec.structs.replace(piece, data=data)
        except BytesDamaged as error:
            self._set_aside(state, piece, str(error))
            self._note_damage(state, str(error))
            return None

    def _read_parts(self, staged: int) -> bytes:
        rows = self._connection.execute(SELECT_PARTS, (staged,))
        return b"".join([check_part(staged, *row) for row in rows])

    def _note_damage(self, state: StreamState, reason: str) -> None:
        self._found.damages.setdefault(state.id, reason)
        log.error("the stream %s (%d) is damaged: %s", state.path, state.id, reason)

    # Data that recovery cannot place.

    def _set_aside(self, state: StreamState, piece: Piece, reason: str) -> None:
        """Save what is left of a piece to `orphans`, because compaction removes the piece from the journal."""
        place = (time.time_ns() // 1_000_000, reason, state.path, state.id, piece.start)
        if piece.staged is None:
            lengths = encode_lengths(piece.lengths)
            moved = self._connection.execute(_MOVE_PIECE, (*place, lengths, piece.data)).rowcount
        else:
            moved = self._move_parts(piece.staged, place)
        if moved:
            log.error("moved bytes of the stream %s at position %d to the table orphans", state.path, piece.start)

    def _move_parts(self, staged: int, place: tuple[object, ...]) -> int:
        moved = self._connection.execute(_MOVE_PARTS, (*place, staged)).rowcount
        self._connection.execute("DELETE FROM parts WHERE staged = ?", (staged,))
        return moved

    def _clear_parts(self) -> None:
        """
        Delete the parts of appends that a crash interrupted before their flush. If nothing refers to them and no stream
        has a hole that they could fill, they were never acknowledged. Otherwise, move them to `orphans`.
        """
        held = {piece.staged for pieces in self._found.tables.pieces.values() for piece in pieces}
        held |= self._found.tables.strays  # parts of dropped streams: compaction deletes them
        unnamed = [staged for (staged,) in self._connection.execute(_UNNAMED_PARTS).fetchall() if staged not in held]
        if not unnamed:
            return
        if not self._found.damages and not self._has_hole(self._found.tables.dropped):
            self._connection.execute(f"DELETE FROM parts WHERE staged {AMONG}", among(unnamed))
            log.info("deleted the staged parts of %d appends that were never flushed", len(unnamed))
            return
        for staged in unnamed:
            self._move_parts(
                staged, (time.time_ns() // 1_000_000, "no journal row and no blob refers to it", None, 0, 0)
            )
            log.error("moved the staged parts of number %d to the table orphans: nothing refers to them", staged)

    def _has_hole(self, dropped: Collection[int]) -> bool:
        leaving = among(list(dropped))
        return bool(self._connection.execute(_HOLE, (*leaving, *leaving)).fetchone()[0])


def _journal_damaged(what: str) -> StartError:
    return StartError(
        f"The journal of the database is damaged: {what}. Nothing has been changed. Run `durable-chat doctor` to see "
        "what else is damaged, and restore the database from a backup."
    )
