"""
Keep the output of subagents apart from the answer.

AG-UI 1.0 attributes the events of a subagent by their `subagentRunId`. Clients that do not know the field would add a
subagent's text to the answer. The log therefore holds such an event inside a CUSTOM chunk, which these clients ignore
and which no fold turns into a message. Clients of AG-UI 1.0 get the event itself back: see `subagent_event`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from durable_chat.transcripts.answers.call_names import SUFFIX_CHARS
from durable_chat.transcripts.chunks import Chunk, safe_code, safe_message
from durable_chat.transcripts.redaction import conceal

SUBAGENT = "durable-chat.subagent"
"""The name of the CUSTOM chunk. Its value is `{"event": …}`."""

_IDS = ("messageId", "toolCallId", "parentMessageId", "entityId")
_APART = ("TEXT_MESSAGE_", "REASONING_", "THINKING_", "TOOL_CALL_", "STEP_", "CUSTOM")
"""How the types begin that clients fold into messages. State and activities have no place in a message."""


def set_apart(chunk: Chunk) -> Chunk:
    """Return a subagent's event inside a CUSTOM chunk, and any other chunk unchanged."""
    if not isinstance(chunk.get("subagentRunId"), str) or not chunk["type"].startswith(_APART):
        return chunk
    timestamp = {"timestamp": chunk["timestamp"]} if "timestamp" in chunk else {}
    return {"type": "CUSTOM", "name": SUBAGENT, "value": {"event": chunk}, **timestamp}


def is_apart(chunk: Mapping[str, object]) -> bool:
    """Whether the chunk holds the event of a subagent."""
    return chunk.get("type") == "CUSTOM" and chunk.get("name") == SUBAGENT


def subagent_event(chunk: Chunk) -> Chunk | None:
    """Return the event of a subagent that a chunk of the log holds, or None."""
    value = chunk.get("value") if is_apart(chunk) else None
    event = value.get("event") if isinstance(value, Mapping) else None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def for_log(chunk: Chunk, run_id: str, secrets: Iterable[str]) -> Chunk:
    """
    Return the chunk as it may be logged. A subagent's error and tool results are safe to show to anyone, and its ids
    are unique among the runs, because a client appends to a message whose id it knows.
    """
    if chunk["type"] == "SUBAGENT_ERROR":
        code = {"code": safe_code(chunk["code"])} if "code" in chunk else {}
        return chunk | {"message": safe_message(chunk.get("message"), secrets), **code}
    event = subagent_event(chunk)
    if event is None:
        return chunk
    suffix = f"-{run_id[-SUFFIX_CHARS:]}"
    event = event | {key: event[key] + suffix for key in _IDS if isinstance(event.get(key), str)}
    if isinstance(event.get("content"), str):
        event["content"] = conceal(event["content"], secrets)
    return chunk | {"value": {"event": event}}
