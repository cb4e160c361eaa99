"""
Responses that are one run: they follow the session's log from the beginning of the run to its end, and render it on a
frontend's wire.

A response lasts as long as its run. Neither a shutdown nor the time limit of other live reads ends it, because most of
these clients cannot resume: a run that a shutdown interrupts ends with its own RUN_ERROR. If the client disconnects,
the run continues.

A waiting response is a few small objects and no task. The code that commits a batch renders it and writes it to the
connection. A client that reads too slowly gets what it missed from the store, at its own pace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from durable_chat.api.doors.wires import RunPart, Wire
from durable_chat.api.starting import Starter
from durable_chat.config.settings import Settings
from durable_chat.errors import Conflict, DurableChatError, Unavailable
from durable_chat.http.followers import LINE, Line
from durable_chat.http.headers import NO_STORE
from durable_chat.http.lines import SentLine
from durable_chat.http.reads import LiveReads, UnsizedResponse, read_typed, remaining_s
from durable_chat.http.tokens import expired_token
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.running.runs import Runs
from durable_chat.store.base import Batch, FollowingReader, Reader, Store
from durable_chat.transcripts.codec import LARGE_BYTES, decode_aside, decode_messages
from durable_chat.transcripts.runs.ends import INTERRUPTED, INTERRUPTED_CODE

SILENT_LEASES_MAX = 3
"""
After so many leases without a chunk, a run of another process is considered dead. Such a run writes at least one chunk
in each lease.
"""

RECOVERY_WAIT_S = 20.0
"""How long a request is held while the server ends the runs of a crash: longer than that takes for 10,000 runs."""

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "Vary": "Authorization, Cookie, Origin",
    "X-Accel-Buffering": "no",
}
"""Headers of every response, before those of its wire. Proxies must neither buffer nor compress it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doors:
    """What every door has: the starter of turns, and the means to follow them."""

    starter: Starter
    store: Store
    live: LiveReads

    @property
    def runs(self) -> Runs:
        return self.starter.runs

    @property
    def settings(self) -> Settings:
        return self.starter.settings

    async def answer(
        self, request: Request, session_id: str, posted: Posted, make_wire: Callable[[Run], Wire]
    ) -> RunResponse:
        """
        Start a turn that the caller may send, and return its run as the response. The caller must also be allowed to
        read the session. Raises what `Starter.start` raises, and TooManyRequests; nothing has been written then.
        """
        return await self.answer_started(
            request, session_id, lambda: self.starter.start(request, session_id, posted), make_wire
        )

    async def answer_started(
        self, request: Request, session_id: str, start: Callable[[], Awaitable[Run]], make_wire: Callable[[Run], Wire]
    ) -> RunResponse:
        """As `answer`, with a run that `start` starts. It is called once everything else is known to be possible."""
        grant = await self.starter.allow(request, session_id, "read")
        self.live.check(self.runs.sessions.path_of(session_id))
        await self.settled()
        run = await start()
        assert run.offset is not None
        part = RunPart(session_id, run.id, make_wire(run))
        return await self._follow(part, run.offset, run, grant.until_s)

    async def stop(self, request: Request, session_id: str) -> Response:
        """Stop the run that the query names as `runId`, or all of the session. Return the ids of those stopped."""
        await self.starter.allow(request, session_id, "stop")
        stopped = await self.runs.stop(session_id, request.query_params.get("runId"))
        return Response(msgspec.json.encode({"stopped": stopped}), headers=NO_STORE, media_type=JSON)

    async def settled(self) -> None:
        """
        Hold a request until the runs of a crash have ended. Clients of these responses take an error status for the end
        of their run. Raises Unavailable if it takes too long.
        """
        recovery = self.runs.recovery
        if not recovery.done:
            with suppress(TimeoutError):
                await asyncio.wait_for(recovery.ready.wait(), RECOVERY_WAIT_S)
        if not recovery.done:
            raise Unavailable("The server is starting. Try again in a moment.", code="recovering")

    async def follow_run(
        self,
        session_id: str,
        run_id: str,
        offset: str,
        wire: Wire,
        *,
        inside: bool = False,
        with_others: bool = False,
        is_new: bool = False,
        until_s: float | None = None,
    ) -> RunResponse:
        """
        Return a run that began earlier as the response, from an offset before its beginning, or with `inside`, from one
        inside it. `with_others` is as in `RunPart`. With `is_new`, the client has nothing of the run, and gets nothing
        that was dropped when it was answered anew. `until_s` (Unix time) is the end of the caller's permission. Raises
        what `Log.read` raises, and TooManyRequests.
        """
        run = self.runs.unfinished(session_id, run_id)
        path = self.runs.sessions.path_of(session_id)
        if run is None:
            self.live.check(path)
        else:  # a shutdown waits for this run, so it can be followed to its end
            self.live.check_room(path)
        resumes = run.resumes if is_new and run is not None else 0
        part = RunPart(session_id, run_id, wire, inside=inside, with_others=with_others, resumes=resumes)
        return await self._follow(part, offset, run, until_s)

    async def _follow(self, part: RunPart, offset: str, run: Run | None, until_s: float | None) -> RunResponse:
        path = self.runs.sessions.path_of(part.session_id)
        reader = await read_typed(self.store.log, path, offset or BEGINNING, JSON)
        return RunResponse(Followed(part, reader, run, path, until_s), self)


