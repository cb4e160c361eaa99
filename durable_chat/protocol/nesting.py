"""
How deep JSON nests and how many values it holds, measured without decoding it.

A decoder works in one step and recurses for each level, so both are limited before one is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

SLICE_BYTES = 64 * 1024
"""What is looked at in one step (up to 3 ms), so that the event loop, which waits for it several times a request, gets its turns."""

_OPENING, _CLOSING = b"[{", b"]}"
_STRUCTURE = _OPENING + _CLOSING + b","
_OTHERS = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_STEPS = tuple(1 if byte in _OPENING else -1 if byte in _CLOSING else 0 for byte in range(256))

# A string that has no end reaches to the end of the text: a scan that gave up on it would begin anew at each quote in it.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class Measure(NamedTuple):
    """The levels of a JSON text, and its values: at least as many as there are lists, objects and elements in them."""

    levels: int
    values: int


def measure(data: bytes | bytearray) -> Measure:
    """Measure JSON in one pass. What is no JSON gives some numbers, too."""
    depth = deepest = values = 0
    for piece in _outside_strings(data):
        structure = piece.translate(None, _OTHERS)
        values += len(structure) - sum(map(structure.count, (b"]", b"}")))
        deepest = max(deepest, max(accumulate(map(_STEPS.__getitem__, structure), initial=depth)))
        depth += sum(map(structure.count, (b"[", b"{"))) - sum(map(structure.count, (b"]", b"}")))
    return Measure(deepest, values)


def _outside_strings(data: bytes | bytearray) -> Iterator[bytes]:
    """The text without its strings, slice by slice. State between slices: whether one is open, and a last backslash."""
    inside, escape = False, b""
    view = memoryview(data)
    for at in range(0, len(data), SLICE_BYTES):
        piece = escape + bytes(view[at : at + SLICE_BYTES])
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        escape = b"\\" if backslashes % 2 else b""
        piece = piece[: len(piece) - len(escape)]
        runs = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(runs[inside::2])
        inside ^= len(runs) % 2 == 0


def nests_deeper(data: bytes | bytearray | str, levels: int) -> bool:
    """Whether values nest deeper than that. Short texts, which are most, are not looked at."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) <= 2 * levels or data.count(b"[") + data.count(b"{") <= levels:
        return False
    return measure(data).levels > levels


def cut_deep(data: bytes, levels: int) -> bytes:
    """The same JSON with null in the place of what lies deeper."""
    pieces: list[bytes] = []
    depth = kept = 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first in _OPENING:
            depth += 1
            if depth == levels + 1:
                pieces += (data[kept : token.start()], b"null")
        elif first in _CLOSING:
            if depth == levels + 1:
                kept = token.end()
            depth -= 1
    return b"".join((*pieces, data[kept:]))
