"""
What follows a decision: commit its changes, then show them to readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from durable_chat.errors import DurableChatError, StoreFailed
from durable_chat.store.base import Backend, RecordWrite, StreamChange, Write
from durable_chat.store.changes import tell
from durable_chat.store.commit import Committer, Settle
from durable_chat.store.entries import Entries, Entry
from durable_chat.store.tail import Tail, batch_of

Decision = TypeVar("Decision")
Changes = Sequence[tuple[Entry, StreamChange]]


class Refused(Exception):
    """Another process changed the stream or a record first: load and decide again."""


class Publisher:
    """
    Commits the changes of streams and publishes them. Mutable state: the committer's queue; `_woken`, the tails with
    new data; `on_drop`, functions that get the path of each dropped stream.
    """

    def __init__(self, backend: Backend, entries: Entries, queue_writes_max: int) -> None:
        self.on_drop: list[Callable[[str], None]] = []
        self.committer = Committer(backend, queue_writes_max, flushed=self._hand_out)
        self._backend = backend
        self._entries = entries
        self._woken: list[Tail] = []

    @property
    def failure(self) -> DurableChatError | None:
        """The error after which nothing more is written, or None."""
        return self.committer.failure or self._backend.failure

    async def commit(self, changes: Changes, records: Sequence[RecordWrite] = ()) -> None:
        """Make the changes durable and visible. Raises Refused and StoreFailed."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.submit(changes, records, partial(tell, done))
        if not await done:
            raise Refused

    def submit(self, changes: Changes, records: Sequence[RecordWrite], done: Settle | None = None) -> None:
        """Take over the changes as decided, and queue them for the next flush. `done` is called after it."""
        for entry, change in changes:
            entry.state = None if change.drop else change.state
            if change.producers:
                entry.producers.update(change.producers)
            entry.pending += 1
        write = Write(tuple([change for _, change in changes]), tuple(records) if records else ())
        self.committer.submit(write, partial(self._settle, changes, done))

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


async def decided(entry: Entry, decide: Callable[[], Decision]) -> Decision:
    """Make a decision. An error is raised only after the state that it depends on is durable."""
    try:
        return decide()
    except DurableChatError:
        await entry.settled()
        raise
