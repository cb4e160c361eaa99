"""Stream paths in URLs, decoded exactly once from the raw bytes, so that encoding cannot hide a segment."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from starlette.types import Scope

from durable_chat.errors import InvalidRequest

PREFIXES = (b"/v1/stream/", b"/streams/", b"/v1/streams/")
"""Prefixes of the same namespace. Some clients have the last one built in."""
PATH_BYTES_MAX = 4096
"""
The length of a decoded path. The longest session id, 1,024 bytes that are percent-encoded in the path, fits. Paths are
limited because they are keys in memory and on disk.
"""
ENCODED_BYTES_MAX = 3 * PATH_BYTES_MAX
"""The length of a path in a URL, where each byte may be an escape."""
RESERVED = "__ds"
"""The segment that the protocol reserves (PROTOCOL.md section 6)."""

_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def raw_path(scope: Scope) -> bytes:
    """Return the request's path as it was sent, without the query."""
    raw: bytes | None = scope.get("raw_path")
    return raw.partition(b"?")[0] if raw else quote(scope["path"]).encode()


@lru_cache(maxsize=2048)  # about the streams that are written to now; a path has at most 16 KiB
def stream_path(raw: bytes) -> str:
    """Return the stream that a URL's path names. Raises InvalidRequest if it names none."""
    starts = [(raw.find(prefix), len(prefix)) for prefix in PREFIXES]
    found = min(((at, size) for at, size in starts if at >= 0), default=None)
    if found is None:
        raise InvalidRequest("This is not the path of a stream.", code="bad_path")
    return decode_path(raw[sum(found) :])


def forked_path(value: str) -> str:
    """Return the stream that a `Stream-Forked-From` header names, under any of the prefixes."""
    return stream_path(value.encode("latin-1", "replace"))


def decode_path(encoded: bytes) -> str:
    """
    Return the decoded segments joined by `/`. An encoded slash separates segments like a plain one. Raises
    InvalidRequest for empty, `.` and `..` segments, control characters, bad escapes and invalid UTF-8.
    """
    if len(encoded) > ENCODED_BYTES_MAX or _ESCAPE.search(encoded):
        raise InvalidRequest("The stream's path is malformed or too long.", code="bad_path")
    decoded = unquote_to_bytes(encoded)
    if len(decoded) > PATH_BYTES_MAX:
        raise InvalidRequest(f"The stream's path is longer than {PATH_BYTES_MAX} bytes.", code="bad_path")
    if any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise InvalidRequest("The stream's path contains control characters.", code="bad_path")
    try:
        path = decoded.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("The stream's path is not valid UTF-8.", code="bad_path") from error
    segments = path.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise InvalidRequest("The stream's path contains an empty segment, '.' or '..'.", code="bad_path")
    if RESERVED in segments:
        raise InvalidRequest("The path segment __ds is reserved.", code="reserved_path")
    return path
