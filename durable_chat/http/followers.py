"""
An SSE response that the committing code writes to directly, on a connection that accepts writes without a task.

The app has already returned. A waiting reader is a few small objects, and costs one write for each new batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from starlette.types import Message

from durable_chat.errors import DurableChatError, NotFound
from durable_chat.protocol.sse import PING
from durable_chat.store.base import FollowingReader, FramedBatch

LINE = "durable-chat.line"
"""The ASGI extension (`scope["extensions"]`) of a connection that offers a `Line` under the key `line`."""

log = logging.getLogger(__name__)


class Line(Protocol):
    """An open response."""

    def detach(self, left: Callable[[], None]) -> None:
        """
        Keep the response open when the app returns. `left` is called when the client has disconnected, possibly
        during this call.
        """
        ...

    async def send(self, message: Message) -> None:
        """Send like ASGI's `send`, with backpressure: wait while the client reads too slowly."""
        ...

    def push(self, body: bytes) -> bool:
        """Write a part of the body now. Return False, and write nothing, if the client reads too slowly."""
        ...

    def finish(self) -> None:
        """End the body."""
        ...

    def cut(self) -> None:
        """Close the connection, so that the client does not take a partial body for a complete one."""
        ...


class Endings(Protocol):
    """The registry of live reads, which a shutdown can end."""

    def join(self, path: str, end: Callable[[], None]) -> None: ...

    def leave(self, path: str, end: Callable[[], None]) -> None: ...


class Follower:
    """
    A live read without a task of its own. Mutable state: `_task`, which catches up while the client is behind;
    `_timer`, to the next ping or the end; `_written_s`, the time of the last write; `_open`, until the end.
    """

    __slots__ = (
        "_clock",
        "_ends_s",
        "_frame",
        "_line",
        "_live",
        "_open",
        "_path",
        "_ping_s",
        "_reader",
        "_task",
        "_timer",
        "_written_s",
    )

    def __init__(
        self,
        reader: FollowingReader,
        line: Line,
        frame: Callable[[FramedBatch], bytes],
        live: Endings,
        path: str,
        ping_s: float,
    ) -> None:
        self._reader = reader
        self._line = line
        self._frame = frame
        self._live = live
        self._path = path
        self._ping_s = ping_s
        self._open = False
        self._ends_s = 0.0
        self._written_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle
        self._clock: Callable[[], float]

    def begin(self, lasts_s: float) -> None:
        """Take over the reader and the response, whose headers have been sent."""
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._open = True
        self._written_s = loop.time()
        self._ends_s = self._written_s + lasts_s
        self._live.join(self._path, self.end)
        self._task = loop.create_task(self._catch_up(greets=True))
        self._timer = loop.call_later(min(self._ping_s, lasts_s), self._tick)
        self._line.detach(self._stop)

    def end(self) -> None:
        """End the response cleanly. The client reconnects by offset."""
        if self._open:
            self._stop()
            self._line.finish()

    def _stop(self) -> None:
        if not self._open:
            return
        self._open = False
        self._live.leave(self._path, self.end)
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._reader.close()
        # The reader refers to this follower; without this, only the garbage collector could free the two.
        del self._frame, self._reader

    def _fall_behind(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self, *, greets: bool = False) -> None:
        """Read and send at the client's pace, up to the tail. With `greets`, the first batch is sent even if empty."""
        try:
            while True:
                before = self._reader.offset
                batch = await self._reader.next()
                if batch.next_offset < before:  # deleted: the client reconnects and learns that the stream starts over
                    break
                if batch.data or batch.closed or greets:
                    message = {"type": "http.response.body", "body": self._frame(batch), "more_body": True}
                    await self._line.send(message)
                    self._written_s = self._clock()
                greets = False
                if batch.closed:
                    break
                if self._reader.follow(self._take, self._fall_behind):
                    self._task = None
                    return
        except NotFound:
            pass
        except DurableChatError as error:
            log.warning("a live read was cut off: %s", error.code)
            self._cut()
        except Exception:
            log.exception("a live read was cut off by a bug")
            self._cut()
        self._task = None
        self.end()

    def _cut(self) -> None:
        self._stop()
        self._line.cut()

    def _take(self, batch: FramedBatch) -> bool:
        if not self._line.push(self._frame(batch)):
            return False
        self._written_s = self._clock()
        if batch.closed:
            self.end()
        return True

    def _tick(self) -> None:
        """End the response if its time is over; else send a ping if nothing was written since the last one."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s >= self._ends_s:
            self.end()
            return
        if now_s >= self._written_s + self._ping_s:
            if self._task is None:
                self._line.push(PING)
            self._written_s = now_s
        self._timer = loop.call_at(min(self._written_s + self._ping_s, self._ends_s), self._tick)
