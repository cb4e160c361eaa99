"""
Vercel's AI SDK 6 and 7, for both of their transports.

`DefaultChatTransport` posts to `/api/ai-sdk` and gets the answer as a UI message stream. `createDurableChatTransport`
of `@durable-streams/aisdk-transport` posts to `/api/ai-sdk-durable` and gets the URL of a Durable Stream, which is a
view of the run in the session's log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.catch_up import READ_HEADERS, state_response
from durable_chat.api.doors.ai_sdk.bodies import AiSdkPosted, read_ai_sdk
from durable_chat.api.doors.ai_sdk.chunks import Earlier, UIChunk, UIChunks, replay_chunks
from durable_chat.api.doors.ai_sdk.messages import last_answer, latest_answers, to_ai_sdk_messages
from durable_chat.api.doors.ai_sdk.views import ViewPart, ViewReader, ViewWire
from durable_chat.api.doors.retries import TIMES_MAX
from durable_chat.api.doors.run_responses import HEADERS, Doors
from durable_chat.http.headers import NO_STORE
from durable_chat.http.reads import parse_read, read_typed, reader_response
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING, decode_offset, encode_offset
from durable_chat.protocol.sse import PING
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.session import SessionSnapshot
from durable_chat.sessions.sessions import check_session_id
from durable_chat.transcripts.chunks import Chunk, encode_json
from durable_chat.transcripts.message_cache import Kept
from durable_chat.transcripts.runs.ends import UNKNOWN_ERROR, RunEnd

STREAM_HEADERS = {"Content-Type": "text/event-stream", "x-vercel-ai-ui-message-stream": "v1"}
DONE = b"data: [DONE]\n\n"

CONVERTED_HERE_MAX = 200
"""Longer sessions are converted in a thread. Converting this many messages takes a few milliseconds."""


class UIMessageWire:
    """The UI message stream, version 1, of one run."""

    headers = STREAM_HEADERS
    ping = PING

    def __init__(self, earlier: Earlier | None = None) -> None:
        self._machine = UIChunks(earlier)

    def begin(self) -> bytes:
        return b""

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        return encode_events(self._machine.take(chunk))

    def end(self) -> bytes:
        return DONE


def encode_events(chunks: Sequence[UIChunk]) -> bytes:
    return b"".join(b"data: %b\n\n" % encode_json(chunk) for chunk in chunks)


def ai_sdk_routes(doors: Doors) -> Sequence[BaseRoute]:
    chat = AiSdkRoutes(doors)
    return [
        Route("/api/ai-sdk", chat.post, methods=["POST"]),
        Route("/api/ai-sdk/{id:path}/stream", chat.resume, methods=["GET"]),
        Route("/api/ai-sdk/{id:path}/messages", chat.messages, methods=["GET"]),
        Route("/api/ai-sdk/{id:path}/stop", chat.stop, methods=["POST"]),
        Route("/api/ai-sdk-durable", chat.post_durable, methods=["POST"]),
        Route("/api/ai-sdk-durable/{id:path}/stream", chat.resume_durable, methods=["GET"]),
        Route("/api/ai-sdk-durable/{id:path}/runs/{run}", chat.view, methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class View:
    """
    The stream of one run: where in the log it begins, whether it rebuilds the answer that the run continues, or the id
    of that answer in the client that has it, and in how many of its resumptions what was dropped is left out.
    """

    session_id: str
    run_id: str
    offset: str
    whole: bool = False
    continues: str | None = None
    resumes: int = 0

    @classmethod
    def of(cls, run: Run, *, whole: bool = False, continues: str | None = None) -> View:
        lease = getattr(run, "lease", None)  # without one, another process carries out the run, or it has ended
        offset = run.offset if lease is None or run.joined else lease.offset
        return cls(run.session_id, run.id, offset or BEGINNING, whole, continues, run.resumes)

    def url(self, request: Request) -> str:
        base = f"{request.scope.get('root_path', '').rstrip('/')}/api/ai-sdk-durable"
        more = {"whole": "true"} if self.whole else {}
        more |= {"continues": self.continues} if self.continues is not None else {}
        more |= {"resumes": str(self.resumes)} if self.resumes else {}
        query = urlencode({"from": self.offset, **more})
        return f"{base}/{quote(self.session_id, safe='')}/runs/{self.run_id}?{query}"


class AiSdkRoutes:
    """The handlers. Each parses, calls and answers."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._starter = doors.starter
        self._runs = doors.runs

    # The SDK's own transport.

    async def post(self, request: Request) -> Response:
        with self._starter.hold() as held:
            taken = await self._starter.take(request, held, read=read_ai_sdk)
            posted = taken.posted
            earlier = await self._known(taken.session_id, posted)
            return await self._doors.answer(request, taken.session_id, posted, lambda _: UIMessageWire(earlier))

    async def _known(self, session_id: str, posted: Posted) -> Earlier | None:
        """Return the answer that a request continues, with the results that the session has of the client's calls."""
        earlier = posted.earlier if isinstance(posted, AiSdkPosted) else None
        if earlier is None:
            return None
        answers = latest_answers((await self._runs.snapshot(session_id)).messages)
        known = next((answer for answer in answers if answer["id"] == earlier.message_id), None)
        if known is None:
            return earlier
        settled = [result for result in Earlier.of(known).settled if result["toolCallId"] in earlier.calls]
        return replace(earlier, settled=settled)

    async def resume(self, request: Request) -> Response:
        """
        Answer with the running answer from its beginning. With `runId`, also with an answer that has ended meanwhile:
        a page that was rendered during the answer does not have the rest.
        """
        session_id = _session_id(request)
        grant = await self._starter.allow(request, session_id, "read")
        snapshot = await self._runs.snapshot(session_id)
        wanted = request.query_params.get("runId")
        if snapshot.active_run is not None and wanted in (None, snapshot.active_run):
            wire = UIMessageWire(_continued(snapshot))
            active, offset = snapshot.active_run, snapshot.offset
            return await self._doors.follow_run(session_id, active, offset, wire, is_new=True, until_s=grant.until_s)
        last = snapshot.last_run
        if wanted is not None and snapshot.active_run is None and last is not None and last.run_id == wanted:
            return _ended_response(snapshot, last)
        return Response(status_code=204, headers=NO_STORE)

    # The durable transport.

    async def post_durable(self, request: Request) -> Response:
        with self._starter.hold() as held:
            taken = await self._starter.take(request, held, read=read_ai_sdk)
            run = await self._starter.start(request, taken.session_id, taken.posted)
        earlier = taken.posted.earlier if isinstance(taken.posted, AiSdkPosted) else None
        view = View.of(run, continues=None if earlier is None else earlier.message_id)
        return _located(201, view.url(request), run.id)

    async def resume_durable(self, request: Request) -> Response:
        """
        Answer with the stream of the running answer. With `runId` and `from`, also with that of an answer which has
        ended meanwhile.
        """
        session_id = _session_id(request)
        await self._starter.allow(request, session_id, "read")
        snapshot, query = await self._runs.snapshot(session_id), request.query_params
        active, offset = snapshot.active_run, snapshot.offset
        if "runId" in query and "from" in query and query["runId"] != active:
            active, offset = query["runId"], query["from"]
        if active is None:
            return Response(status_code=204, headers=NO_STORE)
        run = self._runs.unfinished(session_id, active)
        dropped = 0 if self._doors.settings.remote else TIMES_MAX  # of a run that has ended
        ended = View(session_id, active, offset, whole=True, resumes=dropped)
        view = ended if run is None else View.of(run, whole=True)
        return _located(200, view.url(request), active)

    async def view(self, request: Request) -> Response:
        """Answer a read of the stream of one run."""
        session_id, run_id = _session_id(request), request.path_params["run"]
        grant = await self._starter.allow(request, session_id, "read")
        wanted, query = parse_read(request.scope["query_string"]), request.query_params
        path = self._runs.sessions.path_of(session_id)
        live = self._doors.live
        if wanted.live is not None:
            live.check(path)

        remote = self._doors.settings.remote

        def is_alive() -> bool:
            known = self._runs.unfinished(session_id, run_id) is not None
            return known or remote or not self._runs.recovery.done

        begin = query.get("from") or BEGINNING
        log_reader = await read_typed(self._doors.store.log, path, begin if remote else _before(begin), JSON)
        wire = ViewWire(whole=query.get("whole") == "true", continues=query.get("continues"))
        part = ViewPart(session_id, run_id, wire, resumes=_resumes_of(query.get("resumes")))
        reader = await ViewReader.open(log_reader, part, is_alive, wanted.offset or BEGINNING)
        return await reader_response(
            reader, wanted, request, self._doors.settings, live, path, headers=READ_HEADERS, until_s=grant.until_s
        )

    # For both transports.

    async def messages(self, request: Request) -> Response:
        """
        Answer with the session as `useChat` starts with it. An answer that is running is left out, with all that it
        continues: `resume` replays it.
        """
        session_id = _session_id(request)
        await self._starter.allow(request, session_id, "read")
        snapshot = await self._runs.snapshot(session_id)
        convert = to_ai_sdk_messages
        large = len(snapshot.messages) > CONVERTED_HERE_MAX
        messages = await asyncio.to_thread(convert, snapshot.messages) if large else convert(snapshot.messages)
        if snapshot.active_run is not None and messages and messages[-1]["role"] == "assistant":
            del messages[-1]
        return await state_response(replace(snapshot, messages=messages, kept=Kept()), request)

    async def stop(self, request: Request) -> Response:
        return await self._doors.stop(request, _session_id(request))


