"""
Write a WebM file of VP8 pictures (RFC 9559, Matroska).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

WRITER = "durable-chat demo"
CODED = (320, 180)
"""Width and height of the pictures. Players scale them to the size of the video."""


class Frame(NamedTuple):
    """A VP8 picture. A keyframe can be shown without the pictures before it."""

    data: bytes
    is_key: bool


def webm_of(frames: Sequence[Frame], per_second: int, shown: tuple[int, int], title: str) -> bytes:
    """Return a WebM file that shows the pictures in the given size. The first picture is a keyframe."""
    times_ms = [at * 1000 // per_second for at in range(len(frames))]
    info = _element(
        0x1549A966,
        _number(0x2AD7B1, 1_000_000),  # times are in ms
        _element(0x4489, struct.pack(">d", len(frames) * 1000 / per_second)),
        _element(0x7BA9, title.encode("utf-8", "replace")),
        _element(0x4D80, WRITER.encode()),
        _element(0x5741, WRITER.encode()),
    )
    tracks = _element(0x1654AE6B, _track(shown))
    keys = [at for at, frame in enumerate(frames) if frame.is_key]
    clusters = [
        _cluster(frames[begin:end], times_ms[begin:end])
        for begin, end in zip(keys, [*keys[1:], len(frames)], strict=True)
    ]
    cues = _cues([times_ms[at] for at in keys], clusters, len(info) + len(tracks))
    header = _element(
        0x1A45DFA3,
        _number(0x4286, 1),
        _number(0x42F7, 1),
        _number(0x42F2, 4),
        _number(0x42F3, 8),
        _element(0x4282, b"webm"),
        _number(0x4287, 2),
        _number(0x4285, 2),
    )
    return header + _element(0x18538067, info, tracks, *clusters, cues)


def _track(shown: tuple[int, int]) -> bytes:
    sizes = zip((0xB0, 0xBA, 0x54B0, 0x54BA), (*CODED, *shown), strict=True)
    video = _element(0xE0, *(_number(key, value) for key, value in sizes))
    parts = (_number(0xD7, 1), _number(0x73C5, 1), _number(0x9C, 0), _number(0x83, 1), _element(0x86, b"V_VP8"), video)
    return _element(0xAE, *parts)


def _cluster(frames: Sequence[Frame], times_ms: Sequence[int]) -> bytes:
    blocks = []
    for frame, time_ms in zip(frames, times_ms, strict=True):
        head = b"\x81" + struct.pack(">hB", time_ms - times_ms[0], 0x80 if frame.is_key else 0)
        blocks.append(_element(0xA3, head, frame.data))
    return _element(0x1F43B675, _number(0xE7, times_ms[0]), *blocks)


def _cues(times_ms: Sequence[int], clusters: Sequence[bytes], before: int) -> bytes:
    """Return the index: where each cluster begins, so that a player can jump."""
    points = []
    for time_ms, cluster in zip(times_ms, clusters, strict=True):
        place = _element(0xB7, _number(0xF7, 1), _number(0xF1, before))
        points.append(_element(0xBB, _number(0xB3, time_ms), place))
        before += len(cluster)
    return _element(0x1C53BB6B, *points)


def _element(key: int, *parts: bytes) -> bytes:
    """Return an element: its id, its length in eight bytes, its content."""
    body = b"".join(parts)
    return key.to_bytes((key.bit_length() + 7) // 8, "big") + (len(body) | 1 << 56).to_bytes(8, "big") + body


def _number(key: int, value: int) -> bytes:
    return _element(key, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))
