"""
Chat Completions: the API that OpenAI-compatible servers have in common, such as vLLM, Ollama and gateways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.openai.answers import Answer
from durable_chat.models.openai.messages import schema_of
from durable_chat.transcripts.chunks import Chunk

# The fields in which servers send thinking. OpenAI itself sends none here.
_THOUGHTS = ("reasoning_content", "reasoning")

_FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


def completion_request(messages: list[dict[str, Any]], tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """Return what `chat.completions.create` is given, without the model."""
    request: dict[str, Any] = {"messages": messages, "stream_options": {"include_usage": True}}
    functions = [{"name": tool.name, "description": tool.description, "parameters": schema_of(tool)} for tool in tools]
    return request | ({"tools": [{"type": "function", "function": each} for each in functions]} if tools else {})


def has_content(event: Any) -> bool:
    """Whether the answer has begun. The first event only names the role, and the last one reports the usage."""
    return any(_said(choice) for choice in event.choices or ())


def is_last(event: Any) -> bool:
    """Whether the answer is complete. Usage may still follow."""
    return any(choice.finish_reason for choice in event.choices or ())


def check_event(event: Any) -> None:
    """Failures are no events here: the package raises them."""


def _said(choice: Any) -> bool:
    delta = choice.delta
    fields = ("content", "refusal", "tool_calls", *_THOUGHTS)
    return bool(choice.finish_reason) or any(getattr(delta, name, None) for name in fields)


class CompletionAnswer(Answer):
    """An answer of Chat Completions. State: the id of each call by its index; the calls without arguments so far."""

    def __init__(self, turn: Turn, model: str, *, structured: bool = False) -> None:
        super().__init__(turn, model, structured=structured)
        self._calls: dict[int, str] = {}
        self._bare: set[str] = set()

    def take(self, event: Any) -> list[Chunk]:
        """Return the chunks for one event."""
        made = self.start(event.id, event.model)
        for choice in (event.choices or ())[:1]:
            made += self._delta(choice.delta) if choice.delta is not None else []
            made += self._end(choice.finish_reason) if choice.finish_reason else []
        if getattr(event, "usage", None) is not None:
            self.count(event.usage, "prompt_tokens", "completion_tokens")
            made.append(self.so_far())
        return made

    def _delta(self, delta: Any) -> list[Chunk]:
        made: list[Chunk] = []
        thought = next((text for name in _THOUGHTS if isinstance(text := getattr(delta, name, None), str) and text), "")
        made += self.thought(thought, f"{self.message_id}-thinking")
        made += self.text(delta.content or "")
        made += self.refuse(getattr(delta, "refusal", None) or "")
        for call in delta.tool_calls or ():
            made += self._call(call)
        return made

    def _call(self, call: Any) -> list[Chunk]:
        """
        Take a piece of a call. Servers differ: some give whole calls without an index, some repeat the id with every
        piece.
        """
        function = call.function
        index = call.index if isinstance(call.index, int) else len(self._calls)
        known = self._calls.get(index)
        made: list[Chunk] = []
        if known is None or (call.id and call.id != known and function and function.name):
            made += self._end_call(known) if known is not None else []
            known = call.id or f"call-{self.message_id}-{len(self._calls)}"
            self._calls[index] = known
            self._bare.add(known)
            made += self.call_start(known, (function and function.name) or "")
        arguments = (function and function.arguments) or ""
        if arguments:
            self._bare.discard(known)
        return made + self.call_args(known, arguments)

    def _end_call(self, call_id: str) -> list[Chunk]:
        none = self.call_args(call_id, "{}") if call_id in self._bare else []
        return [*none, *self.call_end(call_id)]

    def _end(self, reason: str) -> list[Chunk]:
        made = [*self.end_thought(), *self.end_text()]
        for call_id in self._calls.values():
            made += self._end_call(call_id)
        # Some servers end an answer with calls by `stop`.
        self.reason = "tool_calls" if self._calls and reason == "stop" else _FINISH_REASONS.get(reason, "stop")
        return made
