"""
Checksums of the SQLite store, and the checks that a row is intact.

Each checksum covers the place of its row as well as its bytes. So a row in the place of another row fails too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from durable_chat.store.base import Piece
from durable_chat.store.sqlite.journal import decode_layout

HELD_BYTES_MAX = 5 * 1024
"""
Up to this size `crc32` holds the GIL. Above it, `crc32` releases the GIL, and a thread may wait 0.5 ms to get it back.
"""
SLICED_BYTES_MAX = 64 * 1024
"""Up to this size, slices of HELD_BYTES_MAX are faster. They take at most 0.1 ms together."""

_PLACE = struct.Struct("<qq")
_BLOB = struct.Struct("<qqqqqq")


class BytesDamaged(Exception):
    """The bytes of a row are damaged. The message is for the operator."""


class BlobRow(NamedTuple):
    """A row of `blobs`."""

    id: int
    stream_id: int
    start: int
    stop: int
    lengths: bytes | None
    size: int
    staged: int | None
    data: bytes | None
    crc: int | None


BLOB_COLUMNS = ", ".join(BlobRow._fields)


def _crc_of(data: bytes, seed: int) -> int:
    if HELD_BYTES_MAX < len(data) <= SLICED_BYTES_MAX:
        view = memoryview(data)
        for start in range(0, len(data), HELD_BYTES_MAX):
            seed = crc32(view[start : start + HELD_BYTES_MAX], seed)
        return seed
    return crc32(data, seed)


def journal_crc(seq: int, payload: bytes) -> int:
    return _crc_of(payload, crc32(_PLACE.pack(seq, len(payload))))


def part_crc(staged: int, part: int, data: bytes) -> int:
    return _crc_of(data, crc32(_PLACE.pack(staged, part)))


def blob_crc(
    stream_id: int, start: int, stop: int, lengths: bytes | None, size: int, staged: int | None, data: bytes | None
) -> int:
    """
    The checksum of a blob. It leaves out the bytes of a staged blob, because its parts have checksums of their own.
    """
    lengths_size = -1 if lengths is None else len(lengths)
    place = _BLOB.pack(stream_id, start, stop, size, -1 if staged is None else staged, lengths_size)
    return _crc_of(data or b"", _crc_of(lengths or b"", crc32(place)))


def check_blob(row: BlobRow) -> Piece:
    """The piece in a row. It has no bytes if they are in parts. Raises BytesDamaged."""
    if row.crc is not None and row.crc != blob_crc(*row[1:8]):
        raise BytesDamaged(f"blob {row.id} fails its checksum")
    if row.lengths is not None and len(row.lengths) % 4:
        raise BytesDamaged(f"blob {row.id} has {len(row.lengths)} bytes of lengths, which is not a multiple of 4")
    lengths, appends = decode_layout(row.lengths)
    size = (sum(appends) if appends else row.stop - row.start) if lengths is None else size_of(lengths)
    if (lengths is not None and len(lengths) != row.stop - row.start) or size != row.size or row.start >= row.stop:
        raise BytesDamaged(f"blob {row.id} does not hold the {row.stop - row.start} positions that its row states")
    if (row.data is None) is (row.staged is None) or (row.data is not None and len(row.data) != row.size):
        raise BytesDamaged(f"blob {row.id} does not hold the {row.size} bytes that its row states")
    return Piece(row.start, row.data or b"", lengths, row.staged, appends)


def size_of(lengths: Sequence[int]) -> int:
    """The size in bytes of messages of these lengths, joined by commas."""
    return sum(lengths) + len(lengths) - 1


def check_part(staged: int, part: int, data: bytes, crc: int | None) -> bytes:
    """Return the bytes of a part. Raises BytesDamaged when they do not match the checksum."""
    if crc is not None and crc != part_crc(staged, part, data):
        raise BytesDamaged(f"part {part} of {staged} fails its checksum")
    return data
