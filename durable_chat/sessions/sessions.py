"""
A session: its stream, its single writer, and the messages that its chunks fold to.
"""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from durable_chat.config import SESSIONS_CACHED_BYTES_MAX, SESSIONS_CACHED_MAX, Settings
from durable_chat.errors import Conflict, DurableChatError, Gone, InvalidRequest, NotFound, StaleEpoch
from durable_chat.protocol.messages import JSON, is_json, join_messages
from durable_chat.protocol.offsets import BEGINNING, ZERO
from durable_chat.protocol.requests import Append, Create, Producer
from durable_chat.sessions.artifacts import Artifacts
from durable_chat.sessions.leases import Lease
from durable_chat.sessions.open_runs import Held
from durable_chat.sessions.stored_snapshots import StoredSnapshots, is_due
from durable_chat.sessions.turns import queued_turn
from durable_chat.sessions.writers import Writer, session_error
from durable_chat.store.base import Batch, Log, Reader, Records, RecordWrite, Store
from durable_chat.transcripts.attachments import Artifact
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.codec import LARGE_BYTES as LARGE_BYTES
from durable_chat.transcripts.codec import decode_chunks as decode_chunks
from durable_chat.transcripts.codec import decode_messages
from durable_chat.transcripts.codec import encode_chunks as encode_chunks
from durable_chat.transcripts.message_cache import Kept
from durable_chat.transcripts.run_ends import RunEnd
from durable_chat.transcripts.transcript import Snapshot, Transcript

ID_CHARS_MAX = 256
"""The maximum length of a session id, part of the API contract. It is enough for any URL used as an id."""

FOLD_SLICE_CHUNKS = 500
"""The number of chunks folded before other tasks run: one or two milliseconds."""

FOLDED_HERE_BYTES_MAX = 32 * 1024
"""Snapshots in longer batches are folded in a thread. A batch of this length takes a few milliseconds."""

STORING_WAIT_S = 5.0
"""How long storing snapshots may delay a shutdown."""

Made = TypeVar("Made")

log = logging.getLogger(__name__)


def check_session_id(session_id: str | None) -> str:
    """Return the id if it is valid. Raises InvalidRequest `bad_id`."""
    if not session_id:
        raise InvalidRequest("The session id is missing.", code="bad_id")
    if len(session_id) > ID_CHARS_MAX:
        raise InvalidRequest(f"A session id must have at most {ID_CHARS_MAX} characters.", code="bad_id")
    # Cc: control characters. Cs: halves of surrogate pairs, which a URL cannot contain.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in session_id):
        raise InvalidRequest("A session id must not contain control characters or unpaired surrogates.", code="bad_id")
    return session_id


def session_path(session_id: str) -> str:
    """The path of a session's stream: one segment, with the id percent-encoded once as JavaScript does."""
    return "chat-" + quote(check_session_id(session_id), safe="!*'()")


@dataclass(frozen=True, slots=True)
class SessionSnapshot(Snapshot):
    """
    A snapshot, the run that is being written from its offset on, the last run's end, and the cache of the encoded
    messages.
    """

    active_run: str | None
    last_run: RunEnd | None
    kept: Kept


class Line:
    """A first-in, first-out queue of tickets. The first ticket is done at once. Mutable state: `_tickets`."""

    def __init__(self) -> None:
        self._tickets: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    def join(self) -> asyncio.Future[None]:
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tickets.append(ticket)
        self._call()
        return ticket

    def leave(self, ticket: asyncio.Future[None]) -> None:
        self._tickets.remove(ticket)
        self._call()

    def _call(self) -> None:
        if self._tickets and not self._tickets[0].done():
            self._tickets[0].set_result(None)


