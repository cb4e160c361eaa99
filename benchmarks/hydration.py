"""
Opening a session: its messages and the offset to follow from, of a session with few and with many chunks.

The chunks are appended to the session's stream as a model's answers are written there: each has a text of TEXT_CHARS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measures import LoadError, Measure, Stopwatch, Target, now_s, undisturbed
from benchmarks.servers import OURS, serving
from benchmarks.wire import STREAMS, Connection, create_streams, json_request, opened, read_pages, request
from durable_chat.protocol.offsets import decode_offset
from durable_chat.sessions.stored_snapshots import KIND, decode_entry
from durable_chat.store.sqlite.backend import SqliteBackend

SESSION = "opened"
STREAM = f"chat-{SESSION}"
TURNS = 50
QUESTION = "What is this, and how does it go on from here?"
BATCH = 1000
REQUESTS = 1000
# The server stores the snapshot in the background; it is looked for in the file once the server has ended.
STORING_S = 1.0
# A stored snapshot may be this far behind the log, and the rest is folded when the session is asked for.
STORED_SHARE_MIN = 0.75
FIRST, SIZE = "first ms", "KB"


@dataclass(frozen=True, slots=True)
class Transcript:
    """TURNS questions, each with an answer of so many chunks, whose texts are as long as the chars say."""

    chunks: int
    chars: int

    @property
    def messages(self) -> int:
        return 2 * TURNS

    @property
    def answer(self) -> str:
        """Words, so that it packs no better than a text does."""
        return "".join(f"{number * 7919 % 9973} " for number in range(self.chars))[: self.chars]

    def lines(self) -> Iterator[bytes]:
        """The chunks as the log has them."""
        now_ms = time.time_ns() // 1_000_000
        step = self.chars / self.chunks
        cuts = [round(step * number) for number in range(self.chunks + 1)]
        answer = self.answer
        for turn in range(TURNS):
            asked, said, run = f"asked-{turn}", f"msg-{turn}", {"threadId": SESSION, "runId": f"run-{turn}"}
            yield from map(_line(now_ms), _message(asked, "user", [QUESTION]))
            yield _line(now_ms)({"type": "RUN_STARTED", **run})
            deltas = [answer[cuts[number] : cuts[number + 1]] for number in range(self.chunks)]
            yield from map(_line(now_ms), _message(said, "assistant", deltas))
            yield _line(now_ms)({"type": "RUN_FINISHED", **run, "metadata": {"tanstack": {"finishReason": "stop"}}})


def _message(message_id: str, role: str, deltas: list[str]) -> Iterator[dict[str, Any]]:
    yield {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": role}
    for delta in deltas:
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}
    yield {"type": "TEXT_MESSAGE_END", "messageId": message_id}


def _line(now_ms: int) -> Any:
    def encode(chunk: dict[str, Any]) -> bytes:
        return msgspec.json.encode({**chunk, "timestamp": now_ms})

    return encode


async def write(port: int, transcript: Transcript) -> int:
    """Puts it into the session's stream; how many chunks that are."""
    path = f"{STREAMS}{STREAM}"
    await create_streams(port, [path])
    lines = list(transcript.lines())
    async with opened(port, Connection) as (connection,):
        for first in range(0, len(lines), BATCH):
            body = b"[" + b",".join(lines[first : first + BATCH]) + b"]"
            await connection.expect(json_request("POST", path, body))
    return len(lines)


# Hydration: /api/chat-snapshot, from a stored snapshot.

CHARS_PER_CHUNK = 5


