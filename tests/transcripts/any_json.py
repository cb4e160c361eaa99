"""
Logs with arbitrary JSON: useless values, known chunks and messages with any value in every field, and values that are
hard on readers: unhashable keys, repeated ids, deep nesting, lone surrogates, huge numbers.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.folding.fold import Fold
from durable_chat.transcripts.schemas import PARTS, ROLES

# Read from the tables themselves, so that a new type is not forgotten.
CHUNK_TYPES = sorted(Fold._HANDLERS.keys() | RunChunks._HANDLERS.keys() | {"STATE_DELTA", "RAW"})  # noqa: SLF001

CHUNK_FIELDS = (
    *("messageId", "role", "delta", "metadata", "toolCallId", "toolCallName", "parentMessageId", "input", "content"),
    *("state", "runId", "threadId", "finishReason", "outcome", "usage", "message", "code", "messages", "name", "value"),
    *("stepName", "stepId", "signature", "subtype", "entityId", "encryptedValue", "timestamp", "error", "tanstack"),
)
MESSAGE_FIELDS = (
    *("id", "role", "parts", "content", "metadata", "toolCalls", "toolCallId", "createdAt", "name", "error"),
    *("encryptedValue", "tanstack"),
)
PART_FIELDS = tuple(sorted({name for rules in PARTS.values() for name in rules} | {"input", "output", "text", "data"}))
INNER_FIELDS = (
    *("tanstack", "createdAt", "toolResult", "toolCallMetadata", "structuredOutput", "uiResources", "durableChat"),
    *(
        "approval",
        "approved",
        "needsApproval",
        "object",
        "raw",
        "reasoning",
        "messageId",
        "resource",
        "uri",
        "mimeType",
    ),
    *("function", "arguments", "interrupts", "reason", "kind", "toolName", "offset", "message"),
)
NAMES = (
    "",
    "a",
    "b",
    "m1",
    "call_1",
    "__proto__",
    "constructor",
    "unnamed-1",
    "2026-01-02T03:04:05Z",
    "\ud83d",
    "0",
    "7",
)
WORDS = (
    *(
        "user",
        "assistant",
        "system",
        "tool",
        "approval",
        "interrupt",
        "complete",
        "error",
        "input-complete",
        "streaming",
    ),
    *(
        "approval-requested",
        "output-error",
        "stop",
        "tool_calls",
        "structured-output.start",
        "ui-resource",
        "url",
        "data",
    ),
    *("structured-output.complete", "durable-chat.turn-queued", "tool-call", '{"a":', "[" * 150, "[" * 150 + "]" * 150),
)


def nested(levels: int, key: str | None = None) -> Any:
    """Return a value of so many levels: lists, or objects with one key."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if key is None else {key: value}
    return value


numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**64, -(10**300), 1.5, -0.0, 1e308, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
strings = st.one_of(st.sampled_from(NAMES), st.sampled_from(WORDS), st.text(max_size=5))
scalars = st.one_of(st.none(), st.booleans(), numbers, strings)
deep = st.builds(nested, st.sampled_from([90, 110, 190, 205, 400]), st.sampled_from([None, "a", "parts", "metadata"]))
keys = st.one_of(st.sampled_from(INNER_FIELDS + PART_FIELDS), strings)
values = st.recursive(
    scalars | deep, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)


def _some(fields: tuple[str, ...], kinds: st.SearchStrategy[Any], name: str, most: int) -> st.SearchStrategy[Any]:
    """Return objects with some of the known fields, each with any value but more often a suitable one."""
    value = st.one_of(strings, values, st.dictionaries(st.sampled_from(INNER_FIELDS), strings | values, max_size=3))
    return st.builds(
        lambda kind, more: more if kind is None else {**more, name: kind},
        kinds,
        st.dictionaries(st.sampled_from(fields), value, max_size=most),
    )


parts = _some(PART_FIELDS, st.sampled_from(sorted(PARTS)) | values, "type", 5)
calls = st.fixed_dictionaries(
    {}, optional={"id": strings | values, "function": values | st.fixed_dictionaries({"name": strings | values})}
)


@st.composite
def messages(draw: st.DrawFn) -> Any:
    message = draw(_some(MESSAGE_FIELDS, st.sampled_from(sorted(ROLES)) | values, "role", 5))
    for key, inner in (("parts", parts), ("content", parts), ("toolCalls", calls)):
        if draw(st.booleans()):
            message[key] = draw(st.lists(inner | values, max_size=4))
    return message


@st.composite
def chunks(draw: st.DrawFn) -> Any:
    """Return chunks of a known type with any of the known fields. A snapshot has messages."""
    kind = draw(st.sampled_from(CHUNK_TYPES))
    chunk = draw(_some(CHUNK_FIELDS, st.just(kind), "type", 6))
    if kind == "MESSAGES_SNAPSHOT":
        chunk["messages"] = draw(st.lists(messages() | values, max_size=5))
    if draw(st.booleans()):  # refers to an existing item
        chunk |= draw(st.fixed_dictionaries(dict.fromkeys(("messageId", "toolCallId", "runId", "delta"), strings)))
    return chunk


logs = st.lists(chunks() | messages() | values, max_size=12)


def as_stored(log: list[Any]) -> bytes:
    """Return the log as a batch stores it, as JavaScript would write it."""
    return ",".join(json.dumps(value) for value in log).encode()
