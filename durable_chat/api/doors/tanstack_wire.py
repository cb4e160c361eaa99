"""
TanStack AI's wire format of one run: the chunks as they are in the log, as SSE or NDJSON. Each has the offset after it
as its id, with which a client resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from durable_chat.api.doors.wires import NOT_LOGGED
from durable_chat.protocol.sse import PING
from durable_chat.transcripts.chunks import Chunk, encode_chunk

ACCEPTED = "run.accepted"
"""The CUSTOM chunk that comes first, before the model says anything. From its id on, a client can resume."""

Frame = Callable[[bytes, str], bytes]
"""Frames an encoded chunk with its id. A chunk that is not in the log has none."""


class TanStackWire:
    """The wire of a run whose chunks come after `offset`."""

    __slots__ = ("_frame", "_offset", "headers", "ping")

    def __init__(self, offset: str, headers: Mapping[str, str], ping: bytes, frame: Frame) -> None:
        self._offset = offset
        self._frame = frame
        self.headers = headers
        self.ping = ping

    def begin(self) -> bytes:
        accepted = {"type": "CUSTOM", "name": ACCEPTED, "value": {}, "timestamp": time.time_ns() // 1_000_000}
        return self._frame(encode_chunk(accepted), self._offset)

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        return self._frame(encode_chunk(chunk), offset)

    def end(self) -> bytes:
        return b""


def sse_wire(offset: str) -> TanStackWire:
    return TanStackWire(offset, {"Content-Type": "text/event-stream"}, PING, _event)


def ndjson_wire(offset: str) -> TanStackWire:
    """A client that reads lines ignores empty ones, so an empty line is the ping."""
    return TanStackWire(offset, {"Content-Type": "application/x-ndjson"}, b"\n", _line)


def _event(chunk: bytes, offset: str) -> bytes:
    if offset == NOT_LOGGED:
        return b"data: %b\n\n" % chunk
    return b"id: %b\ndata: %b\n\n" % (offset.encode(), chunk)


def _line(chunk: bytes, offset: str) -> bytes:
    if offset == NOT_LOGGED:
        return b"%b\n" % chunk
    return b'{"id":"%b","chunk":%b}\n' % (offset.encode(), chunk)
