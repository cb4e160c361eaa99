"""
CUSTOM chunks between those of a run that say something about the run itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from durable_chat.transcripts.chunks import Chunk

ALIVE = "durable-chat.alive"
"""The CUSTOM chunk of a run whose model sends nothing. For other processes it renews the run's lease."""

RUN_RESUMED = "durable-chat.run-resumed"
"""The CUSTOM chunk of a run that goes on after its process died."""

How = Literal["resume", "retry", "continue"]
"""
How a run goes on. `resume`: its model goes on from what is in the log. `retry`: it is answered anew. `continue`: the
model was given what it had said.
"""


def run_resumed_chunk(run_id: str, attempt: int, how: How, timestamp: int, kept: int | None = None) -> Chunk:
    """
    `attempt` counts from 1; a second chunk with the same number says that the first way was none. With `kept`, the chunks
    of the run except the first `kept` are dropped.
    """
    value: dict[str, object] = {"runId": run_id, "attempt": attempt, "how": how}
    if kept is not None:
        value["kept"] = kept
    return {"type": "CUSTOM", "name": RUN_RESUMED, "value": value, "timestamp": timestamp}


def run_resumed(chunk: Mapping[str, object]) -> tuple[str, int, int | None] | None:
    """Decode the result of `run_resumed_chunk`: the run's id, `attempt` and `kept`. Return None for another chunk."""
    value = chunk.get("value")
    if chunk.get("name") != RUN_RESUMED or not isinstance(value, Mapping) or not isinstance(value.get("runId"), str):
        return None
    attempt, kept = value.get("attempt"), value.get("kept")
    attempt = attempt if type(attempt) is int else 0
    return value["runId"], attempt, kept if type(kept) is int and kept >= 0 else None
