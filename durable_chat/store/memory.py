"""The store for tests and throwaway servers: it is in memory only and ends with the process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durable_chat.errors import StoreFailed
from durable_chat.store.base import Loaded, Piece, Record, Write
from durable_chat.store.tables import Tables, by_key, judge, matches


class MemoryBackend:
    """Mutable state: its tables."""

    failure: StoreFailed | None = None

    def __init__(self) -> None:
        self._tables = Tables()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def stage(self, data: bytes) -> int | None:
        return None

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        refused, accepted = judge(writes, self._stream_version, self._record_version)
        for write in accepted:
            self._tables.apply(write)
            for kind, key, record in write.records:
                if record is None:
                    del self._tables.records[kind, key]
        self._tables.forget_dropped(list(self._tables.dropped))
        return refused

    def _stream_version(self, path: str) -> int:
        return self._tables.stream_version(path, lambda _: 0)

    def _record_version(self, kind: str, key: str) -> int:
        return self._tables.record_version(kind, key, lambda _kind, _key: 0)

    async def load(self, path: str) -> Loaded | None:
        state = self._tables.streams.get(path)
        return None if state is None else Loaded(state, dict(self._tables.producers.get(state.id, {})))

    async def read(self, stream_id: int, start: int, stop: int, bytes_max: int) -> list[Piece]:
        return self._tables.read(stream_id, start, stop, bytes_max)

    async def append_start(self, stream_id: int, position: int) -> int:
        return self._tables.append_start(stream_id, position)

    async def expired(self, now_ms: int, limit: int) -> list[str]:
        return self._tables.expired(now_ms, limit)

    async def next_stream_id(self) -> int:
        return self._tables.stream_id_max + 1

    async def record(self, kind: str, key: str) -> Record | None:
        return self._tables.records.get((kind, key))

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]:
        held = (record for record in self._tables.records.values() if record is not None)
        return by_key(record for record in held if matches(record, kind, due_before_ms, prefix))


class SlowBackend(MemoryBackend):
    """
    A test double for load: each flush takes `flush_s` seconds, however many writes it holds. Mutable state: `flushes`,
    the number of writes in each flush.
    """

    def __init__(self, flush_s: float) -> None:
        super().__init__()
        self.flush_s = flush_s
        self.flushes: list[int] = []

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        await asyncio.sleep(self.flush_s)
        self.flushes.append(len(writes))
        return await super().commit(writes)
