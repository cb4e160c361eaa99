"""
The state of slots: what the clients of generations restore after a reload, read from the log.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field

from durable_chat.errors import Gone, InvalidRequest, NotFound
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.store.base import Store
from durable_chat.transcripts.codec import decode_aside
from durable_chat.transcripts.runs.generations import GenerationRuns

SLOTS_KEPT_MAX = 1_000
"""The slots whose state is kept in memory, at some KiB each. Others are read again from the log."""


@dataclass(slots=True)
class _Kept:
    """The folded part of a slot's log. Mutable state: all of it, under the lock."""

    runs: GenerationRuns = field(default_factory=GenerationRuns)
    offset: str = BEGINNING
    stream_id: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Slots:
    """Reads the state of slots. Mutable state: `_kept`, the states by the paths of their streams, last used last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def runs(self, path: str) -> GenerationRuns:
        """Return the generations in the log of a slot, up to its tail. Raises what the log raises."""
        kept = self._kept.setdefault(path, _Kept())
        self._kept.move_to_end(path)
        if len(self._kept) > SLOTS_KEPT_MAX:
            self._kept.popitem(last=False)
        async with kept.lock:
            for _ in range(2):
                try:
                    await self._read_on(path, kept)
                    break
                except (NotFound, Gone, InvalidRequest):  # no stream, or another one than before
                    kept.runs, kept.offset, kept.stream_id = GenerationRuns(), BEGINNING, 0
            return kept.runs

    async def _read_on(self, path: str, kept: _Kept) -> None:
        async with aclosing(await self._store.log.read(path, kept.offset)) as reader:
            head = reader.head
            if kept.offset != BEGINNING and (head.id != kept.stream_id or head.next_offset < kept.offset):
                raise NotFound("The stream has been replaced by another one.")
            kept.stream_id = head.id
            while True:
                batch = await reader.next()
                for chunk in await decode_aside(batch.data) if batch.data else ():
                    if chunk is not None:
                        kept.runs.fold(chunk)
                kept.offset = batch.next_offset
                if batch.up_to_date:
                    return
