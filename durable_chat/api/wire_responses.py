"""
Library functions that give an answer on a frontend's wire, for applications that want only the wire.

The answer is any source of chunks, which nothing else keeps, or the answer that a session is being given.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from durable_chat.api.doors.run_responses import HEADERS, Followed, RunResponse
from durable_chat.api.doors.wires import NOT_LOGGED, RunPart, Wire
from durable_chat.api.targets import ChatSession, DurableStreamTarget, locate
from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError
from durable_chat.http.errors import error_response
from durable_chat.http.headers import NO_STORE
from durable_chat.http.lines import disconnected
from durable_chat.http.reads import UnsizedResponse, read_typed
from durable_chat.models.base import Output, ProviderError, shown_error
from durable_chat.models.outputs import items_of
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.sse import PING
from durable_chat.sessions.running.posted import new_message_id
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.items import as_chunk
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk, encode_chunk, safe_message
from durable_chat.transcripts.redaction import conceal

CLOSE_WAIT_S = 5.0
"""How long a source has to clean up when the client has left."""

PING_S = Settings().sse_ping_s
"""How often a response that has nothing else to send sends what clients ignore, so that proxies keep it open."""

Source = Output | ChatSession | DurableStreamTarget

log = logging.getLogger(__name__)


async def to_server_sent_events_response(
    source: Source,
    *,
    headers: Mapping[str, str] | None = None,
    thread_id: str | None = None,
    run_id: str | None = None,
    secrets: Iterable[str] = (),
) -> Response:
    """
    Answer with the chunks of one run as server-sent events: one `data:` line each, as TanStack AI's
    `fetchServerSentEvents` reads them.

    The source is what a model may give: an iterable or async iterable of str, chunks (dicts) and ag_ui events.
    RUN_STARTED and the end of the run are added where the source gives none. If it fails, the last chunk is a
    RUN_ERROR; only the message of a ProviderError is shown, and `secrets` are removed from results and errors. If the
    client leaves, the source is closed, and nothing is logged. The source waits while the client reads too slowly.

    A session (`chat.session(id)`) or a DurableStreamTarget gives the answer that is being written to it, from its
    beginning; 204 if there is none. The answer goes on if the client leaves.

    `headers` replace those of the response. `thread_id` and `run_id` are in the chunks of a source.
    """
    wire = _PlainWire({"Content-Type": "text/event-stream"}, PING, b"data: %b\n\n")
    return await _respond(source, lambda: wire, headers, thread_id, run_id, secrets)


async def to_http_response(
    source: Source,
    *,
    headers: Mapping[str, str] | None = None,
    thread_id: str | None = None,
    run_id: str | None = None,
    secrets: Iterable[str] = (),
) -> Response:
    """
    Answer with the chunks of one run as NDJSON: one chunk in each line, as TanStack AI's `fetchHttpStream` reads them.
    See `to_server_sent_events_response`.
    """
    wire = _PlainWire({"Content-Type": "application/x-ndjson"}, b"\n", b"%b\n")
    return await _respond(source, lambda: wire, headers, thread_id, run_id, secrets)


async def to_ui_message_stream_response(
    source: Source,
    *,
    headers: Mapping[str, str] | None = None,
    thread_id: str | None = None,
    run_id: str | None = None,
    secrets: Iterable[str] = (),
) -> Response:
    """
    Answer with one run as a UI message stream of Vercel's AI SDK (version 1), as `useChat` reads it. See
    `to_server_sent_events_response`.
    """
    from durable_chat.api.doors.ai_sdk.routes import UIMessageWire

    return await _respond(source, UIMessageWire, headers, thread_id, run_id, secrets)


async def _respond(
    source: Source,
    make_wire: Callable[[], Wire],
    headers: Mapping[str, str] | None,
    thread_id: str | None,
    run_id: str | None,
    secrets: Iterable[str],
) -> Response:
    try:
        if isinstance(source, ChatSession | DurableStreamTarget):
            response = await _session_response(source, make_wire())
        else:
            names = run_id or f"run-{uuid.uuid4()}", thread_id or f"thread-{uuid.uuid4()}"
            run = RunChunks(*names, new_message_id, unix_ms, secrets=secrets)
            response = SourceResponse(items_of(source), run, make_wire())
    except DurableChatError as error:
        return error_response(error)
    except InvalidChunk as error:
        raise TypeError(str(error)) from error
    response.headers.update(headers or {})
    return response


async def _session_response(stream: ChatSession | DurableStreamTarget, wire: Wire) -> Response:
    """Answer with the run that is active, or with 204."""
    place = locate(stream)
    snapshot = await place.runs.snapshot(place.session_id)
    if snapshot.active_run is None:
        return Response(status_code=204, headers=NO_STORE)
    place.live.check(place.path)
    run = place.runs.unfinished(place.session_id, snapshot.active_run)
    reader = await read_typed(place.log, place.path, snapshot.offset, JSON)
    part = RunPart(place.session_id, snapshot.active_run, wire)
    return RunResponse(Followed(part, reader, run, place.path), place)


class _PlainWire:
    """The chunks as they are, each in a frame, without ids: nobody can resume what is not kept."""

    def __init__(self, headers: Mapping[str, str], ping: bytes, frame: bytes) -> None:
        self.headers = headers
        self.ping = ping
        self._frame = frame

    def begin(self) -> bytes:
        return b""

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        return self._frame % encode_chunk(chunk)

    def end(self) -> bytes:
        return b""


class SourceResponse(UnsizedResponse):
    """
    The response that carries a source to its end. The source is asked for more when what it gave is sent. Mutable
    state: `_written_s`, the time of the last write.
    """

    def __init__(self, source: AsyncIterator[Any], run: RunChunks, wire: Wire) -> None:
        self._source = source
        self._run = run
        self._wire = wire
        self._written_s = 0.0
        self._writing = asyncio.Lock()
        super().__init__(status_code=200, headers={**HEADERS, **wire.headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await self._close()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        carrying = asyncio.ensure_future(self._carry(send))
        beside = [asyncio.ensure_future(disconnected(receive)), asyncio.ensure_future(self._keep_alive(send))]
        try:
            await asyncio.wait([carrying, beside[0]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (carrying, *beside):
                task.cancel()
            await asyncio.wait([carrying, *beside], timeout=CLOSE_WAIT_S)
            await self._close()
        if carrying.done() and not carrying.cancelled():
            carrying.result()

    async def _carry(self, send: Send) -> None:
        wire = self._wire
        await self._send(send, wire.begin())
        try:
            await self._render(send, self._run.start())
            async for item in self._source:
                await self._render(send, _snapshot(item) or self._run.accept(item))
                if self._run.ended:
                    break
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the client has left
            made = self._fail(error)
        else:
            made = self._run.finish()
        await self._render(send, made)
        async with self._writing:
            await send({"type": "http.response.body", "body": wire.end(), "more_body": False})

    async def _render(self, send: Send, made: Iterable[Chunk]) -> None:
        await self._send(send, b"".join([self._wire.chunk(chunk, NOT_LOGGED) for chunk in made]))

    async def _send(self, send: Send, body: bytes) -> None:
        if body:
            async with self._writing:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            self._written_s = time.monotonic()

    async def _keep_alive(self, send: Send) -> None:
        """Send a ping whenever nothing else was sent for a while."""
        while True:
            await asyncio.sleep(max(0.0, self._written_s + PING_S - time.monotonic()))
            if time.monotonic() >= self._written_s + PING_S:
                await self._send(send, self._wire.ping)

    def _fail(self, error: BaseException) -> list[Chunk]:
        secrets = self._run.secrets
        log.warning("the source of a response failed: %s", conceal("".join(traceback.format_exception(error)), secrets))
        shown = shown_error(error)
        code = shown.code if isinstance(error, ProviderError | InvalidChunk) else "model_failed"
        return self._run.fail(safe_message(shown.message, secrets), code)

    async def _close(self) -> None:
        """Close an unfinished generator, so that its work ends now."""
        close = getattr(self._source, "aclose", None)
        if close is None:
            return
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                with suppress(asyncio.CancelledError):
                    await close()
        except Exception as error:  # noqa: BLE001 - the response is over; an error while cleaning up changes nothing
            log.warning("closing the source of a response failed: %s", type(error).__name__)


def _snapshot(item: object) -> list[Chunk] | None:
    """Return a MESSAGES_SNAPSHOT, which a session writes itself, and which here belongs to the source."""
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    if kind is None or getattr(kind, "value", kind) != "MESSAGES_SNAPSHOT":
        return None
    chunk = as_chunk(item)
    return None if chunk is None else [chunk]
