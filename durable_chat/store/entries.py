"""
The cache of streams in memory: the decided and the durable state of each. Streams are loaded on demand, and their
number is limited.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from durable_chat.config.settings import STREAMS_CACHED_MAX
from durable_chat.errors import StoreFailed
from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Backend
from durable_chat.store.tail import Tail

EVICTION_LOOKS_MAX = 100
"""Entries in use that one eviction skips. Without a limit it would take longer the more of them there are."""
SLICE_ENTRIES = 2_000
"""Entries that are examined before other tasks run: less than a millisecond."""
FORK_DEPTH_MAX = 64
"""The most levels of nested forks. Each level is one more place to read from."""

log = logging.getLogger(__name__)

Span = tuple[int, int, int]
"""The id of the stream that holds the bytes, the first position, and the position after the last."""


class Entry:
    """
    One stream, owned by `Streams`. Mutable state: `state`, the newest decided state (None: no such stream); `durable`,
    the newest committed state; `producers` as decided; `pending`, the number of writes between the two; `waiting`, the
    futures of callers that wait for them; `accessed_ms`, the last use, which may not be stored yet; `inherited`, where
    a fork's bytes before its own are.

    `doomed` means that a write was refused and the stream must be loaded again. `assumed` means that the stream was
    never loaded and is being created on the assumption that it does not exist; nothing else is decided until that is
    known. `damaged` means that stored bytes are missing: intact bytes can be read, and nothing is appended.
    """

    __slots__ = (
        *(
            "_tail",
            "accessed_ms",
            "assumed",
            "damaged",
            "doomed",
            "durable",
            "inherited",
            "path",
            "pending",
            "producers",
            "state",
        ),
        "waiting",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: StreamState | None = None
        self.durable: StreamState | None = None
        self.producers: dict[str, ProducerState] = {}
        self.inherited: tuple[Span, ...] = ()
        self.pending = 0
        self.waiting: list[asyncio.Future[None]] = []
        self.accessed_ms = 0
        self.doomed = False
        self.assumed = False
        self.damaged = False
        self._tail: Tail | None = None

    @property
    def tail(self) -> Tail:
        """The tail, created for the first reader: most streams in memory have none."""
        if self._tail is None:
            self._tail = Tail()
        return self._tail

    @property
    def is_read(self) -> bool:
        return self._tail is not None and self._tail.readers > 0

    @property
    def idle(self) -> bool:
        """Whether the entry can be evicted without losing anything."""
        touched = self.durable is not None and self.durable.ttl_s is not None
        saved = not touched or (self.durable is not None and self.accessed_ms <= self.durable.accessed_ms)
        return self.pending == 0 and not self.is_read and saved

    def is_expired(self, now_ms: int) -> bool:
        state = self.state
        if state is None or state.deleted or (state.ttl_s is None and state.expires_at_ms is None):
            return False
        if state.ttl_s is not None and self.is_read:  # PROTOCOL.md 5.1: a stream with a reader does not expire
            return False
        deadline_ms = state.deadline_ms(self.accessed_ms)
        return deadline_ms is not None and deadline_ms <= now_ms

    def spans(self, start: int, stop: int) -> list[Span]:
        """The places of the bytes between two positions, in order."""
        assert self.durable is not None
        own = (self.durable.id, self.durable.fork_position, self.durable.tail)
        spans = [(whose, max(begin, start), min(end, stop)) for whose, begin, end in (*self.inherited, own)]
        return [span for span in spans if span[1] < span[2]]

    async def settled(self) -> None:
        """
        Wait until everything decided so far is durable, because an answer must not depend on less. Raises StoreFailed.
        """
        if self.pending:
            waiting = asyncio.get_running_loop().create_future()
            self.waiting.append(waiting)
            await waiting

    def settle(self, failure: StoreFailed | None) -> None:
        """Note that one pending write is durable, refused or lost."""
        self.assumed = False
        self.pending -= 1
        if self.pending or not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None) if failure is None else one.set_exception(failure)


class Entries:
    """
    Mutable state: `_entries`, least recently used first; `_absent`, the paths that had no stream at the last look,
    which are evicted first; `_loading`, the loads in progress; `_wanted`, how many callers need each entry to stay.
    """

    def __init__(self, backend: Backend, entries_max: int = STREAMS_CACHED_MAX) -> None:
        self._backend = backend
        self._entries_max = entries_max
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._wanted: dict[str, int] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def held(self, path: str) -> Entry | None:
        """Return the entry if it is in memory and not `assumed`. Counts as a use."""
        entry = self._entries.get(path)
        if entry is None or entry.assumed:
            return None
        self.hits += 1
        self._entries.move_to_end(path)
        return entry

    async def get(self, path: str) -> Entry:
        """Return the entry of a path, whether or not a stream exists. It is valid until the caller's next await."""
        while True:
            entry = self._entries.get(path)
            if entry is None:
                await self._load(path)
            elif entry.assumed:
                await entry.settled()
            elif entry.doomed:
                await self._reload(entry)
            else:
                self.hits += 1
                self._entries.move_to_end(path)
                return entry

    async def get_both(self, path: str, other: str) -> tuple[Entry, Entry]:
        """Return both entries. They are valid until the caller's next await."""
        while True:
            one = await self.get(path)
            # Keep the first entry: otherwise concurrent callers could evict each other's first entry forever.
            with self._wanting(path):
                two = await self.get(other)
            if self._entries.get(path) is one and not one.doomed:
                return one, two

    def vacant(self, path: str) -> Entry | None:
        """
        Return an entry for a new stream: an existing entry without a stream, or a new entry that assumes that none
        exists. None when neither is possible. A caller that decides a write on it must pass it to `keep` before its
        next await.
        """
        entry = self._entries.get(path)
        if entry is None:
            if path in self._loading:
                return None
            entry = Entry(path)
            entry.assumed = True
            return entry
        return entry if entry.state is None and not entry.doomed else None

    def keep(self, entry: Entry) -> None:
        """Store an entry from `vacant`."""
        self._entries[entry.path] = entry
        self._entries.move_to_end(entry.path)
        self._evict()

    async def _load(self, path: str) -> None:
        task = self._loading.get(path)
        if task is None:
            self.misses += 1
            task = asyncio.create_task(self._load_once(path))
            self._loading[path] = task
            task.add_done_callback(lambda _: self._loading.pop(path, None))
        with self._wanting(path):
            await asyncio.shield(task)

    @contextmanager
    def _wanting(self, path: str) -> Iterator[None]:
        """Keep the entry of a path in memory inside the context."""
        self._wanted[path] = self._wanted.get(path, 0) + 1
        try:
            yield
        finally:
            left = self._wanted.pop(path) - 1
            if left:
                self._wanted[path] = left

    async def _load_once(self, path: str) -> None:
        entry = Entry(path)
        await self._fill(entry)
        self._entries[path] = entry
        if entry.state is None:
            self._absent[path] = None
        self._evict()

    async def _reload(self, entry: Entry) -> None:
        await entry.settled()
        if entry.doomed:
            await self._fill(entry)
            entry.doomed = False

    async def _fill(self, entry: Entry) -> None:
        loaded = await self._backend.load(entry.path)
        entry.state = entry.durable = loaded.state if loaded is not None else None
        entry.producers = loaded.producers if loaded is not None else {}
        entry.damaged = loaded is not None and loaded.damaged
        if loaded is not None:
            entry.accessed_ms = max(entry.accessed_ms, loaded.state.accessed_ms)
            entry.inherited = await self._inherited(entry, loaded.state)

    async def _inherited(self, entry: Entry, state: StreamState) -> tuple[Span, ...]:
        spans: list[Span] = []
        stop = state.fork_position
        for _ in range(FORK_DEPTH_MAX):
            if state.source is None or stop == 0:
                break
            loaded = await self._backend.load(state.source)
            if loaded is None or loaded.state.id != state.source_id:  # a source is kept as long as it has forks
                log.error("the stream %s is damaged: its source %s is missing", entry.path, state.source)
                entry.damaged = True
                break
            state = loaded.state
            spans.append((state.id, state.fork_position, stop))
            stop = min(stop, state.fork_position)
        return tuple(reversed(spans))

    def note_gone(self, entry: Entry) -> None:
        """Note that the entry's stream was dropped, so the entry can be evicted first."""
        self._absent[entry.path] = None

    @property
    def crowded(self) -> bool:
        """Whether the cache holds more entries than its limit."""
        return len(self._entries) > self._entries_max

    def _evict(self) -> None:
        while self.crowded and self._absent:
            path, _ = self._absent.popitem(last=False)
            entry = self._entries.get(path)
            if entry is not None and entry.state is None and self._may_go(entry):
                del self._entries[path]
        looks = 0
        while self.crowded and looks < EVICTION_LOOKS_MAX:
            entry = next(iter(self._entries.values()))
            if self._may_go(entry):
                del self._entries[entry.path]
                self._absent.pop(entry.path, None)
            else:
                self._entries.move_to_end(entry.path)
                looks += 1

    def _may_go(self, entry: Entry) -> bool:
        return entry.idle and entry.path not in self._wanted

    async def all_where(self, condition: Callable[[Entry], bool]) -> AsyncIterator[Entry]:
        """Yield the entries that meet a condition at their turn. Lets other tasks run in between."""
        entries = list(self._entries.values())
        for at in range(0, len(entries), SLICE_ENTRIES):
            for entry in entries[at : at + SLICE_ENTRIES]:
                if condition(entry):
                    yield entry
            await asyncio.sleep(0)
