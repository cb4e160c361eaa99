"""
What the journal holds and the tables do not: which streams are worth compacting now, and which rows nobody needs.

Compacting a stream rewrites its last blob, so one that is written all the time waits until it can fill a blob. What
waits is in memory too, and is read again at a start: the bounds below keep both short.
"""

from __future__ import annotations

from collections.abc import Iterable

from durable_chat.store.tables import Accepted, Tables

COMPACT_BYTES = 64 * 1024
"""So much of one stream fills a blob: it is written once, and not again with what follows."""
QUIET_S = 5.0
"""A stream that has been quiet for so long may stay so: its bytes need not be in memory."""
AGE_MAX_S = 60.0
"""One that trickles holds up the journal for no longer than this."""
HELD_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of messages in memory. Past this the oldest half is compacted; past twice as much flushes wait for it."""
JOURNAL_BYTES_MAX = 24 * 1024 * 1024
"""Bytes of the journal likewise: a start reads them again, 40 ms for each megabyte."""
HELD_STREAMS_MAX = 20_000
"""Streams likewise, at about 1 KiB each."""
FULL = 2.0
"""The pressure at which flushes wait."""


class Held:
    """
    One stream. Mutable state: the first row of the journal that has something of it the tables have not, since when,
    when the last came, and the `size` of its messages.
    """

    __slots__ = ("last_s", "seq", "since_s", "size", "stream_id")

    def __init__(self, stream_id: int, seq: int, now_s: float) -> None:
        self.stream_id = stream_id
        self.seq = seq
        self.since_s = self.last_s = now_s
        self.size = 0

    def is_due(self, now_s: float, old_seq: int) -> bool:
        """Whether it is worth compacting now; one that needs a row up to `old_seq` is."""
        return (
            self.size >= COMPACT_BYTES
            or self.seq <= old_seq
            or now_s - self.last_s >= QUIET_S
            or now_s - self.since_s >= AGE_MAX_S
        )


class Backlog:
    """Mutable state: `streams`, by path; `size`, of all their messages; `seq`, the newest row that has been noted."""

    def __init__(self) -> None:
        self.streams: dict[str, Held] = {}
        self.size = 0
        self.seq = 0

    def note(self, writes: Iterable[Accepted], seq: int, now_s: float) -> None:
        """A row of the journal."""
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
        """After a start: of what the journal holds, a part may be in the tables of the database already."""
        for held in self.streams.values():
            held.size = sum(len(piece.data) for piece in tables.pieces.get(held.stream_id, ()))
        self.size = tables.size

    def moved(self, path: str, stream_id: int, size: int, seq: int, now_s: float, *, left: bool, whole: bool) -> None:
        """
        So many bytes of a stream are in the tables: with `whole` all up to a row of the journal. `left` says whether
        there is something that came since.
        """
        held = self.streams.get(path)
        if held is None or held.stream_id != stream_id:  # dropped meanwhile
            return
        held.size -= size
        self.size -= size
        if whole:
            held.seq, held.since_s = seq + 1, now_s
            if not left:
                del self.streams[path]

    def pressure(self, journal_bytes: int) -> float:
        """How near it is to its bounds: above 1 something has to be done."""
        return max(self.size / HELD_BYTES_MAX, journal_bytes / JOURNAL_BYTES_MAX, len(self.streams) / HELD_STREAMS_MAX)

    def old_seq(self, journal_bytes: int) -> int:
        """The row of the journal up to which all is to be compacted, since there is too much; -1 where there is not."""
        return -1 if self.pressure(journal_bytes) <= 1 else (self.floor() + self.seq + 1) // 2

    def floor(self) -> int:
        """The newest row of the journal up to which no stream needs any."""
        return min((held.seq - 1 for held in self.streams.values()), default=self.seq)
