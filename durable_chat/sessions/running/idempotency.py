"""
Idempotency keys: requests with the same key in the same session are the same run, also after a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from typing import Protocol

import msgspec

from durable_chat.errors import InvalidRequest
from durable_chat.store.base import Records, RecordWrite
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.runs.ends import INTERRUPTED

KIND = "request"

KEY_CHARS_MAX = 256
"""The maximum length of a key. Clients send UUIDs; a longer key is a mistake. Keys are stored with the session."""

KEPT_MS = 24 * 3600 * 1000
"""How long a key is remembered. No client retries for longer without a restart."""

SWEPT_EVERY = 256
"""Requests with a key between two sweeps for expired keys, so that their number stays bounded."""

KEYS_PER_RUN_MAX = 64
"""The maximum number of keys of one run: its sender's, and those of tabs that sent its message again."""

FORGOTTEN_AT_ONCE = 500
"""The keys of a session deleted in one write, so that appends do not wait for a long write."""

SEEN_MAX = 10_000
"""The maximum number of keys kept in memory. On a store with records, older ones are read from there."""


class Seen(msgspec.Struct, frozen=True):
    """A request that was accepted. If it has no end and its run is not alive, its process died."""

    run_id: str
    offset: str
    ended: bool = False
    error: str | None = None


class Asked(Protocol):
    """What to remember of a run."""

    id: str
    session_id: str
    keys: list[str]
    offset: str | None
    error: str | None


class Requests:
    """
    The requests that carried a key. Mutable state: `_seen`, by session and key, oldest first; `_keys`, the keys of each
    session in it; `_unswept`, the number of requests since the last sweep.
    """

    def __init__(self, records: Records | None, path_of: Callable[[str], str]) -> None:
        self._records = records
        self._path_of = path_of
        self._seen: OrderedDict[tuple[str, str], Seen] = OrderedDict()
        self._keys: dict[str, set[str]] = {}
        self._unswept = 0

    async def seen(self, session_id: str, key: str) -> Seen | None:
        """Return the outcome of an earlier request with this key, whose run is not alive any more."""
        await self._sweep_sometimes()
        seen = self._seen.get((session_id, key))
        if seen is None and self._records is not None:
            record = await self._records.record(KIND, self._record_key(session_id, key))
            read = msgspec.json.decode(record.value, type=Seen) if record is not None else None
            seen = self._seen.get((session_id, key), read)  # the run may have ended meanwhile
        if seen is not None and not seen.ended:
            return msgspec.structs.replace(seen, ended=True, error=INTERRUPTED)
        return seen

    async def keys_of(self, session_id: str, run_id: str) -> list[str]:
        """Return the keys of a run of an earlier process."""
        if self._records is None:
            return []
        prefix = self._record_key(session_id, "")
        found = await self._records.records(KIND, prefix=prefix)
        same = (record for record in found if msgspec.json.decode(record.value, type=Seen).run_id == run_id)
        return [record.key.removeprefix(prefix) for record in same][:KEYS_PER_RUN_MAX]

    def write(self, run: Asked, offset: str | None = None, *, ended: bool = False) -> Sequence[RecordWrite]:
        """Remember the run by all its keys. Return the records to write with its chunks."""
        seen = Seen(run.id, offset or run.offset or "", ended, run.error)
        if ended:
            for key in run.keys:
                self._keep((run.session_id, key), seen)
        if self._records is None or not run.keys:
            return ()
        due_ms, value = unix_ms() + KEPT_MS, msgspec.json.encode(seen)
        return [RecordWrite(KIND, self._record_key(run.session_id, key), value, due_ms=due_ms) for key in run.keys]

    async def save(self, writes: Sequence[RecordWrite]) -> None:
        """Write records that no append carries."""
        if writes and self._records is not None:
            await self._records.write_records(writes)

    async def forget(self, session_id: str, spared: Container[str | None] = ()) -> None:
        """Forget the keys of a deleted session, except those of later turns."""
        for key in [key for key in self._keys.get(session_id, ()) if key not in spared]:
            self._drop((session_id, key))
        if self._records is not None:
            prefix = self._record_key(session_id, "")
            found = await self._records.records(KIND, prefix=prefix)
            gone = [record.key for record in found if record.key.removeprefix(prefix) not in spared]
            for at in range(0, len(gone), FORGOTTEN_AT_ONCE):
                some = gone[at : at + FORGOTTEN_AT_ONCE]
                await self._records.write_records([RecordWrite(KIND, key, None) for key in some])

    async def _sweep_sometimes(self) -> None:
        self._unswept += 1
        if self._records is None or self._unswept < SWEPT_EVERY:
            return
        self._unswept = 0
        due = await self._records.records(KIND, due_before_ms=unix_ms())
        if due:
            await self._records.write_records([RecordWrite(KIND, record.key, None) for record in due])

    def _keep(self, key: tuple[str, str], seen: Seen) -> None:
        self._seen[key] = seen
        self._seen.move_to_end(key)
        self._keys.setdefault(key[0], set()).add(key[1])
        if len(self._seen) > SEEN_MAX:
            self._drop(next(iter(self._seen)))

    def _drop(self, key: tuple[str, str]) -> None:
        del self._seen[key]
        keys = self._keys[key[0]]
        keys.discard(key[1])
        if not keys:
            del self._keys[key[0]]

    def _record_key(self, session_id: str, key: str) -> str:
        # A session's path contains no slash, so no key matches the prefix of another session.
        return f"{self._path_of(session_id)}/{key}"


def check_key(key: str | None) -> str | None:
    """Return the key if it is valid, or None if it is missing or empty. Raises InvalidRequest."""
    if key is None or key == "":
        return None
    if len(key) > KEY_CHARS_MAX or not key.isprintable():
        raise InvalidRequest(f"A key must have at most {KEY_CHARS_MAX} printable characters.", code="bad_key")
    return key
