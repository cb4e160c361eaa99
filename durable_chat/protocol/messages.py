"""
Content types, and bodies split into the messages a stream keeps (PROTOCOL.md section 9).
"""

from __future__ import annotations

import codecs
from functools import lru_cache

import msgspec

from durable_chat.errors import InvalidRequest, TooLarge
from durable_chat.protocol.surrogates import mend_halves

JSON = "application/json"
BINARY = "application/octet-stream"

MESSAGES_MAX = 100_000
"""Messages of one body: each costs memory of its own, and millions of tiny ones would stall everybody else."""

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_VALUE = msgspec.json.Decoder(msgspec.Raw)
_WHITESPACE = b" \t\n\r"


class Payload(msgspec.Struct, frozen=True, gc=False):
    """
    Bytes as they are kept and sent: for a JSON stream the messages joined by commas with the length of each, for any
    other the bytes and no lengths.
    """

    data: bytes = b""
    lengths: tuple[int, ...] | None = None

    @property
    def units(self) -> int:
        """How far it moves the tail: messages of a JSON stream, bytes of any other."""
        return len(self.data) if self.lengths is None else len(self.lengths)


SLICE_BYTES = 256 * 1024
"""What is looked at in one step: a fraction of a millisecond, in which no other thread goes on."""

EMPTY = Payload()

# One for all: most appends are one short message, and what each would keep until it is compacted is to be looked at by
# the garbage collector.
_LENGTHS = tuple((length,) for length in range(2_048))


@lru_cache(maxsize=256)  # callers choose what they send; real ones send a handful
def normalize_content_type(value: str) -> str:
    """A content type for comparing: its type without parameters, in lower case."""
    return value.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    return normalize_content_type(content_type) == JSON


def is_text(content_type: str) -> bool:
    """Whether SSE carries it as it is; anything else travels as base64 (PROTOCOL.md 5.8)."""
    kind = normalize_content_type(content_type)
    return kind == JSON or kind.startswith("text/")


def parse_payload(content_type: str, body: bytes) -> Payload:
    """
    The payload of a body. A JSON array is flattened one level (PROTOCOL.md 9.1.2), so `[]` and an empty body hold
    nothing. Raises InvalidRequest for what is not UTF-8 JSON.
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
        return Payload(body[1:-1], lengths)  # there is nothing beside them but commas and brackets
    return Payload(b",".join(messages), lengths)


def _alone(message: bytes) -> Payload:
    length = len(message)
    return Payload(message, _LENGTHS[length] if length < len(_LENGTHS) else (length,))


def join_messages(messages: list[bytes]) -> Payload:
    """A payload of JSON messages already encoded, one each."""
    if len(messages) == 1:
        return _alone(messages[0])
    return Payload(b",".join(messages), tuple(map(len, messages)))


def split_messages(data: bytes, lengths: tuple[int, ...]) -> list[bytes]:
    """The messages of a JSON payload; the inverse of `join_messages`."""
    messages = []
    at = 0
    for length in lengths:
        messages.append(data[at : at + length])
        at += length + 1
    return messages


def _split_json(body: bytes) -> list[bytes]:
    try:
        if not body.isascii():
            _check_utf8(body)  # msgspec takes a value's raw bytes without looking at their UTF-8
        messages = _values(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error
    if len(messages) > MESSAGES_MAX:
        raise TooLarge(f"A body holds at most {MESSAGES_MAX} messages.")
    return messages


def _check_utf8(body: bytes) -> None:
    """Raises UnicodeDecodeError. In slices: where a thread does this, others go on in between."""
    if len(body) <= SLICE_BYTES:
        body.decode()
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    for at in range(0, len(body), SLICE_BYTES):
        decoder.decode(view[at : at + SLICE_BYTES], final=at + SLICE_BYTES >= len(body))


def _values(body: bytes) -> list[bytes]:
    """The messages as they came. Raises DecodeError or RecursionError."""
    try:
        return _decode(body)
    except msgspec.DecodeError:
        mended = mend_halves(body)
        if mended is None:
            raise
    # The decoder takes no lone half of a surrogate pair; what it finds without them is where it is with them.
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
    """The messages of JSON joined by commas, as a batch holds them. Raises InvalidRequest."""
    return _split_json(b"[" + data + b"]")
