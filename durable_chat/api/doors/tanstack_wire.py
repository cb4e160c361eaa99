"""
TanStack AI's wire format of one run: the chunks as they are in the log, as SSE or NDJSON. Each has the offset after it
as its id, with which a client resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from durable_chat.api.doors.wires import NOT_LOGGED, Wire
from durable_chat.protocol.sse import PING
from durable_chat.transcripts.chunks import Chunk, encode_chunk

ACCEPTED = "run.accepted"
"""The CUSTOM chunk that comes first, before the model says anything. From its id on, a client can resume."""

_ACCEPTED_CHUNK = encode_chunk({"type": "CUSTOM", "name": ACCEPTED, "value": {}})

CLOSES = {"Connection": "close"}
"""
A response ends with its connection, where the server can do that. The stock client resumes after an end without a
terminal chunk. After a terminal chunk it takes a broken chunked body for a failure, although it has the whole run.
"""

Frame = Callable[[bytes, str], bytes]
"""Frames an encoded chunk with its id. A chunk that is not in the log has none."""


class TanStackWire:
    """
    The wire of a run whose chunks come after `offset`, or with None, of the rest of a run. `shown` is a chunk that
    comes after RUN_STARTED and is not in the log.
    """

    __slots__ = ("_frame", "_offset", "_shown", "headers", "ping")

    def __init__(
        self, offset: str | None, shown: Chunk | None, headers: Mapping[str, str], ping: bytes, frame: Frame
    ) -> None:
        self._offset = offset
        self._shown = shown
        self._frame = frame
        self.headers = headers
        self.ping = ping

    def begin(self) -> bytes:
        if self._offset is None:
            return b""
        return self._frame(_ACCEPTED_CHUNK, self._offset)

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        framed = self._frame(encode_chunk(chunk), offset)
        if self._shown is not None and chunk["type"] == "RUN_STARTED":
            framed += self._frame(encode_chunk(self._shown), NOT_LOGGED)
        return framed

    def end(self) -> bytes:
        return b""


MakeWire = Callable[[str | None, Chunk | None], Wire]
"""Makes the wire of a response, as `sse_wire` and `ndjson_wire` do."""


def sse_wire(offset: str | None, shown: Chunk | None = None) -> TanStackWire:
    return TanStackWire(offset, shown, {"Content-Type": "text/event-stream", **CLOSES}, PING, _event)


def ndjson_wire(offset: str | None, shown: Chunk | None = None) -> TanStackWire:
    """A client that reads lines ignores empty ones, so an empty line is the ping."""
    return TanStackWire(offset, shown, {"Content-Type": "application/x-ndjson", **CLOSES}, b"\n", _line)


def _event(chunk: bytes, offset: str) -> bytes:
    if offset == NOT_LOGGED:
        return b"data: %b\n\n" % chunk
    return b"id: %b\ndata: %b\n\n" % (offset.encode(), chunk)


def _line(chunk: bytes, offset: str) -> bytes:
    if offset == NOT_LOGGED:
        return b"%b\n" % chunk
    return b'{"id":"%b","chunk":%b}\n' % (offset.encode(), chunk)
