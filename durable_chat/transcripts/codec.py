"""
Decode batches of the log to chunks and encode chunks for the log, without long steps that block the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from durable_chat.protocol.nesting import cut_deep, nests_deeper
from durable_chat.protocol.surrogates import mend_halves
from durable_chat.transcripts.chunks import NESTING_MAX, Chunk, InvalidChunk, decode_chunk, encode_chunk, encode_json

LARGE_BYTES = 256 * 1024
"""Batches of the log larger than this are decoded in a thread."""

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


class _SnapshotChunk(msgspec.Struct):
    """A MESSAGES_SNAPSHOT whose messages are decoded one by one, so that no step is long."""

    type: str
    messages: list[msgspec.Raw]


class _Typed(msgspec.Struct):
    """The field that every chunk has."""

    type: str


_SNAPSHOT = msgspec.json.Decoder(_SnapshotChunk)
_TYPED = msgspec.json.Decoder(_Typed)


def decode_chunks(data: bytes) -> list[Chunk]:
    """
    Return the chunks of a batch of the log. Anyone with the stream's secret can append other data, which is skipped.
    """
    return [chunk for chunk in decode_messages(data) if chunk is not None]


def decode_messages(data: bytes) -> list[Chunk | None]:
    """Like `decode_chunks`, with None for data that is not a chunk. Values nested too deeply become null."""
    if nests_deeper(data, NESTING_MAX):
        data = cut_deep(data, NESTING_MAX)
    if len(data) > LARGE_BYTES and _type_of(data) == "MESSAGES_SNAPSHOT":
        snapshot = _decode_snapshot(data)  # alone in its batch, so it is not copied
        if snapshot is not None:
            return [snapshot]
    array = b"".join((b"[", data, b"]"))
    try:
        raws = _ELEMENTS.decode(array)
    except msgspec.DecodeError:  # JavaScript wrote half a surrogate pair
        raws = _ELEMENTS.decode(mend_halves(array) or array)
    return list(map(_decode, raws))


async def decode_aside(data: bytes) -> list[Chunk | None]:
    """Like `decode_messages`, in a thread if the batch is large."""
    return await asyncio.to_thread(decode_messages, data) if len(data) > LARGE_BYTES else decode_messages(data)


def _decode(raw: msgspec.Raw) -> Chunk | None:
    data = memoryview(raw)
    try:
        if len(data) > LARGE_BYTES:
            kind = _type_of(raw)
            if kind is None:  # not a chunk: decoding it would block other work for nothing
                return None
            snapshot = _decode_snapshot(raw) if kind == "MESSAGES_SNAPSHOT" else None
            if snapshot is not None:
                return snapshot
        return decode_chunk(bytes(raw))
    except InvalidChunk:
        return None


def _type_of(data: bytes | msgspec.Raw) -> str | None:
    """
    Return the type of a chunk without decoding the rest: None if it has none, and an empty string if the data is not
    plain JSON.
    """
    try:
        return _TYPED.decode(data).type
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError:  # JavaScript wrote half a surrogate pair
        return ""


def _decode_snapshot(data: bytes | msgspec.Raw) -> Chunk | None:
    try:
        snapshot = _SNAPSHOT.decode(data)
        messages = [msgspec.json.decode(raw) for raw in snapshot.messages]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return {"type": snapshot.type, "messages": messages}


def encode_chunks(chunks: Iterable[Chunk]) -> list[bytes]:
    """Encode chunks for the log. Raises InvalidChunk."""
    return [_encode_snapshot(chunk) if chunk["type"] == "MESSAGES_SNAPSHOT" else encode_json(chunk) for chunk in chunks]


async def encode_aside(chunks: Iterable[Chunk], *, large: bool) -> list[bytes]:
    """Encode chunks for the log, in a thread if they are `large`. Raises InvalidChunk."""
    return await asyncio.to_thread(encode_chunks, chunks) if large else encode_chunks(chunks)


def _encode_snapshot(chunk: Chunk) -> bytes:
    """Encode a snapshot message by message, so that no step is long."""
    rest = encode_chunk({key: value for key, value in chunk.items() if key != "messages"})
    pieces = [rest[:-1], b',"messages":[']
    for message in chunk["messages"]:
        pieces += (encode_chunk(message), b",")
    return b"".join((*pieces[:-1], b"]}")) if chunk["messages"] else rest[:-1] + b',"messages":[]}'
