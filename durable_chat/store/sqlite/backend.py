"""
The default store: one SQLite file, one writer thread, group commit, reads through aiosqlite.

Data that is flushed and not yet compacted is also in memory (`Tables`). So reading the newest messages of a stream does
not touch the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, starmap
from typing import TypeVar

import aiosqlite
import msgspec

from durable_chat.errors import StartError, StoreFailed, Unavailable
from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import CUT_BYTES, Loaded, Piece, Record, Write
from durable_chat.store.migrations import migrate_sqlite
from durable_chat.store.pieces import append_start, take
from durable_chat.store.sqlite.batched_reads import Lookups
from durable_chat.store.sqlite.checksums import BLOB_COLUMNS, BlobRow, BytesDamaged, check_blob, check_part
from durable_chat.store.sqlite.compaction import LOOKED_AT_ONCE, Compaction
from durable_chat.store.sqlite.files import DatabaseFiles, FilesMoved
from durable_chat.store.sqlite.journal import decode_appends
from durable_chat.store.sqlite.rows import (
    SELECT_STREAMS,
    among,
    stream_from_row,
)
from durable_chat.store.sqlite.writer import SqliteWriter
from durable_chat.store.sqlite.writer_thread import Worker
from durable_chat.store.tables import Tables, by_key, is_due, matches

PART_BYTES = CUT_BYTES
"""Staged bytes are written in parts of this size. Each part delays flushes by some milliseconds."""
LOOP_PARTS_MAX = 4
"""The number of parts that the event loop joins and checks itself: a few milliseconds."""

WATCH_S = 1.0
"""Seconds between two checks that the files exist while nothing is written. Each flush makes its own check."""

_BLOBS = f"""
SELECT {BLOB_COLUMNS} FROM blobs WHERE id IN (
    SELECT id FROM (
        SELECT id, sum(size) OVER (ORDER BY start) - size AS before FROM blobs
        WHERE stream_id = :stream AND start < :stop AND start >= coalesce(
            (SELECT max(start) FROM blobs WHERE stream_id = :stream AND start <= :start), 0)
        ORDER BY start LIMIT 256)
    WHERE before <= :bytes_max)
