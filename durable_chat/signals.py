"""
Signals that end the process: the chat begins its graceful shutdown before the server closes its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Chain:
    """
    A signal handler in front of the previous one. It calls `begin_end` in the event loop, and passes the signal to the
    previous handler when the future that it returns is done. A second signal is passed on immediately.

    Without it, the server would close its port first, wait for open responses and end the lifespan last. Nothing could
    then refuse new turns and reads with a proper error, and the lifespan would learn of the shutdown too late.

    Mutable state: `told`, the number of signals; `_previous`, the handlers before this one; `_waiting`, the signals
    that are not passed on yet.
    """

    def __init__(self, begin_end: Callable[[], asyncio.Future[None]]) -> None:
        self.told = 0
        self._begin_end = begin_end
        self._loop = asyncio.get_running_loop()
        # A handler that was not set from Python cannot be restored, so it is not replaced.
        self._previous = {number: old for number in NUMBERS if (old := signal.getsignal(number)) is not None}
        self._waiting: list[int] = []

    def set(self) -> None:
        for number in self._previous:
            signal.signal(number, self.handle)

    def reset(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self.handle:
                signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.told += 1
        self._loop.call_soon_threadsafe(self._begin)
        self._waiting.append(number)
        if self.told > 1:
            self._pass_on(frame)

    def _begin(self) -> None:
        self._begin_end().add_done_callback(lambda _: self._pass_on(None))

    def _pass_on(self, frame: FrameType | None) -> None:
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            before = self._previous[signal.Signals(number)]
            if callable(before):
                before(number, frame)
            elif before is signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)


def will_reload() -> bool:
    """
    Return whether the application runs under `uvicorn --reload`, which stops it to start a new version. The signal
    handler tells: it is a method of uvicorn's server, which has the configuration.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(getattr(server, "config", None), "should_reload", False))


@contextlib.contextmanager
def on_signals(begin_end: Callable[[], asyncio.Future[None]]) -> Iterator[None]:
    """Install a `Chain` while the context is open. Outside the main thread there are no signals to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chain = Chain(begin_end)
    chain.set()
    try:
        yield
    finally:
        chain.reset()
