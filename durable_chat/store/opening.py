"""Open a store by its URL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from durable_chat.config.settings import STREAMS_CACHED_MAX
from durable_chat.errors import StartError
from durable_chat.store.base import Backend, Figures, Store
from durable_chat.store.janitor import sweep_forever
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.streams import Streams

SQLITE = "sqlite:///"
MEMORY = "memory://"


def make_backend(url: str) -> Backend:
    """
    Make the backend that a URL names, without opening it. `sqlite:///name.db` is relative, `sqlite:////var/name.db`
    absolute.
    """
    if url == MEMORY:
        return MemoryBackend()
    if url.startswith(SQLITE) and len(url) > len(SQLITE):
        from durable_chat.store.sqlite.backend import SqliteBackend

        return SqliteBackend(url.removeprefix(SQLITE))
    raise StartError(
        f"Unknown store {url.partition(':')[0]!r}. Use sqlite:///file.db, memory:// or an http(s) address."
    )


async def open_store(url: str, cached_max: int = STREAMS_CACHED_MAX) -> Store:
    """Open the store, and migrate it if needed. Raises StartError, whose message says what to do."""
    backend = make_backend(url)
    streams = Streams(backend, cached_max=cached_max)
    await streams.open()
    sweeper = asyncio.create_task(sweep_forever(streams), name="janitor")

    async def close() -> None:
        sweeper.cancel()
        await asyncio.wait([sweeper])
        await streams.close()

    def figures() -> Figures:
        return replace(streams.figures(), database_bytes=file_bytes(url))

    return Store(streams, streams, close, lambda: streams.failure, streams.on_drop, figures)


def file_bytes(url: str) -> int:
    """The bytes of the database and its write-ahead log on the disk."""
    if not url.startswith(SQLITE):
        return 0
    files = (Path(url.removeprefix(SQLITE) + suffix) for suffix in ("", "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
