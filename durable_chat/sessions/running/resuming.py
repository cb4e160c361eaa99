"""
How a run whose process died goes on: whether it can, the turn that its model is given again, and the state of its
chunks, all from the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from durable_chat.models.base import GO_ON, Model, Output, Turn
from durable_chat.sessions.recovering.dead_runs import OpenRun
from durable_chat.sessions.running.overlaps import Continuing
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import OURS, Chunk, InvalidChunk, messages_snapshot
from durable_chat.transcripts.runs.marks import How, run_resumed_chunk
from durable_chat.transcripts.transcript import Transcript

log = logging.getLogger(__name__)

_GO_ON_TEXT = (
    "Your answer above was cut off by a failure of the connection. Go on exactly where it stopped, in the middle of the "
    "sentence or word if it stopped there. Do not repeat any of it, and do not mention the interruption."
)
"""What a model is told that continues its answer (`DURABLE_CHAT_AFTER_CRASH=continue`). It is not in the log."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """
    A dead run that goes on. `model` yields what is missing of it. `first` is written before that. `chunks` is the state
    of what is in the log. If the model raises CannotResume, `otherwise` returns how else the run goes on, if it does.
    """

    run_id: str
    turn: Turn
    model: Model
    chunks: RunChunks
    first: Sequence[Chunk]
    how: How
    otherwise: Callable[[], Resumption | None]


class _Said:
    """A model whose output exists already."""

    def __init__(self, output: Output) -> None:
        self._output = output

    async def __call__(self, _turn: Turn, /) -> Output:
        return self._output


def generation_of(run: OpenRun) -> tuple[str | None, Mapping[str, Any]]:
    """Return the activity and the input of a generation from its RUN_STARTED, see `Job.generation`."""
    metadata = run.started.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, Mapping) else None
    if not isinstance(ours, Mapping) or not isinstance(ours.get("activity"), str):
        return None, {}
    asked = ours.get("input")
    return ours["activity"], asked if isinstance(asked, Mapping) else {}


def resumption(run: OpenRun, turn: Turn, model: Model, mode: str, chunks: Callable[[], RunChunks]) -> Resumption | None:
    """
    Return how the run goes on, or None if it cannot. The model is asked first, whatever the mode. `chunks` returns the
    state of a run that has not begun.
    """
    output = _resumed(model, turn, run.said)
    otherwise = partial(_without_model, run, turn, model, mode, chunks)
    if output is None:
        return otherwise()
    return _prepared(run, turn, _Way("resume", turn, _Said(output), run.said), chunks, otherwise)


def _without_model(
    run: OpenRun, turn: Turn, model: Model, mode: str, chunks: Callable[[], RunChunks]
) -> Resumption | None:
    """Return how a run goes on that its model cannot resume."""
    if mode == "end" or turn.activity is not None or turn.waits:
        return None
    anew = mode == "retry" or not _has_text(run.said)
    way = _retried(run, turn, model) if anew else _continued(run, turn, model)
    return None if way is None else _prepared(run, turn, way, chunks, lambda: None)


def _prepared(
    run: OpenRun,
    turn: Turn,
    way: _Way,
    chunks: Callable[[], RunChunks],
    otherwise: Callable[[], Resumption | None],
) -> Resumption:
    state = _rebuilt(chunks(), turn, way.said)
    first: list[Chunk] = [] if way.shown is None else _rebuilt(chunks(), turn, run.said).abandon()
    first.append(run_resumed_chunk(run.id, run.resumes + 1, way.how, unix_ms(), way.kept))
    if way.shown is not None:
        first.append(messages_snapshot(way.shown, timestamp=unix_ms()))
    if way.how == "continue":
        first += state.join()
    return Resumption(run.id, way.turn, way.model, state, first, way.how, otherwise)


@dataclass(frozen=True, slots=True)
class _Way:
    """
    `said` stays of what the run has said. `kept` is the number of these chunks if others are dropped; then every tab
    shows the messages `shown` instead.
    """

    how: How
    turn: Turn
    model: Model
    said: Sequence[Chunk]
    kept: int | None = None
    shown: Sequence[Mapping[str, Any]] | None = None


def _retried(run: OpenRun, turn: Turn, model: Model) -> _Way | None:
    """Answer anew, after the steps that are finished: their tools must not be called again."""
    count = getattr(model, "finished", None)
    kept = 0 if count is None else int(count(turn, run.said))
    said = run.said[:kept]
    output = _resumed(model, turn, said) if kept else None
    if kept and output is None:
        return None
    again = model if output is None else _Said(output)
    if kept == len(run.said):
        return _Way("retry", turn, again, said)
    return _Way("retry", turn, again, said, kept, _folded(turn, run, said))


def _continued(run: OpenRun, turn: Turn, model: Model) -> _Way | None:
    """Give the model what it has said, and ask it to go on. Half of a structured output cannot be continued."""
    names = [chunk.get("name") for chunk in run.said if chunk["type"] == "CUSTOM"]
    if names.count("structured-output.start") > names.count("structured-output.complete"):
        return _retried(run, turn, model)
    asked = {
        "id": f"{GO_ON}{run.id}",
        "role": "user",
        "metadata": {},
        "parts": [{"type": "text", "content": _GO_ON_TEXT}],
    }
    messages = (*_folded(turn, run, run.said), asked)
    going_on = Continuing(model, run.said)
    return _Way("continue", replace(turn, messages=messages, approved=()), going_on, run.said)


def _has_text(said: Iterable[Chunk]) -> bool:
    return any(chunk["type"] == "TEXT_MESSAGE_CONTENT" for chunk in said)


def _folded(turn: Turn, run: OpenRun, said: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Return the turn's messages together with what the run has said."""
    transcript = Transcript()
    transcript.fold(messages_snapshot(turn.messages, timestamp=unix_ms()))
    transcript.fold(run.started)
    transcript.fold_all(said)
    return transcript.messages()


def _resumed(model: Model, turn: Turn, said: Sequence[Chunk]) -> Output | None:
    """Return what the model's `resume` returns; None for a model without it, and after an error in it."""
    resume = getattr(model, "resume", None)
    if resume is None:
        return None
    try:
        output: Output | None = resume(turn, tuple(said))
    except Exception:
        log.warning("the model cannot resume run %s in session %s", turn.run_id, turn.session_id, exc_info=True)
        return None
    return output


def _rebuilt(chunks: RunChunks, turn: Turn, said: Iterable[Chunk]) -> RunChunks:
    """Bring the state of a new run to where the log of this one ends. Nothing of it is written again."""
    chunks.start()
    chunks.resume(turn.approved, speaks=not turn.waits and turn.activity is None)
    for chunk in said:
        with suppress(InvalidChunk):  # appended by another client
            chunks.accept(chunk)
    return chunks
