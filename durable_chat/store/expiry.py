"""
The lifetime of streams: delete those that have expired, and store the last use of those with a sliding TTL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from durable_chat.store.base import Backend, StreamChange
from durable_chat.store.entries import Entries, Entry
from durable_chat.store.publishing import Publisher, Refused

TOUCH_SAVED_MS = 5_000
"""The extension of a sliding TTL by reads is stored at most this often per stream."""


class Expiry:
    """`now_ms` measures a TTL, `wall_ms` tells fixed times, and `delete` deletes a stream or raises Refused."""

    def __init__(
        self,
        backend: Backend,
        entries: Entries,
        publisher: Publisher,
        now_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        delete: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._entries = entries
        self._publisher = publisher
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self._delete = delete

    async def expire_due(self, limit: int) -> int:
        """Delete expired streams, at most `limit`. Returns the number of streams examined."""
        paths = await self._backend.expired(self._wall_ms(), limit)
        for path in paths:
            await self.expire_if_due(path)
            entry = self._entries.held(path)
            if entry is not None:
                if entry.is_read:
                    self.touch(entry)
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
            or self._publisher.failure is not None
            or entry.accessed_ms <= state.accessed_ms
        ):
            return
        touched = msgspec.structs.replace(state, accessed_ms=entry.accessed_ms, version=state.version + 1)
        self._publisher.submit([(entry, StreamChange(touched))], ())

    async def expire_if_due(self, path: str) -> None:
        """Delete the stream if it has expired."""
        entry = await self._entries.get(path)
        if self.is_expired(entry):
            try:
                await self._delete(entry)
            except Refused:
                return

    def is_expired(self, entry: Entry) -> bool:
        state = entry.state
        if state is None or (state.ttl_s is None and state.expires_at_ms is None):
            return False
        return entry.is_expired(self._now_ms() if state.ttl_s is not None else self._wall_ms())

    def touch(self, entry: Entry) -> None:
        """Note that the stream is used now."""
        entry.accessed_ms = max(entry.accessed_ms, self._now_ms())
