"""
Requests to a stream and their results, as values without HTTP.

PROTOCOL.md sections 5.1, 5.2 and 4.2 have the header of each field; the `http` package translates. Values that are made
for every append or create are msgspec structs, which cost a fifth of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from durable_chat.protocol.messages import EMPTY, Payload


class Producer(msgspec.Struct, frozen=True, gc=False):
    """An idempotent producer's claim (PROTOCOL.md 5.2.1). Numbers are 0 to 2**53 - 1."""

    id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a new stream forks from its source (PROTOCOL.md 4.2). Without `offset`, at the source's tail."""

    source: str
    offset: str | None = None
    sub_offset: int = 0


class Create(msgspec.Struct, frozen=True):
    """
    A request to create a stream. With `content_type` None it gets the type of the fork's source, or else
    `application/octet-stream`. `expires_at` is the RFC 3339 text as sent; `expires_at_ms` is the same time in Unix
    milliseconds.
    """

    content_type: str | None = None
    ttl_s: int | None = None
    expires_at: str | None = None
    expires_at_ms: int | None = None
    closed: bool = False
    payload: Payload = EMPTY
    fork: Fork | None = None


class Created(msgspec.Struct, frozen=True):
    """The result of a create. `existed` is True when the stream was already there (200 instead of 201)."""

    existed: bool
    content_type: str
    next_offset: str
    closed: bool = False


class Append(msgspec.Struct, frozen=True, gc=False):
    """
    A request to append messages, to close, or both. `seq` is the writer's `Stream-Seq`; its scope is the stream.
    `content_type` may be None only when there is nothing to append.
    """

    payload: Payload = EMPTY
    content_type: str | None = None
    close: bool = False
    seq: str | None = None
    producer: Producer | None = None


class Appended(msgspec.Struct, frozen=True, gc=False):
    """
    The result of an append: the tail after it. `duplicate` means that the producer's numbers were accepted before and
    nothing was added; `producer` then holds the highest accepted numbers.
    """

    next_offset: str
    closed: bool = False
    duplicate: bool = False
    producer: Producer | None = None
