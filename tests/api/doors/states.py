"""assistant-ui's state as its runtime keeps it: operations are applied one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from durable_chat.api.doors.assistant.state import DONE


class Client:
    """A copy of the state, changed as `GorpStreamAccumulator` of assistant-stream changes it. Mutable: all of it."""

    def __init__(self) -> None:
        self.state: Any = None
        self.kinds: list[str] = []
        self.errors: list[str] = []
        self.done = False

    def take(self, data: bytes) -> None:
        for event in data.split(b"\n\n"):
            if not event or event == b": ping":
                continue
            assert not self.done
            if event + b"\n\n" == DONE:
                self.done = True
                continue
            found = json.loads(event.removeprefix(b"data: "))
            if found["type"] == "error":
                self.errors.append(found["error"])
                continue
            assert found["type"] == "update-state"
            for operation in found["operations"]:
                self.kinds.append(operation["type"])
                self.state = changed(self.state, operation["path"], operation)

    def texts(self) -> list[str]:
        """Return the text of each message."""
        return ["".join(part.get("text", "") for part in message["content"]) for message in self.state["messages"]]


def changed(state: Any, path: Sequence[str], operation: Mapping[str, Any]) -> Any:
    """
    Return the state after an operation. Like assistant-ui, refuse an index that is neither present nor the next one.
    """
    if not path:
        return operation["value"] if operation["type"] == "set" else state + operation["value"]
    head, rest = path[0], path[1:]
    if isinstance(state, list):
        at = int(head)
        assert at <= len(state)
        before = state[at] if at < len(state) else None
        return [*state[:at], changed(before, rest, operation), *state[at + 1 :]]
    assert isinstance(state, dict)
    return {**state, head: changed(state.get(head), rest, operation)}
