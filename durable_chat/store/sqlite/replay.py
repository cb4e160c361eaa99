"""
What a start of the SQLite store finds: the journal beyond the tables, and whatever is not as it should be.

Two rules. What is stored already is decided by the blobs that are there: their positions, and for a staged piece its
number. And nothing is deleted that could be the last copy of something acknowledged: what is not understood goes to
the table `orphans`, and the stream that it is missing from is damaged.
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
Counters: the newest row that has been taken out of the journal, one that is there if it has not been taken out, and
the newest numbers of a staged piece and of a stream.
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
# A hole is where something acknowledged may be missing. Streams that are being dropped have some.
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
    """`rows` are those of the journal with their sizes, `damages` what is wrong with streams, by their ids."""

    tables: Tables = field(default_factory=Tables)
    backlog: Backlog = field(default_factory=Backlog)
    rows: list[tuple[int, int]] = field(default_factory=list)
    journal_seq: int = 0
    staged_max: int = 0
    damages: dict[int, str] = field(default_factory=dict)


def replay(connection: sqlite3.Connection) -> Replayed:
    """Raises StartError when the journal is damaged: what it held can't be told, and nothing has been changed then."""
    return _Replay(connection).run()


class _Replay:
    """
    Mutable state: what is `found`; `_named`, where the journal has each staged number, and up to which position its
    piece goes; the `_counters`.
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
        # A number that anything names is not used again, also where its parts are gone.
        tables = [self._number_max(STAGED_MAX, table, "staged") for table in ("parts", "blobs", "orphans")]
        found.staged_max = max(*self._named, *tables)
        found.backlog.weigh(found.tables)
        return found

    def _number_max(self, counter: str, table: str, column: str) -> int:
        newest = self._connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0]
        return max(int(newest), self._counters.get(counter, 0))

    # The journal.

    def _journal(self) -> Iterator[tuple[int, bytes]]:
        """Its rows, all of them there and whole. Raises StartError."""
        before = self._counters.get(JOURNAL_START)
        for seq, payload, crc in self._connection.execute("SELECT seq, payload, crc FROM journal ORDER BY seq"):
            if before is not None and seq != before + 1:
                raise _journal_damaged(f"row {before + 1} is missing")
            if crc is not None and crc != journal_crc(seq, payload):
                raise _journal_damaged(f"row {seq} fails its check sum")
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
        """Of a stream's pieces in the journal, keep those that its blobs do not hold, with their bytes."""
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
        The position after a piece. Without its bytes a staged one of a stream of bytes does not say; but the stream's
        tail at that write is where it ends.
        """
        return piece.stop if piece.staged is None else self._named[piece.staged][0].tail

    def _stored_end(self, state: StreamState, pieces: list[Piece]) -> int:
        """The position up to which blobs hold a stream. Raises BytesDamaged when they cannot be trusted to tell."""
        row = self._connection.execute(_LAST_STOP, (state.id,)).fetchone()
        if row is None:
            return state.fork_position
        if pieces and pieces[0].start < row[0]:  # what it seems to hold is not taken from the journal
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
        """A piece that is not stored, with its bytes; None, and the stream is damaged, when it can't be had."""
        try:
            if piece.start < end:
                raise BytesDamaged(
                    f"the piece at {piece.start} begins in blobs, which go up to {end}, and ends after them"
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

    # What is not understood.

    def _set_aside(self, state: StreamState, piece: Piece, reason: str) -> None:
        """The compaction of the stream will take the piece out of the journal: what is left of it is kept in `orphans`."""
        place = (time.time_ns() // 1_000_000, reason, state.path, state.id, piece.start)
        if piece.staged is None:
            lengths = encode_lengths(piece.lengths)
            moved = self._connection.execute(_MOVE_PIECE, (*place, lengths, piece.data)).rowcount
        else:
            moved = self._move_parts(piece.staged, place)
        if moved:
            log.error("moved to the table orphans: bytes of the stream %s at position %d", state.path, piece.start)

    def _move_parts(self, staged: int, place: tuple[object, ...]) -> int:
        moved = self._connection.execute(_MOVE_PARTS, (*place, staged)).rowcount
        self._connection.execute("DELETE FROM parts WHERE staged = ?", (staged,))
        return moved

    def _clear_parts(self) -> None:
        """
        Delete the parts of appends that a crash cut off before their flush. They were acknowledged to nobody when
        nothing names them and no stream has a hole that they could belong into; otherwise they are moved aside.
        """
        held = {piece.staged for pieces in self._found.tables.pieces.values() for piece in pieces}
        held |= self._found.tables.strays  # of dropped streams: compaction deletes them
        unnamed = [staged for (staged,) in self._connection.execute(_UNNAMED_PARTS).fetchall() if staged not in held]
        if not unnamed:
            return
        if not self._found.damages and not self._has_hole(self._found.tables.dropped):
            self._connection.execute(f"DELETE FROM parts WHERE staged {AMONG}", among(unnamed))
            log.info("deleted what was staged for %d appends that were never flushed", len(unnamed))
            return
        for staged in unnamed:
            self._move_parts(
                staged, (time.time_ns() // 1_000_000, "no row of the journal and no blob names it", None, 0, 0)
            )
            log.error("moved to the table orphans: what was staged under the number %d, which nothing names", staged)

    def _has_hole(self, dropped: Collection[int]) -> bool:
        leaving = among(list(dropped))
        return bool(self._connection.execute(_HOLE, (*leaving, *leaving)).fetchone()[0])


def _journal_damaged(what: str) -> StartError:
    return StartError(
        f"The journal of the database is damaged: {what}. Nothing has been changed. Run `durable-chat doctor` to see "
        "what else is damaged, and restore the database from a backup."
    )
