"""
What a caller asks of a stream and what it gets back, as values without HTTP.

The header names behind each field are in PROTOCOL.md sections 5.1, 5.2 and 4.2; `http` translates. What is made for
every append or creation is a msgspec structure, which costs a fifth of a frozen dataclass to make.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from durable_chat.protocol.messages import EMPTY, Payload


class Producer(msgspec.Struct, frozen=True, gc=False):
    """An idempotent producer's claim (PROTOCOL.md 5.2.1): numbers are 0 to 2**53 - 1."""

    id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a new stream branches off (PROTOCOL.md 4.2). Without `offset`, at the source's tail."""

    source: str
    offset: str | None = None
    sub_offset: int = 0


class Create(msgspec.Struct, frozen=True):
    """
    A stream to be: `content_type` None takes the fork's source's, else `application/octet-stream`. `expires_at` is the
    RFC 3339 text as sent and `expires_at_ms` the same in Unix milliseconds.
    """

    content_type: str | None = None
    ttl_s: int | None = None
    expires_at: str | None = None
    expires_at_ms: int | None = None
    closed: bool = False
    payload: Payload = EMPTY
    fork: Fork | None = None


class Created(msgspec.Struct, frozen=True):
    """`existed` tells 200 from 201."""

    existed: bool
    content_type: str
    next_offset: str
    closed: bool = False


class Append(msgspec.Struct, frozen=True, gc=False):
    """
    Messages to add, a close, or both. `seq` is the writer's `Stream-Seq`; its scope here is the stream.
    `content_type` may be None only where there is nothing to add.
    """

    payload: Payload = EMPTY
    content_type: str | None = None
    close: bool = False
    seq: str | None = None
    producer: Producer | None = None


class Appended(msgspec.Struct, frozen=True, gc=False):
    """
    The tail after the append. `duplicate` says that a producer's numbers had been seen, and nothing was added; then
    `producer` holds the highest accepted numbers.
    """

    next_offset: str
    closed: bool = False
    duplicate: bool = False
    producer: Producer | None = None
