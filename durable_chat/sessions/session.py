"""
A session: the messages that its chunks fold to, and the queue of its turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.errors import Conflict, Gone, InvalidRequest, NotFound
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.offsets import BEGINNING, ZERO, decode_offset
from durable_chat.protocol.requests import Producer
from durable_chat.sessions.artifacts import Artifacts
from durable_chat.sessions.recovering.leases import Lease
from durable_chat.sessions.running.open_runs import Held
from durable_chat.sessions.running.waiting_chunks import queued_turn, taken_back
from durable_chat.sessions.session_stream import SessionStream
from durable_chat.sessions.stored_snapshots import StoredSnapshots, is_due
from durable_chat.sessions.writers import Writer
from durable_chat.store.base import Batch, Log, Reader, RecordWrite
from durable_chat.transcripts.attachments import Artifact, hash_of
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.codec import decode_aside
from durable_chat.transcripts.context_summaries import ContextSummary
from durable_chat.transcripts.message_cache import Kept
from durable_chat.transcripts.runs.ends import RunEnd
from durable_chat.transcripts.transcript import Snapshot, Transcript

FOLD_SLICE_CHUNKS = 500
"""The number of chunks folded before other tasks run: one or two milliseconds."""

FOLDED_HERE_BYTES_MAX = 32 * 1024
"""Snapshots in longer batches are folded in a thread. A batch of this length takes a few milliseconds."""


HASHED_HERE_BYTES_MAX = 256 * 1024
"""Longer files are hashed in a thread. Below this size, hashing takes less than a millisecond."""


@dataclass(frozen=True, slots=True)
class SessionSnapshot(Snapshot):
    """
    A snapshot, the run that is being written from its offset on, the last run's end, the cache of the encoded messages,
    and the summary that the model is given instead of earlier messages.
    """

    active_run: str | None
    last_run: RunEnd | None
    kept: Kept
    summary: ContextSummary | None = None


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

    def advance(self, ticket: asyncio.Future[None]) -> None:
        """Move a waiting ticket to the place right behind the one that has its turn."""
        if self._tickets[0] is not ticket:
            self._tickets.remove(ticket)
            self._tickets.insert(1, ticket)

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
        self._stream = SessionStream(log, path, ttl_s)
        self._stored = stored
        self.artifacts = artifacts or Artifacts(log, None)
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
            self._stream.forget()
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
            last_end, summary = self.transcript.last_end, self.transcript.context.summary
            return SessionSnapshot(self.messages(), self.offset, active, last_end, self.kept, summary)

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
        seq = self._place() if placed else None
        return await self._stream.append(messages, records, seq=seq, producer=producer)

    async def keep(self, files: Sequence[Artifact]) -> None:
        """Make files durable, before the chunks that refer to them."""
        if files:
            await self._stream.write(lambda: self.artifacts.store(self.path, files))

    async def keep_file(self, data: bytes, media_type: str) -> str:
        """Make one file durable, and return its artifact id. A large file is hashed in a thread."""
        digest = await asyncio.to_thread(hash_of, data) if len(data) > HASHED_HERE_BYTES_MAX else hash_of(data)
        await self.keep([Artifact(digest, media_type, data)])
        return digest

    async def ensure(self) -> None:
        """Create the stream, or find it. Raises Conflict when the path holds a stream of another type."""
        await self._stream.ensure()

    async def delete(self, last: Sequence[Chunk] = ()) -> None:
        """Append the `last` chunks for the readers, then delete the stream, if it exists, and what is stored."""
        async with self.lock:
            await self.artifacts.delete(self.path)
            await self._stream.delete(last)
        await self.clear()

    async def clear(self) -> None:
        """Delete the folded state, the files and the stored snapshot of a session whose stream is deleted."""
        async with self.lock:
            await self.artifacts.delete(self.path)
            self._stream.forget()
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

    async def _restore(self, until: str | None = None) -> None:
        """
        Load the stored snapshot, if there is one up to that offset. Raises NotFound or Gone when there is no stream.
        """
        if self._stored is None:
            return
        head = await self._log.head(self.path)
        found = await self._stored.load(self.path, head.id, head.next_offset)
        if found is not None and (until is None or found.offset <= until):
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
                self._stream.forget()
                if self.position == BEGINNING:
                    return None
                self._forget()
        return None

    async def rewind(self, run_id: str, begun: str) -> None:
        """
        Make an open run of a dead process the active one: fold the log up to just before its RUN_STARTED, which is at
        `begun`. The caller has the session's turn. Raises what the log raises.
        """
        async with self.lock:
            assert self.active is None and self._stored is not None
            if self.position > begun:
                self._forget()
            if self.position == BEGINNING:
                await self._restore(begun)
            if self.position < begun:
                await self._read_on(begun)
            self.active = run_id

    async def _read_on(self, until: str | None = None) -> None:
        """Fold the log, up to its tail or only `until` an offset, which a log with records has at every message."""
        reader = await self._reader()
        held = Held(self.elsewhere)
        try:
            while True:
                batch = await reader.next()
                await self._fold(batch, held, until)
                if until is not None and batch.next_offset >= until:
                    self.position = until
                    return
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

    async def _fold(self, batch: Batch, held: Held, until: str | None = None) -> None:
        data = batch.data
        if not data:
            return
        found = await decode_aside(data)
        if until is not None and batch.next_offset > until:
            found = found[: decode_offset(until)[1] - decode_offset(batch.next_offset)[1]]
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
            elif (gone := taken_back(chunk)) is not None:
                self.queued.pop(gone, None)
        elif self.queued and chunk["type"] in ("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"):
            self.queued.pop(str(chunk.get("runId")), None)
