"""
The wire of a generation: TanStack AI's chunks, with the names, addresses and audio that clients need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_chat.api.doors.tanstack_wire import CLOSES, TanStackWire
from durable_chat.api.doors.wires import Wire
from durable_chat.api.generations.files import Speech, shown
from durable_chat.sessions.slots import authorized_as
from durable_chat.transcripts.chunks import OURS, Chunk, run_error, tanstack_metadata
from durable_chat.transcripts.runs.generations import RESULT, STOPPED, STOPPED_CODE

ARTIFACTS = "generation:artifacts"


class GenerationWire:
    """
    Renders the chunks of a generation on another wire. In the log, the slot has its session's id, and speech is only a
    file. A stopped generation is an error to those who did not stop it: without a result it is no success.
    """

    __slots__ = ("_root_path", "_speech", "_wire")

    def __init__(self, wire: Wire, root_path: str, speech: Speech) -> None:
        self._wire = wire
        self._root_path = root_path
        self._speech = speech

    @property
    def headers(self) -> Mapping[str, str]:
        return self._wire.headers

    @property
    def ping(self) -> bytes:
        return self._wire.ping

    def begin(self) -> bytes:
        return self._wire.begin()

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        return self._wire.chunk(self._shown(chunk), offset)

    def end(self) -> bytes:
        return self._wire.end()

    def _shown(self, chunk: Chunk) -> Chunk:
        if chunk["type"] == "CUSTOM" and chunk.get("name") in (RESULT, ARTIFACTS):
            value: Any = shown(chunk.get("value"), self._root_path)
            if isinstance(value, Mapping):
                value = self._speech.fill(value)
            return chunk | {"value": value}
        if isinstance(session_id := chunk.get("threadId"), str):
            chunk = chunk | {"threadId": authorized_as(session_id)}
        if chunk["type"] == "RUN_STARTED":
            return _without_record(chunk)
        if chunk["type"] == "RUN_FINISHED" and tanstack_metadata(chunk).get("stopped") is True:
            return run_error(
                str(chunk.get("runId")),
                str(chunk.get("threadId")),
                timestamp=chunk.get("timestamp", 0),
                message=STOPPED,
                code=STOPPED_CODE,
            )
        return chunk


def _without_record(chunk: Chunk) -> Chunk:
    """Return RUN_STARTED without what only the server reads."""
    metadata = {key: value for key, value in (chunk.get("metadata") or {}).items() if key != OURS}
    rest = {key: value for key, value in chunk.items() if key != "metadata"}
    return rest | ({"metadata": metadata} if metadata else {})


def plain_wire(_offset: str | None, _shown: Chunk | None = None) -> TanStackWire:
    """
    The wire of a response that nobody can resume: server-sent events without ids. The client of a `fetcher` warns of
    every line that it does not know, and of comments.
    """
    headers = {"Content-Type": "text/event-stream", **CLOSES}
    return TanStackWire(None, None, headers, b"\n", lambda chunk, _: b"data: %b\n\n" % chunk)
