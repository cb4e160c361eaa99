"""
A model's answer on its way to the log: request, timeout, normalisation, and hand-over to the writer.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import durable_chat.metrics as metrics
from durable_chat.config.settings import Settings
from durable_chat.models.base import CannotResume, Model, ProviderError, Turn, shown_error
from durable_chat.models.outputs import close_output, open_output
from durable_chat.models.timeouts import AwakeTimeout
from durable_chat.sessions.running.resuming import Resumption
from durable_chat.sessions.writers import Writer
from durable_chat.transcripts.answers.items import as_chunk
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk, encode_json, safe_message
from durable_chat.transcripts.codec import encode_chunks
from durable_chat.transcripts.redaction import conceal

CANCEL_WAIT_S = 5.0
"""How long a cancelled model may clean up before its run ends without it."""

LOGGED_CHARS_MAX = 20_000
"""How much of a failure is logged. A longer traceback loses its beginning, because its end says what happened."""

log = logging.getLogger(__name__)


class Saving:
    """
    `Turn.saved` of a run. A turn exists before the run's writer does. Mutable state: `pump`, once there is one.
    """

    def __init__(self) -> None:
        self.pump: Pump | None = None

    async def __call__(self) -> None:
        """Return when everything that the model yielded is durable. Raises what keeps it from being written."""
        if self.pump is not None:
            await self.pump.saved()


class Hearing:
    """
    `Turn.heard` of a run. A model that goes on after a crash is asked before there is a pump. Mutable state: `pump`,
    once there is one.
    """

    def __init__(self) -> None:
        self.pump: Pump | None = None

    async def __call__(self) -> Turn | None:
        """See `Turn.heard`."""
        return None if self.pump is None else await self.pump.hear()


class Pump:
    """
    Carries a model's output to the writer. Mutable state: `task`, which does so; `last`, the run's last chunks, written
    with its outcome when the model is done; `_limit`, the time limit of the model's next chunk; `_cancelled`, set once
    the model was told to stop. When the model hears a message, it goes on in another run: `handing` is done while it
    waits for the `_heard` turn of that run. A model that cannot resume a dead run after all is replaced, with the state
    of the run: `chunks`.
    """

    def __init__(
        self,
        run_id: str,
        model: Model,
        turn: Turn,
        chunks: RunChunks,
        writer: Writer,
        settings: Settings,
        has_heir: Callable[[], bool] = lambda: False,
        otherwise: Callable[[], Resumption | None] = lambda: None,
    ) -> None:
        """
        `has_heir` chooses the run to go on in, and returns whether there is one. `otherwise`: see `Resumption`.
        """
        self.run_id = run_id
        self.last: list[Chunk] = []
        self.task: asyncio.Task[None] | None = None
        self.handing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancelled = False
        self._heard: asyncio.Future[Turn] | None = None
        self._has_heir = has_heir
        self._otherwise = otherwise
        self._turn = self._own(turn)
        self._model = model
        self.chunks = chunks
        self._writer = writer
        self._stall_s = settings.stall_s
        self._chunk_bytes_max = settings.append_max_bytes
        self._limit = AwakeTimeout(self._stall_s)

    def _own(self, turn: Turn) -> Turn:
        """Let a turn save and hear through this."""
        for link in (turn.saved, turn.heard):
            if isinstance(link, Saving | Hearing):
                link.pump = self
        return turn

    async def saved(self) -> None:
        """See `Saving`. The wait does not count as silence of the model."""
        self._limit.paused = True
        try:
            await self._writer.settle()
        finally:
            self._limit.paused, self._limit.heard = False, True

    async def carry(self, halt: asyncio.Future[Any]) -> None:
        """Return when the model is done, waits for another run, or `halt` is done."""
        if self.task is None:
            self.task = asyncio.create_task(self._pump(), name=f"model of {self.run_id}")
        await asyncio.wait([self.task, halt, self.handing], return_when=asyncio.FIRST_COMPLETED)

    async def hear(self) -> Turn | None:
        """See `Turn.heard`."""
        if self._heard is not None or not self._has_heir():
            return None
        self._heard = asyncio.get_running_loop().create_future()
        self._limit.paused = True
        self.handing.set_result(None)
        return await self._heard

    def adopt(self, run_id: str, turn: Turn, chunks: RunChunks, writer: Writer, has_heir: Callable[[], bool]) -> None:
        """Go on in another run, after `hear`."""
        heard, self._heard = self._heard, None
        self.handing = asyncio.get_running_loop().create_future()
        self.run_id, self.chunks, self._writer, self._has_heir = run_id, chunks, writer, has_heir
        self._turn = self._own(turn)
        self._limit.paused, self._limit.heard = False, True
        if heard is not None and not heard.done():
            heard.set_result(self._turn)

    async def end(self, wait_s: float) -> bool:
        """Cancel the model if it is not done, and record its failure. Return False when it does not end in time."""
        task = self.task
        if task is None:
            return True
        if not task.done():
            self._cancelled = True
            task.cancel()
            await asyncio.wait([task], timeout=wait_s)
        if task.done():
            self._take_failure(task)
        return task.done()

    def _take_failure(self, task: asyncio.Task[None]) -> None:
        # A model that raises CancelledError by itself has failed, too.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None or self._cancelled or self.chunks.ended or self._writer.failure is not None:
            return
        shown = self._shown(error)
        self.last = self.chunks.fail(shown.message, shown.code)

    def _shown(self, error: BaseException) -> ProviderError:
        secrets = self.chunks.secrets
        if isinstance(error, _Stalled):
            return ProviderError(f"The model sent nothing for {self._stall_s:g} seconds.", "stalled")
        self._log_failure("".join(traceback.format_exception(error)))
        shown = shown_error(error)
        code = shown.code if isinstance(error, ProviderError | InvalidChunk) else "model_failed"
        return ProviderError(safe_message(shown.message, secrets), code)

    def _log_failure(self, told: str) -> None:
        told = conceal(told, self.chunks.secrets)[-LOGGED_CHARS_MAX:]
        log.warning("the model of run %s in session %s failed: %s", self.run_id, self._turn.session_id, told)

    async def _pump(self) -> None:
        before = self._writer.taken_bytes
        try:
            await self._ask()
            return
        except CannotResume:
            is_late = self._cancelled or self._writer.taken_bytes > before
            way = None if is_late else self._otherwise()
            if way is None:
                raise
        self._go_another_way(way)
        await self._ask()

    def _go_another_way(self, way: Resumption) -> None:
        metrics.resumes.add(way.how)
        self._turn, self._model, self.chunks = self._own(way.turn), way.model, way.chunks
        self._limit = AwakeTimeout(self._stall_s)
        self._writer.add(encode_chunks(way.first))

    async def _ask(self) -> None:
        """Ask the model, and carry its answer."""
        source: Any = None
        try:
            source = await self._open()
            await self._carry_all(source)
        finally:
            await _close(source)

    async def _open(self) -> AsyncIterator[Any]:
        """Return the model's output. A function may take a while to return it."""
        try:
            async with asyncio.timeout(self._stall_s) as clock:
                return await open_output(self._model, self._turn)
        except TimeoutError as error:
            if clock.expired():
                raise _Stalled from error
            raise

    async def _carry_all(self, source: AsyncIterator[Any]) -> None:
        limit = self._limit
        try:
            async with limit:
                async for item in source:
                    limit.heard = True
                    made = self.chunks.accept(item)
                    if self.chunks.outcome is not None:
                        self.last = self.last or made
                        if self.chunks.outcome == "failed":  # libraries' agents catch exceptions and yield RUN_ERROR
                            self._log_failure(encode_json(as_chunk(item)).decode())
                        return
                    if not made:  # for example the end of a step
                        self._writer.note_usage(self.chunks.steps_usage)
                    self._writer.add(self._encode(made))
                    if self._writer.full:  # wait for the store before asking the model for more
                        limit.paused = True
                        await self._writer.room()
                        limit.paused, limit.heard = False, True
        except TimeoutError as error:
            if limit.expired:
                raise _Stalled from error
            raise

    def _encode(self, made: Sequence[Chunk]) -> list[bytes]:
        messages = encode_chunks(made)
        for message in messages:
            if len(message) > self._chunk_bytes_max:
                raise ProviderError("The model sent a chunk that is larger than an append may be.", "chunk_too_large")
        return messages


class _Stalled(Exception):
    """The model sent nothing for too long."""


async def _close(source: Any) -> None:
    """Close an unfinished generator, so that its provider's connection closes now."""
    try:
        async with asyncio.timeout(CANCEL_WAIT_S):
            await close_output(source)
    except Exception as error:  # noqa: BLE001 - an error while cleaning up does not change the answer
        log.warning("closing a model failed: %s", type(error).__name__)
