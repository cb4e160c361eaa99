"""A thread that runs one function after another for the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")


class _Job(NamedTuple):
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    function: Callable[..., Any]
    arguments: tuple[object, ...]


class Worker:
    """
    An executor with one thread, at a third of the cost per call of the standard one: every flush waits for such a call.
    Mutable state: the queue, and whether it is `_closed`.
    """

    def __init__(self, name: str) -> None:
        self._closed = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # The end of the process interrupts the thread as a crash would, and the store survives a crash.
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """
        Run a function in the thread. Returns what it returns and raises what it raises. If the caller is cancelled, the
        function still runs to its end. Raises RuntimeError after `close`.
        """
        if self._closed:  # nothing would run the job
            raise RuntimeError("The worker thread is closed.")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(_Job(loop, done, function, arguments))
        return await done

    def close(self) -> None:
        """Run the queued jobs, then stop the thread."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, failure = None, None
            try:
                result = job.function(*job.arguments)
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits
                job.loop.call_soon_threadsafe(_settle, job.done, result, failure)
            del job, result, failure


def _settle(done: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    if done.cancelled():
        return
    if failure is None:
        done.set_result(result)
    else:
        done.set_exception(failure)
