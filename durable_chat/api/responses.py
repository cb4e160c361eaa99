"""
Library functions for an application's own routes, over a session of its chat or a stream of a remote server.

The names are those of the TypeScript package, in Python's spelling.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from durable_chat.api.catch_up import READ_HEADERS, session_read_response
from durable_chat.api.routes import run_response
from durable_chat.api.targets import ChatSession, DurableStreamTarget, Place, locate, servers_here
from durable_chat.errors import Conflict, DurableChatError, InvalidRequest
from durable_chat.http.errors import error_response, json_error
from durable_chat.http.headers import NO_STORE
from durable_chat.models.base import Model, Output, Turn
from durable_chat.models.outputs import items_of
from durable_chat.protocol.messages import JSON, is_json
from durable_chat.protocol.requests import Append, Create
from durable_chat.sessions.running.posted import detach_all, to_ui_message
from durable_chat.sessions.running.run import Job
from durable_chat.sessions.running.turns import EchoAsk
from durable_chat.sessions.writers import Writer, session_error
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.items import dump_event
from durable_chat.transcripts.attachments import Detacher
from durable_chat.transcripts.chunks import encode_chunk, run_error
from durable_chat.transcripts.schemas import check_messages
from durable_chat.transcripts.transcript import Snapshot

SOURCE_FAILED = "The source failed."

Mode = Literal["immediate", "await"]
Target = DurableStreamTarget | ChatSession

log = logging.getLogger(__name__)


async def to_durable_chat_session_response(
    *,
    stream: Target,
    new_messages: Sequence[Mapping[str, Any]],
    response_stream: Output,
    mode: Mode = "immediate",
) -> Response:
    """
    Show the new messages in the session, and write the response stream as its answer. Answer 202 once the messages are
    durable; with `await`, answer 200 when the answer has ended, or 502 when it failed.

    The answer is written to its end even if the client disconnects. A session has one answer at a time. The items of
    the stream are what a model may yield.
    """
    try:
        _check_mode(mode)
        _check_session_type(stream)
        place = locate(stream)
        check_messages(new_messages)
        ask = await _ask(stream, place, [to_ui_message(message) for message in new_messages])
        if not _creates(stream):
            await place.log.head(place.path)
        run = await place.runs.start(Job(place.session_id, _model_of(response_stream)), ask)
        return await run_response(place.runs, run, place.settings.await_max_s if mode == "await" else None)
    except DurableChatError as error:
        return error_response(error)


async def _ask(stream: Target, place: Place, messages: list[dict[str, Any]]) -> EchoAsk:
    """
    Prepare the messages. A session of a chat stores long files beside its log and serves them; other streams keep them
    inline.
    """
    if not isinstance(stream, ChatSession):
        return EchoAsk(tuple(messages))
    detacher = Detacher.of(place.settings, place.session_id, stream.root_path)
    detached, files = await detach_all(messages, detacher)
    return EchoAsk(tuple(detached), tuple(files))


def _model_of(source: Output) -> Model:
    async def model(_turn: Turn) -> Output:
        return source

    return model


async def ensure_durable_chat_session_stream(stream: Target) -> None:
    """Create the session's stream, or find it. Raises NotFound when it is missing and must not be created."""
    _check_session_type(stream)
    place = locate(stream)
    if _creates(stream):
        with place.runs.sessions.hold(place.session_id) as session:
            await session.ensure()
    else:
        await place.log.head(place.path)


async def materialize_snapshot_from_durable_stream(stream: Target) -> Snapshot:
    """
    Return the session's messages and the offset to continue reading from. While this application writes a run, both are
    those just before the run. A stream that does not exist has no messages.
    """
    place = locate(stream)
    found = await place.runs.snapshot(place.session_id)
    return Snapshot(found.messages, found.offset)


async def durable_stream_proxy(request: Request, *, stream: Target) -> Response:
    """
    Answer a GET that follows the stream. Offset, live and cursor come from its query. For a session of a chat, the
    response is the same as that of `/api/chat-stream`.

    Only what a read needs is forwarded to a remote server, and the response does not reveal the server's URL.
    """
    try:
        place = locate(stream)
        if isinstance(stream, ChatSession):
            return await session_read_response(
                place.runs, place.log, place.session_id, request, place.settings, place.live
            )
        from durable_chat.http.upstream.log import Upstream
        from durable_chat.http.upstream.proxy import proxy_response

        assert isinstance(place.log, Upstream)
        absent = stream.content_type or JSON
        return await proxy_response(
            place.log, place.path, request, place.settings, place.live, absent=absent, headers=READ_HEADERS
        )
    except DurableChatError as error:
        return error_response(error)


