"""The state of a stream without its bytes: the value that every decision takes and returns."""

from __future__ import annotations

import msgspec

# `gc=False`, here and elsewhere: objects that are made for each write have no cycles, so the garbage collector need not
# visit them.
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.offsets import encode_offset


class ProducerState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The highest accepted numbers of one producer of one stream, and when they arrived (Unix ms)."""

    epoch: int
    seq: int
    updated_ms: int


class StreamState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    A stream. Positions count messages in a JSON stream, and bytes in any other. `id` is never reused. `version` counts
    the writes of this state from 1. `accessed_ms` is the start of the sliding TTL. A fork has a `source_id`, and its
    own bytes begin at `fork_position`; `fork_offset` and `fork_sub_offset` are what the request for the fork contained.
    `forks` counts the forks of this stream. With `deleted`, the stream is kept only for its forks (PROTOCOL.md 4.2).

    `life` is the first number of the stream's offsets (see `offsets`). It is higher than the life of any earlier stream
    at the path, and 0 for streams of versions without lives. It never changes, even when the stream moves to another
    store. `source_lives` of a fork are the lives of its inherited part, each with the position where it ends.
    """

    id: int
    path: str
    version: int
    content_type: str
    tail: int
    created_ms: int
    accessed_ms: int
    closed: bool = False
    closed_by: tuple[str, int, int] | None = None
    ttl_s: int | None = None
    expires_at: str | None = None
    expires_at_ms: int | None = None
    last_seq: str | None = None
    source: str | None = None
    source_id: int | None = None
    fork_position: int = 0
    fork_offset: str | None = None
    fork_sub_offset: int = 0
    forks: int = 0
    deleted: bool = False
    life: int = 0
    source_lives: tuple[tuple[int, int], ...] = ()

    def life_at(self, position: int) -> int:
        """The life in the offset of a position: the life of the stream that wrote the bytes before it."""
        if position > self.fork_position:
            return self.life
        return next((life for stop, life in self.source_lives if position <= stop), 0) if position else 0

    def offset(self, position: int) -> str:
        """The offset of a position of this stream."""
        return encode_offset(self.life if position > self.fork_position else self.life_at(position), position)

    @property
    def tail_offset(self) -> str:
        tail = self.tail
        return encode_offset(self.life, tail) if tail > self.fork_position else self.offset(tail)

    @property
    def json(self) -> bool:
        return is_json(self.content_type)

    def deadline_ms(self, accessed_ms: int) -> int | None:
        """When the stream expires if nobody uses it after `accessed_ms` (Unix ms), or None for never."""
        if self.ttl_s is not None:
            return max(accessed_ms, self.accessed_ms) + self.ttl_s * 1000
        return self.expires_at_ms
