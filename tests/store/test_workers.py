"""The writer thread, which works for the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from durable_chat.store.sqlite.writer_thread import Worker


async def test_one_after_another() -> None:
    """Jobs run in order, also when a caller is cancelled. The other callers get their results."""
    worker, go, done = Worker("worker"), threading.Event(), list[int]()
    leaving = asyncio.create_task(worker.run(go.wait))
    others = [asyncio.create_task(worker.run(done.append, number)) for number in range(3)]
    failing = asyncio.create_task(worker.run(int, "x"))
    await asyncio.sleep(0)
    leaving.cancel()
    go.set()
    await asyncio.gather(*others)
    assert done == [0, 1, 2]
    with pytest.raises(ValueError):
        await failing
    worker.close()


async def test_closed() -> None:
    """Earlier jobs are done. Later ones are refused and do not wait forever."""
    worker = Worker("worker")
    last = asyncio.create_task(worker.run(threading.current_thread))
    await asyncio.sleep(0)
    worker.close()
    assert (await last).name == "worker"
    with pytest.raises(RuntimeError):
        await worker.run(print)
