"""
A session: its stream, its one writer, and the messages its chunks fold to.
"""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from durable_chat.chat.chunks import Chunk, InvalidChunk, decode_chunk, encode_chunk
from durable_chat.chat.leases import Lease
from durable_chat.chat.snapshots import Snapshot, Transcript
from durable_chat.chat.stored_snapshots import StoredSnapshots, is_due
from durable_chat.chat.turns import queued_turn
from durable_chat.chat.writers import Writer, session_error
from durable_chat.errors import Conflict, DurableChatError, Gone, InvalidRequest, NotFound
from durable_chat.protocol.messages import JSON, is_json, join_messages
from durable_chat.protocol.offsets import BEGINNING, ZERO
from durable_chat.protocol.requests import Append, Create
from durable_chat.store.base import Log, Reader, Records, RecordWrite

ID_CHARS_MAX = 256
"""What the contract of routes says; long enough for any address a frontend may use as its session's name."""

SESSIONS_MAX = 1_000
"""Idle sessions kept folded in memory. One that was let go is folded again from the log when it is asked for."""

FOLDED_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of log that the idle sessions kept in memory were folded from; what they take is less."""

FOLD_SLICE_CHUNKS = 500
"""Chunks folded before other tasks get a turn: one or two milliseconds."""

LARGE_BYTES = 256 * 1024
"""A batch of the log from here on is decoded in a thread."""

STORING_WAIT_S = 5.0
"""How long the storing of snapshots may hold up a shutdown."""

log = logging.getLogger(__name__)

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


class _SnapshotChunk(msgspec.Struct):
    """A MESSAGES_SNAPSHOT, whose messages are decoded one by one, so that no step is long."""

    type: str
    messages: list[msgspec.Raw]


_SNAPSHOT = msgspec.json.Decoder(_SnapshotChunk)


def check_session_id(session_id: str | None) -> str:
    """The id, when it is one. Raises InvalidRequest `bad_id`."""
    if not session_id:
        raise InvalidRequest("The session id is missing.", code="bad_id")
    if len(session_id) > ID_CHARS_MAX:
        raise InvalidRequest(f"A session id has at most {ID_CHARS_MAX} characters.", code="bad_id")
    # Cc are control characters; Cs are halves of surrogate pairs, which no address can hold.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in session_id):
        raise InvalidRequest("A session id holds no control characters.", code="bad_id")
    return session_id


def session_path(session_id: str) -> str:
    """The path of a session's stream: one segment, the id percent-encoded once as JavaScript does."""
    return "chat-" + quote(check_session_id(session_id), safe="!*'()")


@dataclass(frozen=True, slots=True)
class SessionSnapshot(Snapshot):
    """A snapshot, and the run that is being written from its offset on."""

    active_run: str | None