class Place(Protocol):
    """Where a run is followed: what writes it, the registry of live reads, and the settings. `Doors` is one."""

    @property
    def runs(self) -> Runs: ...

    @property
    def live(self) -> LiveReads: ...

    @property
    def settings(self) -> Settings: ...


@dataclass(frozen=True, slots=True)
class Followed:
    """What a response follows: the part of the log, its reader, and the run if this process carries it out."""

    part: RunPart
    reader: Reader
    run: Run | None
    path: str
    until_s: float | None = None


class RunResponse(UnsizedResponse):
    """See this module."""

    def __init__(self, followed: Followed, place: Place) -> None:
        self.followed = followed
        self.place = place
        headers = {**HEADERS, "X-Run-Id": followed.part.run_id, **followed.part.wire.headers}
        super().__init__(status_code=200, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = self.followed.reader
        given: Line | None = scope.get("extensions", {}).get(LINE, {}).get("line")
        line = SentLine(send) if given is None else given
        # In chunks, so that the client can tell a killed server from the end of the run. Other servers do so by default.
        # A wire that says `Connection: close` has clients that resume after any end but that of the run.
        in_chunks = given is not None and "Connection" not in self.followed.part.wire.headers
        headers = [*self.raw_headers, *([(b"transfer-encoding", b"chunked")] if in_chunks else [])]
        handed_over = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            follower = RunFollower(self.followed, line, self.place)
            handed_over = isinstance(reader, FollowingReader)
            reading = follower.begin()
            if isinstance(line, SentLine):
                await line.serve(receive)
            if not handed_over:  # this reader has a connection, which must be closed
                await asyncio.wait([reading])
        finally:
            if not handed_over:
                await reader.aclose()


class RunFollower:
    """
    Follows a run for one response. Mutable state: `_open`, until the end; `_task`, while the response reads from the
    store, or always on a remote log; `_unsent`, rendered bytes that are sent before anything else; `_ended`, once the
    run has ended in this process and the log was not read since; `_written_s`, the time of the last write; `_timer`, to
    the next ping; `_expiry`, to the end of the permission.
    """

    def __init__(self, followed: Followed, line: Line, place: Place) -> None:
        self._part = followed.part
        self._reader = followed.reader
        self._run = followed.run
        self._path = followed.path
        self._until_s = followed.until_s
        self._line = line
        self._runs = place.runs
        self._live = place.live
        self._remote = place.settings.remote
        self._ping_s = place.settings.sse_ping_s
        self._lease_s = place.settings.lease_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._open = self._ended = False
        self._unsent = b""
        self._written_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle
        self._expiry: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[None]:
        """Take over the response after its head was sent. Return the task that reads from the store."""
        self._open = True
        self._unsent = self._part.wire.begin()
        self._written_s = self._loop.time()
        self._timer = self._loop.call_later(self._ping_s, self._tick)
        if (left_s := remaining_s(self._until_s)) is not None:
            self._expiry = self._loop.call_later(left_s, self._fail, expired_token())
        self._live.join(self._path, self._shut)
        if self._run is not None:
            self._run.ended.add_done_callback(self._on_ended)
        task = self._task = self._loop.create_task(self._read(), name="run response")
        self._line.detach(self._stop)
        return task

    def _stop(self) -> None:
        """Let go of everything, because the response is over or the client has disconnected."""
        if not self._open:
            return
        self._open = False
        self._live.leave(self._path, self._shut)
        self._timer.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._run is not None:
            self._run.ended.remove_done_callback(self._on_ended)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None
        if isinstance(self._reader, FollowingReader):
            self._reader.close()
        # The reader refers to this follower. Breaking the cycle frees both without the garbage collector.
        del self._reader

    def _finish(self) -> None:
        if self._open:
            self._stop()
            self._line.finish()

    def _fail(self, error: DurableChatError) -> None:
        """End the response with an error on the wire. A client that reads too slowly for it is disconnected."""
        if not self._open:
            return
        told = self._line.push(self._part.fail(error.message, error.code))
        self._stop()
        if told:
            self._line.finish()
        else:
            self._line.cut()

    def _shut(self) -> None:
        """At a shutdown, disconnect from a run of another process. Runs of this process end by themselves."""
        if self._open and not self._is_alive():
            self._stop()
            self._line.cut()

    def _is_alive(self) -> bool:
        """Return whether this process writes the run, or will."""
        return self._runs.unfinished(self._part.session_id, self._part.run_id) is not None

    def _lost(self) -> DurableChatError:
        failure = None if self._run is None else self._run.failure
        return failure or Unavailable(INTERRUPTED, code=INTERRUPTED_CODE)

    def _on_ended(self, _: asyncio.Future[None]) -> None:
        """Read the rest of the log: the run's end is there, or will never be."""
        self._ended = True
        self._fall_behind()

    # Reading from the store, in a task.

    def _fall_behind(self) -> None:
        if self._open and self._task is None:
            self._task = self._loop.create_task(self._read(), name="run response")

    async def _read(self) -> None:
        """Read and send at the client's pace, up to the tail, or to the end on a remote log."""
        reader = self._reader
        try:
            await self._send(self._unsent)
            self._unsent = b""
            if not isinstance(reader, FollowingReader):
                await self._pump(reader)
            elif not await self._catch_up(reader):
                self._task = None
                return
            self._finish()
        except DurableChatError as error:
            self._fail(error)
        except Exception:
            log.exception("the response of run %s ended because of an internal error", self._part.run_id)
            self._fail(_internal())

    async def _catch_up(self, reader: FollowingReader) -> bool:
        """Return whether the run has ended. Otherwise the response follows the tail."""
        while not self._part.has_ended:
            self._ended = False
            is_alive = self._is_alive()  # asked first: what a run writes before it ends is then read below
            before = reader.offset
            batch = await reader.next()
            if batch.next_offset < before:
                raise Conflict("The session was deleted during the answer.", code="session_deleted")
            await self._relay(batch)
            if not self._part.has_ended and reader.follow(self._take, self._fall_behind):
                if not is_alive and self._run is not None and self._run.left:  # its client resumes at the next process
                    self._stop()
                    self._line.cut()
                    return True
                if not is_alive:
                    raise self._lost()
                if not self._ended:
                    return False
        return True

    async def _pump(self, reader: Reader) -> None:
        """Relay a remote log until the run has ended."""
        heard_s = self._loop.time()
        while not self._part.has_ended:
            is_alive = self._is_alive()
            batch = await reader.next(min(self._ping_s, self._lease_s))
            if batch.data or not batch.up_to_date:
                heard_s = self._loop.time()
                await self._relay(batch)
            elif not is_alive:
                failed = self._run is not None and self._run.failure is not None
                if failed or self._loop.time() - heard_s > SILENT_LEASES_MAX * self._lease_s:
                    raise self._lost()

    async def _relay(self, batch: Batch) -> None:
        if batch.data:
            await self._send(self._part.take(await decode_aside(batch.data), batch, remote=self._remote))
        if batch.closed and not self._part.has_ended:
            raise Conflict("The session's stream is closed. Start a new session.", code="session_closed")

    async def _send(self, frame: bytes) -> None:
        if frame:
            await self._line.send({"type": "http.response.body", "body": frame, "more_body": True})
            self._written_s = self._loop.time()

    # Following the tail, without a task.

    def _take(self, batch: Batch) -> bool:
        """
        Send a batch that was just committed. Return False when it must be read in the task: the client reads too
        slowly, or the batch is large.
        """
        if self._task is not None or batch.closed or len(batch.data) > LARGE_BYTES:
            return False
        try:
            messages = decode_messages(batch.data)
            frame = self._part.take(messages, batch, remote=self._remote)
        except Exception:
            log.exception("the response of run %s ended because of an internal error", self._part.run_id)
            self._fail(_internal())
            return True
        if frame:
            if not self._line.push(frame):
                self._unsent = frame
                self._part.skip(len(messages))
                return False
            self._written_s = self._loop.time()
        if self._part.has_ended:
            self._finish()
        return True

    def _tick(self) -> None:
        """Send a ping if nothing else was written since the last one."""
        now_s = self._loop.time()
        if now_s >= self._written_s + self._ping_s:
            self._line.push(self._part.wire.ping)
            self._written_s = now_s
        self._timer = self._loop.call_at(self._written_s + self._ping_s, self._tick)


def _internal() -> DurableChatError:
    return DurableChatError("Something went wrong on the server.")
