"""
A session's messages as JSON. Those of a long session are kept while they are the same: a page asks for them twice when
it is opened, and so does each further tab.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

from durable_chat.transcripts.chunks import encode_chunk, with_metadata

BLOCK_BYTES = 64 * 1024
"""A long snapshot is sent in pieces of this size: what a socket takes at once."""

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before and behind the messages."""

    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """Messages, in blocks of JSON joined by commas, and the digest of these so far."""

    messages: Sequence[dict[str, Any]]
    blocks: Sequence[bytes]
    digest: hashlib.blake2b

    def framed(self, frame: Frame) -> tuple[list[bytes], str]:
        """The whole body in blocks, and its digest."""
        digest = self.digest.copy()
        digest.update(frame.before)
        digest.update(frame.after)
        blocks = list(self.blocks)
        blocks[0] = frame.before + blocks[0]
        blocks[-1] += frame.after
        return blocks, digest.hexdigest()


class Kept:
    """
    Mutable state: the `encoded` messages of a long session, for as long as that is in memory. They take less than the
    log that it was folded from, by which those in memory are counted.
    """

    __slots__ = ("encoded",)

    def __init__(self) -> None:
        self.encoded: Encoded | None = None

    def of(self, messages: Sequence[dict[str, Any]]) -> Encoded | None:
        """What is kept of just these messages, which are the same objects until they change."""
        kept = self.encoded
        if kept is None or len(kept.messages) != len(messages) or not all(map(is_, kept.messages, messages)):
            return None
        return kept


def encode(messages: Sequence[dict[str, Any]]) -> Encoded:
    """Message by message, so that no step is long."""
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
