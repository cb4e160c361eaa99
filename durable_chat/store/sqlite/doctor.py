"""
`durable-chat doctor`: read everything that a SQLite store holds and report damage. It changes nothing.

It reads one snapshot of the file through a read-only connection, so a server may keep writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import groupby, starmap
from operator import attrgetter
from pathlib import Path

import msgspec

from durable_chat.errors import StartError
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Piece
from durable_chat.store.migrations import SCHEMA_VERSION, read_version
from durable_chat.store.sqlite.checksums import (
    BLOB_COLUMNS,
    BlobRow,
    BytesDamaged,
    check_blob,
    check_part,
    journal_crc,
    size_of,
)
from durable_chat.store.sqlite.journal import decode_writes
from durable_chat.store.sqlite.replay import JOURNAL_END, JOURNAL_START, SELECT_PARTS
from durable_chat.store.sqlite.rows import SELECT_ALL_STREAMS, stream_from_row
from durable_chat.store.tables import Tables

PROGRESS_ROWS = 10_000
"""Blobs between two progress lines: some seconds."""

_BLOBS = f"SELECT {BLOB_COLUMNS} FROM blobs ORDER BY stream_id, start"
_ORPHANS = "SELECT reason, path, count(*), sum(length(data)) FROM orphans GROUP BY reason, path"
_STRAYS = "SELECT count(DISTINCT staged) FROM parts"

_STREAM_ID = attrgetter("stream_id")


class Doctor:
    """
    Mutable state: the connection; the counts; the streams by id, their tails in the tables, where their blobs end; the
    numbers of the staged pieces that something refers to.
    """

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        """
        Open the database for reading. Raises StartError when there is none, or when its schema has another version.
        """
        if not Path(path).is_file():
            raise StartError(f"There is no database at {path}.")
        self._tell = tell
        self._connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        version = read_version(self._connection)
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise StartError(
                f"The database {path} has schema version {version}, and this program reads {SCHEMA_VERSION}. Run "
                "`durable-chat migrate` first."
            )
        self._streams: dict[int, StreamState] = {}
        self._tails: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._named: set[int] = set()
        self._journal = Tables()
        self.rows = self.blobs = self.bytes = 0

    def close(self) -> None:
        self._connection.close()

    @property
    def summary(self) -> str:
        return f"{len(self._streams)} streams, {self.blobs} blobs and {self.rows} journal rows, {self.bytes} bytes"

    def damages(self) -> Iterator[str]:
        """Yield each damage as it is found. A damaged stream is named by its path."""
        self._connection.execute("BEGIN")
        looks = (
            *(self._page_damages, self._journal_damages, self._stream_damages, self._blob_damages),
            self._unstored_damages,
        )
        for look in looks:  # when one check cannot go on, the next may
            try:
                yield from look()
            except sqlite3.DatabaseError as error:
                yield f"the file: {error}"

    def _page_damages(self) -> Iterator[str]:
        self._tell("checking the pages of the file")
        for (line,) in self._connection.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield f"the file: {line}"

    def notes(self) -> Iterator[str]:
        """Yield what is worth knowing but not damage. Call it after `damages`."""
        for reason, path, count, size in self._connection.execute(_ORPHANS):
            yield f"set aside in the table orphans: {count} rows, {size} bytes of {path or 'no known stream'}: {reason}"
        strays = self._connection.execute(_STRAYS).fetchone()[0] - len(self._named)
        if strays > 0:
            yield f"large appends that are in progress or were interrupted before they were acknowledged: {strays}"

    def _path(self, stream_id: int) -> str:
        state = self._streams.get(stream_id)
        return f"stream {stream_id}" if state is None else state.path

    def _journal_damages(self) -> Iterator[str]:
        self._tell("checking the journal")
        counters = dict(self._connection.execute("SELECT name, value FROM counters").fetchall())
        before = counters.get(JOURNAL_START)
        for seq, payload, crc in self._connection.execute("SELECT seq, payload, crc FROM journal ORDER BY seq"):
            self.rows += 1
            self.bytes += len(payload)
            if before is not None and seq != before + 1:
                yield f"the journal: rows {before + 1} to {seq - 1} are missing"
            before = seq
            if crc is not None and crc != journal_crc(seq, payload):
                yield f"the journal: row {seq} fails its checksum"
                continue
            try:
                writes = decode_writes(payload)
            except msgspec.DecodeError as error:
                yield f"the journal: row {seq} cannot be read: {error}"
                continue
            for write in writes:
                self._journal.apply(write)
        if counters.get(JOURNAL_END, 0) > (before or 0):
            yield f"the journal: rows {(before or 0) + 1} to {counters[JOURNAL_END]} are missing"

    def _stream_damages(self) -> Iterator[str]:
        for row in self._connection.execute(SELECT_ALL_STREAMS):
            try:
                state = stream_from_row(row).state
            except (msgspec.DecodeError, TypeError, ValueError) as error:
                yield f"{row[1]}: its row in the table streams cannot be read: {error}"
                continue
            self._streams[state.id] = state
        stored = dict(self._streams)
        self._streams |= {state.id: state for state in self._journal.streams.values() if state is not None}
        for state in self._streams.values():
            if state.source_id is not None and state.fork_position and state.source_id not in self._streams:
                yield f"{state.path}: the stream it was forked from, {state.source}, is missing"
        self._ends = {state.id: state.fork_position for state in stored.values()}
        self._tails = {state.id: state.tail for state in stored.values()}

    def _blob_damages(self) -> Iterator[str]:
        rows = starmap(BlobRow, self._connection.execute(_BLOBS))
        for stream_id, blobs in groupby(rows, _STREAM_ID):
            if stream_id in self._journal.dropped:  # some of its blobs may be deleted already
                self._named.update(blob.staged for blob in blobs if blob.staged is not None)
                continue
            path = self._path(stream_id)
            if stream_id not in self._tails:
                yield f"{path}: it has blobs but no row in the table streams"
            at = self._ends.get(stream_id, 0)
            for blob in blobs:
                if blob.start != at:
                    yield f"{path}: no blob holds the positions from {at} to {blob.start}"
                yield from (f"{path}: {damage}" for damage in self._damages_of(blob))
                at = blob.stop
            self._ends[stream_id] = at
        for stream_id, tail in self._tails.items():
            end = self._ends[stream_id]
            if end != tail and stream_id not in self._journal.dropped:
                yield f"{self._path(stream_id)}: its blobs end at {end} but should end at {tail}"

    def _damages_of(self, blob: BlobRow) -> Iterator[str]:
        self.blobs += 1
        self.bytes += blob.size
        if self.blobs % PROGRESS_ROWS == 0:
            self._tell(f"checked {self.blobs} blobs, {self.bytes // (1024 * 1024)} MiB")
        try:
            check_blob(blob)
            if blob.staged is not None:
                self._named.add(blob.staged)
                self._check_parts(blob.staged, blob.start, blob.size)
        except BytesDamaged as error:
            yield str(error)

    def _check_parts(self, staged: int, start: int, size: int) -> None:
        found = 0
        for number, row in enumerate(self._connection.execute(SELECT_PARTS, (staged,))):
            if row[0] != number:
                raise BytesDamaged(f"part {number} of {staged}, at position {start}, is missing")
            found += len(check_part(staged, *row))
        if found != size:
            raise BytesDamaged(f"the parts of {staged}, at position {start}, hold {found} bytes but should hold {size}")

    def _unstored_damages(self) -> Iterator[str]:
        """Check what only the journal holds: it must continue where the blobs end, up to the tail."""
        for state in self._journal.streams.values():
            if state is None:
                continue
            at = self._ends.get(state.id, state.fork_position)
            pieces = self._journal.pieces.get(state.id, ())
            for piece, following in zip(pieces, [*pieces[1:], None], strict=False):
                if piece.staged is not None:
                    self._named.add(piece.staged)
                stop = self._stop(state, piece, following)
                if stop <= at:
                    continue
                if piece.start != at:
                    yield f"{state.path}: nothing holds the positions from {at} to {piece.start}"
                at = stop
                try:
                    if piece.staged is not None:
                        size = stop - piece.start if piece.lengths is None else size_of(piece.lengths)
                        self._check_parts(piece.staged, piece.start, size)
                except BytesDamaged as error:
                    yield f"{state.path}: {error}"
            if at != state.tail:
                yield f"{state.path}: nothing holds the positions from {at} to {state.tail}"

    @staticmethod
    def _stop(state: StreamState, piece: Piece, following: Piece | None) -> int:
        """
        The position after a piece. A staged byte piece ends where the next piece begins, or at the tail, because the
        journal does not hold its bytes.
        """
        if piece.staged is None or piece.lengths is not None:
            return piece.stop
        return state.tail if following is None else following.start
