"""
Streams on a backend: decide, commit, publish, in that order.

A decision uses the newest decided state and does not wait, so writes to one stream form a queue. Callers get their
result, and readers see the data, only when it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from durable_chat.config import STREAMS_CACHED_MAX
from durable_chat.errors import (
    Conflict,
    DurableChatError,
    Gone,
    NotFound,
    OffsetGone,
    RecordConflict,
    StoreFailed,
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
    Write,
)
from durable_chat.store.changes import Staged, append_change, dropped, make_head, piece_of, tell, tell_given
from durable_chat.store.clocks import SteadyClock, unix_ms
from durable_chat.store.commit import QUEUE_WRITES_MAX, Committer, Settle
from durable_chat.store.entries import FORK_DEPTH_MAX, Entries, Entry
from durable_chat.store.readers import StreamReader, begin_of, check_position
from durable_chat.store.tail import Tail, batch_of

ATTEMPTS_MAX = 5
"""How often a write is decided again after another process wrote first. Each time, some process has made progress."""
STAGED_BYTES_MIN = 1024 * 1024
"""
An append of this size or more is written ahead of its flush in parts, so that other writes do not wait for all of it.
"""
TOUCH_SAVED_MS = 5_000
"""The extension of a sliding TTL by reads is stored at most this often per stream."""


Decision = TypeVar("Decision")
Changes = Sequence[tuple[Entry, StreamChange]]


class _Refused(Exception):
    """Another process changed the stream or a record first: load and decide again."""


class Streams:
    """
    The log and the records of an embedded store. Mutable state: the entries (the one owner of each stream); the
    committer's queue; the next stream id; `_woken`, the tails with new data; `on_drop`, functions that get the path of
    each dropped stream.
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
        self._wall_ms = wall_ms or now_ms or unix_ms
        self.on_drop: list[Callable[[str], None]] = []
        self._backend = backend
        self._committer = Committer(backend, queue_writes_max, flushed=self._hand_out)
        self._woken: list[Tail] = []
        self._entries = Entries(backend, cached_max)
        self._next_id = 1

    async def open(self) -> None:
        await self._backend.open()
        # In a new store the id starts at the time, so that an offset from a deleted store does not look valid.
        self._next_id = max(await self._backend.next_stream_id(), self.now_ms())
        self._committer.start()

    async def close(self) -> None:
        await self.save_touches(0)
        await self._committer.close()
        await self._backend.close()

    @property
    def failure(self) -> DurableChatError | None:
        """The error after which nothing more is written, or None."""
        return self._committer.failure or self._backend.failure

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
            except _Refused:
                continue
        raise Conflict("Too many concurrent writers. Try again.", code="contended")

    async def _create(self, path: str, request: Create, staged: Staged | None = None) -> Created:
        source: Entry | None = None
        if request.fork is not None:
            await self._expire_if_due(request.fork.source)
            await self._expire_if_due(path)
            entry, source = await self._entries.get_both(path, request.fork.source)
            if source.state is None:
                await source.settled()
                raise NotFound("The source stream does not exist.", code="source_not_found")
            if source.damaged:
                raise StreamDamaged(request.fork.source)
            if len(source.inherited) >= FORK_DEPTH_MAX - 1:
                raise Conflict(f"Forks can be nested at most {FORK_DEPTH_MAX} deep.", code="fork_depth")
        else:
            await self._expire_if_due(path)
            entry = await self._entries.get(path)
        source_state = source.state if source is not None else None
        decision = await self._decided(
            entry, lambda: decide_create(path, entry.state, source_state, request, self._next_id, self.now_ms())
        )
        if decision.state is None:
            self._touch(entry)
            await entry.settled()
        elif staged is None and len(request.payload.data) >= STAGED_BYTES_MIN:
            return await self._create(path, request, Staged(await self._backend.stage(request.payload.data)))
        else:
            await self._commit(self._create_changes(entry, source, decision, decision.state, staged))
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
        self._submit(changes, (), partial(tell_given, done, decision.created))
        self._entries.keep(entry)
        return True

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        self._committer.check(len(request.payload.data))
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._append(path, request, records)
            except _Refused:
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
        if self._is_expired(entry) or not self._committer.takes(len(request.payload.data)):
            return False
        try:
            decision = decide_append(entry.state, entry.producers, request, now_ms)
        except DurableChatError:
            return False
        if decision.state is None:  # the answer depends on what may not be durable yet
            return False
        entry.accessed_ms = max(entry.accessed_ms, now_ms)
        changes = ((entry, append_change(decision, request, None)),)
        self._submit(changes, records, partial(tell_given, done, decision.appended))
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
        return entry, await self._decided(entry, decide)

    async def _commit_append(
        self,
        entry: Entry,
        decision: AppendDecision,
        request: Append,
        records: Sequence[RecordWrite],
        staged: Staged | None,
    ) -> None:
        self._touch(entry)
        if decision.state is None:
            await entry.settled()
            if records and not decision.appended.duplicate:
                await self._commit([], records)
            return
        await self._commit([(entry, append_change(decision, request, staged))], records)

    async def delete(self, path: str) -> None:
        self._committer.check(0)
        for _ in range(ATTEMPTS_MAX):
            entry = await self._live(path)
            try:
                return await self._delete(entry)
            except _Refused:
                continue
        raise Conflict("Too many concurrent writers. Try again.", code="contended")

    async def _delete(self, entry: Entry) -> None:
        """Drop a stream, or keep it for its forks. A deleted source that was kept only for this fork is dropped too."""
        family = await self._family(entry)
        entry = family[0]
        state = entry.state
        if state is None:
            return
        kept = await self._decided(entry, lambda: decide_delete(state))
        if kept is not None:
            await self._commit([(entry, StreamChange(kept))])
            return
        changes = [(entry, dropped(state))]
        for source in family[1:]:
            assert source.state is not None
            released = release_fork(source.state)
            changes.append((source, dropped(source.state) if released is None else StreamChange(released)))
            if released is not None:
                break
        await self._commit(changes)

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
        self._touch(entry)
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
        await self._expire_if_due(path)
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
            await self._commit([], writes)
        except _Refused:
            raise RecordConflict from None

    # Expiry.

    async def expire_due(self, limit: int) -> int:
        """Delete expired streams, at most `limit`. Returns the number of streams examined."""
        paths = await self._backend.expired(self._wall_ms(), limit)
        for path in paths:
            await self._expire_if_due(path)
            entry = self._entries.held(path)
            if entry is not None:
                if entry.is_read:
                    self._touch(entry)
                self._save_touch(entry)
                await entry.settled()
        return len(paths)

    async def save_touches(self, older_than_ms: int = TOUCH_SAVED_MS) -> None:
        """
        Store the last use of streams with a sliding TTL where it is more than `older_than_ms` newer than stored; when
        the cache is over its limit, everywhere, because such entries cannot be evicted before.
        """
        if self._entries.crowded:
            older_than_ms = 0

        def is_news(entry: Entry) -> bool:
            state = entry.state
            return (
                state is not None and state.ttl_s is not None and entry.accessed_ms > state.accessed_ms + older_than_ms
            )

        async for entry in self._entries.all_where(is_news):
            self._save_touch(entry)

    def _save_touch(self, entry: Entry) -> None:
        state = entry.state
        if (
            state is None
            or entry.doomed
            or entry.assumed
            or self.failure is not None
            or entry.accessed_ms <= state.accessed_ms
        ):
            return
        touched = msgspec.structs.replace(state, accessed_ms=entry.accessed_ms, version=state.version + 1)
        self._submit([(entry, StreamChange(touched))], ())

    async def _expire_if_due(self, path: str) -> None:
        entry = await self._entries.get(path)
        if self._is_expired(entry):
            try:
                await self._delete(entry)
            except _Refused:
                return

    def _is_expired(self, entry: Entry) -> bool:
        state = entry.state
        if state is None or (state.ttl_s is None and state.expires_at_ms is None):
            return False
        return entry.is_expired(self.now_ms() if state.ttl_s is not None else self._wall_ms())

    def _touch(self, entry: Entry) -> None:
        entry.accessed_ms = max(entry.accessed_ms, self.now_ms())

    # Decide, commit, publish.

    async def _live(self, path: str) -> Entry:
        """The entry of a stream that exists as decided. Raises NotFound or Gone, after that is durable."""
        entry = self._entries.held(path) or await self._entries.get(path)
        if entry.doomed or self._is_expired(entry):
            await self._expire_if_due(path)
            entry = await self._entries.get(path)
        if entry.state is None or entry.state.deleted:
            gone = entry.state is not None
            await entry.settled()
            raise Gone("The stream has been deleted.") if gone else NotFound("The stream does not exist.")
        return entry

    async def _decided(self, entry: Entry, decide: Callable[[], Decision]) -> Decision:
        """Make a decision. An error is raised only after the state that it depends on is durable."""
        try:
            return decide()
        except DurableChatError:
            await entry.settled()
            raise

    async def _commit(self, changes: Changes, records: Sequence[RecordWrite] = ()) -> None:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._submit(changes, records, partial(tell, done))
        if not await done:
            raise _Refused

    def _submit(self, changes: Changes, records: Sequence[RecordWrite], done: Settle | None = None) -> None:
        for entry, change in changes:
            entry.state = None if change.drop else change.state
            if change.producers:
                entry.producers.update(change.producers)
            entry.pending += 1
        write = Write(tuple([change for _, change in changes]), tuple(records) if records else ())
        self._committer.submit(write, partial(self._settle, changes, done))

    def _settle(self, changes: Changes, done: Settle | None, accepted: bool, failure: StoreFailed | None) -> None:
        for entry, change in changes:
            if accepted:
                self._publish(entry, change)
            else:
                entry.doomed = True
            entry.settle(failure)
        if done is not None:
            done(accepted, failure)

    def _publish(self, entry: Entry, change: StreamChange) -> None:
        state, piece, is_new = change.state, change.piece, entry.durable is None
        entry.durable = None if change.drop else state
        if change.drop:
            self._entries.note_gone(entry)
        if change.drop or state.deleted:
            for told in self.on_drop:
                told(entry.path)
        if not entry.is_read:
            return
        if change.drop or state.deleted:
            entry.tail.clear()
        if piece is not None and not change.drop:
            batch = batch_of(state, piece)
            if entry.tail.publish(batch):
                self._woken.append(entry.tail)
        elif is_new or change.drop or state.deleted or state.closed:
            entry.tail.look()

    def _hand_out(self) -> None:
        """Notify the readers, after the writers of the flush were notified."""
        woken, self._woken = self._woken, []
        for tail in woken:
            tail.hand_out()
