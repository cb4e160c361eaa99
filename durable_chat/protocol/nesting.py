"""
Measure how deep JSON nests and how many values it holds, without decoding it.

A decoder runs in one step and recurses for each level. So both are limited before the text is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

SLICE_BYTES = 64 * 1024
"""Bytes per step (up to 3 ms). Between steps the GIL can be released, so that the event loop can run."""

_OPENING, _CLOSING = b"[{", b"]}"
_STRUCTURE = _OPENING + _CLOSING + b","
_OTHERS = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_STEPS = tuple(1 if byte in _OPENING else -1 if byte in _CLOSING else 0 for byte in range(256))

# A string without an end extends to the end of the text. Otherwise a failed match would restart at each quote in it.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class Measure(NamedTuple):
    """The levels of a JSON text, and its values: at least as many as it has lists, objects and elements."""

    levels: int
    values: int


def measure(data: bytes | bytearray) -> Measure:
    """Measure JSON in one pass. The result is arbitrary if the text is not JSON."""
    depth = deepest = values = 0
    for piece in _outside_strings(data):
        structure = piece.translate(None, _OTHERS)
        values += len(structure) - sum(map(structure.count, (b"]", b"}")))
        deepest = max(deepest, max(accumulate(map(_STEPS.__getitem__, structure), initial=depth)))
        depth += sum(map(structure.count, (b"[", b"{"))) - sum(map(structure.count, (b"]", b"}")))
    return Measure(deepest, values)


def _outside_strings(data: bytes | bytearray) -> Iterator[bytes]:
    """
    Yield the text without its strings, slice by slice. State between slices: whether a string is open, and a trailing
    backslash.
    """
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
    """Whether values nest deeper than `levels`. Short texts, which are most, need no scan."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) <= 2 * levels or data.count(b"[") + data.count(b"{") <= levels:
        return False
    return measure(data).levels > levels


def cut_deep(data: bytes, levels: int) -> bytes:
    """Return the JSON with null in place of each value below `levels` levels."""
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
