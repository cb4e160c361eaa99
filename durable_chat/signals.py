"""
Being told to end: what the chat does first, before the server that runs it closes its port.
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
    Handles a signal in the place of whoever did before: `begin_end` is called in the event loop, and the one before
    hears of the signal when what that returns is done. Told again, it hears at once.

    A server that is told to end closes its port, waits for open responses and ends the lifespan last. So it would have
    nobody to refuse turns and reads in words, and the lifespan would hear of it too late. Mutable state: `told`, how
    often; `_previous`, the handlers there were; `_waiting`, the signals not yet passed on.
    """

    def __init__(self, begin_end: Callable[[], asyncio.Future[None]]) -> None:
        self.told = 0
        self._begin_end = begin_end
        self._loop = asyncio.get_running_loop()
        # A handler that was not set from Python cannot be put back, so it is left alone.
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
    Whether the server that runs the application is one of `uvicorn --reload`, which ends it to start its new version. It
    is known by its signal handler, which is a method of the server with its configuration.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(getattr(server, "config", None), "should_reload", False))


@contextlib.contextmanager
def on_signals(begin_end: Callable[[], asyncio.Future[None]]) -> Iterator[None]:
    """While the context is open, see `Chain`; outside of the main thread there are no signals to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chain = Chain(begin_end)
    chain.set()
    try:
        yield
    finally:
        chain.reset()
