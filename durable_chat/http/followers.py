"""
An SSE response that is written to by whoever commits, on a connection that takes bytes without a task to wait in.

Thousands of readers of one stream cost one write each that way, and nothing in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from durable_chat.errors import NotFound
from durable_chat.protocol.sse import PING
from durable_chat.store.base import Batch, FollowingReader, Reader

PUSH = "durable-chat.push"
"""
The ASGI extension (`scope["extensions"]`) of a connection that can be pushed to once its response has begun. Its `push`
takes bytes, writes them as a part of the body and says True, or False for a client that does not read as fast.
"""

Push: TypeAlias = Callable[[bytes], bool]


class Follower:
    """
    Mutable state: `_task`, which catches up while the client is behind; `_timer`, to the next ping; `_written_s`, when
    something was last pushed; `_failure`, what kept the task from going on.
    """

    def __init__(
        self,
        reader: Reader,
        send: Callable[[bytes], Awaitable[None]],
        push: Push,
        frame: Callable[[Batch], bytes],
        ping_s: float,
        end: Callable[[], None],
    ) -> None:
        assert isinstance(reader, FollowingReader)
        self._reader = reader
        self._following: FollowingReader = reader
        self._send = send
        self._push = push
        self._frame = frame
        self._ping_s = ping_s
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._failure: Exception | None = None
        self._written_s = self._loop.time()
        self._task: asyncio.Task[None] | None = self._loop.create_task(self._catch_up(greets=True))
        self._timer = self._loop.call_later(ping_s, self._tick)

    async def close(self) -> None:
        """Write no more. Raises what the store raised."""
        self._timer.cancel()
        self._following.unfollow()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._failure is not None:
            raise self._failure

    def _behind(self) -> None:
        self._task = self._loop.create_task(self._catch_up())

    async def _catch_up(self, *, greets: bool = False) -> None:
        """Read and send as fast as the client takes it, up to the tail. The first answer says where that is."""
        try:
            while True:
                batch = await self._reader.next()
                if batch.data or batch.closed or greets:
                    await self._send(self._frame(batch))
                greets = False
                if batch.closed:
                    return self._end()
                if self._following.follow(self._take, self._behind):
                    self._written_s = self._loop.time()
                    self._task = None
                    return None
        except NotFound:
            self._end()
        except Exception as error:  # noqa: BLE001 - `close` raises it, in the task of the response
            self._failure = error
            self._end()

    def _take(self, batch: Batch) -> bool:
        if not self._push(self._frame(batch)):
            return False
        self._written_s = self._loop.time()
        if batch.closed:
            self._end()
        return True

    def _tick(self) -> None:
        """A ping, unless something else was written since the last one."""
        due_s = self._written_s + self._ping_s
        now_s = self._loop.time()
        if now_s >= due_s:
            if self._task is None:
                self._push(PING)
            self._written_s = now_s
            due_s = now_s + self._ping_s
        self._timer = self._loop.call_at(due_s, self._tick)
