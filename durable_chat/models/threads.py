"""
Run an application's plain iterators and functions in their own threads, so that they do not block the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from durable_chat.models.base import ProviderError

THREADS_MAX = 200
"""
Maximum concurrent threads of plain models. Each takes some memory, and a stopped one runs until its function returns.
"""

_END = object()
_Job = Callable[[], Any]


class PlainThread:
    """
    One daemon thread that runs jobs in order. Unlike a pool's thread, one that hangs in the application's code does not
    prevent the process from exiting. Mutable state: the waiting jobs; `running`, the number of such threads.
    """

    running = 0

    def __init__(self) -> None:
        if PlainThread.running >= THREADS_MAX:
            raise ProviderError("Too many answers are being written. Try again in a moment.", "busy")
        PlainThread.running += 1
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[_Job, asyncio.Future[Any] | None] | None] = queue.SimpleQueue()
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._work,), name="plain model", daemon=True).start()

    async def do(self, job: _Job) -> Any:
        """Run the job and return its result or raise its exception. Cancellation does not stop the job."""
        done = self._loop.create_future()
        self._jobs.put((job, done))
        return await done

    def end(self, last: _Job | None = None) -> None:
        """End the thread after its current job and after `last`."""
        if last is not None:
            self._jobs.put((last, None))
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, done = job
            try:
                result, error = function(), None
            except BaseException as raised:  # noqa: BLE001 - it is raised again in the waiting task
                result, error = None, raised
            if done is not None:
                self._tell(_settle, done, result, error)
        self._tell(_ended)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed, so nobody waits
            return


def _ended() -> None:
    PlainThread.running -= 1


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        done.set_exception(error)
    else:  # a future rejects StopIteration, and the loop must not raise SystemExit
        done.set_exception(RuntimeError(f"The plain model raised {type(error).__name__}."))


class Threaded:
    """
    An async iterator over a plain one, which is advanced one item at a time. Mutable state: the thread, or None once it
    was told to end.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._thread: PlainThread | None = PlainThread()

    @staticmethod
    async def call(function: Callable[[Any], Any], argument: Any) -> Any:
        """Call the function in a thread and return its result. Raises what the function raises."""
        thread = PlainThread()
        try:
            return await thread.do(lambda: function(argument))
        finally:
            thread.end()

    def __aiter__(self) -> Threaded:
        return self

    async def __anext__(self) -> Any:
        if self._thread is None:
            raise StopAsyncIteration
        item = await self._thread.do(lambda: next(self._source, _END))
        if item is _END:
            self._end()
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the source once its current call returns, without waiting for it."""
        self._end(getattr(self._source, "close", None))

    def _end(self, last: _Job | None = None) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end(last)
