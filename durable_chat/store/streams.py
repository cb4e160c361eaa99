"""
Streams on a backend: decide, commit, publish, in that order.

A decision uses the newest decided state and does not wait, so writes to one stream form a queue. Callers get their
result, and readers see the data, only when it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from durable_chat.config.settings import STREAMS_CACHED_MAX
from durable_chat.errors import (
    Conflict,
    DurableChatError,
    Gone,
    NotFound,
    OffsetGone,
    RecordConflict,
    StreamDamaged,
)
from durable_chat.protocol.offsets import NOW, ZERO, decode_offset
from durable_chat.protocol.requests import Append, Appended, Create, Created
from durable_chat.protocol.states import StreamState
from durable_chat.protocol.streams import (
    AppendDecision,
    CreateDecision,
    decide_append,
    decide_create,
    decide_delete,
    release_fork,
)
from durable_chat.store.base import (
    Backend,
    CreateDone,
    Done,
    Figures,
    Head,
    Journaled,
    Record,
    RecordWrite,
    StreamChange,
)
from durable_chat.store.changes import Staged, append_change, dropped, make_head, piece_of, tell_given
from durable_chat.store.clocks import SteadyClock, unix_ms
from durable_chat.store.commit import QUEUE_WRITES_MAX
from durable_chat.store.entries import FORK_DEPTH_MAX, Entries, Entry
from durable_chat.store.expiry import Expiry
from durable_chat.store.publishing import Changes, Publisher, Refused, decided
from durable_chat.store.readers import StreamReader, begin_of, check_position

ATTEMPTS_MAX = 5
"""How often a write is decided again after another process wrote first. Each time, some process has made progress."""
STAGED_BYTES_MIN = 1024 * 1024
"""
An append of this size or more is written ahead of its flush in parts, so that other writes do not wait for all of it.
"""


class Streams:
    """
    The log and the records of an embedded store. Mutable state: the entries (the one owner of each stream); the next
    stream id. `on_drop` are functions that get the path of each dropped stream.
    """

    def __init__(
        self,
        backend: Backend,
        now_ms: Callable[[], int] | None = None,
        wall_ms: Callable[[], int] | None = None,
        *,
        cached_max: int = STREAMS_CACHED_MAX,
        queue_writes_max: int = QUEUE_WRITES_MAX,
    ) -> None:
        """
        `now_ms` measures durations, such as a TTL. `wall_ms` is for fixed times; it defaults to `now_ms` if that is
        given.
        """
        self.now_ms = now_ms or SteadyClock()
        self._backend = backend
        self._entries = Entries(backend, cached_max)
        self._publisher = Publisher(backend, self._entries, queue_writes_max)
        self._committer = self._publisher.committer
        self.on_drop = self._publisher.on_drop
        self.expiry = Expiry(
            backend, self._entries, self._publisher, self.now_ms, wall_ms or now_ms or unix_ms, self._delete
        )
        self._next_id = 1

    async def open(self) -> None:
        await self._backend.open()
        # In a new store the id starts at the time, so that an offset from a deleted store does not look valid.
        self._next_id = max(await self._backend.next_stream_id(), self.now_ms())
        self._committer.start()

    async def close(self) -> None:
        await self.expiry.save_touches(0)
        await self._committer.close()
        await self._backend.close()

    @property
    def failure(self) -> DurableChatError | None:
        """The error after which nothing more is written, or None."""
        return self._publisher.failure

    def figures(self) -> Figures:
        backend, entries = self._backend, self._entries
        held = (backend.journal_bytes, backend.uncompacted_bytes) if isinstance(backend, Journaled) else (0, 0)
        return Figures(self._committer.queued, len(entries), entries.hits, entries.misses, *held)

    # Writing.

    async def create(self, path: str, request: Create) -> Created:
        self._committer.check(len(request.payload.data))
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._create(path, request)
            except Refused:
                continue
        raise Conflict("Too many concurrent writers. Try again.", code="contended")

    async def _create(self, path: str, request: Create, staged: Staged | None = None) -> Created:
        source: Entry | None = None
        if request.fork is not None:
            await self.expiry.expire_if_due(request.fork.source)
            await self.expiry.expire_if_due(path)
            entry, source = await self._entries.get_both(path, request.fork.source)
            if source.state is None:
                await source.settled()
                raise NotFound("The source stream does not exist.", code="source_not_found")
            if source.damaged:
                raise StreamDamaged(request.fork.source)
            if len(source.inherited) >= FORK_DEPTH_MAX - 1:
                raise Conflict(f"Forks can be nested at most {FORK_DEPTH_MAX} deep.", code="fork_depth")
        else:
            await self.expiry.expire_if_due(path)
            entry = await self._entries.get(path)
        source_state = source.state if source is not None else None
        decision = await decided(
            entry, lambda: decide_create(path, entry.state, source_state, request, self._next_id, self.now_ms())
        )
        if decision.state is None:
            self.expiry.touch(entry)
            await entry.settled()
        elif staged is None and len(request.payload.data) >= STAGED_BYTES_MIN:
            return await self._create(path, request, Staged(await self._backend.stage(request.payload.data)))
        else:
            await self._publisher.commit(self._create_changes(entry, source, decision, decision.state, staged))
        return decision.created

    def _create_changes(
        self,
        entry: Entry,
        source: Entry | None,
        decision: CreateDecision,
        state: StreamState,
        staged: Staged | None,
    ) -> Changes:
        self._next_id += 1
        piece = piece_of(state.tail, decision.payload, staged)
        changes = [(entry, StreamChange(state, piece))]
        entry.inherited, entry.producers, entry.accessed_ms, entry.damaged = (), {}, state.accessed_ms, False
        if source is not None and decision.source is not None:
            own = (decision.source.id, decision.source.fork_position, state.fork_position)
            spans = (*source.inherited, own)
            entry.inherited = tuple((i, b, min(e, state.fork_position)) for i, b, e in spans if b < state.fork_position)
            changes.append((source, StreamChange(decision.source)))
        return changes

    def create_soon(self, path: str, request: Create, done: CreateDone) -> bool:
        """See `PromptLog.create_soon`. Does not ask the disk whether the stream exists: the write finds that out."""
        size = len(request.payload.data)
        if request.fork is not None or size >= STAGED_BYTES_MIN or not self._committer.takes(size):
            return False
        entry = self._entries.vacant(path)
        if entry is None:
            return False
        decision = decide_create(path, None, None, request, self._next_id, self.now_ms())
        assert decision.state is not None
        changes = self._create_changes(entry, None, decision, decision.state, None)
        self._publisher.submit(changes, (), partial(tell_given, done, decision.created))
        self._entries.keep(entry)
        return True

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        self._committer.check(len(request.payload.data))
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._append(path, request, records)
            except Refused:
                continue
        raise RecordConflict

    def append_soon(self, path: str, request: Append, done: Done, records: Sequence[RecordWrite] = ()) -> bool:
        """See `PromptLog.append_soon`."""
        entry = self._entries.held(path)
        if (
            entry is None
            or entry.state is None
            or entry.doomed
            or entry.damaged
            or len(request.payload.data) >= STAGED_BYTES_MIN
        ):
            return False
        now_ms = self.now_ms()
        if self.expiry.is_expired(entry) or not self._committer.takes(len(request.payload.data)):
            return False
        try:
            decision = decide_append(entry.state, entry.producers, request, now_ms)
        except DurableChatError:
            return False
        if decision.state is None:  # the answer depends on what may not be durable yet
            return False
        entry.accessed_ms = max(entry.accessed_ms, now_ms)
        changes = ((entry, append_change(decision, request, None)),)
        self._publisher.submit(changes, records, partial(tell_given, done, decision.appended))
        return True

    async def _append(self, path: str, request: Append, records: Sequence[RecordWrite]) -> Appended:
        entry, decision = await self._decide_append(path, request)
        staged: Staged | None = None
        if decision.state is not None and len(request.payload.data) >= STAGED_BYTES_MIN:
            staged = Staged(await self._backend.stage(request.payload.data))
            entry, decision = await self._decide_append(path, request)  # other writes may have happened in the meantime
        await self._commit_append(entry, decision, request, records, staged)
        return decision.appended

    async def _decide_append(self, path: str, request: Append) -> tuple[Entry, AppendDecision]:
        entry = await self._live(path)
        state = entry.state
        assert state is not None
        if entry.damaged:
            raise StreamDamaged(path)
        decide = partial(decide_append, state, entry.producers, request, self.now_ms())
        return entry, await decided(entry, decide)

    async def _commit_append(
        self,
        entry: Entry,
        decision: AppendDecision,
        request: Append,
        records: Sequence[RecordWrite],
        staged: Staged | None,
    ) -> None:
        self.expiry.touch(entry)
        if decision.state is None:
            await entry.settled()
            if records and not decision.appended.duplicate:
                await self._publisher.commit([], records)
            return
        await self._publisher.commit([(entry, append_change(decision, request, staged))], records)

    async def delete(self, path: str) -> None:
        self._committer.check(0)
        for _ in range(ATTEMPTS_MAX):
            entry = await self._live(path)
            try:
                return await self._delete(entry)
            except Refused:
                continue
        raise Conflict("Too many concurrent writers. Try again.", code="contended")

    async def _delete(self, entry: Entry) -> None:
        """Drop a stream, or keep it for its forks. A deleted source that was kept only for this fork is dropped too."""
        family = await self._family(entry)
        entry = family[0]
        state = entry.state
        if state is None:
            return
        kept = await decided(entry, lambda: decide_delete(state))
        if kept is not None:
            await self._publisher.commit([(entry, StreamChange(kept))])
            return
        changes = [(entry, dropped(state))]
        for source in family[1:]:
            assert source.state is not None
            released = release_fork(source.state)
            changes.append((source, dropped(source.state) if released is None else StreamChange(released)))
            if released is not None:
                break
        await self._publisher.commit(changes)

    async def _family(self, entry: Entry) -> list[Entry]:
        """The entries of a stream and its sources, all in memory at the same time."""
        while True:
            family = [entry]
            while (state := family[-1].state) is not None and state.source is not None:
                family.append(await self._entries.get(state.source))
            if all(self._entries.held(member.path) is member for member in family):
                return family
            entry = await self._entries.get(entry.path)

    # Reading.

    async def head(self, path: str) -> Head:
        entry = await self._readable(path)
        assert entry.durable is not None
        if entry.damaged:
            raise StreamDamaged(path)
        return make_head(entry.durable)

    async def read(self, path: str, offset: str, *, absent: str | None = None) -> StreamReader:
        life, position = (0, None) if offset == NOW else decode_offset(offset)
        try:
            entry = await self._readable(path)
        except NotFound:
            if absent is None:
                raise
            entry = await self._entries.get(path)
        state = entry.durable
        if state is None:
            if position:
                raise OffsetGone
            return StreamReader(self._backend, entry, Head(absent or "", ZERO), 0, absent, self.now_ms)
        self.expiry.touch(entry)
        if position is not None:
            check_position(state, life, position, absent)
            position = await begin_of(self._backend, entry, state, position)
        begin = state.tail if position is None else position
        reader = StreamReader(self._backend, entry, make_head(state), begin, absent, self.now_ms)
        if entry.damaged:  # report it now, while it can still be the answer
            await reader.check()
        return reader

    async def _readable(self, path: str) -> Entry:
        """The entry of a stream that durably exists. Raises NotFound or Gone."""
        await self.expiry.expire_if_due(path)
        entry = await self._entries.get(path)
        if entry.durable is None and entry.state is not None:
            await entry.settled()
            entry = await self._entries.get(path)
        if entry.durable is None:
            raise NotFound("The stream does not exist.")
        if entry.durable.deleted:
            raise Gone("The stream has been deleted.")
        return entry

    # Records.

    async def record(self, kind: str, key: str) -> Record | None:
        return await self._backend.record(kind, key)

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]:
        return await self._backend.records(kind, due_before_ms=due_before_ms, prefix=prefix)

    async def write_records(self, writes: Sequence[RecordWrite]) -> None:
        self._committer.check(0)
        try:
            await self._publisher.commit([], writes)
        except Refused:
            raise RecordConflict from None

    async def _live(self, path: str) -> Entry:
        """The entry of a stream that exists as decided. Raises NotFound or Gone, after that is durable."""
        entry = self._entries.held(path) or await self._entries.get(path)
        if entry.doomed or self.expiry.is_expired(entry):
            await self.expiry.expire_if_due(path)
            entry = await self._entries.get(path)
        if entry.state is None or entry.state.deleted:
            gone = entry.state is not None
            await entry.settled()
            raise Gone("The stream has been deleted.") if gone else NotFound("The stream does not exist.")
        return entry
