"""What is known of a stream beside its bytes: the value that every decision starts from and ends in."""

from __future__ import annotations

import msgspec

# Here and elsewhere `gc=False`: what is made for each write holds no cycle, and the collector need not look at it.
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.offsets import encode_offset


class ProducerState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest accepted numbers of one producer of one stream, and when they came (Unix ms)."""

    epoch: int
    seq: int
    updated_ms: int


class StreamState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    A stream. Positions count messages of a JSON stream, bytes of any other. `id` is never used again; `version` counts
    the writes of this state from 1. `accessed_ms` starts the sliding TTL. A fork has a `source_id`, and its own bytes
    begin at `fork_position`; `fork_offset` and `fork_sub_offset` are what its creator asked for. `forks` counts the
    streams that branch off this one; with `deleted` it is kept for them alone (PROTOCOL.md 4.2).

    `life` is the first number of its offsets (see `offsets`): higher than that of any earlier stream at the path, and 0
    for a stream of a version that had none. It is kept, and goes along into any other store. Of a fork, `source_lives`
    are those of what it has from its sources: up to which position, and which.
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
        """The life that the offset of a position names: that of whoever wrote what is before it."""
        if position > self.fork_position:
            return self.life
        return next((life for stop, life in self.source_lives if position <= stop), 0) if position else 0

    def offset(self, position: int) -> str:
        """The offset of a position of this stream."""
        return encode_offset(self.life if position > self.fork_position else self.life_at(position), position)

    @property
    def tail_offset(self) -> str:
        return self.offset(self.tail)

    @property
    def json(self) -> bool:
        return is_json(self.content_type)

    def deadline_ms(self, accessed_ms: int) -> int | None:
        """When the stream ends if nobody uses it after `accessed_ms`; None for never."""
        if self.ttl_s is not None:
            return max(accessed_ms, self.accessed_ms) + self.ttl_s * 1000
        return self.expires_at_ms
