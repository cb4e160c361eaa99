"""
Halves of surrogate pairs, escaped and alone: RFC 8259 section 8.2 lets JSON hold them, and no text can.

JavaScript writes them, for one where a model's deltas cut a character in two. A stream keeps what was appended as it is,
since a reader may put the halves together again; who reads the values here reads U+FFFD.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def mend_halves(data: bytes | bytearray) -> bytes | None:
    """The JSON text with U+FFFD for each half that is alone, of the same length; None where there is none."""
    mended = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
    return None if mended == data else bytes(mended)
