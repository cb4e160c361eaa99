"""Compaction on request beside the one in the background, cancelled in the middle, or running at a close."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import durable_chat.store.sqlite.writer as sqlite_writer
from durable_chat.errors import StoreFailed
from durable_chat.store.sqlite import backlog
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.sqlite.writer import CompactionJob, SqliteWriter
from tests.store.making import json_piece, make_state, write_of

WAIT_S = 20.0
"""A wait that a passing test never comes near."""


class HeldWriter(SqliteWriter):
    """
    A writer whose compaction steps are done but not reported until a test continues; one may fail. Mutable state: the
    number of streams of each of the `steps`, and what the test sets.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.done = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.failing = False
        self.steps: list[int] = []

    def compact(self, job: CompactionJob) -> None:
        if self.failing:
            raise OSError("The disk is gone.")
        super().compact(job)
        self.steps.append(len(job.streams))
        self.done.set()
        assert self.go.wait(WAIT_S)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.db")


async def opened(path: str) -> tuple[SqliteBackend, HeldWriter]:
    backend = SqliteBackend(path)
    writer = backend._writer = HeldWriter(path)  # noqa: SLF001 - the seam where the thread can be held
    await backend.open()
    return backend, writer


async def fill(backend: SqliteBackend, first: int, last: int) -> None:
    for n in range(first, last):
        await backend.commit([write_of(make_state("s", version=n + 1, tail=n + 1), json_piece(n, b"%d" % n))])


async def check(backend: SqliteBackend, messages: int) -> None:
    """Each message exists once, and nothing waits."""
    pieces = await backend.read(1, 0, messages, 1 << 20)
    assert b",".join(piece.data for piece in pieces) == b",".join(b"%d" % n for n in range(messages))


async def check_reopened(path: str, messages: int) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    await check(backend, messages)
    await backend.compact()
    await check(backend, messages)
    await backend.close()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_compaction_that_is_given_up_forgets_what_it_has_stored(path: str, times: int) -> None:
    """However often it is cancelled, content in the tables is not stored again by the next one."""
    backend, writer = await opened(path)
    await fill(backend, 0, 5)
    writer.go.clear()
    compaction = asyncio.create_task(backend.compact())
    await asyncio.to_thread(writer.done.wait, WAIT_S)
    for _ in range(times):
        compaction.cancel()
        await asyncio.sleep(0)
    following = asyncio.create_task(backend.compact())
    await asyncio.sleep(0)
    writer.go.set()
    with pytest.raises(asyncio.CancelledError):
        await compaction
    await fill(backend, 5, 8)
    await following
    await backend.compact()
    await check(backend, 8)
    assert backend.uncompacted_bytes == 0
    await backend.close()
    await check_reopened(path, 8)


async def test_a_close_waits_for_a_compaction_that_was_asked_for(path: str) -> None:
    """Its step completes. A later request finds nothing to do."""
    backend, writer = await opened(path)
    await fill(backend, 0, 5)
    writer.go.clear()
    compaction = asyncio.create_task(backend.compact())
    await asyncio.to_thread(writer.done.wait, WAIT_S)
    closing = asyncio.create_task(backend.close())
    await asyncio.sleep(0)
    late = asyncio.create_task(backend.compact())
    await asyncio.sleep(0)
    assert not closing.done()
    writer.go.set()
    await asyncio.wait_for(asyncio.gather(compaction, closing, late), WAIT_S)
    assert len(writer.steps) == 1
    await check_reopened(path, 5)


async def test_compactions_side_by_side_take_turns(path: str) -> None:
    """With one in the background, two on request, and flushes, each message exists once."""
    backend, _ = await opened(path)

    async def compact() -> None:
        for _ in range(20):
            await backend.compact()

    await asyncio.gather(fill(backend, 0, 200), compact(), compact())
    await check(backend, 200)
    await backend.compact()
    await check(backend, 200)
    assert backend.uncompacted_bytes == 0
    await backend.close()
    await check_reopened(path, 200)


async def test_a_compaction_that_fails_is_the_store_failing(path: str) -> None:
    """The caller gets the store's error, and no flush is accepted. All data is there at the next start."""
    backend, writer = await opened(path)
    await fill(backend, 0, 5)
    writer.failing = True
    with pytest.raises(StoreFailed):
        await backend.compact()
    with pytest.raises(StoreFailed):
        await fill(backend, 5, 6)
    await backend.close()
    await check_reopened(path, 5)


@pytest.mark.parametrize(("held_max", "steps"), [(20_000, [8, 8, 4]), (13, [20])])
async def test_steps_are_small_while_there_is_time(
    path: str, monkeypatch: pytest.MonkeyPatch, held_max: int, steps: list[int]
) -> None:
    """A flush waits only a little for a small step. When much is in memory, steps are larger."""
    backend, writer = await opened(path)
    for n in range(1, 21):
        await backend.commit([write_of(make_state(f"s{n}", stream_id=n, tail=1), json_piece(0, b"1"))])
    monkeypatch.setattr(backlog, "HELD_STREAMS_MAX", held_max)
    await backend.compact()
    assert writer.steps == steps
    await backend.close()


async def test_a_long_write_ahead_log_is_cut_back(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without truncation, it would keep its largest size."""
    backend, _ = await opened(path)
    log = Path(path + "-wal")
    await fill(backend, 0, 50)
    await backend.compact()
    assert log.stat().st_size > 0
    monkeypatch.setattr(sqlite_writer, "WAL_BYTES_MAX", 1)
    await fill(backend, 50, 51)
    await backend.compact()
    assert log.stat().st_size == 0
    await check(backend, 51)
    await backend.close()
