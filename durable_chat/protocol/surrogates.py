"""
Unpaired surrogates in JSON escapes. RFC 8259 section 8.2 allows them in JSON, but no valid Unicode text can contain
them.

JavaScript writes them, for example when a model's deltas split a character. A stream stores what was appended
unchanged, because a reader may join the halves again. Code here that decodes the values gets U+FFFD instead.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def mend_halves(data: bytes | bytearray) -> bytes | None:
    """
    Replace each unpaired surrogate in a JSON text by an escaped U+FFFD of the same length. Returns None when there is
    none.
    """
    mended = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
    return None if mended == data else bytes(mended)
