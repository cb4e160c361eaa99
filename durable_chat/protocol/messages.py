"""Content types, and splitting bodies into the messages of a stream (PROTOCOL.md section 9)."""

from __future__ import annotations

import codecs
from functools import lru_cache

import msgspec

from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.protocol.surrogates import mend_halves

JSON = "application/json"
BINARY = "application/octet-stream"

MESSAGES_MAX = 100_000
"""The most messages in one body. Each message costs memory, and millions of tiny ones would block other requests."""

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_VALUE = msgspec.json.Decoder(msgspec.Raw)
_WHITESPACE = b" \t\n\r"


class Payload(msgspec.Struct, frozen=True, gc=False):
    """
    Bytes as they are stored and sent. For a JSON stream, `data` is the messages joined by commas, and `lengths` are
    their lengths. For any other stream, `lengths` is None.
    """

    data: bytes = b""
    lengths: tuple[int, ...] | None = None

    @property
    def units(self) -> int:
        """How far the payload moves the tail: messages of a JSON stream, bytes of any other."""
        return len(self.data) if self.lengths is None else len(self.lengths)


SLICE_BYTES = 256 * 1024
"""Bytes per step: a fraction of a millisecond, during which no other thread runs."""

EMPTY = Payload()

# Shared tuples: most appends are one short message. A new tuple for each would add work for the garbage collector until
# it is compacted.
_LENGTHS = tuple((length,) for length in range(2_048))


@lru_cache(maxsize=256)  # clients choose the value; real ones send a handful
def normalize_content_type(value: str) -> str:
    """Normalize a content type for comparison: the type without parameters, in lower case."""
    return value.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    return normalize_content_type(content_type) == JSON


def is_text(content_type: str) -> bool:
    """Whether SSE carries the data as it is. Any other type is sent as base64 (PROTOCOL.md 5.8)."""
    kind = normalize_content_type(content_type)
    return kind == JSON or kind.startswith("text/")


def parse_payload(content_type: str, body: bytes) -> Payload:
    """
    Parse a body into a payload. A JSON array is flattened one level (PROTOCOL.md 9.1.2), so `[]` and an empty body hold
    no messages. Raises InvalidRequest when the body is not JSON in UTF-8.
    """
    if not is_json(content_type):
        return Payload(body)
    if not body:
        return Payload(b"", ())
    messages = _split_json(body)
    if len(messages) == 1:
        return _alone(messages[0])
    lengths = tuple(map(len, messages))
    if len(body) > SLICE_BYTES and body[:1] == b"[" and len(body) == sum(lengths) + len(lengths) + 1:
        return Payload(body[1:-1], lengths)  # the rest is only commas and brackets
    return Payload(b",".join(messages), lengths)


def _alone(message: bytes) -> Payload:
    length = len(message)
    return Payload(message, _LENGTHS[length] if length < len(_LENGTHS) else (length,))


def join_messages(messages: list[bytes]) -> Payload:
    """Make a payload of messages that are already encoded as JSON."""
    if len(messages) == 1:
        return _alone(messages[0])
    return Payload(b",".join(messages), tuple(map(len, messages)))


def split_messages(data: bytes, lengths: tuple[int, ...]) -> list[bytes]:
    """Split a JSON payload into its messages. The inverse of `join_messages`."""
    messages = []
    at = 0
    for length in lengths:
        messages.append(data[at : at + length])
        at += length + 1
    return messages


def _split_json(body: bytes) -> list[bytes]:
    try:
        if not body.isascii():
            _check_utf8(body)  # msgspec does not check the UTF-8 of raw values
        messages = _values(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error
    if len(messages) > MESSAGES_MAX:
        raise TooLarge(f"The body must not hold more than {MESSAGES_MAX} messages.")
    return messages


def _check_utf8(body: bytes) -> None:
    """
    Raise UnicodeDecodeError if the body is not UTF-8. It works in slices, so that other threads can run in between.
    """
    if len(body) <= SLICE_BYTES:
        body.decode()
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    for at in range(0, len(body), SLICE_BYTES):
        decoder.decode(view[at : at + SLICE_BYTES], final=at + SLICE_BYTES >= len(body))


def _values(body: bytes) -> list[bytes]:
    """The messages as they were sent. Raises DecodeError or RecursionError."""
    try:
        return _decode(body)
    except msgspec.DecodeError:
        mended = mend_halves(body)
        if mended is None:
            raise
    # The decoder rejects unpaired surrogates. Replacing them keeps all lengths, so positions in the mended text are
    # valid in the original.
    values = []
    at = 0
    for value in _decode(mended):
        at = mended.index(value, at)
        values.append(body[at : at + len(value)])
        at += len(value)
    return values


def _decode(body: bytes) -> list[bytes]:
    if not body.lstrip(_WHITESPACE).startswith(b"["):
        _VALUE.decode(body)
        return [body.strip(_WHITESPACE)]
    return [bytes(element) for element in _ELEMENTS.decode(body)]


def split_array(data: bytes) -> list[bytes]:
    """Split comma-joined JSON, as a batch holds it, into its messages. Raises InvalidRequest."""
    return _split_json(b"[" + data + b"]")
