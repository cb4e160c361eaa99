"""
Folded transcripts kept beside the log, so that a session that is long is read in a moment after a restart.

A stored snapshot is only ever a shorter way to the same messages: one that is missing, of another version, or of a
stream that has been replaced is passed over, and the log is folded from its beginning.
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
from durable_chat.transcripts.transcript import VERSION, Transcript

KIND, PART_KIND = "snapshot", "snapshot-part"

STORED_EVERY_BYTES = 512 * 1024
"""Bytes of log after which a snapshot is stored: what is folded in a tenth of a second when there is none."""

STORED_EVERY_SHARE = 0.25
"""The same as a share of the last stored snapshot, so that a session of any length is stored for a bounded cost."""

PART_BYTES = 256 * 1024
"""A record's size: each is a flush of its own, and nobody's append waits for more than one of them."""

COMPRESSION_LEVEL = 1
"""Of zlib: a third of the size for ten milliseconds a megabyte; more takes longer than writing the rest would."""

KEPT_MS = 3600 * 1000
"""How long a snapshot may outlive a stream that went without its session: expired, or deleted by another way."""

SWEPT_EVERY_S = 600.0
"""How often it is looked for such."""

log = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True):
    """A snapshot's records: of which stream and up to where it is, in how many parts, of how many bytes unpacked."""

    stream_id: int
    offset: str
    parts: int
    size: int


class Entry(msgspec.Struct, frozen=True):
    """A session's record: its snapshot, and the one being written, whose parts may be there or not after a crash."""

    version: int
    whole: Place | None = None
    draft: Place | None = None


_ENTRY = msgspec.json.Decoder(Entry)


@dataclass(frozen=True, slots=True)
class Stored:
    """A transcript that was stored, and the offset to fold on from."""

    transcript: Transcript
    offset: str
    size: int


class StoredSnapshots:
    """
    The stored snapshots of one store. Mutable state: `_turn`, since one is made at a time: it takes a processor and a
    disk; when it was last swept.
    """

    def __init__(self, stream_log: Log, records: Records) -> None:
        self._log = stream_log
        self._records = records
        self._turn = asyncio.Lock()
        self._swept_s = time.monotonic()

    async def load(self, path: str, stream_id: int, tail: str) -> Stored | None:
        """The newest snapshot of the stream, where there is one that can be used."""
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
            log.warning("the stored snapshot of %s cannot be read: %s", path, type(error).__name__)
            return None
        return Stored(transcript, whole.offset, whole.size)

    async def save(self, path: str, stream_id: int, offset: str, lines: Sequence[bytes]) -> int:
        """
        Store a snapshot in place of the one before; its size. What is there stays whole until the new one is. Raises
        what the store raises.
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
        """Everything of a session that is gone."""
        entry = await self._entry(path)
        if entry is not None:
            parts = _removal(path, [entry.whole, entry.draft])
            await self._records.write_records([RecordWrite(KIND, path, None), *parts])

    async def _entry(self, path: str) -> Entry | None:
        record = await self._records.record(KIND, path)
        return None if record is None else decode_entry(record.value)

    async def _write(self, path: str, entry: Entry, more: Sequence[RecordWrite] = ()) -> None:
        due_ms = _now_ms() + KEPT_MS
        write = RecordWrite(KIND, path, msgspec.json.encode(entry), due_ms=due_ms)
        await self._records.write_records([write, *more])

    async def _sweep_sometimes(self) -> None:
        if time.monotonic() - self._swept_s >= SWEPT_EVERY_S:
            self._swept_s = time.monotonic()
            await self.sweep(_now_ms())

    async def sweep(self, now_ms: int) -> None:
        """Delete the snapshots whose streams are gone, of those due by now; the others are due again later."""
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
    """One of another version names its parts all the same, so that they can be deleted."""
    try:
        entry = _ENTRY.decode(value)
    except msgspec.DecodeError:
        return Entry(VERSION)
    if entry.version == VERSION or entry.whole is None:
        return entry
    return Entry(entry.version, None, entry.whole)


def pack(lines: Iterable[bytes]) -> list[bytes]:
    """A transcript's lines, compressed, in parts. In a thread: each step lets others go on."""
    packer = zlib.compressobj(COMPRESSION_LEVEL)
    data = bytearray()
    for line in lines:
        data += packer.compress(line)
        data += packer.compress(b"\n")
    data += packer.flush()
    return [bytes(data[at : at + PART_BYTES]) for at in range(0, len(data), PART_BYTES)]


def unpack(parts: Iterable[bytes]) -> Transcript:
    """In a thread, and ready to be shown there too. Raises ValueError, zlib.error and what a damaged one may."""
    unpacker = zlib.decompressobj()
    data = bytearray()
    for part in parts:
        data += unpacker.decompress(part)
    data += unpacker.flush()
    transcript = Transcript.from_bytes(bytes(data[:-1]))
    transcript.messages()
    return transcript


def _part_keys(path: str, place: Place) -> list[str]:
    # Encoded, so that no path's parts look like those of another.
    name = f"{quote(path, safe='')}/{place.stream_id}-{place.offset}"
    return [f"{name}/{number:05}" for number in range(place.parts)]


def _removal(path: str, places: Iterable[Place | None], kept: Sequence[str] = ()) -> list[RecordWrite]:
    keys = {key for place in places if place is not None for key in _part_keys(path, place)}
    return [RecordWrite(PART_KIND, key, None) for key in sorted(keys.difference(kept))]


def is_due(since_bytes: int, stored_bytes: int) -> bool:
    """Whether so many bytes of log since the last snapshot, which had so many itself, are worth the next one."""
    return since_bytes >= max(STORED_EVERY_BYTES, stored_bytes * STORED_EVERY_SHARE)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
