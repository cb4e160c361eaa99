"""Codecs for writes in the SQLite journal and for pieces in its blobs, each beside its inverse."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

import msgspec

from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Piece, Record, StreamChange
from durable_chat.store.pieces import appends_of
from durable_chat.store.tables import Accepted, Row


class _Change(msgspec.Struct, array_like=True, gc=False):
    state: StreamState
    start: int | None
    data: bytes
    lengths: tuple[int, ...] | None
    producers: dict[str, ProducerState] | None
    drop: bool
    staged: int | None = None


class _Record(msgspec.Struct, array_like=True, gc=False):
    kind: str
    key: str
    version: int
    value: bytes | None
    due_ms: int | None


class _Write(msgspec.Struct, array_like=True, gc=False):
    streams: list[_Change]
    records: list[_Record]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[_Write])


def encode_writes(writes: Sequence[Accepted]) -> bytes:
    """Encode a flush in the shape of `_Write`. Tuples are cheaper to make than structs, and there may be a thousand."""
    return _ENCODER.encode(
        [
            (list(map(_to_change, write.streams)), [_to_record(*row) for row in write.records] if write.records else ())
            for write in writes
        ]
    )


def _to_change(change: StreamChange) -> tuple[object, ...]:
    piece = change.piece
    producers = dict(change.producers) if change.producers else None
    if piece is None:
        return change.state, None, b"", None, producers, change.drop, None
    data = piece.data if piece.staged is None else b""
    return change.state, piece.start, data, piece.lengths, producers, change.drop, piece.staged


def _to_record(kind: str, key: str, record: Record | None) -> tuple[object, ...]:
    if record is None:
        return kind, key, 0, None, None
    return kind, key, record.version, record.value, record.due_ms


def decode_writes(payload: bytes) -> list[Accepted]:
    """
    Decode a flush. The inverse of `encode_writes`, except that the bytes of staged pieces are elsewhere. Raises
    msgspec.DecodeError when the payload is damaged.
    """
    return [
        Accepted(tuple(map(_from_change, write.streams)), tuple(map(_from_record, write.records)))
        for write in _DECODER.decode(payload)
    ]


def _from_change(row: _Change) -> StreamChange:
    piece = None if row.start is None else Piece(row.start, row.data, row.lengths, row.staged)
    return StreamChange(row.state, piece, row.producers, row.drop)


def _from_record(row: _Record) -> Row:
    record = None if row.value is None else Record(row.kind, row.key, row.version, row.value, row.due_ms)
    return row.kind, row.key, record


def encode_lengths(lengths: Sequence[int] | None) -> bytes | None:
    """Encode lengths of messages as little-endian 32-bit integers."""
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


def encode_layout(piece: Piece) -> bytes | None:
    """
    Encode how a piece is divided: the lengths of its messages; or a 0, which is never the length of a message, followed
    by the lengths of its appends. None when the appends are not known.
    """
    if piece.lengths is not None:
        return encode_lengths(piece.lengths)
    appends = appends_of(piece)
    return encode_lengths((0, *appends)) if appends else None


def decode_layout(packed: bytes | None) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Decode a layout to `Piece.lengths` and `Piece.appends`. The inverse of `encode_layout`."""
    lengths = decode_lengths(packed)
    if lengths is None:
        return None, ()
    return (None, lengths[1:]) if lengths and lengths[0] == 0 else (lengths, None)


def decode_appends(packed: bytes | None) -> tuple[int, ...]:
    """Decode only the lengths of the appends from a layout."""
    return decode_layout(packed)[1] or ()
