"""
One run as a Durable Stream of UI message chunks: a view of the session's log, and nothing that is stored.

The view has a message for each UI message chunk, and is closed after the run's end. Its offsets count these messages.
Rendering the same log gives the same messages, so the offsets are stable over reconnects and restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from durable_chat.api.doors.ai_sdk.chunks import Earlier, UIChunks
from durable_chat.api.doors.ai_sdk.messages import last_answer, latest_answers
from durable_chat.api.doors.wires import RunPart
from durable_chat.errors import InvalidRequest, NotFound
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING, NOW, decode_offset, encode_offset
from durable_chat.store.base import Batch, ClosedOnExit, Head, Reader
from durable_chat.transcripts.chunks import Chunk, encode_json
from durable_chat.transcripts.codec import decode_aside
from durable_chat.transcripts.runs.ends import INTERRUPTED, INTERRUPTED_CODE

LIFE = 1
"""The life in the offsets of a view: it has only one."""


class ViewWire:
    """
    Collects the messages of a view. A run that continues an answer gets to know it from the snapshot before the run:
    the one that the client `continues`, or with `whole` the last one, which the messages then rebuild first. Mutable
    state: `messages`, and `_before`, the last snapshot.
    """

    headers: Mapping[str, str] = {}
    ping = b""

    def __init__(self, *, whole: bool, continues: str | None = None) -> None:
        self.messages: list[bytes] = []
        self._whole = whole
        self._continues = continues
        self._before: Chunk | None = None
        self._machine = UIChunks()

    def before(self, chunk: Chunk) -> None:
        """Take a chunk before the run. Only a snapshot right before it tells what it continues."""
        kind = chunk["type"]
        if kind == "MESSAGES_SNAPSHOT":
            self._before = chunk
        elif kind != "CUSTOM":
            self._before = None

    def begin(self) -> bytes:
        return b""

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        if chunk["type"] == "RUN_STARTED":
            self._machine = UIChunks(self._earlier())
        self.messages += map(encode_json, self._machine.take(chunk))
        return b""

    def end(self) -> bytes:
        return b""

    def _earlier(self) -> Earlier | None:
        snapshot, self._before = self._before, None
        messages = [] if snapshot is None else snapshot["messages"]
        if self._continues is not None:
            found = (answer for answer in latest_answers(messages) if answer["id"] == self._continues)
            return Earlier.of(next(found, {"id": self._continues, "parts": []}))
        answer = last_answer(messages) if self._whole else None
        return None if answer is None else Earlier.of(answer, replays=True)


class ViewPart(RunPart):
    """The part of a log that a view shows, which begins with the snapshot before the run."""

    wire: ViewWire

    def _belongs(self, chunk: Chunk) -> bool:
        if super()._belongs(chunk):
            return True
        if not self.has_begun:
            self.wire.before(chunk)
        return False


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Messages of a view. See `store.base.Batch`."""

    offset: str
    next_offset: str
    data: bytes
    up_to_date: bool
    closed: bool


class ViewReader(ClosedOnExit):
    """
    A reader of a view. Mutable state: `_count`, the messages rendered so far, and `_position`, those given out or
    skipped (None: all that are there); `_ready`, those rendered and not given out; `_at_tail`, whether all of the log
    was read.
    """

    def __init__(self, reader: Reader, part: ViewPart, is_alive: Callable[[], bool], position: int | None) -> None:
        self._reader = reader
        self._part = part
        self._is_alive = is_alive
        self._count = 0
        self._position = position
        self._ready: list[bytes] = []
        self._at_tail = False

    @classmethod
    async def open(cls, reader: Reader, part: ViewPart, is_alive: Callable[[], bool], offset: str) -> ViewReader:
        """
        Return a reader at an offset of the view. Raises NotFound for a run that the log does not have, and
        InvalidRequest for an offset past the end.
        """
        made = cls(reader, part, is_alive, _position_of(offset))
        try:
            while not made._at_tail and not part.has_ended:
                await made._render(0.0)
            if not part.has_begun and not is_alive():
                raise NotFound("The session has no such answer. It may have been deleted.", code="run_not_found")
            if made._position is None:
                made._position, made._ready = made._count, []
            if made._position > made._count:
                raise InvalidRequest("The offset is past the end of the stream.", code="bad_offset")
        except BaseException:
            await reader.aclose()
            raise
        return made

    @property
    def head(self) -> Head:
        return Head(JSON, encode_offset(LIFE, self._count), closed=self._part.has_ended)

    async def aclose(self) -> None:
        await self._reader.aclose()

    async def next(self, wait_s: float = 0.0) -> Batch:
        deadline_s = asyncio.get_running_loop().time() + wait_s
        while not self._ready and not self._part.has_ended:
            left_s = deadline_s - asyncio.get_running_loop().time()
            await self._render(max(0.0, left_s))
            if not self._ready and self._at_tail and left_s <= 0:
                break
        ready, self._ready = self._ready, []
        assert self._position is not None
        start, self._position = self._position, self._position + len(ready)
        ended = self._part.has_ended
        return ViewBatch(
            encode_offset(LIFE, start),
            encode_offset(LIFE, self._position),
            b",".join(ready),
            self._at_tail or ended,
            ended,
        )

    async def _render(self, wait_s: float) -> None:
        """Read a batch of the log, and render it."""
        is_alive = self._is_alive()  # asked first: what a run writes before it ends is then read below
        batch = await self._reader.next(wait_s)
        if batch.data:
            self._part.take(await decode_aside(batch.data), batch, remote=True)
        elif batch.up_to_date and self._part.has_begun and not self._part.has_ended and not is_alive:
            self._part.fail(INTERRUPTED, INTERRUPTED_CODE)
        self._at_tail = batch.up_to_date
        made, self._part.wire.messages = self._part.wire.messages, []
        skipped = max(0, self._position - self._count) if self._position is not None else 0
        self._count += len(made)
        self._ready += made[skipped:]


def _position_of(offset: str) -> int | None:
    """Return the position of an offset, or None for `now`. Raises InvalidRequest."""
    if offset == NOW:
        return None
    if offset == BEGINNING:
        return 0
    life, position = decode_offset(offset)
    if life not in (0, LIFE) or (life == 0 and position):
        raise InvalidRequest("The offset is not one of this stream.", code="bad_offset")
    return position