class Session:
    """
    One session in memory. Mutable state: `transcript`, and the `position` up to which it is folded; the id of the
    stream it was folded from, where the log has ids; `queued`, the waiting runs in the transcript; `active`, the run
    being written; `line`, the queue of turns; `deletion`, the last deletion that joined it; `held`, the number of
    users; the size of the stored snapshot and the log bytes folded since; the run's writer, until its chunks are
    folded.

    While a run is active nothing is folded, so the transcript and position stay just before its RUN_STARTED. The same
    holds while `elsewhere`, a run of another process, is open on a log without records (see open_runs.py).
    """

    def __init__(
        self,
        log: Log,
        session_id: str,
        path: str,
        ttl_s: int | None = None,
        stored: StoredSnapshots | None = None,
        artifacts: Artifacts | None = None,
    ) -> None:
        self.id = session_id
        self.path = path
        self.line = Line()
        self.active: str | None = None
        self.elsewhere: str | None = None
        self.deletion: asyncio.Future[None] | None = None
        self.held = 0
        self.lock = asyncio.Lock()
        self._log = log
        self._ttl_s = ttl_s
        self._stored = stored
        self.artifacts = artifacts or Artifacts(log, None)
        self._exists = False
        self._forget()

    def _forget(self) -> None:
        self.transcript = Transcript()
        self.kept = Kept()
        self.position = BEGINNING
        self.folded_bytes = 0
        self.elsewhere = None
        self._stream_id = 0
        self.queued: dict[str, None] = {}
        self._stored_bytes = 0
        self._since_bytes = 0
        self._writer: Writer | None = None

    @property
    def offset(self) -> str:
        """The position as readers see it. A session that does not exist has the constant first offset."""
        return ZERO if self.position == BEGINNING else self.position

    def messages(self) -> list[dict[str, Any]]:
        return self.transcript.messages()

    def writer(self, lease: Lease, on_failure: Callable[[], None], **options: Any) -> Writer:
        """Return a writer for one run. If it fails, the next turn looks up the stream again."""

        def fail() -> None:
            self._exists = False
            on_failure()

        self._writer = Writer(self._log, self.path, fail, lease=lease, seq=self._place(), **options)
        return self._writer

    def _place(self) -> str | None:
        """The tail that an append must follow, where other processes may write. Otherwise the log refuses it."""
        return self.position if self._stored is None else None

    async def snapshot(self) -> SessionSnapshot:
        """
        Return the messages and their offset. While a run is active, both are those just before its RUN_STARTED, so a
        reload in the middle of the run replays it whole.
        """
        async with self.lock:
            if self.active is None:
                await self.catch_up()
            active = self.active or self.elsewhere
            return SessionSnapshot(self.messages(), self.offset, active, self.transcript.last_end, self.kept)

    # Writing.

    async def append(
        self,
        messages: Sequence[bytes],
        records: Sequence[RecordWrite] = (),
        *,
        placed: bool = False,
        producer: Producer | None = None,
    ) -> str:
        """
        Append chunks, creating the stream if needed, and return the tail after them. With `placed`, the append begins a
        turn and must follow the current position.
        """

        async def write() -> str:
            seq = self._place() if placed else None
            request = Append(join_messages(list(messages)), JSON, seq=seq, producer=producer)
            return (await self._log.append(self.path, request, records)).next_offset

        return await self._there(write)

    async def keep(self, files: Sequence[Artifact]) -> None:
        """Make files durable, before the chunks that refer to them."""
        if files:
            await self._there(lambda: self.artifacts.store(self.path, files))

    async def _there(self, write: Callable[[], Awaitable[Made]]) -> Made:
        """Return the result of a write to the stream, created if needed. Raises log errors as session errors."""
        try:
            for last in (False, True):
                await self.ensure()
                try:
                    return await write()
                except NotFound:  # deleted since the lookup: create it again
                    self._exists = False
                    if last:
                        raise
        except DurableChatError as error:
            self._exists = False
            raise session_error(error) from error
        raise AssertionError("one of the two attempts returned or raised")

    async def ensure(self) -> None:
        """Create the stream, or find it. Raises Conflict when the path holds a stream of another type."""
        if self._exists:
            return
        try:
            await self._log.create(self.path, Create(JSON, self._ttl_s))
        except Conflict:
            await self._accept_existing()
        self._exists = True

    async def _accept_existing(self) -> None:
        """Accept a stream that another client created, with any lifetime. Raises Conflict when its type is not JSON."""
        head = await self._log.head(self.path)
        if not is_json(head.content_type):
            raise Conflict("The session's stream is not JSON. Use another session id.", code="not_a_session")

    async def delete(self, last: Sequence[Chunk] = ()) -> None:
        """Append the `last` chunks for the readers, then delete the stream, if it exists, and what is stored."""
        async with self.lock:
            await self.artifacts.delete(self.path)
            try:
                if last:
                    with suppress(Conflict, StaleEpoch):  # a closed stream is deleted without them
                        await self._log.append(self.path, Append(join_messages(encode_chunks(last)), JSON))
                await self._log.delete(self.path)
            except (NotFound, Gone):
                pass
        await self.clear()

    async def clear(self) -> None:
        """Delete the folded state, the files and the stored snapshot of a session whose stream is deleted."""
        async with self.lock:
            await self.artifacts.delete(self.path)
            self._exists = False
            self._forget()
            if self._stored is not None:
                await self._stored.delete(self.path)

    # Stored snapshots.

    @property
    def is_due(self) -> bool:
        """Whether enough was appended since the last stored snapshot to store another one."""
        unfolded = 0 if self._writer is None else self._writer.taken_bytes
        return self._stored is not None and is_due(self._since_bytes + unfolded, self._stored_bytes)

    async def store(self) -> None:
        """Store a snapshot if one is due. Raises what the log and the store raise."""
        async with self.lock:
            if self.active is None:
                await self.catch_up()
            if self._stored is None or not is_due(self._since_bytes, self._stored_bytes):
                return
            if self.queued:  # a snapshot does not contain waiting runs; they are folded from the log
                return
            stream_id, offset = self._stream_id, self.position
            # Folding needs the lock, so the transcript does not change here.
            lines = await asyncio.to_thread(list, self.transcript.lines())
            self._since_bytes = 0
        size = await self._stored.save(self.path, stream_id, offset, lines)
        async with self.lock:
            if self._stream_id == stream_id:
                self._stored_bytes = size
            else:  # deleted meanwhile
                await self._stored.delete(self.path)

    async def _restore(self) -> None:
        """Load the stored snapshot, if any. Raises NotFound or Gone when there is no stream."""
        if self._stored is None:
            return
        head = await self._log.head(self.path)
        found = await self._stored.load(self.path, head.id, head.next_offset)
        if found is not None:
            self.transcript, self.position, self._stream_id = found.transcript, found.offset, head.id
            self.folded_bytes = self._stored_bytes = found.size

    # Folding.

    async def catch_up(self) -> None:
        """Fold the part of the log that is not folded yet. The caller holds the lock, and no run is active."""
        assert self.active is None
        for _ in range(2):
            try:
                if self.position == BEGINNING:
                    await self._restore()
                return await self._read_on()
            except (NotFound, Gone, InvalidRequest):  # no stream, or the position is invalid in it
                self._exists = False
                if self.position == BEGINNING:
                    return None
                self._forget()
        return None

    async def _read_on(self) -> None:
        reader = await self._reader()
        held = Held(self.elsewhere)
        try:
            while True:
                batch = await reader.next()
                await self._fold(batch, held)
                if held.sought is None:
                    self.elsewhere = held.run_id
                    self.position = batch.next_offset if held.run_id is None else held.offset
                if batch.up_to_date:
                    if held.sought is not None:
                        raise NotFound("The stream has been replaced by another one.")
                    self._writer = None
                    return
        finally:
            await reader.aclose()

    async def _reader(self) -> Reader:
        """Return a reader at the position. Raises NotFound when another stream has taken the path."""
        reader = await self._log.read(self.path, self.position)
        head = reader.head
        if self.position != BEGINNING and (head.id != self._stream_id or head.next_offset < self.position):
            await reader.aclose()
            raise NotFound("The stream has been replaced by another one.")
        self._stream_id = head.id
        if not is_json(head.content_type):
            await reader.aclose()
            raise Conflict("The session's stream is not JSON. Use another session id.", code="not_a_session")
        return reader

    async def _fold(self, batch: Batch, held: Held) -> None:
        data = batch.data
        if not data:
            return
        large = len(data) > LARGE_BYTES
        found = await asyncio.to_thread(decode_messages, data) if large else decode_messages(data)
        chunks = held.release(found, batch.offset) if self._stored is None else filter(None, found)
        for at, chunk in enumerate(chunks, 1):
            if len(data) > FOLDED_HERE_BYTES_MAX and chunk["type"] == "MESSAGES_SNAPSHOT":
                await self.transcript.fold_apart(chunk)
            else:
                self.transcript.fold(chunk)
            self._note_turn(chunk)
            if at % FOLD_SLICE_CHUNKS == 0:
                await asyncio.sleep(0)
        self.folded_bytes += len(data)
        self._since_bytes += len(data)

    def _note_turn(self, chunk: Chunk) -> None:
        if chunk["type"] == "CUSTOM":
            if (turn := queued_turn(chunk)) is not None:
                self.queued[turn[0]] = None
        elif self.queued and chunk["type"] in ("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"):
            self.queued.pop(str(chunk.get("runId")), None)


