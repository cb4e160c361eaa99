"""The rules by which AG-UI's clients verify a run's events (`verify.ts` of @ag-ui/client), as assertions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durable_chat.api.doors.agui.wire import FIELDS

TERMINALS = ("RUN_FINISHED", "RUN_ERROR")
ALLOWED = {"type", "timestamp", "metadata", "subagentRunId"}
MORE = {
    "RUN_STARTED": {"threadId", "runId"},
    "RUN_FINISHED": {"threadId", "runId", "outcome"},
    "CUSTOM": {"value"},
    "REASONING_MESSAGE_START": {"role"},
    "MESSAGES_SNAPSHOT": {"messages"},
}
PAIRS = {
    "TEXT_MESSAGE": ("messageId", "_CONTENT"),
    "REASONING_MESSAGE": ("messageId", "_CONTENT"),
    "REASONING": ("messageId", ""),
    "TOOL_CALL": ("toolCallId", "_ARGS"),
}


def check_rules(events: Iterable[dict[str, Any]], *, modern: bool) -> None:
    """Raise AssertionError if a client would fail the run."""
    events = list(events)
    assert events[0]["type"] in ("RUN_STARTED", "RUN_ERROR")
    assert [event["type"] for event in events if event["type"] in TERMINALS] == [events[-1]["type"]]
    assert sum(event["type"] == "RUN_STARTED" for event in events) <= 1
    open_things: set[tuple[str, Any, Any]] = set()
    for event in events:
        kind = event["type"]
        assert set(event) <= ALLOWED | set(FIELDS.get(kind, ())) | MORE.get(kind, set()), event
        nullable = {"value", "snapshot"}
        assert all(value is not None for key, value in event.items() if key not in nullable), event
        assert isinstance(event.get("timestamp", 0), int)
        assert modern or not kind.startswith("SUBAGENT_")
        owner = event.get("subagentRunId")
        for prefix, (key, more) in PAIRS.items():
            thing = (prefix, event.get(key), owner)
            if kind == f"{prefix}_START":
                assert thing not in open_things, event
                open_things.add(thing)
            elif kind == f"{prefix}{more}" and more:
                assert thing in open_things, event
                assert event["delta"]
            elif kind == f"{prefix}_END":
                assert thing in open_things, event
                open_things.remove(thing)
        for start, end, key in (
            ("STEP_STARTED", ("STEP_FINISHED",), "stepName"),
            ("SUBAGENT_STARTED", ("SUBAGENT_FINISHED", "SUBAGENT_ERROR"), "subagentRunId"),
        ):
            thing = (start, event.get(key), owner)
            if kind == start:
                assert thing not in open_things, event
                open_things.add(thing)
            elif kind in end:
                assert thing in open_things, event
                open_things.remove(thing)
        if kind in TERMINALS:
            assert not open_things, open_things
        if kind == "RUN_FINISHED":
            kinds = {"success", "interrupt", "cancelled"} if modern else {"success", "interrupt"}
            assert event.get("outcome", {"type": "success"})["type"] in kinds
