"""Stream paths in URLs: decoded once, from the raw bytes, so that nothing hides in an encoding."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from starlette.types import Scope

from durable_chat.errors import InvalidRequest

PREFIXES = (b"/v1/stream/", b"/streams/", b"/v1/streams/")
"""Names of one namespace; some clients have the last one built in."""
PATH_BYTES_MAX = 4096
"""
Of a stream's path, decoded: longer than that of the longest session id, whose 1,024 bytes are percent-encoded in it. Paths
are keys in memory and on disk.
"""
ENCODED_BYTES_MAX = 3 * PATH_BYTES_MAX
"""Of the same in a URL, where each byte may be an escape."""
RESERVED = "__ds"
"""The protocol's own segment (PROTOCOL.md section 6)."""

_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def raw_path(scope: Scope) -> bytes:
    """The request's path as it was sent, without the query."""
    raw: bytes | None = scope.get("raw_path")
    return raw.partition(b"?")[0] if raw else quote(scope["path"]).encode()


@lru_cache(maxsize=2048)  # the streams being written to now; a path is short, and 16 KiB at the most
def stream_path(raw: bytes) -> str:
    """The stream that a URL's path names. Raises InvalidRequest for what is no stream's path."""
    starts = [(raw.find(prefix), len(prefix)) for prefix in PREFIXES]
    found = min(((at, size) for at, size in starts if at >= 0), default=None)
    if found is None:
        raise InvalidRequest("This is not a stream's path.", code="bad_path")
    return decode_path(raw[sum(found) :])


def forked_path(value: str) -> str:
    """The stream that a `Stream-Forked-From` header names, under either prefix."""
    return stream_path(value.encode("latin-1", "replace"))


def decode_path(encoded: bytes) -> str:
    """
    Decoded segments joined by `/`; an encoded slash separates like a plain one. Raises InvalidRequest for empty, `.`
    and `..` segments, control bytes, bad escapes and what is not UTF-8.
    """
    if len(encoded) > ENCODED_BYTES_MAX or _ESCAPE.search(encoded):
        raise InvalidRequest("The stream's path is malformed or too long.", code="bad_path")
    decoded = unquote_to_bytes(encoded)
    if len(decoded) > PATH_BYTES_MAX:
        raise InvalidRequest(f"The stream's path is longer than {PATH_BYTES_MAX} bytes.", code="bad_path")
    if any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise InvalidRequest("The stream's path has control characters.", code="bad_path")
    try:
        path = decoded.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("The stream's path is not UTF-8.", code="bad_path") from error
    segments = path.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise InvalidRequest("The stream's path has an empty, . or .. segment.", code="bad_path")
    if RESERVED in segments:
        raise InvalidRequest("The segment __ds is reserved.", code="reserved_path")
    return path
