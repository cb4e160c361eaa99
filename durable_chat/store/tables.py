"""
The state a backend keeps in memory: streams, producers, pieces and records, changed by whole writes.

It is all of the memory store, and what the SQLite store has written to its journal and not yet to its tables.
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
"""Told apart from None, which says that a stream or record was removed. One look-up, since another thread looks too."""


Row = tuple[str, str, Record | None]
"""A record under its kind and key; None for one that is removed."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A write that is carried out, with its records as they will be."""

    streams: tuple[StreamChange, ...]
    records: tuple[Row, ...]


class Tables:
    """
    Mutable state: `streams` (None for one that was dropped here), `producers` and `pieces` by stream id, `records`
    (None for one that was deleted here), `dropped` streams' paths by their ids, `strays` (numbers of staged pieces that
    went with them), and `size`, the bytes of the pieces.
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
        """Nothing is held elsewhere that these dropped streams would hide."""
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
    The indexes of the writes whose streams or records do not have the version they expect, and the others with their
    records as they will be. Each write is judged after those before it that were not refused.
    """
    streams: dict[str, int] = {}
    records: dict[tuple[str, str], int] = {}
    refused: set[int] = set()
    accepted: list[Accepted] = []
    for index, write in enumerate(writes):
        # In one go: a thousand of these are a flush, and nothing else runs meanwhile.
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
