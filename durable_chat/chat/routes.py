"""
The chat's routes under /api: post a turn, follow the session, take a snapshot, stop, delete.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from durable_chat.chat.bodies import Posted, read_posted
from durable_chat.chat.chunks import encode_chunk
from durable_chat.chat.providers.base import Model
from durable_chat.chat.requests import check_key
from durable_chat.chat.runs import Job, Run, Runs
from durable_chat.chat.sessions import LARGE_BYTES, SessionSnapshot, check_session_id, session_path
from durable_chat.chat.turns import PostedAsk
from durable_chat.config import Settings
from durable_chat.errors import InvalidRequest
from durable_chat.http.errors import json_error
from durable_chat.http.headers import etag_matches
from durable_chat.http.reads import LiveReads, read_response
from durable_chat.protocol.messages import JSON
from durable_chat.store.base import Store

READ_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie, Origin"}
"""For what belongs to whoever may read the session: kept by no shared cache, asked for again every time."""

BLOCK_BYTES = 64 * 1024
"""A long snapshot is sent in pieces of this size: what a socket takes at once."""

NO_STORE = {"Cache-Control": "no-store"}

API_KEY_CHARS_MAX = 1024
"""Of a user's own key: none is longer, and it is held as long as its run."""

Action = Literal["read", "send", "stop", "delete"]

ChooseModel = Callable[[str | None], Model]
"""The model for a turn, given the user's own key if there is one. Raises Unauthorized `missing_api_key`."""


def chat_routes(
    store: Store, runs: Runs, settings: Settings, live: LiveReads, choose_model: ChooseModel
) -> Sequence[BaseRoute]:
    chat = ChatRoutes(store, runs, settings, live, choose_model)
    return [
        Route("/api/chat", chat.post, methods=["POST"]),
        Route("/api/chat", chat.delete, methods=["DELETE"]),
        Route("/api/chat-stream", chat.stream, methods=["GET"]),
        Route("/api/chat-snapshot", chat.snapshot, methods=["GET"]),
        Route("/api/chat-stop", chat.stop, methods=["POST"]),
    ]


async def allow(request: Request, session_id: str, action: Action) -> None:
    """Whether the caller may do this to the session; every route asks here. So far everybody may."""


class ChatRoutes:
    """The handlers: each parses, calls and answers."""

    def __init__(
        self, store: Store, runs: Runs, settings: Settings, live: LiveReads, choose_model: ChooseModel
    ) -> None:
        self._store = store
        self._runs = runs
        self._settings = settings
        self._live = live
        self._choose_model = choose_model

    async def post(self, request: Request) -> Response:
        mode = request.query_params.get("mode", "immediate")
        if mode not in ("immediate", "await"):
            raise InvalidRequest("mode is immediate or await.", code="bad_mode")
        run = await self._start(request)
        return await run_response(self._runs, run, self._settings.await_max_s if mode == "await" else None)

    async def _start(self, request: Request) -> Run:
        named = request.query_params.get("id")
        if named is not None:
            check_session_id(named)
        key = check_key(request.headers.get("idempotency-key") or request.headers.get("x-run-id"))
        posted = await read_posted(request, self._settings.body_max_bytes)
        session_id = choose_session_id(named, posted)
        await allow(request, session_id, "send")
        api_key = request.headers.get("x-api-key") or None
        if api_key is not None and len(api_key) > API_KEY_CHARS_MAX:
            raise InvalidRequest("The API key is too long.", code="bad_api_key")
        model = self._choose_model(api_key)
        job = Job(session_id, model, posted.data, api_key, key, posted.tools)
        return await self._runs.start(job, PostedAsk(posted, getattr(model, "server_tools", frozenset())))

    async def stream(self, request: Request) -> Response:
        session_id = _session_id(request)
        await allow(request, session_id, "read")
        path = session_path(session_id)
        if self._settings.remote:
            # Here, since an embedded store has no use for an HTTP client.
            from durable_chat.http.proxy import proxy_response
            from durable_chat.http.upstream import Upstream

            assert isinstance(self._store.log, Upstream)
            return await proxy_response(
                self._store.log, path, request, self._settings, self._live, absent=JSON, headers=READ_HEADERS
            )
        return await read_response(
            self._store.log, path, request, self._settings, self._live, absent=JSON, headers=READ_HEADERS
        )

    async def snapshot(self, request: Request) -> Response:
        session_id = _session_id(request)
        await allow(request, session_id, "read")
        blocks, etag = await encode_snapshot(await self._runs.snapshot(session_id))
        headers = {**READ_HEADERS, "ETag": etag}
        if etag_matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        return blocks_response(blocks, headers)

    async def stop(self, request: Request) -> Response:
        session_id = _session_id(request)
        await allow(request, session_id, "stop")
        stopped = await self._runs.stop(session_id, request.query_params.get("runId"))
        return Response(msgspec.json.encode({"stopped": stopped}), headers=NO_STORE, media_type=JSON)

    async def delete(self, request: Request) -> Response:
        session_id = _session_id(request)
        await allow(request, session_id, "delete")
        await self._runs.delete(session_id)
        return Response(status_code=204, headers=NO_STORE)


