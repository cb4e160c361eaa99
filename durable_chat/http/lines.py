"""
A `Line` over ASGI's `send`, for servers whose connections do not accept writes from outside a task.

The app does not return while the response is open. It sends the pushed parts in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.types import Message, Receive, Send

AHEAD_BYTES_MAX = 256 * 1024
"""Bytes of a response that may wait for the server to send them. A client that is further behind reads the store."""


class SentLine:
    """
    Mutable state: `_ahead`, the parts of the body that are not sent yet, and their `_size`; `_over`, once nothing more
    may be pushed; `_news` and `_room`, events that wake `serve` and `send`.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._ahead: list[bytes] = []
        self._size = 0
        self._over = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._left: Callable[[], None] = lambda: None

    def detach(self, left: Callable[[], None]) -> None:
        """See `Line`. The app calls `serve` instead of returning."""
        self._left = left

    async def send(self, message: Message) -> None:
        """Wait until there is room, then add a part of the body."""
        while not self.push(message["body"]) and not self._over:
            self._room.clear()
            await self._room.wait()

    def push(self, body: bytes) -> bool:
        if self._over or self._size > AHEAD_BYTES_MAX:
            return False
        self._ahead.append(body)
        self._size += len(body)
        self._news.set()
        return True

    def finish(self) -> None:
        self._over = True
        self._news.set()
        self._room.set()

    def cut(self) -> None:
        """End like `finish`. Events are pushed whole, so none is partial."""
        self.finish()

    async def serve(self, receive: Receive) -> None:
        """Send what is pushed, until the end or until the client disconnects."""
        writing = asyncio.ensure_future(self._write())
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._left()
            self.finish()
            for task in (writing, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _write(self) -> None:
        while self._ahead or not self._over:
            body, self._ahead, self._size = b"".join(self._ahead), [], 0
            self._room.set()
            if body:
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
            self._news.clear()
            if not self._ahead and not self._over:
                await self._news.wait()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
