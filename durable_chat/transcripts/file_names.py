"""
The names of files in messages: what a part says, made safe to show, to send in a header and to save under.

A name travels with its part, in `metadata.filename`; `filename` and `name` beside it are read too. An artifact is known
by its bytes, which may have several names, so its address carries the name as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

NAME_BYTES_MAX = 200
"""File systems take 255, and a browser may add a number to it."""

SUFFIX_CHARS_MAX = 16
"""A longer one is no suffix: what is cut then is the end of the name."""

# Control characters and surrogates; line separators; marks that turn the direction, so that `exe.txt` may be a program.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# RFC 8187 section 3.2.1, beside letters and digits.
_ATTRIBUTE_CHARS = "!#$&+-.^_`|~"


def name_of(part: Mapping[str, Any]) -> str | None:
    """The name of a part's file, where it says one that will do."""
    metadata = part.get("metadata")
    places = [metadata] if isinstance(metadata, Mapping) else []
    for place in (*places, part):
        for key in ("filename", "name"):
            if (name := clean_name(place.get(key))) is not None:
                return name
    return None


def clean_name(value: Any) -> str | None:
    """A name without a path and without what a person cannot see; None where nothing is left."""
    if not isinstance(value, str):
        return None
    # What is beyond any name is not looked at.
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
    """The Content-Disposition of a file (RFC 6266), with an ASCII name for those that know no other."""
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    header = f'{kind}; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARS)}"
