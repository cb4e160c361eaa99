"""
Leases of runs: a record beside the log that fences off all other writers, from the run's first append to its last.

The record exists exactly as long as the run has no end in the log. The first append of the run writes it, and the
append of the terminal chunk removes it. Every append in between succeeds only while the record has the version that its
owner wrote. A process that takes over a dead run writes the record first, which fences off the old owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from durable_chat.errors import DurableChatError, RecordConflict
from durable_chat.store.base import Record, Records, RecordWrite
from durable_chat.store.clocks import unix_ms

KIND = "run"

RENEWALS_PER_LEASE = 3
"""How often a lease is renewed before it expires: two renewals may fail."""

log = logging.getLogger(__name__)


class Claim(msgspec.Struct, frozen=True):
    """
    The content of a run's record. Its chunks begin at `offset` or later. `epoch` counts its owners: the first begins
    the run, later ones go on with it or end it. `plan` is what it takes to go on (see `plans`), or empty. `usage` is
    what the finished steps of the answer have used.
    """

    session_id: str
    run_id: str
    offset: str
    epoch: int = 1
    plan: str = ""
    usage: list[dict[str, Any]] = []


def read_claim(record: Record) -> Claim:
    return msgspec.json.decode(record.value, type=Claim)


class Lease:
    """
    The lease of one run, for the writer of the run. Mutable state: `offset`, until the record is written; `_claim`, the
    rest of the record's content; `_version`, the record's version or 0 without a record; `_fence`, the check of that
    version; `_old_ms`, when to renew; `_is_over`, once the run has its end in the log.
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
        self._claim = Claim(session_id, run_id, "")
        self._lease_ms = lease_ms
        self._on_lost = on_lost
        self._version = 0
        self._fence: tuple[RecordWrite] | None = None
        self._old_ms = 0
        self._is_over = False
        # Keeps the versions in the order of the writes.
        self._lock = asyncio.Lock()

    def adopt(self, record: Record) -> None:
        """Take over the record of a dead run, which the caller has just written."""
        self._claim = read_claim(record)
        self.offset = self._claim.offset
        self._version = record.version - 1
        self._wrote(RecordWrite(KIND, self.key, record.value, self._version, due_ms=record.due_ms))

    @property
    def recorded_plan(self) -> str:
        return self._claim.plan

    @property
    def recorded_usage(self) -> list[dict[str, Any]]:
        return self._claim.usage

    def used(self, usage: list[dict[str, Any]]) -> None:
        """Keep what the finished steps of the run have used, from the next write on."""
        if usage != self._claim.usage:
            self._claim = msgspec.structs.replace(self._claim, usage=usage)
            self._fence = None

    def plan(self, text: str) -> None:
        """Keep this plan in the record, from the next write on."""
        if text != self._claim.plan:
            self._claim = msgspec.structs.replace(self._claim, plan=text)
            self._fence = None

    async def forget_plan(self) -> None:
        """Make durable that nobody goes on with the run after a crash. Raises what the store raises."""
        self.plan("")
        if self._version == 0 or self._records is None:
            return
        try:
            async with self.writing() as writes:
                if writes and not writes[0].check:
                    await self._records.write_records(writes)
        except RecordConflict:
            self._on_lost()

    @asynccontextmanager
    async def writing(self, *, last: bool = False) -> AsyncIterator[Sequence[RecordWrite]]:
        """
        Yield the records to write atomically with one append of the run; none on a log without records. The `last`
        append contains the run's terminal chunk and deletes the record.
        """
        async with self._lock:
            write = self._next(last=last)
            yield () if write is None else (write,)
            self._wrote(write)

    def fence(self) -> Sequence[RecordWrite] | None:
        """
        Return the checks for an append within the run, or None while the record is being written or must be renewed.
        Use `writing` then.
        """
        if self._records is None:
            return ()
        return None if self._is_old() or self._lock.locked() else self._fence

    async def renew(self) -> None:
        """Renew the lease if it is due. The run's appends renew it, too."""
        if self._version == 0 or not self._is_old():
            return
        try:
            async with self.writing() as writes:
                if self._records is not None and writes and not writes[0].check:
                    await self._records.write_records(writes)
        except RecordConflict:
            self._on_lost()
        except DurableChatError as error:  # the next renewal may succeed, and the run's writer gets the same error
            log.warning("the lease of run %s was not renewed: %s", self._claim.run_id, error.code)

    def _is_old(self) -> bool:
        return unix_ms() > self._old_ms

    def _next(self, *, last: bool) -> RecordWrite | None:
        if self._records is None or self._is_over:
            return None
        if last:
            return RecordWrite(KIND, self.key, None, self._version) if self._version else None
        if self._fence is not None and not self._is_old():
            return self._fence[0]
        value = msgspec.json.encode(msgspec.structs.replace(self._claim, offset=self.offset))
        return RecordWrite(KIND, self.key, value, self._version, due_ms=unix_ms() + self._lease_ms)

    def _wrote(self, write: RecordWrite | None) -> None:
        if write is None or write.check:
            return
        self._is_over = write.value is None
        self._version = 0 if self._is_over else self._version + 1
        self._fence = (RecordWrite(KIND, self.key, b"", self._version, check=True),) if self._version else None
        self._old_ms = (write.due_ms or 0) - round(self._lease_ms * (1 - 1 / RENEWALS_PER_LEASE))


class Leases:
    """The leases of this process's runs. Mutable state: `_held`, by key; `_beat`, the task that renews them."""

    def __init__(self, records: Records | None, path_of: Callable[[str], str], lease_ms: int) -> None:
        self.lease_ms = lease_ms
        self._records = records
        self._path_of = path_of
        self._held: dict[str, Lease] = {}
        self._beat: asyncio.Task[None] | None = None

    def take(self, session_id: str, run_id: str, on_lost: Callable[[], None]) -> Lease:
        """Return the lease of a new run. Nothing is written before the run's first append."""
        lease = Lease(self._records, self.prefix(session_id) + run_id, session_id, run_id, self.lease_ms, on_lost)
        self._held[lease.key] = lease
        if self._beat is None and self._records is not None:
            self._beat = asyncio.create_task(self._renew_forever(), name="leases")
        return lease

    def adopt(self, session_id: str, run_id: str, record: Record | None, on_lost: Callable[[], None]) -> Lease:
        """Return the lease of a dead run that this process goes on with. It has claimed the record, if there is one."""
        lease = self.take(session_id, run_id, on_lost)
        if record is not None:
            lease.adopt(record)
        return lease

    def drop(self, lease: Lease) -> None:
        """Stop renewing the lease: this process no longer writes the run."""
        del self._held[lease.key]
        if not self._held and self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def holds(self, key: str) -> bool:
        return key in self._held

    async def forget(self, session_id: str, spared: Container[str] = ()) -> None:
        """
        Delete the records of a deleted session's runs, which fences off their writers. Runs of later turns are
        `spared`.
        """
        if self._records is not None:
            prefix = self.prefix(session_id)
            found = await self._records.records(KIND, prefix=prefix)
            gone = [record.key for record in found if record.key.removeprefix(prefix) not in spared]
            if gone:
                await self._records.write_records([RecordWrite(KIND, key, None) for key in gone])

    def prefix(self, session_id: str) -> str:
        # A session's path contains no slash, so no run id matches the prefix of another session.
        return f"{self._path_of(session_id)}/"

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self.lease_ms / 1000 / RENEWALS_PER_LEASE)
            await asyncio.gather(*(lease.renew() for lease in list(self._held.values())))