class Line:
    """Who is next: tickets in the order of `join`; the first one is called at once. Mutable state: `_tickets`."""

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
    Mutable state: the transcript and the `position` it is folded up to (with the id of the stream it was folded from,
    where the log tells); `queued`, the runs that wait according to it; `active`, the run that is being written; the
    line of turns, and the last `deletion` that joined it; how many hold it. While a run is active nothing is folded, so that transcript and position are those
    just before its RUN_STARTED. Then what is known of the stored snapshot: its size and the bytes of log folded since,
    and the run's writer, until that is folded.
    """

    def __init__(
        self, log: Log, session_id: str, path: str, ttl_s: int | None = None, stored: StoredSnapshots | None = None
    ) -> None:
        self.id = session_id
        self.path = path
        self.line = Line()
        self.active: str | None = None
        self.deletion: asyncio.Future[None] | None = None
        self.held = 0
        self.lock = asyncio.Lock()
        self._log = log
        self._ttl_s = ttl_s
        self._stored = stored
        self._exists = False
        self._forget()

    def _forget(self) -> None:
        self.transcript = Transcript()
        self.position = BEGINNING
        self.folded_bytes = 0
        self._stream_id = 0
        self.queued: dict[str, None] = {}
        self._stored_bytes = 0
        self._since_bytes = 0
        self._writer: Writer | None = None

    @property
    def offset(self) -> str:
        """The position as readers are told it; a session that does not exist has the constant first one."""
        return ZERO if self.position == BEGINNING else self.position

    def messages(self) -> list[dict[str, Any]]:
        return self.transcript.messages()

    def writer(self, lease: Lease, on_failure: Callable[[], None]) -> Writer:
        """A writer for one run; whatever ends it, the next turn looks for the stream anew."""

        def fail() -> None:
            self._exists = False
            on_failure()

        self._writer = Writer(self._log, self.path, fail, lease=lease)
        return self._writer

    async def snapshot(self) -> SessionSnapshot:
        """
        The messages up to an offset. While a run is active both are those just before its RUN_STARTED, so that a
        reload in the middle of it replays it whole.
        """
        async with self.lock:
            if self.active is None:
                await self.catch_up()
            return SessionSnapshot(self.messages(), self.offset, self.active)

    # Writing.

    async def append(self, messages: Sequence[bytes], records: Sequence[RecordWrite] = ()) -> str:
        """Append chunks, creating the stream where there is none; the tail after them."""
        try:
            for last in (False, True):
                await self.ensure()
                try:
                    request = Append(join_messages(list(messages)), JSON)
                    return (await self._log.append(self.path, request, records)).next_offset
                except NotFound:  # deleted since it was looked for: it begins anew
                    self._exists = False
                    if last:
                        raise
        except DurableChatError as error:
            self._exists = False
            raise session_error(error) from error
        raise AssertionError("one of the two attempts returned or raised")

    async def ensure(self) -> None:
        """Create the stream, or find it. Raises Conflict when something else has its path."""
        if self._exists:
            return
        try:
            await self._log.create(self.path, Create(JSON, self._ttl_s))
        except Conflict:
            await self._accept_existing()
        self._exists = True

    async def _accept_existing(self) -> None:
        """One created by somebody else, with another lifetime, serves as well; one of another type does not."""
        head = await self._log.head(self.path)
        if not is_json(head.content_type):
            raise Conflict("The session's stream is not JSON.", code="not_a_session")

    async def delete(self) -> None:
        async with self.lock:
            try:
                await self._log.delete(self.path)
            except (NotFound, Gone):
                pass
            self._exists = False
            self._forget()
            if self._stored is not None:
                await self._stored.delete(self.path)

    # Stored snapshots.

    @property
    def is_due(self) -> bool:
        """Whether so much came since the last stored snapshot that another one is worth it."""
        unfolded = 0 if self._writer is None else self._writer.taken_bytes
        return self._stored is not None and is_due(self._since_bytes + unfolded, self._stored_bytes)

    async def store(self) -> None:
        """Store a snapshot, when it is due. Raises what the log and the store raise."""
        async with self.lock:
            if self.active is None:
                await self.catch_up()
            if self._stored is None or not is_due(self._since_bytes, self._stored_bytes):
                return
            if self.queued:  # who waits is folded from the log, and is in no snapshot
                return
            stream_id, offset = self._stream_id, self.position
            # Nothing is folded meanwhile: that needs the lock.
            lines = await asyncio.to_thread(list, self.transcript.lines())
            self._since_bytes = 0
        size = await self._stored.save(self.path, stream_id, offset, lines)
        async with self.lock:
            if self._stream_id == stream_id:
                self._stored_bytes = size
            else:  # deleted meanwhile
                await self._stored.delete(self.path)

    async def _restore(self) -> None:
        """Begin with the stored snapshot, where there is one. Raises NotFound or Gone when there is no stream."""
        if self._stored is None:
            return
        head = await self._log.head(self.path)
        found = await self._stored.load(self.path, head.id, head.next_offset)
        if found is not None:
            self.transcript, self.position, self._stream_id = found.transcript, found.offset, head.id
            self.folded_bytes = self._stored_bytes = found.size

    # Folding.

    async def catch_up(self) -> None:
        """Fold what the log has and the transcript has not. The caller holds the lock, and no run is active."""
        assert self.active is None
        for _ in range(2):
            try:
                if self.position == BEGINNING:
                    await self._restore()
                return await self._read_on()
            except (NotFound, Gone, InvalidRequest):  # there is none, or one where the position means nothing
                self._exists = False
                if self.position == BEGINNING:
                    return None
                self._forget()
        return None

    async def _read_on(self) -> None:
        reader = await self._reader()
        try:
            while True:
                batch = await reader.next()
                await self._fold(batch.data)
                self.position = batch.next_offset
                if batch.up_to_date:
                    self._writer = None
                    return
        finally:
            await reader.aclose()

    async def _reader(self) -> Reader:
        """A reader at the position; at the beginning when another stream has taken the path."""
        reader = await self._log.read(self.path, self.position)
        head = reader.head
        if self.position != BEGINNING and (head.id != self._stream_id or head.next_offset < self.position):
            await reader.aclose()
            raise NotFound("The stream has been replaced.")
        self._stream_id = head.id
        if not is_json(head.content_type):
            await reader.aclose()
            raise Conflict("The session's stream is not JSON.", code="not_a_session")
        return reader

    async def _fold(self, data: bytes) -> None:
        if not data:
            return
        large = len(data) > LARGE_BYTES
        chunks = await asyncio.to_thread(decode_chunks, data) if large else decode_chunks(data)
        for at, chunk in enumerate(chunks, 1):
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


def decode_chunks(data: bytes) -> list[Chunk]:
    """The chunks of a batch of the log. Whoever has the stream's secret may append what is none; it is passed over."""
    if len(data) > LARGE_BYTES:
        snapshot = _decode_snapshot(data)  # alone in its batch; nothing long is copied for it
        if snapshot is not None:
            return [snapshot]
    decoded = (_decode(raw) for raw in _ELEMENTS.decode(b"".join((b"[", data, b"]"))))
    return [chunk for chunk in decoded if chunk is not None]