ORDER BY start
"""
_PART_SIZES = "SELECT part, length(data) FROM parts WHERE staged = ? ORDER BY part"
_PARTS = "SELECT part, data, crc FROM parts WHERE staged = ? AND part BETWEEN ? AND ? ORDER BY part"
_BOUNDARIES = "SELECT start, lengths FROM blobs WHERE stream_id = ? AND start <= ? ORDER BY start DESC LIMIT 1"
_RECORDS = "SELECT kind, key, version, value, due_ms FROM records WHERE kind = ?"

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class SqliteBackend:
    """
    Mutable state: `_tables` (flushed, not compacted) and the `_compaction`, which knows up to which journal row they
    go; the writer and its thread; the reading connection and its batched look-ups; the `_watch` task of the files;
    `failure` after a failed write; `_damages`, the known damage of streams by their ids.
    """

    def __init__(self, path: str) -> None:
        self._files = DatabaseFiles(path)
        self._path = self._files.path
        self._writer = SqliteWriter(self._path)
        self._thread = Worker("sqlite-writer")
        self._reader: aiosqlite.Connection
        self._tables = Tables()
        self._streams = Lookups(self._fetch_streams)
        self.failure: StoreFailed | None = None
        self._damages: dict[int, str] = {}
        self._compaction: Compaction
        self._watch: asyncio.Task[None]

    async def open(self) -> None:
        async with contextlib.AsyncExitStack() as undone:
            self._files.acquire()
            undone.callback(self._files.release)
            with _starting(self._files.given):
                await self._in_writer(migrate_sqlite, self._path)
                await self._in_writer(self._writer.open)
                undone.push_async_callback(self._in_writer, self._writer.close)
                found = await self._in_writer(self._writer.replay)
                self._reader = await aiosqlite.connect(self._path, isolation_level=None)
                undone.push_async_callback(self._reader.close)
                await self._reader.execute("PRAGMA query_only=1")
            self._files.note_beside()
            undone.pop_all()
        self._tables, self._damages = found.tables, found.damages
        self._compaction = Compaction(
            self._path, self._writer, self._in_writer, self._failing, found.tables, found.backlog
        )
        self._compaction.start()
        self._watch = asyncio.create_task(self._watch_files(), name="database files")

    async def close(self) -> None:
        self._watch.cancel()
        await asyncio.wait([self._watch])
        await self._compaction.close()
        await self._reader.close()
        if self.failure is None:
            with contextlib.suppress(StoreFailed), self._failing():
                await self._in_writer(self._writer.note_end)
        await self._in_writer(self._writer.close)
        self._thread.close()
        self._files.release()

    async def _in_writer(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await self._thread.run(function, *arguments)

    # Writing.

    async def stage(self, data: bytes) -> int | None:
        self._writer.staged_max += 1
        staged = self._writer.staged_max
        for part, start in enumerate(range(0, len(data), PART_BYTES)):
            with self._failing():
                await self._in_writer(self._writer.stage, staged, part, data[start : start + PART_BYTES])
        return staged

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        await self._compaction.room()
        with self._failing():
            refused, accepted = await self._in_writer(self._writer.commit, writes, self._tables)
        for write in accepted:
            self._tables.apply(write)
        self._compaction.note(accepted, self._writer.journal_seq)
        return refused

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """
        Turn any error into StoreFailed and stop all writing after it. A write counts only if the files are still where
        the next start looks for them.
        """
        if self.failure is not None:
            raise self.failure
        try:
            yield
            # Not in the writer's thread, which would have to acquire the GIL twice more for each flush.
            self._files.check()
        except FilesMoved as error:
            log.critical("%s", error)
            raise self._fail("The store's file was moved or removed. The store accepts no more writes.") from error
        except Exception as error:
            log.critical("SQLite failed: %s", error, exc_info=not isinstance(error, sqlite3.Error | OSError))
            raise self._fail("The store could not write to its disk. It accepts no more writes.") from error

    def _fail(self, message: str) -> StoreFailed:
        self._compaction.fail()
        self.failure = StoreFailed(message, retry_after_s=30)
        return self.failure

    async def _watch_files(self) -> None:
        """Check the files regularly, so that a store without writes does not look ready when they are gone."""
        while self.failure is None:
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(StoreFailed), self._failing():
                self._files.check_all()

    # Reading.

    async def load(self, path: str) -> Loaded | None:
        tables = self._tables
        is_held, state = path in tables.streams, tables.streams.get(path)
        if is_held and state is None:
            return None
        newer = {} if state is None else dict(tables.producers.get(state.id, {}))
        stored = await self._streams.ask(path)
        if state is None:
            return None if stored is None else self._loaded(stored.state, dict(stored.producers))
        # The database may still hold an earlier stream at the path.
        older = stored.producers if stored is not None and stored.state.id == state.id else {}
        return self._loaded(state, older | newer)

    def _loaded(self, state: StreamState, producers: dict[str, ProducerState]) -> Loaded:
        return Loaded(state, producers, state.id in self._damages)

    async def _fetch_streams(self, paths: list[str]) -> dict[str, Loaded]:
        found = map(stream_from_row, map(tuple, await self._fetch_all(SELECT_STREAMS, among(paths))))
        return {loaded.state.path: loaded for loaded in found}

    async def read(self, stream_id: int, start: int, stop: int, bytes_max: int) -> list[Piece]:
        # Read before the first await: what compaction moves during it is in this list or already in the blobs.
        pieces_held = self._tables.pieces.get(stream_id, ())
        border = pieces_held[0].start if pieces_held else stop
        if start >= border:
            return self._tables.read(stream_id, start, stop, bytes_max)
        held = tuple(pieces_held)
        pieces = await self._read_blobs(stream_id, start, min(stop, border), bytes_max)
        left = bytes_max - sum(len(piece.data) for piece in pieces)
        if held and left > 0 and pieces and pieces[-1].stop == border:
            pieces += take(held, border, stop, left)
        return pieces

    async def _read_blobs(self, stream_id: int, start: int, stop: int, bytes_max: int) -> list[Piece]:
        values = {"stream": stream_id, "start": start, "stop": stop, "bytes_max": bytes_max}
        pieces: list[Piece] = []
        at = start
        for row in starmap(BlobRow, await self._fetch_all(_BLOBS, values)):
            if row.start > at:  # a hole, or the stream was dropped in the meantime
                break
            try:
                piece = await self._piece_of(row, max(start, row.start), stop, bytes_max)
            except BytesDamaged as error:
                log.error("the stream %d is damaged: %s", stream_id, error)
                self._damages[stream_id] = str(error)
                break
            if piece is None:
                break
            pieces.append(piece)
            at = piece.stop
        return take(pieces, start, stop, bytes_max)

    async def _piece_of(self, row: BlobRow, start: int, stop: int, bytes_max: int) -> Piece | None:
        """
        The piece in a row. Of a staged byte piece, it holds at least the bytes from `start` to `stop`, up to
        `bytes_max`. None when parts are missing, which also happens when the stream was dropped in the meantime. Raises
        BytesDamaged.
        """
        piece, staged, size = check_blob(row), row.staged, row.size
        if staged is None:
            return piece
        sizes = [tuple(row) for row in await self._fetch_all(_PART_SIZES, (staged,))]
        ends = list(accumulate(part_bytes for _, part_bytes in sizes))
        if [part for part, _ in sizes] != list(range(len(sizes))) or not ends or ends[-1] != size:
            return None
        first, last = 0, len(ends) - 1
        if piece.lengths is None:
            first = bisect_right(ends, start - piece.start)
            last = bisect_left(ends, min(stop - piece.start, start - piece.start + bytes_max, size))
        rows = await self._fetch_all(_PARTS, (staged, first, last))
        if len(rows) != last - first + 1:
            return None
        begin = piece.start + (ends[first - 1] if first and piece.lengths is None else 0)
        return Piece(begin, await self._joined(staged, rows), piece.lengths)

    async def _joined(self, staged: int, rows: Sequence[aiosqlite.Row]) -> bytes:
        def join() -> bytes:
            return b"".join([check_part(staged, *row) for row in rows])

        # Check a long message in a thread: it takes a millisecond for each megabyte.
        return join() if len(rows) <= LOOP_PARTS_MAX else await asyncio.to_thread(join)

    async def append_start(self, stream_id: int, position: int) -> int:
        held = self._tables.pieces.get(stream_id, ())
        if held and held[0].start <= position:
            return self._tables.append_start(stream_id, position)
        row = await self._fetch_one(_BOUNDARIES, (stream_id, position))
        return position if row is None else append_start(row[0], decode_appends(row[1]), position)

    async def expired(self, now_ms: int, limit: int) -> list[str]:
        held = dict(self._tables.streams)
        rows = await self._fetch_all("SELECT path FROM streams WHERE deadline_ms <= ? LIMIT ?", (now_ms, limit))
        paths = [str(row[0]) for row in rows if row[0] not in held]
        states = list(held.values())
        for at in range(0, len(states), LOOKED_AT_ONCE):
            some = states[at : at + LOOKED_AT_ONCE]
            paths += [state.path for state in some if state and not state.deleted and is_due(state, now_ms)]
            await asyncio.sleep(0)
        return paths[:limit]

    async def next_stream_id(self) -> int:
        return self._tables.stream_id_max + 1

    async def record(self, kind: str, key: str) -> Record | None:
        if (kind, key) in self._tables.records:
            return self._tables.records[kind, key]
        row = await self._fetch_one(_RECORDS + " AND key = ?", (kind, key))
        return None if row is None else Record(*row)

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]:
        held = {key: record for key, record in self._tables.records.items() if key[0] == kind}
        if due_before_ms is None:
            rows = await self._fetch_all(_RECORDS + " AND substr(key, 1, ?) = ?", (kind, len(prefix), prefix))
        else:
            rows = await self._fetch_all(_RECORDS + " AND due_ms <= ?", (kind, due_before_ms))
        stored = (Record(*row) for row in rows)
        found = [record for record in stored if (record.kind, record.key) not in held]
        found += [record for record in held.values() if record is not None]
        return by_key(record for record in found if matches(record, kind, due_before_ms, prefix))

    async def _fetch_one(self, query: str, values: Sequence[object]) -> aiosqlite.Row | None:
        rows = await self._fetch_all(query, values)
        return rows[0] if rows else None

    async def _fetch_all(self, query: str, values: Sequence[object] | Mapping[str, object]) -> list[aiosqlite.Row]:
        try:
            return list(await self._reader.execute_fetchall(query, values))
        except sqlite3.Error as error:
            log.error("SQLite could not read: %s", error)
            raise Unavailable("The store could not be read.", code="store_read_failed") from error

    # Compaction.

    @property
    def compaction(self) -> Compaction:
        return self._compaction

    async def compact(self, paths: Iterable[str] | None = None) -> None:
        """See `Compaction.compact`."""
        await self._compaction.compact(paths)

    @property
    def journal_bytes(self) -> int:
        return self._writer.journal_bytes

    @property
    def uncompacted_bytes(self) -> int:
        return self._tables.size


@contextlib.contextmanager
def _starting(path: str) -> Iterator[None]:
    """Turn the errors of opening a database file into a StartError."""
    try:
        yield
    except sqlite3.Error as error:
        raise StartError(f"Cannot open the database {path}: {error}.") from error
    except OSError as error:
        raise StartError(f"Cannot open the database {path}: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise StartError(
            f"The journal of the database {path} is damaged: {error}. Restore the database from a backup."
        ) from error
