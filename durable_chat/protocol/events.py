"""
Decoder for received server-sent events: it takes bytes in pieces of any size and returns whole events.

The inverse of `protocol.sse`, except that the format does not preserve the kind of line ends inside a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from durable_chat.errors import UpstreamFailed

EVENT_BYTES_MAX = 128 * 1024 * 1024
"""
The largest event that is accepted. A server may send a whole stream as one event, but a session of this size is broken.
"""

# A `\r` at the very end may be half of a `\r\n`, so it waits for the next piece.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
# A token that is safe in a query, a header and JSON (PROTOCOL.md 8), at most twice as long as an offset should be.
_OFFSET = re.compile(r"[0-9A-Za-z_.~:;@!$*+^|(){}\[\]-]{1,512}")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: bytes


class EventDecoder:
    """Mutable state: `_rest`, the pieces of an unfinished line; `_name` and `_data`, the event so far."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._bytes = 0
        self._name = "message"
        self._data: list[bytes] = []
        self._fresh = True
        self._begun = False

    @property
    def between_events(self) -> bool:
        """Whether all events received so far are complete."""
        return not self._begun and not any(self._rest)

    def feed(self, chunk: bytes) -> list[Event]:
        """
        Take a piece and return the events that it completes. Raises UpstreamFailed when an event exceeds
        EVENT_BYTES_MAX.
        """
        self._bytes += len(chunk)
        if self._bytes > EVENT_BYTES_MAX:
            raise UpstreamFailed("The remote server sent an event that is too large.")
        held_return = bool(self._rest) and self._rest[-1].endswith(b"\r")
        self._rest.append(chunk)
        if not held_return and b"\n" not in chunk and b"\r" not in chunk:
            return []
        *lines, rest = _LINE_END.split(b"".join(self._rest))
        self._rest = [rest]
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> Event | None:
        if self._fresh:
            self._fresh = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if not name:
            return None  # a comment
        self._begun = True
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value.decode(errors="replace")
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data, self._begun = "message", [], False
        self._bytes = 0
        return event


def is_offset_like(token: str) -> bool:
    """Whether another server's token has the form of an offset. Only that server knows its meaning."""
    return _OFFSET.fullmatch(token) is not None


class Control(msgspec.Struct, frozen=True, rename="camel"):
    """A `control` event (PROTOCOL.md 5.8): where the reader is after the data before it."""

    stream_next_offset: str
    stream_cursor: str | None = None
    up_to_date: bool = False
    stream_closed: bool = False


_CONTROL = msgspec.json.Decoder(Control)


def decode_control(data: bytes) -> Control:
    """Decode a `control` event. Raises UpstreamFailed when it violates the protocol."""
    try:
        control = _CONTROL.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamFailed("The remote server sent a control event that cannot be read.") from error
    if not is_offset_like(control.stream_next_offset):
        raise UpstreamFailed("The remote server sent an offset that the protocol does not allow.")
    return control
