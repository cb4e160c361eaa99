"""
A reader of a stream: it catches up from the store, then follows the tail.

The two parts meet by a handshake: a reader follows only when it is at the durable tail. Otherwise it reads first.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from durable_chat.errors import DurableChatError, InvalidRequest, NotFound, OffsetGone, StreamDamaged
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.offsets import ZERO
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Backend, ClosedOnExit, Head, Piece
from durable_chat.store.entries import Entry
from durable_chat.store.pieces import given_out, join
from durable_chat.store.tail import Batch

READ_BYTES_MAX = 1024 * 1024
"""Bytes of one batch from the store: large enough to stream fast, small enough to keep in memory for every reader."""

COUNTED_ON = 1
"""
A client may ask for the position this far past the tail of a byte stream: it adds one to the last offset, to get what
comes next.
"""

log = logging.getLogger(__name__)


class StreamReader(ClosedOnExit):
    """
    Mutable state: `_position`, the next position to read; `_seen`, the last state seen of the stream, and its `_id`, if
    it has existed; `_push`, while committed batches are pushed. While the reader is open, its tail keeps committed
    batches for it.
    """

    __slots__ = (
        "_absent",
        "_backend",
        "_entry",
        "_head",
        "_id",
        "_left",
        "_now_ms",
        "_open",
        "_position",
        "_push",
        "_seen",
    )

    def __init__(
        self,
        backend: Backend,
        entry: Entry,
        head: Head,
        position: int,
        absent: str | None,
        now_ms: Callable[[], int],
    ) -> None:
        self._backend = backend
        self._now_ms = now_ms
        self._entry = entry
        self._head = head
        self._position = position
        self._absent = absent
        self._seen = entry.durable
        self._id = entry.durable.id if entry.durable is not None else None
        self._open = True
        self._push: Callable[[Batch], bool] | None = None
        self._left: Callable[[], None]
        entry.tail.readers += 1

    @property
    def head(self) -> Head:
        return self._head

    @property
    def offset(self) -> str:
        return ZERO if self._seen is None else self._seen.offset(self._position)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._unfollow()
            self._entry.accessed_ms = max(self._entry.accessed_ms, self._now_ms())
            self._entry.tail.readers -= 1
            if self._entry.tail.readers == 0:
                self._entry.tail.clear()

    async def check(self) -> None:
        """Raise StreamDamaged if `next` would raise it. The reader is then closed."""
        state = self._state()
        try:
            if state is not None and self._position < state.tail:
                await self._from_store(state)
        except BaseException:
            self.close()
            raise

    async def next(self, wait_s: float = 0.0) -> Batch:
        """
        See `Reader.next`. When the stream was deleted, or another stream now has its path, raise NotFound, or with
        `absent` start over.
        """
        assert self._open
        try:
            return await self._next(wait_s)
        except NotFound:
            if self._absent is None:
                raise
            self._position, self._id, self._seen = 0, None, None
            return self._nothing(None)

    async def _next(self, wait_s: float) -> Batch:
        deadline_s = asyncio.get_running_loop().time() + wait_s
        while True:
            state = self._state()
            if state is not None and self._position < state.tail:
                return await self._read(state)
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0 or (state is not None and state.closed):
                return self._nothing(state)
            await self._entry.tail.wait(left_s)

    def follow(self, push: Callable[[Batch], bool], left: Callable[[], None]) -> bool:
        """See `FollowingReader.follow`."""
        state = self._entry.durable
        if state is None and self._id is None:
            return self._begin_following(push, left)
        if state is None or state.id != self._id or state.deleted or state.closed or state.tail != self._position:
            return False
        return self._begin_following(push, left)

    def _begin_following(self, push: Callable[[Batch], bool], left: Callable[[], None]) -> bool:
        self._push, self._left = push, left
        self._entry.tail.followers[self._follow] = None
        return True

    def _unfollow(self) -> None:
        self._push = None
        self._entry.tail.followers.pop(self._follow, None)

    def _follow(self, batch: Batch | None) -> None:
        if self._push is None:  # it stopped following after the round began
            return
        if batch is not None and batch.stop <= self._position:  # already read from the store
            return
        # If a new stream was created at the path, stop following: `next` handles that.
        if batch is not None and batch.start == self._position and self._id is not None and self._push(batch):
            self._position = batch.stop
            return
        self._unfollow()
        self._left()

    def _state(self) -> StreamState | None:
        """The durable state. None while the stream does not exist and `absent` allows that."""
        state = self._entry.durable
        if state is None and self._id is None:
            return None
        if state is None or state.deleted or (self._id is not None and state.id != self._id):
            raise NotFound("The stream has been deleted.")
        self._id, self._seen = state.id, state
        return state

    async def _read(self, state: StreamState) -> Batch:
        batch = self._entry.tail.after(self._position, READ_BYTES_MAX)
        if batch is None:
            batch = await self._from_store(state)
        self._position = batch.stop
        return batch

    async def _from_store(self, state: StreamState) -> Batch:
        pieces: list[Piece] = []
        left = READ_BYTES_MAX
        for stream_id, start, stop in self._entry.spans(self._position, state.tail):
            pieces += await self._backend.read(stream_id, start, stop, left)
            left = READ_BYTES_MAX - sum(len(piece.data) for piece in pieces)
            if left <= 0 or not pieces or pieces[-1].stop < stop:
                break
        if not pieces or pieces[0].start != self._position:
            raise self._nothing_stored(state)
        piece = join(pieces)
        assert all(one.stop == two.start for one, two in itertools.pairwise(pieces))
        now = self._entry.durable
        at_tail = now is not None and now.id == state.id and now.tail == piece.stop
        closed = at_tail and now is not None and now.closed
        return Batch(state.content_type, state, piece.start, piece.stop, piece.data, up_to_date=at_tail, closed=closed)

    def _nothing_stored(self, state: StreamState) -> DurableChatError:
        """
        The error when the store has no bytes where it should: NotFound if the stream was dropped, otherwise
        StreamDamaged.
        """
        now = self._entry.durable
        if now is None or now.id != state.id or now.deleted:
            return NotFound("The stream has been deleted.")
        if not self._entry.damaged:
            log.error(
                "the stream %s is damaged: its bytes from position %d on cannot be read", state.path, self._position
            )
        self._entry.damaged = True
        return StreamDamaged(state.path)

    def _nothing(self, state: StreamState | None) -> Batch:
        content_type = self._absent or "" if state is None else state.content_type
        closed = state is not None and state.closed
        return Batch(content_type, state, self._position, self._position, b"", up_to_date=True, closed=closed)


def empty_body(content_type: str) -> bytes:
    """The body of a catch-up read without messages (PROTOCOL.md 8 and 9.1.5)."""
    return b"[]" if is_json(content_type) else b""


async def begin_of(backend: Backend, entry: Entry, state: StreamState, position: int) -> int:
    """
    Return where a read at a position begins. That is the position itself, or the beginning of the append that holds it
    when no reader can have received the position. A client that adds to an offset wants the whole next append. Raises
    NotFound when the stream is deleted in the meantime.
    """
    if state.json or not 0 < position < state.tail:
        return min(position, state.tail)
    stream_id, _, _ = entry.spans(position, position + 1)[0]
    start = await backend.append_start(stream_id, position)
    if entry.durable is None or entry.durable.id != state.id:
        raise NotFound("The stream has been deleted.")
    return given_out(start, position)


def check_position(state: StreamState, life: int, position: int, absent: str | None) -> None:
    """Raise OffsetGone for a position of an earlier stream, and InvalidRequest for one past the end."""
    # Past the end, two lives are valid: the one that wrote the end, and the one that will write the position.
    if life not in (state.life_at(position), state.life_at(min(position, state.tail))):
        raise OffsetGone
    if position > state.tail + (0 if state.json else COUNTED_ON):
        if absent is None:
            raise InvalidRequest("The offset is past the end of the stream.", code="bad_offset")
        raise OffsetGone  # the client has read more than exists: a backup was restored
