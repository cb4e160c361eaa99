"""
How long a session lives: it is kept while it is answered, and when its stream has gone what is beside it goes too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote

from durable_chat.errors import DurableChatError, Gone, InvalidRequest, NotFound
from durable_chat.protocol.offsets import NOW
from durable_chat.sessions.sessions import Session, Sessions, session_path
from durable_chat.store.base import Log

USES_PER_TTL = 3
"""So many times a stream is used before it would go: two may fail."""

CLEARED_AT_ONCE = 8
"""Sessions that are cleared side by side: a few reads of the store each, beside which others go on."""

CLEARED_MAX = 10_000
"""Sessions that wait to be cleared. Records of one beyond are found by the sweeps of their kinds, a day later at most."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def kept(stream_log: Log, path: str, ttl_s: int | None) -> AsyncIterator[None]:
    """While the block runs its stream is used, also by a model that thinks for longer than an idle session lives."""
    if ttl_s is None:
        yield
        return
    task = asyncio.create_task(_use(stream_log, path, ttl_s / USES_PER_TTL), name=f"keep {path}")
    try:
        yield
    finally:
        task.cancel()


async def _use(stream_log: Log, path: str, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        with suppress(DurableChatError):  # whoever writes the run hears of it
            await (await stream_log.read(path, NOW)).aclose()


def session_of(path: str) -> str | None:
    """The session whose stream has that path."""
    session_id = unquote(path.removeprefix("chat-"))
    try:
        return session_id if session_path(session_id) == path else None
    except InvalidRequest:
        return None


class Leftovers:
    """
    Clears what a session leaves beside the log when its stream goes by itself, or by another way than the chat's.
    Mutable state: `_tasks`, which do so, by session; whether there are any more of them.
    """

    def __init__(self, stream_log: Log, sessions: Sessions, forget: Callable[[Session], Awaitable[None]]) -> None:
        self._log = stream_log
        self._sessions = sessions
        self._forget = forget
        self._places = asyncio.Semaphore(CLEARED_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def clear(self, session_id: str) -> None:
        if session_id not in self._tasks and len(self._tasks) < CLEARED_MAX and not self._closed:
            self._tasks[session_id] = asyncio.create_task(self._clear(session_id), name=f"clear {session_id!r}")

    async def close(self) -> None:
        """What is not cleared yet is left to the sweeps."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _clear(self, session_id: str) -> None:
        """In the session's turn, so that it does not begin anew meanwhile."""
        try:
            async with self._places:
                with self._sessions.hold(session_id) as session:
                    ticket = session.line.join()
                    try:
                        await ticket
                        if not await self._exists(session.path):
                            await self._forget(session)
                    finally:
                        session.line.leave(ticket)
        except DurableChatError as error:
            log.warning("what session %r has left was not cleared: %s", session_id, error.code)
        except Exception:
            log.exception("what session %r has left was not cleared, by a bug", session_id)
        finally:
            del self._tasks[session_id]

    async def _exists(self, path: str) -> bool:
        try:
            await self._log.head(path)
        except (NotFound, Gone):
            return False
        return True