async def to_durable_stream_response(
    source: Output, *, stream: Target, mode: Mode = "immediate", expose_location_header: bool = True
) -> Response:
    """
    Write a source into a stream of its own, and close the stream at the end. Answer 201 at once with the stream's URL
    in the body and in `Location`; with `await`, answer 200 with the final offset.

    In a JSON stream each item is a message, and a failing source leaves a RUN_ERROR before the end. In other streams
    the items are bytes or text.
    """
    try:
        _check_mode(mode)
        url = _read_url(stream)
        task = await _start_writing(source, stream)
        headers = {**NO_STORE, "Location": url}
        if expose_location_header:
            headers["Access-Control-Expose-Headers"] = "Location"
        task.add_done_callback(_report)
        if mode == "immediate":
            return Response(msgspec.json.encode({"streamUrl": url}), 201, headers, JSON)
        return await _final_response(task, url, headers)
    except DurableChatError as error:
        return error_response(error)


async def _final_response(task: asyncio.Task[str], url: str, headers: Mapping[str, str]) -> Response:
    """Answer when everything is written. A client that disconnects cancels nothing."""
    try:
        body = {"streamUrl": url, "finalOffset": await asyncio.shield(task)}
    except DurableChatError:
        raise
    except Exception:  # noqa: BLE001 - the source's own error, which is logged and not shown
        return json_error(502, "source_failed", SOURCE_FAILED, headers)
    return Response(msgspec.json.encode(body), 200, headers, JSON)


async def _start_writing(source: Output, stream: Target) -> asyncio.Task[str]:
    place = locate(stream)
    content_type = (stream.content_type if isinstance(stream, DurableStreamTarget) else None) or JSON
    if _creates(stream):
        await place.log.create(place.path, Create(content_type))
    task = asyncio.create_task(_write_all(source, place, content_type), name=f"write {place.path}")
    tasks = servers_here().tasks
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def drain(timeout_s: float) -> None:
    """
    Wait at most `timeout_s` for the background writes that belong to no application, and end the rest as interrupted.
    Close the connections to remote servers.
    """
    await servers_here().drain(timeout_s)


async def _write_all(source: Output, place: Place, content_type: str) -> str:
    """
    Append the source's items, close the stream, and return the final offset. Raises what the log or the source raises.
    """
    failure: BaseException | None = None
    json = is_json(content_type)
    writer = Writer(place.log, place.path, content_type=content_type)
    try:
        async for item in items_of(source):
            writer.add([_encode_item(item, json=json)])
            await writer.room()
    except (Exception, asyncio.CancelledError) as error:
        if writer.failure is not None:
            raise writer.failure from error
        failure = error
        if json:
            writer.add([_failure_chunk(place)])
    await writer.settle()
    try:
        final_offset = (await place.log.append(place.path, Append(close=True))).next_offset
    except DurableChatError as error:
        raise session_error(error) from error
    if failure is not None:
        raise failure
    return final_offset


def _encode_item(item: Any, *, json: bool) -> bytes:
    if json:
        return encode_chunk(dump_event(item, mode="json"))
    return item.encode() if isinstance(item, str) else bytes(item)


def _failure_chunk(place: Place) -> bytes:
    run_id = f"run-{uuid.uuid4()}"
    return encode_chunk(
        run_error(
            run_id,
            place.session_id,
            timestamp=unix_ms(),
            message=SOURCE_FAILED,
            code="source_failed",
        )
    )


def _report(task: asyncio.Task[str]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a background write failed before its end: %s", type(error).__name__)


def _read_url(stream: Target) -> str:
    """Return the URL for readers. A URL guarded by secret headers is useless to them, and is not revealed."""
    if isinstance(stream, ChatSession):
        return f"/api/chat-stream?id={quote(stream.session_id, safe='')}"
    if stream.read_url is None and stream.headers:
        raise InvalidRequest("A stream with `headers` needs a `read_url` for its readers.", code="missing_read_url")
    return stream.read_url or stream.write_url


def _creates(stream: Target) -> bool:
    return isinstance(stream, ChatSession) or stream.create_if_missing


def _check_mode(mode: str) -> None:
    if mode not in ("immediate", "await"):
        raise InvalidRequest("`mode` must be immediate or await.", code="bad_mode")


def _check_session_type(stream: Target) -> None:
    if isinstance(stream, DurableStreamTarget) and not is_json(stream.content_type or JSON):
        raise Conflict("A session's stream must have the content type application/json.", code="not_a_session")
