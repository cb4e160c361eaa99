"""
The files of sessions. Each file is a closed stream beside its session's stream.

An artifact is named after its session and its bytes, so storing it twice stores it once. It becomes durable before the
chunk that refers to it. A crash in between leaves an unreferenced artifact, which a retry of the request finds again.

An artifact lives as long as its session. On a store with records, each artifact has a record that names the stream of
its session. A sweep deletes the artifacts whose session is gone, whatever their age. A remote store has no records, so
an artifact is deleted only when its session is deleted.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote
from weakref import WeakValueDictionary

import msgspec

from durable_chat.errors import DurableChatError, Gone, NotFound, StreamClosed
from durable_chat.protocol.messages import BINARY, Payload, normalize_content_type
from durable_chat.protocol.offsets import BEGINNING, decode_offset, encode_offset
from durable_chat.protocol.requests import Create
from durable_chat.store.base import CUT_BYTES, Head, Log, Record, Records, RecordWrite
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.attachments import Artifact, check_artifact_id

KIND = "artifact"

KEPT_MS = 3600 * 1000
"""How long an artifact may outlive a session that expired, or that was deleted other than through the chat."""

SWEPT_EVERY_S = 60.0
"""The interval between the sweeps for such artifacts."""

LOADS_AT_ONCE = 8
"""
Files of a remote store that are read concurrently. Each is held in memory, because its size is unknown until it is
read.
"""

SHOWN_TYPES = frozenset(
    {
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        *("audio/mpeg", "audio/mp4", "audio/aac", "audio/ogg", "audio/webm", "audio/wav", "audio/x-wav", "audio/flac"),
        *("video/mp4", "video/webm", "video/ogg", "video/quicktime"),
    }
)
"""Types that browsers display without running anything in them. All other types are downloaded."""

KEPT_TYPES = SHOWN_TYPES | {"application/pdf", "text/plain", "text/csv", "text/markdown"}
"""
Types that the stream of a user's file may have. Other types are stored as binary data, so that no reader runs a page or
a program, and no JSON file is split into messages.
"""

log = logging.getLogger(__name__)

_REFERENCE = re.compile(rb"artifact=([0-9a-f]{64})(?![0-9a-f])")
_REFERENCE_BYTES = len(b"artifact=") + 64


class Claim(msgspec.Struct, frozen=True):
    """An artifact's record: the session it belongs to, and the id of that session's stream."""

    path: str
    artifact_id: str
    stream_id: int


_CLAIM = msgspec.json.Decoder(Claim)


@dataclass(frozen=True, slots=True)
class Found:
    """
    An existing artifact. `whole` holds its bytes if they had to be read to know the size; otherwise `end` is the offset
    after them.
    """

    name: str
    media_type: str
    size: int
    end: str = ""
    whole: bytes | None = field(default=None, repr=False)


class Artifacts:
    """
    The artifacts of one log. Mutable state: `_locks`, one for each session whose artifacts are being changed, so that a
    sweep does not delete what is being stored; `_sweeper`, the task that sweeps.
    """

    def __init__(self, stream_log: Log, records: Records | None, *, swept_every_s: float = SWEPT_EVERY_S) -> None:
        self._swept_every_s = swept_every_s
        self._log = stream_log
        self._records = records
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE)
        self._sweeper: asyncio.Task[None] | None = None

    def _lock(self, path: str) -> asyncio.Lock:
        return self._locks.setdefault(path, asyncio.Lock())

    async def store(self, path: str, artifacts: Iterable[Artifact]) -> None:
        """
        Make the artifacts of a session durable. Its stream must exist. Raises NotFound, Gone, StreamClosed and what the
        log raises.
        """
        async with self._lock(path):
            head = await self._log.head(path)
            if head.closed:  # the chunk that refers to them could not be written
                raise StreamClosed(head.next_offset)
            for artifact in {artifact.id: artifact for artifact in artifacts}.values():
                await self._claim(Claim(path, artifact.id, head.id))
                await self._create(artifact_name(path, artifact.id), artifact)

    async def _claim(self, claim: Claim) -> None:
        """Write the record before the artifact, so that a sweep finds the artifact after a crash."""
        if self._records is None:
            return
        record = await self._records.record(KIND, _key(claim))
        if record is None or _claim_in(record) != claim:
            await self._records.write_records([_write(claim)])

    async def _create(self, name: str, artifact: Artifact) -> None:
        """Create the artifact unless it exists. The lookup avoids sending the bytes to a remote store twice."""
        try:
            await self._log.head(name)
        except NotFound:
            content_type = artifact.media_type
            if normalize_content_type(content_type) not in KEPT_TYPES:
                content_type = BINARY
            await self._log.create(name, Create(content_type, closed=True, payload=Payload(artifact.data)))

    # Reading.

    async def check(self, path: str, artifact_id: str) -> None:
        """Raise NotFound like `find`, without reading the artifact."""
        if self._records is not None:
            await self.find(path, artifact_id)
            return
        try:
            await self._log.head(path)
            await self._log.head(artifact_name(path, artifact_id))
        except (NotFound, Gone):
            raise _unknown() from None

    async def find(self, path: str, artifact_id: str) -> Found:
        """Find an artifact. Raises NotFound when it does not belong to this session, or the session is gone."""
        try:
            stream_id = (await self._log.head(path)).id
            name = artifact_name(path, artifact_id)
            if self._records is None:
                return await self._find_remote(name)
            record = await self._records.record(KIND, _key(Claim(path, artifact_id, stream_id)))
            if record is None or _claim_in(record).stream_id != stream_id:
                raise NotFound("The artifact belongs to a deleted session with the same id.")
            head = await self._log.head(name)
            return Found(name, head.content_type, decode_offset(head.next_offset)[1], head.next_offset)
        except (NotFound, Gone):
            raise _unknown() from None

    async def _find_remote(self, name: str) -> Found:
        async with self._loads:
            pieces = []
            reader = await self._log.read(name, BEGINNING)
            head: Head = reader.head
            try:
                while True:
                    batch = await reader.next()
                    pieces.append(batch.data)
                    if batch.up_to_date:
                        break
            finally:
                await reader.aclose()
        whole = b"".join(pieces)
        return Found(name, head.content_type, len(whole), whole=whole)

    async def read(self, found: Found, start: int, stop: int) -> AsyncIterator[bytes]:
        """
        Yield the bytes from `start` up to `stop` in pieces, at the reader's pace. Raises NotFound if the artifact is
        deleted meanwhile.
        """
        if found.whole is not None:
            yield found.whole[start:stop]
            return
        life, _ = decode_offset(found.end)
        reader = await self._log.read(found.name, encode_offset(life, start - start % CUT_BYTES))
        try:
            while start < stop:
                batch = await reader.next()
                if not batch.data:
                    raise NotFound("The file ended before the requested range.")
                _, begin = decode_offset(batch.offset)  # the batch may begin before `start`
                yield batch.data[start - begin : stop - begin]
                start = begin + len(batch.data)
        finally:
            await reader.aclose()

    async def load(self, path: str, artifact_id: str) -> bytes:
        """Return all bytes of an artifact. Raises NotFound."""
        found = await self.find(path, artifact_id)
        return b"".join([piece async for piece in self.read(found, 0, found.size)])

    # Deleting.

    async def delete(self, path: str) -> None:
        """
        Delete all artifacts of a session. Call it before its stream is deleted, so that a retry finds what is left.
        """
        async with self._lock(path):
            if self._records is None:
                for artifact_id in await self._referred(path):
                    await self._drop(path, artifact_id)
                return
            for record in await self._records.records(KIND, prefix=f"{_encoded(path)}/"):
                await self._forget(record)

    async def _forget(self, record: Record) -> None:
        assert self._records is not None
        claim = _claim_in(record)
        await self._drop(claim.path, claim.artifact_id)
        await self._records.write_records([RecordWrite(KIND, record.key, None)])

    async def _drop(self, path: str, artifact_id: str) -> None:
        with suppress(NotFound, Gone):
            await self._log.delete(artifact_name(path, artifact_id))

    async def _referred(self, path: str) -> set[str]:
        """Return every artifact id that occurs in the session's log, including those of other sessions."""
        found: set[str] = set()
        try:
            reader = await self._log.read(path, BEGINNING)
        except (NotFound, Gone):
            return found
        rest = b""
        try:
            while True:
                batch = await reader.next()
                data = rest + batch.data
                found |= {match.group(1).decode() for match in _REFERENCE.finditer(data)}
                rest = data[-_REFERENCE_BYTES:]
                if batch.up_to_date:
                    return found
        finally:
            await reader.aclose()

    def start(self) -> None:
        """Sweep regularly until `close`."""
        if self._records is not None:
            self._sweeper = asyncio.create_task(self._watch(), name="artifacts")

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._swept_every_s)
            try:
                await self.sweep(unix_ms())
            except DurableChatError as error:
                log.warning("the sweep for artifacts of deleted sessions failed: %s", error.code)

    async def sweep(self, now_ms: int) -> None:
        """Delete the due artifacts whose sessions are gone, and postpone the others."""
        if self._records is None:
            return
        for due in await self._records.records(KIND, due_before_ms=now_ms):
            claim = _claim_in(due)
            async with self._lock(claim.path):
                record = await self._records.record(KIND, due.key)
                if record is None:
                    continue
                try:
                    stream_id = (await self._log.head(claim.path)).id
                except (NotFound, Gone):
                    stream_id = 0
                if _claim_in(record).stream_id == stream_id:
                    await self._records.write_records([_write(_claim_in(record))])
                else:
                    await self._forget(record)


def artifact_name(path: str, artifact_id: str) -> str:
    """The stream of an artifact. No session's stream begins like this."""
    assert check_artifact_id(artifact_id)
    return f"artifact-{artifact_id}-{path}"


def _unknown() -> NotFound:
    return NotFound("This chat has no such file.", code="no_artifact")


def _encoded(path: str) -> str:
    # Encoded, so that the prefix of one path never matches the records of another.
    return quote(path, safe="")


def _key(claim: Claim) -> str:
    return f"{_encoded(claim.path)}/{claim.artifact_id}"


def _claim_in(record: Record) -> Claim:
    return _CLAIM.decode(record.value)


def _write(claim: Claim) -> RecordWrite:
    return RecordWrite(KIND, _key(claim), msgspec.json.encode(claim), due_ms=unix_ms() + KEPT_MS)
