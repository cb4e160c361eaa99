"""
The first read of a tab: the session's messages as one snapshot with the offset to follow from, and the chunks after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from durable_chat.config.settings import Settings
from durable_chat.errors import OffsetGone
from durable_chat.http.headers import etag_matches
from durable_chat.http.reads import (
    LiveReads,
    ReadRequest,
    SseResponse,
    first_cursor,
    open_live,
    parse_read,
    read_response,
)
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.sse import encode_control, encode_data
from durable_chat.sessions.running.runs import Runs
from durable_chat.sessions.session import SessionSnapshot
from durable_chat.store.base import Log, Reader
from durable_chat.transcripts.chunks import encode_json
from durable_chat.transcripts.codec import LARGE_BYTES
from durable_chat.transcripts.interrupts import pending_approvals
from durable_chat.transcripts.message_cache import Frame, encode
from durable_chat.transcripts.parts import text_chars

Made = TypeVar("Made")

_SNAPSHOT = b'{"type":"MESSAGES_SNAPSHOT","messages":['

READ_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie, Origin"}
"""
Headers of everything that only some callers may read: shared caches must not store it, and each use is revalidated.
"""

NO_RUN = "none"
"""The run of approvals in an imported history. Clients require one, and send it back as the parent of the next run."""

OPENINGS_MAX = 3
"""The maximum number of attempts to open a live read while the session is being deleted."""

MESSAGE_BYTES = 200
"""The approximate size of a message without its texts: ids, role, time and names."""


async def session_read_response(
    runs: Runs,
    log: Log,
    session_id: str,
    request: Request,
    settings: Settings,
    live: LiveReads,
    *,
    until_s: float | None = None,
) -> Response:
    """
    Answer a GET of a session's stream. A read from the beginning that is not live returns one snapshot of the messages.
    Other reads return chunks, as the protocol says. A live read ends at `until_s` (Unix time).

    A reader with an offset from before the session was deleted starts again from the beginning, with a snapshot first.
    Raises what `read_response` and `proxy_response` raise.
    """
    wanted = parse_read(request.scope["query_string"])
    if wanted.live is None and wanted.offset in (None, BEGINNING):
        return await compacted_response(runs, session_id, request)
    try:
        return await _read_response(log, runs.sessions.path_of(session_id), request, settings, live, until_s)
    except OffsetGone:
        if wanted.live is None:
            return await compacted_response(runs, session_id, request, begins_anew=True)
        return await _begun_anew(runs, log, session_id, wanted, settings, live, until_s)


async def _read_response(
    log: Log, path: str, request: Request, settings: Settings, live: LiveReads, until_s: float | None
) -> Response:
    if not settings.remote:
        return await read_response(
            log, path, request, settings, live, absent=JSON, headers=READ_HEADERS, until_s=until_s
        )
    # Imported here, because an embedded store needs no HTTP client.
    from durable_chat.http.upstream.log import Upstream
    from durable_chat.http.upstream.proxy import proxy_response

    assert isinstance(log, Upstream)
    return await proxy_response(log, path, request, settings, live, absent=JSON, headers=READ_HEADERS, until_s=until_s)


@dataclass(frozen=True, slots=True)
class Opening:
    """
    What a restarted reader receives first, comma-joined: a MESSAGES_SNAPSHOT, and the summary for the model's context
    if there is one. Then the offset to follow from.
    """

    chunk: bytes
    offset: str


async def open_session(
    runs: Runs, log: Log, session_id: str, offset: str, live: LiveReads, *, gone: bool = False
) -> tuple[Reader, Opening | None]:
    """
    Return a reader for a live read of a session. With an offset from before the session was deleted, also return an
    opening; the reader then begins after it. `gone` says that the offset is known to be such a one. Raises what
    `open_live` and `Runs.snapshot` raise.
    """
    opening: Opening | None = None
    path = runs.sessions.path_of(session_id)
    for _ in range(OPENINGS_MAX):
        if gone:
            opening = await _opening(runs, session_id)
            offset = opening.offset
        try:
            return await open_live(log, path, offset, live, absent=JSON), opening
        except OffsetGone:
            gone = True
    raise OffsetGone


async def _opening(runs: Runs, session_id: str) -> Opening:
    snapshot = await runs.snapshot(session_id)
    blocks, _ = await encode_messages(snapshot, Frame(_SNAPSHOT, b"]}" + _summary_after(snapshot)))
    return Opening(b"".join(blocks), snapshot.offset)


async def _begun_anew(
    runs: Runs,
    log: Log,
    session_id: str,
    wanted: ReadRequest,
    settings: Settings,
    live: LiveReads,
    until_s: float | None,
) -> Response:
    """Answer a live read with an offset from before the session was deleted."""
    if wanted.live == "long-poll":
        opening = await _opening(runs, session_id)
        follow = {"Stream-Next-Offset": opening.offset, "Stream-Cursor": str(first_cursor(wanted))}
        return Response(b"[%b]" % opening.chunk, headers={**READ_HEADERS, **follow}, media_type=JSON)
    assert wanted.offset is not None
    reader, first = await open_session(runs, log, session_id, wanted.offset, live, gone=True)
    events = b"" if first is None else _opening_events(first, wanted)
    path = runs.sessions.path_of(session_id)
    return SseResponse(reader, wanted, settings, live, path, READ_HEADERS, until_s, events)


def _opening_events(opening: Opening, wanted: ReadRequest) -> bytes:
    control = encode_control(opening.offset, first_cursor(wanted), up_to_date=False, closed=False)
    return encode_data(JSON, opening.chunk) + control


async def compacted_response(runs: Runs, session_id: str, request: Request, *, begins_anew: bool = False) -> Response:
    """
    Answer the catch-up read of a session: a list of one MESSAGES_SNAPSHOT, and the offset to follow from in a header.
    If the model is given a summary of earlier messages, its chunk follows.

    A session without messages is an empty list, because an empty snapshot would remove a tab's initial messages. If it
    `begins_anew`, the tab's messages must go, and an empty snapshot is sent.
    """
    snapshot = await runs.snapshot(session_id)
    is_said = snapshot.messages or begins_anew
    frame = Frame(b"[" + _SNAPSHOT, b"]}" + _summary_after(snapshot) + b"]") if is_said else Frame(b"[", b"]")
    blocks, digest = await encode_messages(snapshot, frame)
    follow = {"Stream-Next-Offset": snapshot.offset, "Stream-Up-To-Date": "true"}
    # The offset is part of the ETag, because the same messages may be current at a later offset.
    return _answer(blocks, f'"{digest}:{snapshot.offset}"', request, follow)


def _summary_after(snapshot: SessionSnapshot) -> bytes:
    """Return the chunk of the summary after a comma; nothing if there is none."""
    return b"" if snapshot.summary is None else b"," + encode_json(snapshot.summary.chunk())


async def snapshot_response(runs: Runs, session_id: str, request: Request) -> Response:
    """Answer with the messages and the offset, as `state_response` does."""
    return await state_response(await runs.snapshot(session_id), request)


async def state_response(
    snapshot: SessionSnapshot, request: Request, more: Mapping[str, Any] | None = None
) -> Response:
    """
    Answer with a snapshot as `{messages, offset, activeRun, lastRun, interrupts}`, and with `more`. `contextSummary` is
    there if the model is given a summary of earlier messages.
    """
    state = {
        "offset": snapshot.offset,
        "activeRun": None if snapshot.active_run is None else {"runId": snapshot.active_run},
        "lastRun": None if snapshot.last_run is None else snapshot.last_run.shown(),
        "interrupts": _interrupts(snapshot),
    } | ({} if snapshot.summary is None else {"contextSummary": snapshot.summary})
    rest = encode_json(state | dict(more or {}))
    blocks, digest = await encode_messages(snapshot, Frame(b'{"messages":[', b"]," + rest[1:]))
    return _answer(blocks, f'"{digest}"', request, {})


def _interrupts(snapshot: SessionSnapshot) -> dict[str, Any] | None:
    """
    Return the approvals that the session waits for, and the run that asked for them. While a run is active there are
    none: a client that knew of one would not follow the run.
    """
    pending = [] if snapshot.active_run else pending_approvals(snapshot.messages)
    last_run = snapshot.last_run
    return {"runId": (last_run and last_run.run_id) or NO_RUN, "pending": pending} if pending else None


def _answer(blocks: Sequence[bytes], etag: str, request: Request, more: Mapping[str, str]) -> Response:
    headers = {**READ_HEADERS, **more, "ETag": etag}
    if etag_matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return blocks_response(blocks, headers)


def blocks_response(blocks: Sequence[bytes], headers: Mapping[str, str]) -> Response:
    """Return a JSON body in blocks. A long body is sent block by block, at the reader's pace."""
    if len(blocks) == 1:
        return Response(blocks[0], headers=headers, media_type=JSON)

    async def send() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    length = {"Content-Length": str(sum(map(len, blocks)))}
    return StreamingResponse(send(), headers={**headers, **length}, media_type=JSON)


async def encode_messages(snapshot: SessionSnapshot, frame: Frame) -> tuple[list[bytes], str]:
    """
    Encode the snapshot's messages in blocks. Return them with their digest. From LARGE_BYTES on, encode in a thread and
    cache.
    """
    encoded = snapshot.kept.of(snapshot.messages)
    if encoded is None and _are_short(snapshot.messages):
        encoded = encode(snapshot.messages)
    elif encoded is None:
        encoded = snapshot.kept.encoded = await asyncio.to_thread(encode, snapshot.messages)
    return encoded.framed(frame)


async def made_of(messages: Sequence[dict[str, Any]], make: Callable[[], Made]) -> Made:
    """Return what `make` makes of the messages, in a thread unless they are short."""
    return make() if _are_short(messages) else await asyncio.to_thread(make)


def _are_short(messages: Sequence[dict[str, Any]]) -> bool:
    """Estimate whether the messages encode to less than LARGE_BYTES, from the lengths of their texts."""
    left = LARGE_BYTES
    for message in messages:
        left -= text_chars(message) + MESSAGE_BYTES
        if left <= 0:
            return False
    return True
