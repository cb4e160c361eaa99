"""
`/api/events`: any number of sessions over one SSE response, for browsers with many tabs and for dashboards.

    GET /api/events?session=<offset>,<id>&session=<offset>,<id>

A POST has the same pairs as a form in its body, which may be longer than an address.

Offsets contain no comma, so the id begins after the first comma and may contain any character. There are three events:

    event: chunks    {"session", "offset", "chunks": [...]}          the offset is the position after the chunks
    event: control   {"session", "offset"}                           the position of a session without new chunks
    event: refusal   {"session", "status", "code", "error", "retryAfter"?}   the session is no longer followed

The first two have `"upToDate": true` at the tail, and `"closed": true` at the end of a closed stream. Chunks and their
offset are in one event, so a client that was disconnected resumes with the offsets of the last whole events.

Each session is authorized separately. A refused session gets an event, and the others continue. If the request names
only one session, its refusal is the response.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from durable_chat.api.catch_up import Opening
from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError, InvalidRequest, TooManyRequests, Unavailable
from durable_chat.http.followers import LINE, Line
from durable_chat.http.lines import SentLine
from durable_chat.http.reads import SSE_SPREAD, LiveReads, UnsizedResponse, remaining_s
from durable_chat.http.tokens import expired_token
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.sse import PING, encode_event
from durable_chat.sessions.sessions import check_session_id
from durable_chat.store.base import Batch, FollowingReader, Reader

SESSIONS_MAX = 200
"""
The maximum number of sessions in one response. With ids of 36 characters the URL has 18 KB, which this server and
uvicorn accept. For more than 80 sessions, nginx needs `large_client_header_buffers 4 32k`.
"""
SESSIONS_POSTED_MAX = 1000
"""
The maximum number of sessions that a POST may name. Each takes a reader and an authorization, again with every
reconnect.
"""
POSTED_BYTES_MAX = 1024 * 1024
"""The maximum size of that body: room for ids of the maximum length, percent-encoded."""
OPENINGS_AT_ONCE = 8
"""Sessions of one response that are opened concurrently: an application's hook may query a database for each."""
HEADERS = {
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization, Cookie, Origin",
    "X-Accel-Buffering": "no",
    "Content-Type": "text/event-stream",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """
    A session that may be read: its stream's `path`, a reader, and the expiry of the permission (Unix time), if any.
    `opening` is what a restarted reader receives first.
    """

    path: str
    reader: Reader
    until_s: float | None = None
    opening: Opening | None = None


Open = Callable[[str, str], Awaitable[Opened]]
"""
Opens a session at an offset for the caller. Raises DurableChatError or HTTPException if the caller may not read it.
"""


def parse_sessions(query: bytes, sessions_max: int = SESSIONS_MAX) -> dict[str, str]:
    """Return the offset of each session in a query or a form, by session id. Raises InvalidRequest."""
    try:
        text = query.decode("latin-1")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=4 * sessions_max)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The query is malformed, or names more than {sessions_max} sessions.") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name != "session":
            continue
        offset, comma, session_id = value.partition(",")
        if not comma:
            raise InvalidRequest(f'`session` must be "<offset>,<id>", not "{value[:80]}".', code="bad_session")
        if check_session_id(session_id) in found:
            raise InvalidRequest("The query names a session twice.", code="bad_session")
        found[session_id] = offset or BEGINNING
    if not found:
        raise InvalidRequest('Name the sessions to follow: "session=<offset>,<id>", once for each.', code="bad_session")
    if len(found) > sessions_max:
        more = (
            f"POST /api/events takes up to {SESSIONS_POSTED_MAX}." if sessions_max == SESSIONS_MAX else "Use several."
        )
        message = f"This request may name at most {sessions_max} sessions, not {len(found)}. {more}"
        raise InvalidRequest(message, code="too_many_sessions")
    return found


