"""The protocol's request headers as values, and the rules of their syntax."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from starlette.types import Scope

from durable_chat.errors import InvalidRequest
from durable_chat.http.paths import forked_path
from durable_chat.protocol.messages import Payload
from durable_chat.protocol.producers import NUMBER_MAX
from durable_chat.protocol.requests import Append, Create, Fork, Producer

HEADER_CHARS_MAX = 256
"""The length of an id or a sequence in a header, because they are stored with the stream."""
TTL_S_MAX = 100 * 366 * 86_400
"""A century. JavaScript cannot represent much later times in milliseconds."""

_WHOLE = re.compile(r"0|[1-9][0-9]*")
_DIGITS = re.compile(r"[0-9]{1,17}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

SINGLE = (b"content-type", b"stream-", b"producer-")
"""The prefixes of the names of headers that may occur only once."""

PRODUCER = (b"producer-id", b"producer-epoch", b"producer-seq")

Headers = Mapping[bytes, bytes]

NO_STORE = {"Cache-Control": "no-store"}
"""The header of a response that no cache may store."""


def single_headers(scope: Scope) -> Headers:
    """Return a request's headers by name. Raises InvalidRequest if a header that describes the write occurs twice."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if len(headers) < len(scope["headers"]):
        seen: set[bytes] = set()
        for name, _ in scope["headers"]:
            if name in seen and name.startswith(SINGLE):
                raise InvalidRequest(f"The header {name.decode('latin-1')} was sent twice.", code="bad_header")
            seen.add(name)
    return headers


def header(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def is_closing(headers: Headers) -> bool:
    """Return whether `Stream-Closed` is `true`, in any case. Other values do not count (PROTOCOL.md 4.1)."""
    return headers.get(b"stream-closed", b"").lower() == b"true"


def parse_create(headers: Headers, payload: Payload, content_type: str | None) -> Create:
    """Return the creation that the headers ask for. Raises InvalidRequest."""
    ttl_s = _parse_ttl(header(headers, b"stream-ttl"))
    expires_at = header(headers, b"stream-expires-at")
    if ttl_s is not None and expires_at is not None:
        raise InvalidRequest("Send either Stream-TTL or Stream-Expires-At, not both.", code="bad_expiry")
    expires_at_ms = None if expires_at is None else _parse_time_ms(expires_at)
    fork = _parse_fork(headers)
    return Create(content_type, ttl_s, expires_at, expires_at_ms, is_closing(headers), payload, fork)


def _parse_ttl(text: str | None) -> int | None:
    if text is None:
        return None
    if not _WHOLE.fullmatch(text) or len(text) > 12 or int(text) > TTL_S_MAX:
        raise InvalidRequest("Stream-TTL must be a whole number of seconds, at most a century.", code="bad_expiry")
    return int(text)


def _parse_time_ms(text: str) -> int:
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError(text)
        return int(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("Stream-Expires-At must be an RFC 3339 time.", code="bad_expiry") from error


def _parse_fork(headers: Headers) -> Fork | None:
    source = header(headers, b"stream-forked-from")
    offset = header(headers, b"stream-fork-offset")
    sub_offset = header(headers, b"stream-fork-sub-offset")
    if source is None:
        if offset is not None or sub_offset is not None:
            raise InvalidRequest("A fork requires the header Stream-Forked-From.", code="bad_fork")
        return None
    if sub_offset is not None and not (_WHOLE.fullmatch(sub_offset) and len(sub_offset) <= 15):
        raise InvalidRequest("Stream-Fork-Sub-Offset must be a whole number.", code="bad_fork")
    return Fork(forked_path(source), offset, int(sub_offset or 0))


def parse_append(headers: Headers, payload: Payload, content_type: str | None) -> Append:
    """Return the append that the headers ask for. Raises InvalidRequest."""
    seq = header(headers, b"stream-seq")
    if seq is not None and not 0 < len(seq) <= HEADER_CHARS_MAX:
        raise InvalidRequest("Stream-Seq is empty or too long.", code="bad_sequence")
    return Append(payload, content_type, is_closing(headers), seq, parse_producer(headers))


def parse_producer(headers: Headers) -> Producer | None:
    """Return the producer, or None without producer headers. All three or none must be sent (PROTOCOL.md 5.2.1)."""
    if headers.keys().isdisjoint(PRODUCER):
        return None
    producer_id, epoch, seq = (header(headers, name) for name in PRODUCER)
    if producer_id is None or epoch is None or seq is None:
        raise InvalidRequest("Send all of Producer-Id, Producer-Epoch and Producer-Seq, or none.", code="bad_producer")
    if not 0 < len(producer_id) <= HEADER_CHARS_MAX:
        raise InvalidRequest("Producer-Id is empty or too long.", code="bad_producer")
    return Producer(producer_id, _parse_number(epoch), _parse_number(seq))


def _parse_number(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > NUMBER_MAX:
        raise InvalidRequest("Producer-Epoch and Producer-Seq are whole numbers up to 2**53 - 1.", code="bad_producer")
    return int(text)


def parse_content_type(headers: Headers) -> str | None:
    """Return the content type as sent. Raises InvalidRequest for a value that a response could not repeat."""
    value = headers.get(b"content-type")
    return None if value is None else _content_type(value)


@lru_cache(maxsize=256)  # bounded because callers choose the values; real clients use a few
def _content_type(value: bytes) -> str | None:
    text = value.decode("latin-1")
    if not text.strip():
        return None
    if len(text) > HEADER_CHARS_MAX or not re.fullmatch(r"[\x20-\x7e]+", text) or "/" not in text:
        raise InvalidRequest("The content type is malformed.", code="bad_content_type")
    return text.strip()


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether a list of entity tags, or `*`, matches. Tags compare weakly (RFC 9110 section 13.1.2)."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
