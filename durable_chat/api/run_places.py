"""
Find runs: the session of a run by its id, and the place of a run in its session's log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from enum import Enum

from durable_chat.http.reads import read_typed
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING, decode_offset, encode_offset
from durable_chat.protocol.sub_offsets import past
from durable_chat.store.base import Batch, Log
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.codec import decode_aside
from durable_chat.transcripts.runs.ends import ENDS

RUNS_KEPT_MAX = 20_000
"""The maximum number of ids kept in memory. Clients look for a run within seconds of its start or of a page's load."""

SESSIONS_PER_ID_MAX = 4
"""
The maximum number of sessions of one id. The ids of clients are random, so more than one is a mistake or an attack.
"""


class RunSessions:
    """
    The sessions of recent runs, by the runs' own ids and by those of their clients. Mutable state: `_sessions`, and
    `_started`, the runs that were started in this process, both oldest first.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._started: OrderedDict[str, None] = OrderedDict()

    def note_start(self, session_id: str, run_id: str) -> None:
        """Remember a run that was started in this process."""
        self.note(session_id, run_id)
        self._started[run_id] = None
        if len(self._started) > RUNS_KEPT_MAX:
            self._started.popitem(last=False)

    def was_started(self, run_id: str) -> bool:
        """Return whether a run was started in this process, by its own id."""
        return run_id in self._started

    def note(self, session_id: str, *ids: str | None) -> None:
        """Remember the session of a run by these ids."""
        for run_id in ids:
            if run_id is None:
                continue
            known = self._sessions.pop(run_id, ())
            newest = (session_id, *(other for other in known if other != session_id))
            self._sessions[run_id] = newest[:SESSIONS_PER_ID_MAX]
            if len(self._sessions) > RUNS_KEPT_MAX:
                self._sessions.popitem(last=False)

    def of(self, run_id: str) -> Sequence[str]:
        """Return the sessions that have a run of this id, newest first."""
        return self._sessions.get(run_id, ())


class Place(Enum):
    """Where an offset is in a run."""

    INSIDE = "the rest of the run follows"
    END = "just after the run's last chunk"


async def start_of(log: Log, path: str, run_id: str, *, remote: bool) -> str | None:
    """Return the offset before a run's RUN_STARTED, or None if the log has no such run. Reads the log up to there."""
    wanted = run_id.encode()
    async with aclosing(_batches(log, path, BEGINNING)) as batches:
        async for batch in batches:
            if wanted not in batch.data:  # only runs with plain ids are looked for, so JSON escapes nothing in them
                continue
            messages = await decode_aside(batch.data)
            for at, chunk in enumerate(messages):
                if chunk is not None and chunk["type"] == "RUN_STARTED" and chunk.get("runId") == run_id:
                    return batch.offset if at == 0 else offset_after(batch, at - 1, len(messages), remote=remote)
    return None


async def place_in(log: Log, path: str, run_id: str, offset: str, *, is_written: bool, remote: bool) -> Place | None:
    """
    Return where an offset after a run's RUN_STARTED is in the run, or None if it is not in it. `is_written` says that
    the run is being written now, so that its end is not in the log yet. Raises what `Log.read` raises.

    Chunks do not name their run, so this reads on to the next chunk that does. In most cases a client has only just
    lost its connection, and little is left to read.
    """
    async with aclosing(_batches(log, path, offset)) as batches:
        async for batch in batches:
            named = next((chunk for chunk in await decode_aside(batch.data) if _names_run(chunk)), None)
            if named is not None:
                if named["type"] in ENDS and named["runId"] == run_id:
                    return Place.INSIDE
                return None if remote else await _end(log, path, run_id, offset)
    if is_written:
        return Place.INSIDE
    if remote:  # its offsets do not lead back, so the end of the log is taken for the end of the run
        return Place.END if offset == (await log.head(path)).next_offset else None
    return await _end(log, path, run_id, offset)


async def run_at(log: Log, path: str, offset: str) -> str | None:
    """
    Return the run whose end is the next one after an offset, or None if another run begins before, or nothing ends.
    """
    async with aclosing(_batches(log, path, offset)) as batches:
        async for batch in batches:
            named = next((chunk for chunk in await decode_aside(batch.data) if _names_run(chunk)), None)
            if named is not None:
                return str(named["runId"]) if named["type"] in ENDS else None
    return None


async def snapshot_before(log: Log, path: str, run_id: str, offset: str) -> Chunk | None:
    """
    Return the MESSAGES_SNAPSHOT that comes before a run, or None if its turn began without one. `offset` is before the
    run. The log must be in this process, since its offsets lead back.
    """
    life, position = decode_offset(offset)
    found: Chunk | None = None
    async with aclosing(_batches(log, path, encode_offset(life, max(0, position - 1)))) as batches:
        async for batch in batches:
            for chunk in await decode_aside(batch.data):
                if chunk is None:
                    continue
                if chunk["type"] == "RUN_STARTED" and chunk.get("runId") == run_id:
                    return found
                found = chunk if chunk["type"] == "MESSAGES_SNAPSHOT" else found
    return None


async def _end(log: Log, path: str, run_id: str, offset: str) -> Place | None:
    """Return END if the chunk just before the offset ends the run."""
    life, position = decode_offset(offset)
    if position == 0:
        return None
    async with aclosing(_batches(log, path, encode_offset(life, position - 1))) as batches:
        async for batch in batches:
            chunk = next(iter(await decode_aside(batch.data)), None)
            ends = chunk is not None and chunk["type"] in ENDS and chunk.get("runId") == run_id
            return Place.END if ends else None
    return None


def _names_run(chunk: Chunk | None) -> bool:
    return chunk is not None and chunk["type"] in ("RUN_STARTED", *ENDS) and isinstance(chunk.get("runId"), str)


def offset_after(batch: Batch, at: int, count: int, *, remote: bool) -> str:
    """
    Return the offset after message `at` of the `count` messages in a batch. A remote server has offsets only at the
    ends of batches; inside them, this server counts messages.
    """
    if at == count - 1:
        return batch.next_offset
    if remote:
        return past(batch.offset, at + 1)
    life, position = decode_offset(batch.next_offset)
    return encode_offset(life, position - (count - 1 - at))


async def _batches(log: Log, path: str, offset: str) -> AsyncGenerator[Batch]:
    """Yield what the log has from an offset on, up to its tail."""
    async with aclosing(await read_typed(log, path, offset, JSON)) as reader:
        while True:
            batch = await reader.next()
            yield batch
            if batch.up_to_date or batch.closed:
                return