class Sessions:
    """
    The sessions of one log that are in memory: those in use, and the most recently used ones within two limits.

    Mutable state: `_used`; `_idle`, ordered by last use, and `_idle_bytes`, the bytes they were folded from;
    `_storing`, the tasks that store snapshots, by session; `_closed`, set when no more snapshots are stored; `hits` and
    `misses`, how often an unused session was or was not in memory.
    """

    def __init__(
        self,
        log: Log,
        *,
        path_of: Callable[[str], str] = session_path,
        ttl_s: int | None = None,
        records: Records | None = None,
        idle_max: int = SESSIONS_CACHED_MAX,
        idle_bytes_max: int = SESSIONS_CACHED_BYTES_MAX,
    ) -> None:
        self.hits = self.misses = 0
        self._idle_max = idle_max
        self._idle_bytes_max = idle_bytes_max
        self.path_of = path_of
        self.stored = None if records is None else StoredSnapshots(log, records)
        self.artifacts = Artifacts(log, records)
        self._storing: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._log = log
        self._ttl_s = ttl_s
        self._used: dict[str, Session] = {}
        self._idle: OrderedDict[str, Session] = OrderedDict()
        self._idle_bytes = 0

    @classmethod
    def of(cls, store: Store, settings: Settings) -> Sessions:
        return cls(
            store.log,
            ttl_s=settings.session_ttl_s,
            records=store.records,
            idle_max=settings.sessions_cached_max,
            idle_bytes_max=settings.sessions_cached_bytes_max,
        )

    @property
    def count(self) -> int:
        """The number of sessions in memory."""
        return len(self._used) + len(self._idle)

    @property
    def idle_bytes(self) -> int:
        return self._idle_bytes

    @contextmanager
    def hold(self, session_id: str) -> Iterator[Session]:
        """Keep the session in memory while the context is open. Raises InvalidRequest for an invalid id."""
        session = self.take(session_id)
        try:
            yield session
        finally:
            self.release(session)

    def take(self, session_id: str) -> Session:
        """Return the session and keep it in memory until it is released."""
        session = self._used.get(session_id)
        if session is None:
            session = self._idle.pop(session_id, None)
            if session is None:
                self.misses += 1
                path = self.path_of(session_id)
                session = Session(self._log, session_id, path, self._ttl_s, self.stored, self.artifacts)
            else:
                self.hits += 1
                self._idle_bytes -= session.folded_bytes
            self._used[session_id] = session
        session.held += 1
        return session

    def release(self, session: Session) -> None:
        if session.is_due and session.id not in self._storing and not self._closed:
            self._storing[session.id] = asyncio.create_task(self._store(session.id), name=f"store {session.path}")
        assert session.held > 0
        session.held -= 1
        if session.held:
            return
        if session.position == BEGINNING:  # nothing to cache
            del self._used[session.id]
            return
        self._idle[session.id] = self._used.pop(session.id)
        self._idle_bytes += session.folded_bytes
        while len(self._idle) > self._idle_max or self._idle_bytes > self._idle_bytes_max:
            _, oldest = self._idle.popitem(last=False)
            self._idle_bytes -= oldest.folded_bytes

    async def _store(self, session_id: str) -> None:
        """Store a snapshot in a task, so that the caller does not wait for it. Failures are only logged."""
        try:
            with self.hold(session_id) as session:
                await session.store()
        except DurableChatError as error:
            log.warning("the snapshot of session %r was not stored: %s", session_id, error.code)
        except Exception:
            log.exception("storing the snapshot of session %r failed because of an internal error", session_id)
        finally:
            del self._storing[session_id]

    async def close(self, timeout_s: float = STORING_WAIT_S) -> None:
        """Store no more snapshots, and wait a limited time for those in progress. A missing one is no loss."""
        self._closed = True
        await self.artifacts.close()
        tasks = list(self._storing.values())
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
