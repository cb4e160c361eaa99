"""
The model of a generation's run: it asks the adapter of the turn's activity and makes the files of the result durable.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from durable_chat.api.generations.files import Origin, Speech, keep_result, load_input
from durable_chat.generations.adapters import Activity, Adapter, provider_of
from durable_chat.generations.running import resume_generation, run_generation
from durable_chat.models.base import Turn
from durable_chat.sessions.slots import slot_of_session
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.generation_runs import JOB_CREATED, RESULT

ARTIFACTS = "generation:artifacts"

NoteJob = Callable[[str, str], None]
"""Is told the session and the id of a video job."""


def _nobody(_session_id: str, _job_id: str) -> None:
    """Nobody asks for jobs."""


class GenerationModel:
    """A model for the turns that have an activity. It can go on with a video after a crash."""

    def __init__(
        self, adapters: Mapping[Activity, Adapter], speech: Speech | None = None, note_job: NoteJob = _nobody
    ) -> None:
        self.adapters = adapters
        self.speech = speech or Speech()
        self.note_job = note_job

    async def __call__(self, turn: Turn, /) -> AsyncIterator[Chunk]:
        adapter = self._adapter(turn)
        given = await load_input(turn)
        async for chunk in self._chunks(turn, adapter, run_generation(adapter, given, turn)):
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
        resumed = resume_generation(adapter, await load_input(turn), turn, said)
        assert resumed is not None, "a video can be resumed"
        async for chunk in self._chunks(turn, adapter, resumed):
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


def _custom(name: str, value: Any) -> Chunk:
    return {"type": "CUSTOM", "name": name, "value": value, "timestamp": unix_ms()}
