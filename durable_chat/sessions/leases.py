"""
Who answers a run: a record beside the log, from its first append to its last, which fences off everybody else.

The record is there exactly as long as the run has no end in the log: it is written in the first append that belongs to
the run, and removed in the append of its terminal. Every append between them holds only while the record is at the
version its owner wrote; whoever takes a dead run over writes the record first, and the old owner can write no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager

import msgspec

from durable_chat.errors import DurableChatError, RecordConflict
from durable_chat.store.base import Record, Records, RecordWrite

KIND = "run"

RENEWALS_PER_LEASE = 3
"""So many times a lease is renewed before it would be over: two may fail."""

log = logging.getLogger(__name__)


class Claim(msgspec.Struct, frozen=True):
    """
    What the record of a run says. Its chunks begin at `offset` or after it; `epoch` counts its owners, the first of
    which was to answer it, the others to end it.
    """

    session_id: str
    run_id: str
    offset: str
    epoch: int = 1


def read_claim(record: Record) -> Claim:
    return msgspec.json.decode(record.value, type=Claim)


class Lease:
    """
    One run's record, for whoever writes the run. Mutable state: `offset`, until the record is written; its `_version`,
    0 while it is not, and the `_fence` of that version; from when on it is to be renewed (`_old_ms`).
    """

    def __init__(
        self,
        records: Records | None,
        key: str,
        session_id: str,
        run_id: str,
        lease_ms: int,
        on_lost: Callable[[], None],
    ) -> None:
        self.key = key
        self.offset = ""
        self._records = records
        self._session_id = session_id
        self._run_id = run_id
        self._lease_ms = lease_ms
        self._on_lost = on_lost
        self._version = 0
        self._fence: tuple[RecordWrite] | None = None
        self._old_ms = 0
        # Its versions are in the order of the writes.
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def writing(self, *, last: bool = False) -> AsyncIterator[Sequence[RecordWrite]]:
        """
        For one append of the run: what has to be written in the same step. Nothing, on a log without records. The
        `last` append holds the run's terminal, and the record goes with it.
        """
        async with self._lock:
            write = self._next(last=last)
            yield () if write is None else (write,)
            self._wrote(write)

    def fence(self) -> Sequence[RecordWrite] | None:
        """
        For an append in the middle of the run, what has to hold; None while the record is being written, or is to be:
        then `writing` knows.
        """
        if self._records is None:
            return ()
        return None if self._is_old() or self._lock.locked() else self._fence

    async def renew(self) -> None:
        """Where it is time. Without effect while the run's appends do so."""
        if self._version == 0 or not self._is_old():
            return
        try:
            async with self.writing() as writes:
                if self._records is not None and writes and not writes[0].check:
                    await self._records.write_records(writes)
        except RecordConflict:
            self._on_lost()
        except DurableChatError as error:  # the next renewal may do better, and who writes the run hears of it, too
            log.warning("the lease of run %s was not renewed: %s", self._run_id, error.code)

    def _is_old(self) -> bool:
        return _now_ms() > self._old_ms

    def _next(self, *, last: bool) -> RecordWrite | None:
        if self._records is None:
            return None
        if last:
            return RecordWrite(KIND, self.key, None, self._version) if self._version else None
        if self._fence is not None and not self._is_old():
            return self._fence[0]
        value = msgspec.json.encode(Claim(self._session_id, self._run_id, self.offset))
        return RecordWrite(KIND, self.key, value, self._version, due_ms=_now_ms() + self._lease_ms)

    def _wrote(self, write: RecordWrite | None) -> None:
        if write is None or write.check:
            return
        self._version = 0 if write.value is None else self._version + 1
        self._fence = (RecordWrite(KIND, self.key, b"", self._version, check=True),) if self._version else None
        self._old_ms = (write.due_ms or 0) - round(self._lease_ms * (1 - 1 / RENEWALS_PER_LEASE))


class Leases:
    """Those of the runs of this process. Mutable state: `_held`, by key; `_beat`, which renews them while there are any."""

    def __init__(self, records: Records | None, path_of: Callable[[str], str], lease_ms: int) -> None:
        self.lease_ms = lease_ms
        self._records = records
        self._path_of = path_of
        self._held: dict[str, Lease] = {}
        self._beat: asyncio.Task[None] | None = None

    def take(self, session_id: str, run_id: str, on_lost: Callable[[], None]) -> Lease:
        """The lease of a new run. Nothing is written until the run writes."""
        lease = Lease(self._records, self.prefix(session_id) + run_id, session_id, run_id, self.lease_ms, on_lost)
        self._held[lease.key] = lease
        if self._beat is None and self._records is not None:
            self._beat = asyncio.create_task(self._renew_forever(), name="leases")
        return lease

    def drop(self, lease: Lease) -> None:
        """The run is carried on by nobody here, ended or not."""
        del self._held[lease.key]
        if not self._held and self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def holds(self, key: str) -> bool:
        return key in self._held

    async def forget(self, session_id: str, spared: Container[str] = ()) -> None:
        """A session is deleted: its runs are nobody's, and whoever still writes one may not, but runs that come after."""
        if self._records is not None:
            prefix = self.prefix(session_id)
            found = await self._records.records(KIND, prefix=prefix)
            gone = [record.key for record in found if record.key.removeprefix(prefix) not in spared]
            if gone:
                await self._records.write_records([RecordWrite(KIND, key, None) for key in gone])

    def prefix(self, session_id: str) -> str:
        # A session's path holds no slash, so that no run id reaches into another session.
        return f"{self._path_of(session_id)}/"

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self.lease_ms / 1000 / RENEWALS_PER_LEASE)
            await asyncio.gather(*(lease.renew() for lease in list(self._held.values())))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
