"""
Folded transcripts stored beside the log, so that a long session is read quickly after a restart.

A stored snapshot is only a shortcut. If it is missing, has another version, or belongs to a stream that has been
replaced, the log is folded from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from durable_chat.errors import Gone, NotFound
from durable_chat.store.base import Log, Records, RecordWrite
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.transcript import VERSION, Transcript

KIND, PART_KIND = "snapshot", "snapshot-part"

STORED_EVERY_BYTES = 512 * 1024
"""The bytes of log after which a snapshot is stored. Folding this much without a snapshot takes a tenth of a second."""

STORED_EVERY_SHARE = 0.25
"""
The same as a share of the last stored snapshot, so that the cost of storing stays bounded for sessions of any length.
"""

PART_BYTES = 256 * 1024
"""The size of a record. Each record is a separate flush, so an append waits for at most one of them."""

COMPRESSION_LEVEL = 1
"""
The zlib level: a third of the size for ten milliseconds per megabyte. Higher levels take longer than they save in
writing.
"""

KEPT_MS = 3600 * 1000
"""How long a snapshot may outlive a stream that expired, or that was deleted other than through the chat."""

SWEPT_EVERY_S = 600.0
"""The interval between the sweeps for such snapshots."""

log = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True):
    """
    The location of a snapshot's records: its stream, the offset it reaches, the number of parts, and the unpacked size
    in bytes.
    """

    stream_id: int
    offset: str
    parts: int
    size: int


class Entry(msgspec.Struct, frozen=True):
    """
    A session's record: its snapshot, and the one being written. After a crash, parts of the latter may be missing.
    """

    version: int
    whole: Place | None = None
    draft: Place | None = None


_ENTRY = msgspec.json.Decoder(Entry)


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored transcript, the offset to continue folding from, and its unpacked size in bytes."""

    transcript: Transcript
    offset: str
    size: int


class StoredSnapshots:
    """
    The stored snapshots of one store. Mutable state: `_turn`, a lock, so that one snapshot is stored at a time, since
    it takes CPU and disk time; `_swept_s`, the time of the last sweep.
    """

    def __init__(self, stream_log: Log, records: Records) -> None:
        self._log = stream_log
        self._records = records
        self._turn = asyncio.Lock()
        self._swept_s = time.monotonic()

    async def load(self, path: str, stream_id: int, tail: str) -> Stored | None:
        """Return the newest snapshot of the stream, or None if there is no usable one."""
        entry = await self._entry(path)
        whole = None if entry is None else entry.whole
        if whole is None or whole.stream_id != stream_id or whole.offset > tail:
            return None
        parts = [await self._records.record(PART_KIND, key) for key in _part_keys(path, whole)]
        packed = [part.value for part in parts if part is not None]
        if len(packed) != whole.parts:
            return None
        try:
            transcript = await asyncio.to_thread(unpack, packed)
        except (ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
            log.warning(
                "the stored snapshot of %s is unreadable, and the log is read instead: %s", path, type(error).__name__
            )
            return None
        return Stored(transcript, whole.offset, whole.size)

    async def save(self, path: str, stream_id: int, offset: str, lines: Sequence[bytes]) -> int:
        """
        Replace the stored snapshot and return its size in bytes. The old one stays usable until the new one is
        complete. Raises what the store raises.
        """
        async with self._turn:
            await self._sweep_sometimes()
            parts = await asyncio.to_thread(pack, lines)
            place = Place(stream_id, offset, len(parts), sum(map(len, lines)))
            before = await self._entry(path) or Entry(VERSION)
            keys = _part_keys(path, place)
            await self._write(path, Entry(VERSION, before.whole, place), _removal(path, [before.draft], keys))
            for key, part in zip(keys, parts, strict=True):
                await self._records.write_records([RecordWrite(PART_KIND, key, part)])
            await self._write(path, Entry(VERSION, place), _removal(path, [before.whole], keys))
            return place.size

    async def delete(self, path: str) -> None:
        """Delete the snapshots of a deleted session."""
        entry = await self._entry(path)
        if entry is not None:
            parts = _removal(path, [entry.whole, entry.draft])
            await self._records.write_records([RecordWrite(KIND, path, None), *parts])

    async def _entry(self, path: str) -> Entry | None:
        record = await self._records.record(KIND, path)
        return None if record is None else decode_entry(record.value)

    async def _write(self, path: str, entry: Entry, more: Sequence[RecordWrite] = ()) -> None:
        due_ms = unix_ms() + KEPT_MS
        write = RecordWrite(KIND, path, msgspec.json.encode(entry), due_ms=due_ms)
        await self._records.write_records([write, *more])

    async def _sweep_sometimes(self) -> None:
        if time.monotonic() - self._swept_s >= SWEPT_EVERY_S:
            self._swept_s = time.monotonic()
            await self.sweep(unix_ms())

    async def sweep(self, now_ms: int) -> None:
        """Delete the due snapshots whose streams are gone, and postpone the others."""
        for record in await self._records.records(KIND, due_before_ms=now_ms):
            entry = decode_entry(record.value)
            try:
                stream_id = (await self._log.head(record.key)).id
            except (NotFound, Gone):
                stream_id = 0
            if entry.whole is None or entry.whole.stream_id != stream_id:
                await self.delete(record.key)
            else:
                await self._write(record.key, entry)


def decode_entry(value: bytes) -> Entry:
    """Decode a session's record. One of another version still names its parts, so that they can be deleted."""
    try:
        entry = _ENTRY.decode(value)
    except msgspec.DecodeError:
        return Entry(VERSION)
    if entry.version == VERSION or entry.whole is None:
        return entry
    return Entry(entry.version, None, entry.whole)


def pack(lines: Iterable[bytes]) -> list[bytes]:
    """Compress a transcript's lines, and split them into parts. Run it in a thread; each step releases the GIL."""
    packer = zlib.compressobj(COMPRESSION_LEVEL)
    data = bytearray()
    for line in lines:
        data += packer.compress(line)
        data += packer.compress(b"\n")
    data += packer.flush()
    return [bytes(data[at : at + PART_BYTES]) for at in range(0, len(data), PART_BYTES)]


def unpack(parts: Iterable[bytes]) -> Transcript:
    """
    Unpack a transcript and prepare its messages. Run it in a thread. Raises ValueError, zlib.error, LookupError,
    TypeError or AttributeError for damaged data.
    """
    unpacker = zlib.decompressobj()
    data = bytearray()
    for part in parts:
        data += unpacker.decompress(part)
    data += unpacker.flush()
    transcript = Transcript.from_bytes(bytes(data[:-1]))
    transcript.messages()
    return transcript


def _part_keys(path: str, place: Place) -> list[str]:
    # Encoded, so that no path's parts match the prefix of another path.
    name = f"{quote(path, safe='')}/{place.stream_id}-{place.offset}"
    return [f"{name}/{number:05}" for number in range(place.parts)]


def _removal(path: str, places: Iterable[Place | None], kept: Sequence[str] = ()) -> list[RecordWrite]:
    keys = {key for place in places if place is not None for key in _part_keys(path, place)}
    return [RecordWrite(PART_KIND, key, None) for key in sorted(keys.difference(kept))]


def is_due(since_bytes: int, stored_bytes: int) -> bool:
    """Return whether `since_bytes` of log are worth a new snapshot after the last one of `stored_bytes`."""
    return since_bytes >= max(STORED_EVERY_BYTES, stored_bytes * STORED_EVERY_SHARE)
