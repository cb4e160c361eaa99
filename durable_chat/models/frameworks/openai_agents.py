"""
The OpenAI Agents SDK as a model: the events of `Runner.run_streamed` as chunks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from durable_chat.models.base import ProviderError
from durable_chat.models.frameworks import calls
from durable_chat.models.outputs import close_output
from durable_chat.transcripts.chunks import Chunk

_USAGE = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "totalTokens": "total_tokens",
    "reasoningTokens": "output_tokens_details.reasoning_tokens",
    "cachedInputTokens": "input_tokens_details.cached_tokens",
}
_TEXTS = ("response.output_text.delta", "response.refusal.delta")
_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_FAILURES = {
    "MaxTurnsExceeded": ("The agent needed more turns than it may take.", "max_turns"),
    "InputGuardrailTripwireTriggered": ("The agent does not answer this message.", "guardrail"),
    "OutputGuardrailTripwireTriggered": ("The agent's answer was withheld.", "guardrail"),
}
"""What is shown of the SDK's own errors, by the name of the class. The text of other errors is never shown."""


async def from_openai_agents(result: Any) -> AsyncGenerator[Any, None]:
    """
    Yield the run of an agent of the OpenAI Agents SDK as chunks: `result` is what `Runner.run_streamed(agent, await
    turn.openai_responses_messages())` returns. Return this from the function of `@chat.model`.

    Text, thinking, tool calls with their results, handoffs and usage are included. A tool with `needs_approval` ends
    the run with a question to the person; register its function with `chat.tool(needs_approval=True)` too, so that the
    chat executes it once it is approved. Closing the generator cancels the agent.
    """
    run = _Run()
    events = result.stream_events()
    try:
        async for event in events:
            for chunk in run.read(event):
                yield chunk
        for asked in result.interruptions:
            raw = asked.raw_item
            yield calls.approval(calls.at(raw, "call_id"), asked.tool_name or "", calls.at(raw, "arguments"))
        yield calls.finished(run.usage)
    except Exception as error:
        shown = _FAILURES.get(type(error).__name__)
        if shown is None:
            raise
        raise ProviderError(*shown) from error
    finally:
        if not result.is_complete:
            result.cancel()
        await close_output(events)


class _Run:
    """Mutable state: `_open`, the call of each output position; `usage`, the counts of the model calls so far."""

    def __init__(self) -> None:
        self._open: dict[int, str] = {}
        self.usage: list[dict[str, Any]] = []

    def read(self, event: Any) -> Iterator[Any]:
        if event.type == "raw_response_event":
            yield from self._raw(event.data)
        elif event.type == "run_item_stream_event" and event.name in ("tool_output", "handoff_occured"):
            yield from _output(event.item)

    def _raw(self, data: Any) -> Iterator[Any]:
        kind = data.type
        if kind in _TEXTS:
            yield data.delta
        elif kind in _THOUGHTS:
            yield calls.thinking(data.delta)
        elif kind == "response.output_item.added":
            yield from self._added(data)
        elif kind == "response.function_call_arguments.delta" and data.output_index in self._open:
            yield calls.arguments(self._open[data.output_index], data.delta)
        elif kind == "response.output_item.done":
            yield from self._done(data)
        elif kind == "response.completed":
            self._open.clear()
            counted = calls.counts(calls.at(data.response, "model"), calls.at(data.response, "usage"), _USAGE)
            self.usage += [counted] if counted else []

    def _added(self, data: Any) -> Iterator[Chunk]:
        item = data.item
        if item.type == "function_call":
            self._open[data.output_index] = item.call_id
            yield calls.start(item.call_id, item.name)

    def _done(self, data: Any) -> Iterator[Chunk]:
        item = data.item
        if item.type == "function_call":
            if self._open.pop(data.output_index, None) is None:  # a provider that does not announce calls
                yield from calls.whole(item.call_id, item.name, item.arguments)
            else:
                yield calls.end(item.call_id)
        elif item.type.endswith("_call") and isinstance(calls.at(item, "id"), str):  # a tool that OpenAI's servers run
            yield from calls.whole(item.id, item.type.removesuffix("_call"), calls.at(item, "action") or {})
            yield calls.result(item.id, {"status": calls.at(item, "status")})


def _output(item: Any) -> Iterator[Chunk]:
    call_id = calls.at(item.raw_item, "call_id")
    if isinstance(call_id, str):
        output = calls.at(item, "output")
        yield calls.result(call_id, calls.at(item.raw_item, "output") if output is None else _plain(output))


def _plain(output: Any) -> Any:
    dump = getattr(output, "model_dump", None)
    return dump(mode="json") if callable(dump) else output
