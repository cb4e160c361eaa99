"""
Make the file names in messages safe to show, to send in a header and to save under.

The name of a part's file is in `metadata.filename`; `metadata.name` and the part's own `filename` and `name` are read
too. An artifact is identified by its bytes, which may have several names, so its URL also contains the name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

NAME_BYTES_MAX = 200
"""File systems allow 255 bytes, and a browser may add a number to the name."""

SUFFIX_CHARS_MAX = 16
"""A longer suffix does not count as one; long names are then cut at their end."""

# Control characters and surrogates, line separators, and marks that change the text direction: these can make a program
# look like `exe.txt`.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# RFC 8187 section 3.2.1: the characters allowed besides letters and digits.
_ATTRIBUTE_CHARS = "!#$&+-.^_`|~"


def name_of(part: Mapping[str, Any]) -> str | None:
    """Return the name of a part's file, or None if there is no usable name."""
    metadata = part.get("metadata")
    places = [metadata] if isinstance(metadata, Mapping) else []
    for place in (*places, part):
        for key in ("filename", "name"):
            if (name := clean_name(place.get(key))) is not None:
                return name
    return None


def clean_name(value: Any) -> str | None:
    """Return a name without its path and invisible characters; None if nothing is left."""
    if not isinstance(value, str):
        return None
    # Only the end of an overlong value is read.
    name = _UNSAFE.sub("", value[-NAME_BYTES_MAX * 4 :]).replace("\\", "/").rpartition("/")[2]
    return _cut(name.strip().strip(".").strip()) or None


def _cut(name: str) -> str:
    if len(name.encode()) <= NAME_BYTES_MAX:
        return name
    stem, dot, suffix = name.rpartition(".")
    end = dot + suffix if stem and len(suffix) <= SUFFIX_CHARS_MAX else ""
    kept = name.removesuffix(end).encode()[: NAME_BYTES_MAX - len(end.encode())]
    return kept.decode(errors="ignore") + end


def disposition(kind: Literal["attachment", "inline"], name: str) -> str:
    """Return the Content-Disposition of a file (RFC 6266), with an ASCII fallback for clients without `filename*`."""
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    header = f'{kind}; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARS)}"
