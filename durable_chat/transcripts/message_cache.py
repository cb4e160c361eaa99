"""
A session's messages as JSON. For long sessions they are cached until they change: a page requests them twice when it
opens, and so does each other tab.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

from durable_chat.transcripts.chunks import encode_chunk, with_metadata

BLOCK_BYTES = 64 * 1024
"""A long snapshot is sent in pieces of this size: as much as a socket accepts at once."""

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """The bytes before and after the messages."""

    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """Messages as blocks of comma-separated JSON, and the digest of these blocks."""

    messages: Sequence[dict[str, Any]]
    blocks: Sequence[bytes]
    digest: hashlib.blake2b

    def framed(self, frame: Frame) -> tuple[list[bytes], str]:
        """Return the complete body in blocks, and its digest."""
        digest = self.digest.copy()
        digest.update(frame.before)
        digest.update(frame.after)
        blocks = list(self.blocks)
        blocks[0] = frame.before + blocks[0]
        blocks[-1] += frame.after
        return blocks, digest.hexdigest()


class Kept:
    """
    Mutable state: the `encoded` messages of a long session while it is in memory. They are smaller than the log they
    were folded from, whose size counts toward the memory limit.
    """

    __slots__ = ("encoded",)

    def __init__(self) -> None:
        self.encoded: Encoded | None = None

    def of(self, messages: Sequence[dict[str, Any]]) -> Encoded | None:
        """Return the cached encoding if the messages are unchanged: the same objects in the same order."""
        kept = self.encoded
        if kept is None or len(kept.messages) != len(messages) or not all(map(is_, kept.messages, messages)):
            return None
        return kept


def encode(messages: Sequence[dict[str, Any]]) -> Encoded:
    """Encode messages one by one, so that no step is long."""
    blocks = list(_blocks(messages))
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for block in blocks:
        digest.update(block)
    return Encoded(messages, blocks, digest)


def _blocks(messages: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    block = bytearray()
    for number, message in enumerate(messages):
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
        block += b"," if number else b""
        block += encode_chunk(with_metadata(message))
    yield bytes(block)