def _before(offset: str) -> str:
    """
    Return the offset one message earlier: a snapshot right before a run says what the run continues. Raises
    InvalidRequest.
    """
    life, position = decode_offset(offset)
    return encode_offset(life, position - 1) if position else offset


def _resumes_of(given: str | None) -> int:
    """Return the `resumes` of a view's address. What is not a number of them leaves nothing out."""
    is_number = given is not None and given.isascii() and given.isdecimal() and len(given) <= len(str(TIMES_MAX))
    return int(given or 0) if is_number else 0


def _session_id(request: Request) -> str:
    return check_session_id(request.path_params["id"])


def _continued(snapshot: SessionSnapshot) -> Earlier | None:
    answer = last_answer(snapshot.messages)
    return None if answer is None else Earlier.of(answer, replays=True)


def _ended_response(snapshot: SessionSnapshot, last: RunEnd) -> Response:
    """Answer with the last answer of a session, from its messages."""
    chunks: list[UIChunk] = []
    if (answer := last_answer(snapshot.messages)) is not None:
        chunks = [{"type": "start", "messageId": answer["id"]}, *replay_chunks(answer)]
    chunks.append(_end_chunk(last))
    return Response(encode_events(chunks) + DONE, headers={**HEADERS, **STREAM_HEADERS})


def _end_chunk(last: RunEnd) -> UIChunk:
    if last.status == "stopped":
        return {"type": "abort", "reason": "stopped"}
    if last.status == "finished":
        return {"type": "finish", "finishReason": "stop"}
    return {"type": "error", "errorText": last.error or UNKNOWN_ERROR}


def _located(status: int, url: str, run_id: str) -> Response:
    headers = {**NO_STORE, "Location": url, "Access-Control-Expose-Headers": "Location", "X-Run-Id": run_id}
    return Response(msgspec.json.encode({"streamUrl": url}), status, headers, media_type=JSON)
