"""
The state that a backend keeps in memory: streams, producers, pieces and records, changed by whole writes.

For the memory store this is everything. For the SQLite store it is what is in the journal and not yet in the tables.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import msgspec

from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Piece, Record, RecordWrite, StreamChange, Write
from durable_chat.store.pieces import append_start, take

_START = attrgetter("start")

VersionOf = Callable[[str, str], int]

MISSING = object()
"""
A marker for "not in memory", because None means that a stream or record was removed. One look-up instead of two,
because another thread also reads these dictionaries.
"""


Row = tuple[str, str, Record | None]
"""A kind, a key and the record; None when it is removed."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """An accepted write, with its records in their new versions."""

    streams: tuple[StreamChange, ...]
    records: tuple[Row, ...]


class Tables:
    """
    Mutable state: `streams` (None for a dropped one); `producers` and `pieces` by stream id; `records` (None for a
    deleted one); `dropped`, the paths of dropped streams by id; `strays`, the numbers of their staged pieces; `size`,
    the bytes of all pieces.
    """

    def __init__(self) -> None:
        self.streams: dict[str, StreamState | None] = {}
        self.producers: dict[int, dict[str, ProducerState]] = {}
        self.pieces: dict[int, list[Piece]] = {}
        self.records: dict[tuple[str, str], Record | None] = {}
        self.dropped: dict[int, str] = {}
        self.strays: set[int] = set()
        self.size = 0
        self.stream_id_max = 0

    def apply(self, accepted: Accepted) -> None:
        for change in accepted.streams:
            self._apply_stream(change)
        for kind, key, record in accepted.records:
            self.records[kind, key] = record

    def _apply_stream(self, change: StreamChange) -> None:
        state = change.state
        self.stream_id_max = max(self.stream_id_max, state.id)
        if change.drop:
            self._drop(state)
            return
        self.streams[state.path] = state
        if change.producers:
            self.producers.setdefault(state.id, {}).update(change.producers)
        if change.piece is not None:
            self.pieces.setdefault(state.id, []).append(change.piece)
            self.size += len(change.piece.data)

    def _drop(self, state: StreamState) -> None:
        self.streams[state.path] = None
        self.producers.pop(state.id, None)
        for piece in self.pieces.pop(state.id, ()):
            self.size -= len(piece.data)
            if piece.staged is not None:
                self.strays.add(piece.staged)
        self.dropped[state.id] = state.path

    def forget_dropped(self, stream_ids: Iterable[int]) -> None:
        """Forget dropped streams, after everything else that was stored of them is deleted."""
        paths = {path for path in (self.dropped.pop(stream_id, None) for stream_id in stream_ids) if path is not None}
        for path in paths.difference(self.dropped.values()) if paths else ():
            if self.streams.get(path, MISSING) is None:
                del self.streams[path]

    def record_version(self, kind: str, key: str, record_version: VersionOf) -> int:
        held = self.records.get((kind, key), MISSING)
        if isinstance(held, Record):
            return held.version
        return 0 if held is None else record_version(kind, key)

    def stream_version(self, path: str, stored_version: Callable[[str], int]) -> int:
        held = self.streams.get(path, MISSING)
        if isinstance(held, StreamState):
            return held.version
        return 0 if held is None else stored_version(path)

    def read(self, stream_id: int, start: int, stop: int, bytes_max: int) -> list[Piece]:
        pieces = self.pieces.get(stream_id, [])
        first = max(0, bisect_right(pieces, start, key=_START) - 1)
        return take(pieces[first:] if first else pieces, start, stop, bytes_max)

    def append_start(self, stream_id: int, position: int) -> int:
        pieces = self.pieces.get(stream_id, [])
        piece = pieces[bisect_right(pieces, position, key=_START) - 1]
        return append_start(piece.start, piece.appends, position)

    def expired(self, now_ms: int, limit: int) -> list[str]:
        paths: list[str] = []
        for state in self.streams.values():
            if len(paths) >= limit:
                break
            if state is not None and not state.deleted and is_due(state, now_ms):
                paths.append(state.path)
        return paths


def is_due(state: StreamState, now_ms: int) -> bool:
    deadline_ms = state.deadline_ms(state.accessed_ms)
    return deadline_ms is not None and deadline_ms <= now_ms


def matches(record: Record, kind: str, due_before_ms: int | None, prefix: str) -> bool:
    if record.kind != kind or not record.key.startswith(prefix):
        return False
    return due_before_ms is None or (record.due_ms is not None and record.due_ms <= due_before_ms)


def judge(
    writes: Sequence[Write], stream_version: Callable[[str], int], record_version: VersionOf
) -> tuple[frozenset[int], list[Accepted]]:
    """
    Divide writes into the refused and the accepted. Returns the indexes of the writes whose streams or records do not
    have the version that they expect, and the other writes with their records in their new versions. Each write is
    judged as if the accepted writes before it were carried out.
    """
    streams: dict[str, int] = {}
    records: dict[tuple[str, str], int] = {}
    refused: set[int] = set()
    accepted: list[Accepted] = []
    for index, write in enumerate(writes):
        # Inline, because a flush may have a thousand writes and nothing else runs meanwhile.
        fits = True
        for change in write.streams:
            path = change.state.path
            version = streams.get(path)
            if version is None:
                version = streams[path] = stream_version(path)
            if change.state.version != version + 1:
                fits = False
        for record in write.records:
            key = (record.kind, record.key)
            version = records.get(key)
            if version is None:
                version = records[key] = record_version(*key)
            if record.expected is not None and record.expected != version:
                fits = False
        if not fits:
            refused.add(index)
            continue
        for change in write.streams:
            streams[change.state.path] = 0 if change.drop else change.state.version
        rows = [_resolve(record, records) for record in write.records if not record.check] if write.records else ()
        accepted.append(Accepted(write.streams, tuple(rows)))
    return frozenset(refused), accepted


def _resolve(write: RecordWrite, records: dict[tuple[str, str], int]) -> Row:
    key = (write.kind, write.key)
    records[key] = 0 if write.value is None else records[key] + 1
    record = None if write.value is None else Record(*key, records[key], write.value, write.due_ms)
    return (*key, record)


def by_key(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=attrgetter("key"))
