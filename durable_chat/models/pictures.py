"""Read a picture's type, width and height from its bytes."""

from __future__ import annotations

from typing import NamedTuple


class Picture(NamedTuple):
    """A picture's media type and its size in pixels."""

    media_type: str
    width: int
    height: int


# The segments that contain a JPEG's size: all start-of-frame markers except the table segments in that range.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def picture_of(data: bytes) -> Picture | None:
    """
    Return the picture in PNG, JPEG, GIF or WebP data, whatever its declared type is. Return None for other or truncated
    data.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return Picture("image/png", _big(data, 16, 4), _big(data, 20, 4))
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        return Picture("image/gif", _little(data, 6, 2), _little(data, 8, 2))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Picture | None:
    """Walk the segments up to the one that contains the size."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_FRAMES:
            return Picture("image/jpeg", _big(data, at + 7, 2), _big(data, at + 5, 2))
        else:
            at += 2 if marker in _JPEG_ALONE else 2 + _big(data, at + 2, 2)
    return None


def _webp(data: bytes) -> Picture | None:
    """Read WebP's three forms: lossy, lossless and extended."""
    kind = data[12:16]
    if kind == b"VP8 ":
        return Picture("image/webp", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF)
    if kind == b"VP8L":
        bits = _little(data, 21, 4)
        return Picture("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        return Picture("image/webp", _little(data, 24, 3) + 1, _little(data, 27, 3) + 1)
    return None


def _big(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
