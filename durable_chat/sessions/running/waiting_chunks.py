"""
The CUSTOM chunks that say what happens to a turn while it waits: it is acknowledged, taken back, or sent now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.conversions import to_ui_message

TURN_QUEUED = "durable-chat.turn-queued"
"""The CUSTOM chunk that acknowledges a waiting turn. Its value holds the run's id and its message."""

TURN_TAKEN_BACK = "durable-chat.turn-taken-back"
"""
The CUSTOM chunk that ends a waiting turn whose message was taken back. Its value holds the run's id and the message's.
"""

TURN_ADVANCED = "durable-chat.turn-advanced"
"""
The CUSTOM chunk that says that a waiting turn is now the next one. Its value holds the run's id and the message's.
"""


def queued_chunk(run_id: str, message: Mapping[str, Any] | None, now_ms: int, *, steers: bool = False) -> Chunk:
    value: dict[str, Any] = {"runId": run_id, "message": dict(message) if message is not None else None}
    value |= {"turns": "steer"} if steers else {}
    return {"type": "CUSTOM", "name": TURN_QUEUED, "value": value, "timestamp": now_ms}


def waiting_chunk(name: str, run_id: str, message_id: str | None, now_ms: int, **more: Any) -> Chunk:
    """Return a TURN_TAKEN_BACK or TURN_ADVANCED chunk."""
    value = {"runId": run_id, "messageId": message_id, **more}
    return {"type": "CUSTOM", "name": name, "value": value, "timestamp": now_ms}


def taken_back(chunk: Chunk) -> str | None:
    """Return the id of the run whose message was taken back, or None for another chunk."""
    return _run_of(chunk, TURN_TAKEN_BACK)


def advanced(chunk: Chunk) -> str | None:
    """Return the id of the waiting run that is now the next one, or None for another chunk."""
    return _run_of(chunk, TURN_ADVANCED)


def steers(chunk: Chunk) -> bool:
    """Whether the turn of a TURN_QUEUED or TURN_ADVANCED chunk may be heard by the running answer."""
    value = chunk.get("value")
    return isinstance(value, Mapping) and value.get("turns") == "steer"


def queued_turn(chunk: Chunk) -> tuple[str, Chunk | None] | None:
    """Decode the result of `queued_chunk`: the waiting run's id and its message. Returns None for another chunk."""
    run_id = _run_of(chunk, TURN_QUEUED)
    if run_id is None:
        return None
    message = chunk["value"].get("message")
    if isinstance(message, Mapping) and isinstance(message.get("id"), str) and message["id"]:
        return run_id, to_ui_message(message, lambda: message["id"])
    return run_id, None


def _run_of(chunk: Chunk, name: str) -> str | None:
    value = chunk.get("value")
    if chunk.get("name") != name or not isinstance(value, Mapping) or not isinstance(value.get("runId"), str):
        return None
    return str(value["runId"])
