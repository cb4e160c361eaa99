"""
The model of a generation's run: it asks the adapter of the turn's activity and makes the files of the result durable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from durable_chat.api.generations.files import Origin, Speech, keep_result, load_input
from durable_chat.generations.adapters import Activity, Adapter, provider_of
from durable_chat.generations.running import POLLING_DEFAULT, resume_generation, run_generation
from durable_chat.generations.videos import Polling
from durable_chat.models.base import ProviderError, Turn
from durable_chat.sessions.slots import slot_of_session
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.items import WORKING
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.runs.generations import JOB_CREATED, RESULT

ARTIFACTS = "generation:artifacts"

GENERATION_MAX_S = 600.0
"""
How long a generation may take, except a video. The slowest pictures and the longest transcripts take a few minutes.
"""

WORKING_EVERY_S = 1.0
"""How often a generation that says nothing is noted to be at work. It must be less than DURABLE_CHAT_STALL_S."""

NoteJob = Callable[[str, str], None]
"""Is told the session and the id of a video job."""


def _nobody(_session_id: str, _job_id: str) -> None:
    """Nobody asks for jobs."""


class GenerationModel:
    """A model for the turns that have an activity. It can go on with a video after a crash."""

    def __init__(
        self,
        adapters: Mapping[Activity, Adapter],
        speech: Speech | None = None,
        note_job: NoteJob = _nobody,
        polling: Polling = POLLING_DEFAULT,
    ) -> None:
        self.adapters = adapters
        self.polling = polling
        self.speech = speech or Speech()
        self.note_job = note_job

    async def __call__(self, turn: Turn, /) -> AsyncIterator[Chunk]:
        adapter = self._adapter(turn)
        given = await load_input(turn)
        items = run_generation(adapter, given, turn, polling=self.polling)
        max_s = None if turn.activity == "video" else GENERATION_MAX_S  # a video has a maximum of its own
        async for chunk in self._chunks(turn, adapter, alive(items, max_s)):
            yield chunk

    def resume(self, turn: Turn, said: Sequence[Chunk], /) -> AsyncIterator[Chunk] | None:
        """Go on with a video. Other generations end with their process."""
        return self._resumed(turn, said) if turn.activity == "video" else None

    def outlasts(self, turn: Turn) -> bool:
        """A video job goes on at its provider. A shutdown leaves it to the next process."""
        return turn.activity == "video"

    async def _resumed(self, turn: Turn, said: Sequence[Chunk]) -> AsyncIterator[Chunk]:
        for chunk in said:
            self._note(turn, chunk)
        adapter = self._adapter(turn)
        resumed = resume_generation(adapter, await load_input(turn), turn, said, polling=self.polling)
        assert resumed is not None, "a video can be resumed"
        async for chunk in self._chunks(turn, adapter, alive(resumed, None)):
            yield chunk

    async def aclose(self) -> None:
        """Close the connections of the adapters."""
        for adapter in self.adapters.values():
            aclose = getattr(adapter, "aclose", None)
            if aclose is not None:
                await aclose()

    def _adapter(self, turn: Turn) -> Adapter:
        activity: Any = turn.activity
        return self.adapters[activity]

    async def _chunks(self, turn: Turn, adapter: Adapter, items: AsyncGenerator[Any, None]) -> AsyncIterator[Chunk]:
        async with aclosing(items):
            async for item in items:
                if isinstance(item, dict):
                    self._note(turn, item)
                    yield item
                    continue
                origin = Origin(
                    slot_of_session(turn.session_id) or turn.session_id, provider_of(adapter), adapter.model
                )
                result = await keep_result(turn, item, origin, self.speech)
                if "artifacts" in result:
                    yield _custom(ARTIFACTS, result["artifacts"])
                yield _custom(RESULT, result)

    def _note(self, turn: Turn, chunk: Chunk) -> None:
        value = chunk.get("value")
        if chunk.get("name") == JOB_CREATED and isinstance(value, Mapping):
            self.note_job(turn.session_id, str(value.get("jobId")))


async def alive(items: AsyncGenerator[Any, None], max_s: float | None) -> AsyncGenerator[Any, None]:
    """
    Yield what a generation yields, and WORKING while it says nothing: a picture may take longer than a chat may be
    silent. The generation goes on when its last item was taken, so that it can wait until that is durable. Raises
    ProviderError when it takes more than `max_s`.
    """
    made: deque[Any] = deque()
    heard, taken = asyncio.Event(), asyncio.Event()

    async def produce() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    taken.clear()
                    made.append(item)
                    heard.set()
                    await taken.wait()
        finally:
            heard.set()

    loop = asyncio.get_running_loop()
    deadline_s = None if max_s is None else loop.time() + max_s
    producer = asyncio.create_task(produce(), name="generation")
    try:
        while True:
            heard.clear()
            if made:
                yield made.popleft()
                taken.set()
                continue
            if producer.done():
                producer.result()
                return
            if deadline_s is not None and loop.time() > deadline_s:
                raise ProviderError(f"The generation took more than {max_s:g} seconds.", "timeout")
            try:
                async with asyncio.timeout(WORKING_EVERY_S):
                    await heard.wait()
            except TimeoutError:
                yield {"type": WORKING}
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)


def _custom(name: str, value: Any) -> Chunk:
    return {"type": "CUSTOM", "name": name, "value": value, "timestamp": unix_ms()}