def _decode(raw: msgspec.Raw) -> Chunk | None:
    data = memoryview(raw)
    try:
        if len(data) > LARGE_BYTES:
            snapshot = _decode_snapshot(raw)
            if snapshot is not None:
                return snapshot
        return decode_chunk(bytes(raw))
    except InvalidChunk:
        return None


def _decode_snapshot(data: bytes | msgspec.Raw) -> Chunk | None:
    try:
        snapshot = _SNAPSHOT.decode(data)
        messages = [msgspec.json.decode(raw) for raw in snapshot.messages]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return {"type": snapshot.type, "messages": messages} if snapshot.type == "MESSAGES_SNAPSHOT" else None


def encode_chunks(chunks: Iterable[Chunk]) -> list[bytes]:
    """The chunks as the log keeps them. Raises InvalidChunk."""
    return [_encode(chunk) for chunk in chunks]


def _encode(chunk: Chunk) -> bytes:
    """A snapshot is encoded message by message, so that no step is long."""
    if chunk["type"] != "MESSAGES_SNAPSHOT":
        return encode_chunk(chunk)
    rest = encode_chunk({key: value for key, value in chunk.items() if key != "messages"})
    pieces = [rest[:-1], b',"messages":[']
    for message in chunk["messages"]:
        pieces += (encode_chunk(message), b",")
    return b"".join((*pieces[:-1], b"]}")) if chunk["messages"] else rest[:-1] + b',"messages":[]}'


class Sessions:
    """
    The sessions of one log that are in memory: those in use, and the ones used last within two bounds. Mutable state:
    `_used`; `_idle`, in the order of their last use, with the bytes they were folded from; `_storing`, the tasks that
    store snapshots, by session, and whether there are any more of them.
    """

    def __init__(
        self,
        log: Log,
        *,
        path_of: Callable[[str], str] = session_path,
        ttl_s: int | None = None,
        records: Records | None = None,
    ) -> None:
        self.path_of = path_of
        self.stored = None if records is None else StoredSnapshots(log, records)
        self._storing: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._log = log
        self._ttl_s = ttl_s
        self._used: dict[str, Session] = {}
        self._idle: OrderedDict[str, Session] = OrderedDict()
        self._idle_bytes = 0

    @contextmanager
    def hold(self, session_id: str) -> Iterator[Session]:
        """The session, kept in memory while the context is open. Raises InvalidRequest for an id that is none."""
        session = self.take(session_id)
        try:
            yield session
        finally:
            self.release(session)

    def take(self, session_id: str) -> Session:
        """The session, kept in memory until it is released."""
        session = self._used.get(session_id)
        if session is None:
            session = self._idle.pop(session_id, None)
            if session is None:
                session = Session(self._log, session_id, self.path_of(session_id), self._ttl_s, self.stored)
            else:
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
        self._idle[session.id] = self._used.pop(session.id)
        self._idle_bytes += session.folded_bytes
        while len(self._idle) > SESSIONS_MAX or self._idle_bytes > FOLDED_BYTES_MAX:
            _, oldest = self._idle.popitem(last=False)
            self._idle_bytes -= oldest.folded_bytes

    async def _store(self, session_id: str) -> None:
        """In a task: whoever made the snapshot due does not wait for it, and hears of no failure."""
        try:
            with self.hold(session_id) as session:
                await session.store()
        except DurableChatError as error:
            log.warning("a snapshot of session %r was not stored: %s", session_id, error.code)
        except Exception:
            log.exception("storing a snapshot of session %r failed by a bug", session_id)
        finally:
            del self._storing[session_id]

    async def close(self, timeout_s: float = STORING_WAIT_S) -> None:
        """Store no more; what is being stored is given some time. A snapshot that is not stored is no loss."""
        self._closed = True
        tasks = list(self._storing.values())
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