def _long(chunks: int) -> Transcript:
    return Transcript(chunks // TURNS, chunks // TURNS * CHARS_PER_CHUNK)


async def prepare(folder: Path, chunks: int) -> None:
    """A database with the session and its stored snapshot, as the server itself leaves it there."""
    async with serving(OURS, folder) as target:
        written = await write(target.port, _long(chunks))
        async with opened(target.port, Connection) as (connection,):
            await connection.expect(_snapshot())
        await asyncio.sleep(STORING_S)
    stored = await _stored(folder)
    if stored < written * STORED_SHARE_MIN:
        raise LoadError(f"the stored snapshot is of {stored} of {written} chunks")


def _snapshot() -> bytes:
    return request("GET", f"/api/chat-snapshot?id={SESSION}")


async def _stored(folder: Path) -> int:
    """Up to which chunk the snapshot in the file is; the server has ended."""
    backend = SqliteBackend(str(folder / "bench.db"))
    await backend.open()
    try:
        record = await backend.record(KIND, STREAM)
    finally:
        await backend.close()
    whole = None if record is None else decode_entry(record.value).whole
    return 0 if whole is None else decode_offset(whole.offset)[1]


async def hydrate(target: Target, chunks: int, _warm_s: float, _seconds: float) -> Measure:
    """
    Requests per second over one connection, one after the other. The first of all is told apart: the server has just
    started, and reads the stored snapshot.
    """
    transcript = _long(chunks)
    async with opened(target.port, Connection) as (connection,):
        begun_s = now_s()
        first = await connection.expect(_snapshot())
        first_s = now_s() - begun_s
        measure = await _again_and_again(target, connection, _snapshot(), first.size)
    messages = msgspec.json.decode(first.body)["messages"]
    return replace(measure, faults=faults(messages, transcript), more={FIRST: first_s * 1000, SIZE: first.size / 1000})


async def _again_and_again(target: Target, connection: Connection, message: bytes, size: int) -> Measure:
    spent_s: list[float] = []
    with undisturbed():
        watch = Stopwatch(target)
        for _ in range(REQUESTS):
            begun_s = now_s()
            answer = await connection.expect(message)
            spent_s.append(now_s() - begun_s)
            if answer.size != size:
                raise LoadError("two answers of one session are of different sizes")
        return watch.measure(now_s(), REQUESTS, spent_s)


def faults(messages: list[dict[str, Any]], transcript: Transcript) -> tuple[str, ...]:
    """All of the messages are there, and all of their text."""
    texts = ["".join(part.get("content", "") for part in message["parts"]) for message in messages]
    if texts != [QUESTION, transcript.answer] * TURNS:
        return (f"{len(messages)} of {transcript.messages} messages are there, or not all of their text",)
    return ()


# Opening: the catch-up read of the stock client.

OPENED_CHARS = 4000


async def open_session(target: Target, chunks: int, warm_s: float, seconds: float) -> Measure:
    """
    Opens per second, one after the other over one connection, of a session of 100 messages whose answers have so many
    chunks each and all the same text. What a server of streams alone gives is all of the chunks.
    """
    transcript = Transcript(chunks, OPENED_CHARS)
    written = await write(target.port, transcript)
    address = f"/api/chat-stream?id={SESSION}" if target.name == "ours" else f"{STREAMS}{STREAM}"
    async with opened(target.port, Connection) as (connection,):
        begun_s = now_s()
        first = [page async for page in read_pages(connection, address)]
        first_s, size = now_s() - begun_s, sum(page.size for page in first)
        await _opens(connection, address, warm_s, size)
        with undisturbed():
            watch = Stopwatch(target)
            spent_s = await _opens(connection, address, seconds, size)
            measure = watch.measure(now_s(), len(spent_s), spent_s)
    found = [chunk for page in first for chunk in msgspec.json.decode(page.body)]
    compacted = len(found) == 1 and found[0]["type"] == "MESSAGES_SNAPSHOT"
    wrong = faults(found[0]["messages"], transcript) if compacted else _lost(len(found), written)
    return replace(measure, faults=wrong, more={SIZE: size / 1000, FIRST: first_s * 1000})


async def _opens(connection: Connection, address: str, seconds: float, size: int) -> list[float]:
    """How long each took, for `seconds` and at least once."""
    spent_s: list[float] = []
    until_s = now_s() + seconds
    while not spent_s or now_s() < until_s:
        begun_s = now_s()
        sizes = [page.size async for page in read_pages(connection, address)]
        spent_s.append(now_s() - begun_s)
        if sum(sizes) != size:
            raise LoadError("two opens of one session gave a different number of bytes")
    return spent_s


def _lost(found: int, written: int) -> tuple[str, ...]:
    return () if found == written else (f"{found} of {written} chunks read back",)
