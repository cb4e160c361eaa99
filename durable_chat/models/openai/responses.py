"""
The Responses API: text, summaries of the model's reasoning, and tool calls as items of one response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.openai.answers import Answer
from durable_chat.models.openai.errors import error_of
from durable_chat.models.openai.messages import schema_of
from durable_chat.transcripts.chunks import Chunk

_BEFORE_CONTENT = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
        "keepalive",
    }
)
_TEXT = frozenset({"response.output_text.delta", "response.output_text.done"})
_REFUSAL = frozenset({"response.refusal.delta", "response.refusal.done"})
_LAST = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "response.cancelled", "error"})
_CUT_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


def response_request(items: list[dict[str, Any]], tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """Return what `responses.create` is given, without the model. Nothing is stored at the provider."""
    functions = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": schema_of(tool),
            "strict": False,  # a strict schema may have no optional arguments
        }
        for tool in tools
    ]
    return {"input": items, "store": False, **({"tools": functions} if functions else {})}


def has_content(event: Any) -> bool:
    """Whether the answer has begun."""
    return event.type not in _BEFORE_CONTENT


def is_last(event: Any) -> bool:
    """Whether the answer is complete."""
    return event.type in _LAST


def check_event(event: Any) -> None:
    """Raise the error of an event that reports a failure."""
    if event.type in _FAILED:
        response = getattr(event, "response", None)
        error = event if response is None else getattr(response, "error", None)
        raise error_of(None, getattr(error, "code", None))


@dataclass(slots=True)
class _Item:
    """An open item of a response. Mutable. `heard` is the number of characters that it consists of so far."""

    kind: str
    call_id: str = ""
    name: str = ""
    heard: int = 0
    part: Any = None


class ResponseAnswer(Answer):
    """
    An answer of the Responses API. State: its response's id; its open items by their place in the output; whether the
    response is complete.
    """

    def __init__(self, turn: Turn, model: str, *, structured: bool = False) -> None:
        super().__init__(turn, model, structured=structured)
        self.response_id: str | None = None
        self.complete = False
        self._items: dict[int, _Item] = {}

    @property
    def between_items(self) -> bool:
        """Whether no item is open."""
        return not self._items

    def take(self, event: Any) -> list[Chunk]:
        """Return the chunks for one event."""
        kind, index = event.type, getattr(event, "output_index", 0)
        if kind == "response.created":
            self.response_id = event.response.id or None
            return self.start(self.response_id, event.response.model)
        if kind in _LAST:
            return self._end(event.response)
        if kind == "response.output_item.added":
            return self._begin_item(index, event.item)
        item = self._items.get(index)
        if item is None:
            return []
        if kind == "response.output_item.done":
            del self._items[index]
            return self._end_item(item, event.item)
        return self._grow(item, kind, event)

    def _begin_item(self, index: int, given: Any) -> list[Chunk]:
        name = f"{self.response_id or self.message_id}-thinking-{index}"
        self._items[index] = item = _Item(given.type, name=name)
        if given.type != "function_call":
            return []
        item.call_id = given.call_id or given.id or f"call-{self.message_id}-{index}"
        return self.call_start(item.call_id, given.name)

    def _grow(self, item: _Item, kind: str, event: Any) -> list[Chunk]:
        """Return the chunks for a piece of an item, or for a part that was given only as a whole."""
        if kind in _TEXT or kind in _REFUSAL:
            whole = getattr(event, "text", None) or getattr(event, "refusal", None)
            delta = event.delta if kind.endswith(".delta") else whole if item.heard == 0 else ""
            item.heard += len(delta or "")
            return self.refuse(delta or "") if kind in _REFUSAL else self.text(delta or "")
        if kind == "response.function_call_arguments.delta":
            item.heard += len(event.delta)
            return self.call_args(item.call_id, event.delta)
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            return self._think(item, event)
        return []

    def _think(self, item: _Item, event: Any) -> list[Chunk]:
        """Return thinking. Each part of a summary is a paragraph."""
        part = (event.type, getattr(event, "summary_index", None), getattr(event, "content_index", None))
        between = "\n\n" if item.heard and part != item.part else ""
        item.part, item.heard = part, item.heard + len(event.delta)
        return self.thought(between + event.delta, item.name)

    def _end_item(self, item: _Item, given: Any) -> list[Chunk]:
        if item.kind == "function_call":
            rest = "" if item.heard else given.arguments or "{}"
            return [*self.call_args(item.call_id, rest), *self.call_end(item.call_id)]
        if item.kind == "reasoning":
            return self.end_thought()
        # Some servers give a message as a whole only.
        parts = given.content or () if item.kind == "message" and not item.heard else ()
        said = [chunk for part in parts for chunk in self.text(getattr(part, "text", None) or "")]
        return [*said, *self.end_text()]

    def _end(self, response: Any) -> list[Chunk]:
        """Take the end, which repeats the whole output: a part of it may have been said before a crash."""
        self.complete = True
        output = [item for item in response.output or () if item is not None]
        if any(item.type == "function_call" for item in output):
            self.reason = "tool_calls"
        parts = [part for item in output if item.type == "message" for part in item.content or ()]
        self.refused = self.refused or any(part.type == "refusal" for part in parts)
        cut = getattr(response, "incomplete_details", None)
        if response.status == "incomplete":
            self.reason = _CUT_REASONS.get(getattr(cut, "reason", None) or "", "length")
        if response.usage is not None:
            self.count(response.usage, "input_tokens", "output_tokens")
        return [*self.end_thought(), *self.end_text()]
