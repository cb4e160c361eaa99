"""
The lifetime of a session: its stream stays alive while it is answered, and its other data is deleted after its stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote

from durable_chat.errors import DurableChatError, Gone, InvalidRequest, NotFound
from durable_chat.protocol.offsets import NOW
from durable_chat.sessions.session import Session
from durable_chat.sessions.sessions import Sessions, session_path
from durable_chat.store.base import Log

USES_PER_TTL = 3
"""How often a stream is touched per TTL: two touches may fail."""

CLEARED_AT_ONCE = 8
"""Sessions cleared concurrently. Each takes a few reads of the store, and other requests continue between them."""

CLEARED_MAX = 10_000
"""The maximum number of sessions waiting to be cleared. Sweeps delete the records of further ones within a day."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def kept(stream_log: Log, path: str, ttl_s: int | None) -> AsyncIterator[None]:
    """Touch the stream while the block runs, so that an idle session does not expire while a model is thinking."""
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
        with suppress(DurableChatError):  # the run's writer gets the same error
            await (await stream_log.read(path, NOW)).aclose()


def session_of(path: str) -> str | None:
    """Return the session whose stream has this path, or None."""
    session_id = unquote(path.removeprefix("chat-"))
    try:
        return session_id if session_path(session_id) == path else None
    except InvalidRequest:
        return None


class Leftovers:
    """
    Clears the data outside the log of sessions whose stream expired, or was deleted other than through the chat.
    Mutable state: `_tasks`, which clear, by session; `_closed`, set when no more are started.
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
        """Stop clearing. The sweeps delete the rest."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _clear(self, session_id: str) -> None:
        """Clear a session at its turn, so that it is not created again meanwhile."""
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
            log.warning("the remaining data of session %r was not deleted: %s", session_id, error.code)
        except Exception:
            log.exception("the remaining data of session %r was not deleted because of an internal error", session_id)
        finally:
            del self._tasks[session_id]

    async def _exists(self, path: str) -> bool:
        try:
            await self._log.head(path)
        except (NotFound, Gone):
            return False
        return True
