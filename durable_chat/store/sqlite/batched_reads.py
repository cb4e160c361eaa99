"""Batched look-ups: keys that arrive while a query runs share the next query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

KEYS_MAX = 500
"""Keys of one query. SQLite accepts many more, but a long query delays other reads."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Lookups(Generic[Key, Value]):
    """Mutable state: `_asked`, the keys that are not in a query yet, and the task that sends the queries."""

    def __init__(self, fetch: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]]) -> None:
        self._fetch = fetch
        self._asked: dict[Key, asyncio.Future[Value | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ask(self, key: Key) -> Value | None:
        """The value of a key, or None. Raises what the query raised."""
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._answer(), name="lookups")
        return await asyncio.shield(future)

    async def _answer(self) -> None:
        try:
            while self._asked:
                keys = list(self._asked)[:KEYS_MAX]
                await self._answer_some({key: self._asked.pop(key) for key in keys})
        finally:
            self._task = None

    async def _answer_some(self, asked: dict[Key, asyncio.Future[Value | None]]) -> None:
        try:
            found = await self._fetch(list(asked))
        except BaseException as error:
            for future in asked.values():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    future.exception()  # mark the exception as retrieved: the caller may be gone
                else:
                    future.cancel()
            if not isinstance(error, Exception):
                raise
            return
        for key, future in asked.items():
            future.set_result(found.get(key))
