"""
The sessions in memory: their ids, their paths, and a cache of those used last.
"""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from durable_chat.config.settings import SESSIONS_CACHED_BYTES_MAX, SESSIONS_CACHED_MAX, Settings
from durable_chat.errors import DurableChatError, InvalidRequest
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.sessions.artifacts import Artifacts
from durable_chat.sessions.session import Session
from durable_chat.sessions.stored_snapshots import StoredSnapshots
from durable_chat.store.base import Log, Records, Store

ID_CHARS_MAX = 256
"""The maximum length of a session id, part of the API contract. It is enough for any URL used as an id."""

STORING_WAIT_S = 5.0
"""How long storing snapshots may delay a shutdown."""

log = logging.getLogger(__name__)


def check_session_id(session_id: str | None) -> str:
    """Return the id if it is valid. Raises InvalidRequest `bad_id`."""
    if not session_id:
        raise InvalidRequest("The session id is missing.", code="bad_id")
    if len(session_id) > ID_CHARS_MAX:
        raise InvalidRequest(f"A session id must have at most {ID_CHARS_MAX} characters.", code="bad_id")
    # Cc: control characters. Cs: halves of surrogate pairs, which a URL cannot contain.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in session_id):
        raise InvalidRequest("A session id must not contain control characters or unpaired surrogates.", code="bad_id")
    return session_id


def session_path(session_id: str) -> str:
    """The path of a session's stream: one segment, with the id percent-encoded once as JavaScript does."""
    return "chat-" + quote(check_session_id(session_id), safe="!*'()")


class Sessions:
    """
    The sessions of one log that are in memory: those in use, and the most recently used ones within two limits.

    Mutable state: `_used`; `_idle`, ordered by last use, and `_idle_bytes`, the bytes they were folded from;
    `_storing`, the tasks that store snapshots, by session; `_closed`, set when no more snapshots are stored; `hits` and
    `misses`, how often an unused session was or was not in memory.
    """

    def __init__(
        self,
        log: Log,
        *,
        path_of: Callable[[str], str] = session_path,
        ttl_s: int | None = None,
        records: Records | None = None,
        idle_max: int = SESSIONS_CACHED_MAX,
        idle_bytes_max: int = SESSIONS_CACHED_BYTES_MAX,
    ) -> None:
        self.hits = self.misses = 0
        self._idle_max = idle_max
        self._idle_bytes_max = idle_bytes_max
        self.path_of = path_of
        self.stored = None if records is None else StoredSnapshots(log, records)
        self.artifacts = Artifacts(log, records)
        self._storing: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._log = log
        self._ttl_s = ttl_s
        self._used: dict[str, Session] = {}
        self._idle: OrderedDict[str, Session] = OrderedDict()
        self._idle_bytes = 0

    @classmethod
    def of(cls, store: Store, settings: Settings) -> Sessions:
        return cls(
            store.log,
            ttl_s=settings.session_ttl_s,
            records=store.records,
            idle_max=settings.sessions_cached_max,
            idle_bytes_max=settings.sessions_cached_bytes_max,
        )

    @property
    def count(self) -> int:
        """The number of sessions in memory."""
        return len(self._used) + len(self._idle)

    @property
    def idle_bytes(self) -> int:
        return self._idle_bytes

    @contextmanager
    def hold(self, session_id: str) -> Iterator[Session]:
        """Keep the session in memory while the context is open. Raises InvalidRequest for an invalid id."""
        session = self.take(session_id)
        try:
            yield session
        finally:
            self.release(session)

    def take(self, session_id: str) -> Session:
        """Return the session and keep it in memory until it is released."""
        session = self._used.get(session_id)
        if session is None:
            session = self._idle.pop(session_id, None)
            if session is None:
                self.misses += 1
                path = self.path_of(session_id)
                session = Session(self._log, session_id, path, self._ttl_s, self.stored, self.artifacts)
            else:
                self.hits += 1
                self._idle_bytes -= session.folded_bytes
            self._used[session_id] = session
        session.held += 1
        return session

    def release(self, session: Session) -> None:
        if session.is_due and session.id not in self._storing and not self._closed:
            self._storing[session.id] = asyncio.create_task(self._store(session.id), name=f"store {session.path}")
        assert session.held > 0
        session.held -= 1
        if session.held:
            return
        if session.position == BEGINNING:  # nothing to cache
            del self._used[session.id]
            return
        self._idle[session.id] = self._used.pop(session.id)
        self._idle_bytes += session.folded_bytes
        while len(self._idle) > self._idle_max or self._idle_bytes > self._idle_bytes_max:
            _, oldest = self._idle.popitem(last=False)
            self._idle_bytes -= oldest.folded_bytes

    async def _store(self, session_id: str) -> None:
        """Store a snapshot in a task, so that the caller does not wait for it. Failures are only logged."""
        try:
            with self.hold(session_id) as session:
                await session.store()
        except DurableChatError as error:
            log.warning("the snapshot of session %r was not stored: %s", session_id, error.code)
        except Exception:
            log.exception("storing the snapshot of session %r failed because of an internal error", session_id)
        finally:
            del self._storing[session_id]

    async def close(self, timeout_s: float = STORING_WAIT_S) -> None:
        """Store no more snapshots, and wait a limited time for those in progress. A missing one is no loss."""
        self._closed = True
        await self.artifacts.close()
        tasks = list(self._storing.values())
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