def _session_id(request: Request) -> str:
    return check_session_id(request.query_params.get("id"))


def choose_session_id(named: str | None, posted: Posted) -> str:
    """The session of a POST: `?id=`, else the body's `id` or `threadId`. Names that differ are refused."""
    names = posted.session_ids if named is None else posted.session_ids | {named}
    if len(names) > 1:
        raise InvalidRequest("The request names two sessions.", code="bad_id")
    return check_session_id(next(iter(names), None))


async def run_response(runs: Runs, run: Run, wait_s: float | None) -> Response:
    """The answer to a turn: 202 at once, or with `wait_s` what became of it within that time."""
    assert run.offset is not None
    headers = {**NO_STORE, "X-Run-Id": run.id, "Stream-Next-Offset": run.offset}
    if wait_s is None or not await runs.wait(run, wait_s):
        return Response(status_code=202, headers=headers)
    if run.error is not None:
        return json_error(502, "run_failed", run.error, headers)
    return Response(status_code=200, headers=headers)


def blocks_response(blocks: Sequence[bytes], headers: Mapping[str, str]) -> Response:
    """A body of JSON in blocks. A long one goes out block by block, at the reader's pace."""
    if len(blocks) == 1:
        return Response(blocks[0], headers=headers, media_type=JSON)

    async def send() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    length = {"Content-Length": str(sum(map(len, blocks)))}
    return StreamingResponse(send(), headers={**headers, **length}, media_type=JSON)


async def encode_snapshot(snapshot: SessionSnapshot) -> tuple[list[bytes], str]:
    """The body of a snapshot in blocks, and its entity tag; made in a thread from LARGE_BYTES on."""
    if sum(map(_rough_bytes, snapshot.messages)) < LARGE_BYTES:
        return _encode_snapshot(snapshot)
    return await asyncio.to_thread(_encode_snapshot, snapshot)


def _rough_bytes(message: dict[str, Any]) -> int:
    """Near enough to tell a short message from a long one without encoding it: its texts and what each part costs."""
    return sum(64 + sum(len(value) for value in part.values() if isinstance(value, str)) for part in message["parts"])


def _encode_snapshot(snapshot: SessionSnapshot) -> tuple[list[bytes], str]:
    """Message by message, so that no step is long."""
    blocks, block = [], bytearray(b'{"messages":[')
    digest = hashlib.blake2b(digest_size=16)
    for number, message in enumerate(snapshot.messages):
        if len(block) >= BLOCK_BYTES:
            blocks.append(bytes(block))
            block.clear()
        block += b"," if number else b""
        block += encode_chunk(message)
    active_run = None if snapshot.active_run is None else {"runId": snapshot.active_run}
    block += b"]," + msgspec.json.encode({"offset": snapshot.offset, "activeRun": active_run})[1:]
    blocks.append(bytes(block))
    for whole in blocks:
        digest.update(whole)
    return blocks, f'"{digest.hexdigest()}"'
