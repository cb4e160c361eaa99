"""
The backlog of the journal: which streams are worth compacting now, and which journal rows are no longer needed.

Compaction rewrites the last blob of a stream. So a stream that is written all the time waits until it can fill a blob.
Waiting data is also in memory, and a start reads it again. The limits below keep both small.
"""

from __future__ import annotations

from collections.abc import Iterable

from durable_chat.store.tables import Accepted, Tables

COMPACT_BYTES = 64 * 1024
"""This much of one stream fills a blob. The blob is then written once, and not again with later data."""
QUIET_S = 5.0
"""A stream without a write for this long is compacted, because it may stay quiet and need not use memory."""
AGE_MAX_S = 60.0
"""A stream with few small writes keeps journal rows for at most this long."""
HELD_BYTES_MAX = 32 * 1024 * 1024
"""
The limit for bytes of messages in memory. Above it the oldest half is compacted. At twice the limit, flushes wait.
"""
JOURNAL_BYTES_MAX = 24 * 1024 * 1024
"""The same limit for bytes of the journal. A start reads them again, which takes 40 ms for each megabyte."""
HELD_STREAMS_MAX = 20_000
"""The same limit for streams, at about 1 KiB each."""
FULL = 2.0
"""The pressure at which flushes wait."""


class Held:
    """
    The backlog of one stream. Mutable state: `seq`, the first journal row with data of the stream that is not in the
    tables; the times of its first and last write; the `size` of its messages in bytes.
    """

    __slots__ = ("last_s", "seq", "since_s", "size", "stream_id")

    def __init__(self, stream_id: int, seq: int, now_s: float) -> None:
        self.stream_id = stream_id
        self.seq = seq
        self.since_s = self.last_s = now_s
        self.size = 0

    def is_due(self, now_s: float, old_seq: int) -> bool:
        """Whether to compact the stream now. A stream that needs a journal row up to `old_seq` is always due."""
        return (
            self.size >= COMPACT_BYTES
            or self.seq <= old_seq
            or now_s - self.last_s >= QUIET_S
            or now_s - self.since_s >= AGE_MAX_S
        )


class Backlog:
    """
    Mutable state: `streams` by path; `size`, the bytes of all their messages; `seq`, the newest journal row that was
    noted.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Held] = {}
        self.size = 0
        self.seq = 0

    def note(self, writes: Iterable[Accepted], seq: int, now_s: float) -> None:
        """Note a new journal row."""
        self.seq = seq
        for write in writes:
            for change in write.streams:
                state = change.state
                held = self.streams.get(state.path)
                if change.drop:
                    if held is not None:
                        self.size -= self.streams.pop(state.path).size
                    continue
                if held is None:
                    held = self.streams[state.path] = Held(state.id, seq, now_s)
                held.last_s = now_s
                if change.piece is not None:
                    size = len(change.piece.data)
                    held.size += size
                    self.size += size

    def weigh(self, tables: Tables) -> None:
        """Set the sizes after a start, when the database's tables may already hold a part of the journal."""
        for held in self.streams.values():
            held.size = sum(len(piece.data) for piece in tables.pieces.get(held.stream_id, ()))
        self.size = tables.size

    def moved(self, path: str, stream_id: int, size: int, seq: int, now_s: float, *, left: bool, whole: bool) -> None:
        """
        Note that `size` bytes of a stream are now in the tables. With `whole`, the tables hold all of the stream up to
        the journal row `seq`. `left` says whether newer data exists.
        """
        held = self.streams.get(path)
        if held is None or held.stream_id != stream_id:  # dropped in the meantime
            return
        held.size -= size
        self.size -= size
        if whole:
            held.seq, held.since_s = seq + 1, now_s
            if not left:
                del self.streams[path]

    def pressure(self, journal_bytes: int) -> float:
        """How full the backlog is, relative to its limits. Above 1 something must be compacted."""
        return max(self.size / HELD_BYTES_MAX, journal_bytes / JOURNAL_BYTES_MAX, len(self.streams) / HELD_STREAMS_MAX)

    def old_seq(self, journal_bytes: int) -> int:
        """The journal row up to which everything must be compacted now; -1 when the backlog is within its limits."""
        return -1 if self.pressure(journal_bytes) <= 1 else (self.floor() + self.seq + 1) // 2

    def floor(self) -> int:
        """The newest journal row such that no stream needs it or any row before it."""
        return min((held.seq - 1 for held in self.streams.values()), default=self.seq)