class EventsResponse(UnsizedResponse):
    """
    The response that follows sessions (offsets by id), some of which are `opened` already. It ends cleanly like every
    live read, and clients reconnect with their offsets.
    """

    def __init__(
        self,
        sessions: Mapping[str, str],
        opened: Mapping[str, Opened],
        open_session: Open,
        settings: Settings,
        live: LiveReads,
    ) -> None:
        self.sessions = sessions
        self.ready = opened
        self.open_session = open_session
        self.live = live
        self.ping_s = settings.sse_ping_s
        self.lasts_s = settings.sse_s * random.uniform(1 - SSE_SPREAD, 1 + SSE_SPREAD)
        super().__init__(status_code=200, headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            for opened in self.ready.values():
                await opened.reader.aclose()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        given: Line | None = scope.get("extensions", {}).get(LINE, {}).get("line")
        line = SentLine(send) if given is None else given
        events = Events(line, self.live, self.ping_s)
        events.begin(self.lasts_s)
        opening = self._open_all(events)
        if isinstance(line, SentLine):
            await asyncio.gather(opening, line.serve(receive))
        else:
            await opening  # authorization may need the request, which ends when this returns

    async def _open_all(self, events: Events) -> None:
        left = iter(self.sessions.items())
        await asyncio.gather(*(self._open_some(events, left) for _ in range(min(OPENINGS_AT_ONCE, len(self.sessions)))))
        events.opened()

    async def _open_some(self, events: Events, left: Iterator[tuple[str, str]]) -> None:
        for session_id, offset in left:
            if not events.is_open:
                return
            try:
                opened = self.ready.get(session_id) or await self.open_session(session_id, offset)
                await events.add(session_id, opened)
            except Exception as error:  # noqa: BLE001 (the client gets a refusal; bugs are logged)
                events.refuse(session_id, error)


class Part:
    """
    One session of a response. Mutable state: `offset`, the position after what was written, or None before the first
    event; `pump`, the task of a reader that cannot follow; `timer`, to the expiry of the permission.
    """

    __slots__ = ("name", "offset", "path", "pump", "reader", "session_id", "timer")

    def __init__(self, session_id: str, opened: Opened) -> None:
        self.session_id = session_id
        self.name = msgspec.json.encode(session_id)
        self.path = opened.path
        self.reader = opened.reader
        self.offset: str | None = None
        self.pump: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def open(self, opening: Opening) -> bytes:
        """Return the first event of a restarted session."""
        self.offset = opening.offset
        head = b'{"session":%b,"offset":"%b"' % (self.name, opening.offset.encode())
        return encode_event(b"chunks", b'%b,"chunks":[%b]}' % (head, opening.chunk))

    def frame(self, batch: Batch) -> bytes:
        """Return the batch as one event, or nothing if it has no news."""
        if not batch.data and not batch.closed and batch.next_offset == self.offset:
            return b""
        self.offset = batch.next_offset
        end = b',"closed":true,"upToDate":true' if batch.closed else b',"upToDate":true' if batch.up_to_date else b""
        head = b'{"session":%b,"offset":"%b"%b' % (self.name, batch.next_offset.encode(), end)
        if batch.data:
            return encode_event(b"chunks", b'%b,"chunks":[%b]}' % (head, batch.data))
        return encode_event(b"control", head + b"}")


class Events:
    """
    The sessions of one open response. Sessions at their tail are small objects that are notified of commits. Sessions
    behind their tail take turns, one batch each, so that a long one does not delay the others.

    Mutable state: `_parts`, by session; `_behind`, the sessions that read from the store, and `_task`, which reads for
    them; `_opening`, until every session is opened or refused; `is_open`, until the end; `_timer`, to the next ping or
    the end; `_written_s`, the time of the last write.
    """

    def __init__(self, line: Line, live: LiveReads, ping_s: float) -> None:
        self._line = line
        self._live = live
        self._ping_s = ping_s
        self._parts: dict[str, Part] = {}
        self._behind: deque[Part] = deque()
        self._task: asyncio.Task[None] | None = None
        self._opening = True
        self.is_open = False
        self._clock = asyncio.get_running_loop().time
        self._written_s = self._ends_s = 0.0
        self._timer: asyncio.TimerHandle

    def begin(self, lasts_s: float) -> None:
        """Take over the response after its head was sent."""
        self.is_open = True
        self._written_s = self._clock()
        self._ends_s = self._written_s + lasts_s
        self._live.join_response(self.end)
        self._timer = asyncio.get_running_loop().call_later(min(self._ping_s, lasts_s), self._tick)
        self._line.detach(self._stop)

    async def add(self, session_id: str, opened: Opened) -> None:
        """Follow a session, unless the response has ended meanwhile."""
        if not self.is_open:
            await opened.reader.aclose()
            return
        part = self._parts[session_id] = Part(session_id, opened)
        self._live.join(part.path, self.end, counted=False)
        if (left_s := remaining_s(opened.until_s)) is not None:
            expire = partial(self.refuse, session_id, expired_token())
            part.timer = asyncio.get_running_loop().call_later(left_s, expire)
        if opened.opening is not None:
            await self._send(part.open(opened.opening))
            if self._parts.get(session_id) is not part:
                return
        if isinstance(part.reader, FollowingReader):
            self._fall_behind(part)
        else:
            part.pump = asyncio.create_task(self._pump(part), name="events")

    def opened(self) -> None:
        """Record that no more sessions will be added."""
        self._opening = False
        self._end_if_empty()

    def refuse(self, session_id: str, error: Exception) -> None:
        """End one session, and send the reason."""
        if not self.is_open:
            return
        self._drop(session_id)
        self._write(encode_event(b"refusal", msgspec.json.encode(_refusal(session_id, error))))
        self._end_if_empty()

    def end(self) -> None:
        """End the response cleanly."""
        if self.is_open:
            self._stop()
            self._line.finish()

    def _stop(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._live.leave_response(self.end)
        self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None
        for session_id in list(self._parts):
            self._drop(session_id)
        self._behind.clear()

    def _drop(self, session_id: str) -> None:
        part = self._parts.pop(session_id, None)
        if part is None:
            return
        self._live.leave(part.path, self.end, counted=False)
        if part.timer is not None:
            part.timer.cancel()
        if part.pump is not None:
            part.pump.cancel()
        elif isinstance(part.reader, FollowingReader):
            part.reader.close()
        # The reader refers to this part. Breaking the cycle frees both without the garbage collector.
        del part.reader

    def _end_if_empty(self) -> None:
        if not self._parts and not self._opening:
            self.end()

    # Sessions of a log in this process.

    def _fall_behind(self, part: Part) -> None:
        self._behind.append(part)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._catch_up(), name="events")

    async def _catch_up(self) -> None:
        """Read and send for the sessions that are behind, in turn, as fast as the client reads."""
        while self._behind:
            part = self._behind.popleft()
            if self._parts.get(part.session_id) is not part:
                continue
            try:
                await self._advance(part)
            except Exception as error:  # noqa: BLE001 (the client gets a refusal; bugs are logged)
                self.refuse(part.session_id, error)
        self._task = None

    async def _advance(self, part: Part) -> None:
        reader = part.reader
        assert isinstance(reader, FollowingReader)
        batch = await reader.next()
        if frame := part.frame(batch):
            await self._send(frame)
        if self._parts.get(part.session_id) is not part:
            return
        if batch.closed:
            self._drop(part.session_id)
            self._end_if_empty()
        elif not reader.follow(partial(self._take, part), partial(self._fall_behind, part)):
            self._behind.append(part)

    def _take(self, part: Part, batch: Batch) -> bool:
        """
        Send a batch that was just committed. Return False when the client reads too slowly, so that the session falls
        behind.
        """
        before = part.offset
        if not self._line.push(part.frame(batch)):
            part.offset = before
            return False
        self._written_s = self._clock()
        if batch.closed:
            self._drop(part.session_id)
            self._end_if_empty()
        return True

    # Sessions of a remote log, each with a connection of its own.

    async def _pump(self, part: Part) -> None:
        reader = part.reader
        try:
            batch = await reader.next()
            while not batch.closed:
                if frame := part.frame(batch):
                    await self._send(frame)
                batch = await reader.next(self._ping_s)
            await self._send(part.frame(batch))
        except Exception as error:  # noqa: BLE001 (the same)
            part.pump = None
            self.refuse(part.session_id, error)
        else:
            part.pump = None
            self._drop(part.session_id)
            self._end_if_empty()
        finally:
            await reader.aclose()

    # The response.

    async def _send(self, frame: bytes) -> None:
        await self._line.send({"type": "http.response.body", "body": frame, "more_body": True})
        self._written_s = self._clock()

    def _write(self, frame: bytes) -> None:
        """Write a short event that cannot be read again. A client that reads nothing is disconnected."""
        if self._line.push(frame):
            self._written_s = self._clock()
        else:
            self._stop()
            self._line.cut()

    def _tick(self) -> None:
        """End the response when its time has come, or send a ping if nothing else was written since the last one."""
        now_s = self._clock()
        if now_s >= self._ends_s:
            self.end()
            return
        if now_s >= self._written_s + self._ping_s:
            self._line.push(PING)
            self._written_s = now_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(min(self._written_s + self._ping_s, self._ends_s), self._tick)


def _refusal(session_id: str, error: Exception) -> dict[str, object]:
    """Describe why a session is no longer followed, like the response of a separate request would."""
    if isinstance(error, DurableChatError):
        said: dict[str, object] = {"status": error.status, "code": error.code, "error": error.message}
        if isinstance(error, TooManyRequests | Unavailable):
            said["retryAfter"] = int(error.headers["Retry-After"])
    elif isinstance(error, HTTPException):
        said = {"status": error.status_code, "code": "http_error", "error": str(error.detail)}
    else:
        log.error("a session of an event stream ended because of an internal error", exc_info=error)
        said = {"status": 500, "code": "internal", "error": "Something went wrong on the server."}
    return {"session": session_id, **said}
