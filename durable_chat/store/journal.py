"""
How writes look in the SQLite journal, and pieces in its blobs: the codecs, each beside its inverse.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

import msgspec

from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Piece, RecordWrite, StreamChange, Write


class _Change(msgspec.Struct, array_like=True):
    state: StreamState
    start: int | None
    data: bytes
    lengths: tuple[int, ...] | None
    producers: dict[str, ProducerState] | None
    drop: bool


class _Record(msgspec.Struct, array_like=True):
    kind: str
    key: str
    value: bytes | None
    due_ms: int | None


class _Write(msgspec.Struct, array_like=True):
    streams: list[_Change]
    records: list[_Record]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[_Write])


def encode_writes(writes: Sequence[Write]) -> bytes:
    """A flush as one value. Expected versions have been checked by now and are left out."""
    return _ENCODER.encode([_to_row(write) for write in writes])


def _to_row(write: Write) -> _Write:
    return _Write(
        [_to_change(change) for change in write.streams],
        [_Record(record.kind, record.key, record.value, record.due_ms) for record in write.records],
    )


def _to_change(change: StreamChange) -> _Change:
    piece = change.piece
    producers = dict(change.producers) if change.producers else None
    if piece is None:
        return _Change(change.state, None, b"", None, producers, change.drop)
    return _Change(change.state, piece.start, piece.data, piece.lengths, producers, change.drop)


def decode_writes(payload: bytes) -> list[Write]:
    """The inverse of `encode_writes`. Raises msgspec.DecodeError for a payload that is damaged."""
    return [
        Write(tuple(map(_from_change, row.streams)), tuple(map(_from_record, row.records)))
        for row in _DECODER.decode(payload)
    ]


def _from_change(row: _Change) -> StreamChange:
    piece = None if row.start is None else Piece(row.start, row.data, row.lengths)
    return StreamChange(row.state, piece, row.producers, row.drop)


def _from_record(row: _Record) -> RecordWrite:
    return RecordWrite(row.kind, row.key, row.value, None, row.due_ms)


def encode_lengths(lengths: Sequence[int] | None) -> bytes | None:
    """Lengths of messages as little-endian 32-bit integers."""
    if lengths is None:
        return None
    packed = array("I", lengths)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def decode_lengths(packed: bytes | None) -> tuple[int, ...] | None:
    """The inverse of `encode_lengths`."""
    if packed is None:
        return None
    lengths = array("I")
    lengths.frombytes(packed)
    if sys.byteorder == "big":
        lengths.byteswap()
    return tuple(lengths)
