"""
A LangGraph graph as a model: the parts of `graph.astream` as chunks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

from durable_chat.models.frameworks import calls
from durable_chat.models.outputs import close_output
from durable_chat.transcripts.chunks import Chunk

_USAGE = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "totalTokens": "total_tokens",
    "reasoningTokens": "output_token_details.reasoning",
    "cachedInputTokens": "input_token_details.cache_read",
}


async def from_langgraph(parts: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """
    Yield the run of a LangGraph graph as chunks: `parts` is `graph.astream({"messages": await
    turn.langchain_messages()}, stream_mode=["messages", "updates"])`. Return this from the function of `@chat.model`.
    Compile the graph without a checkpointer, because the chat keeps the messages.

    Text, thinking, tool calls with their results and usage are included. With `subgraphs=True`, each subgraph is a
    subagent. A graph that stops before a node (`interrupt_before`) with open calls ends the run with a question to the
    person; register these functions with `chat.tool(needs_approval=True)` too, so that the chat executes them once they
    are approved. Closing the generator cancels the graph.
    """
    graph = _Graph()
    try:
        async for part in parts:
            namespace, mode, data = part if len(part) == 3 else ((), *part)
            for chunk in graph.read(tuple(namespace), mode, data):
                yield chunk
        for chunk in graph.rest():
            yield chunk
    finally:
        await close_output(parts)


class _Graph:
    """
    Mutable state: `_subagents`, the running subagents by namespace; `_open`, the name and arguments of each call
    without a result; `_streamed`, the messages whose text was streamed; `_usage`; `_stopped`, set when the graph has
    interrupted.
    """

    def __init__(self) -> None:
        self._subagents: dict[tuple[str, ...], None] = {}
        self._open: dict[str, tuple[str, Any]] = {}
        self._streamed: set[str] = set()
        self._usage: list[dict[str, Any]] = []
        self._stopped = False

    def read(self, namespace: tuple[str, ...], mode: str, data: Any) -> Iterator[Any]:
        if namespace:
            yield from self._subagent(namespace, mode, data)
        elif mode == "messages":
            for delta, kind in self._deltas(data[0]):
                yield delta if kind == "text" else calls.thinking(delta)
        elif mode == "updates":
            yield from self._update(data)

    def rest(self) -> Iterator[Chunk]:
        yield from self._end_subagents(())
        if self._stopped:
            for call_id, (name, given) in self._open.items():
                yield calls.approval(call_id, name, given)
        yield calls.finished(self._usage)

    def _deltas(self, message: Any) -> Iterator[tuple[str, str]]:
        """Yield the text and the thinking of a piece of a model's message, with their kinds."""
        if not type(message).__name__.startswith("AIMessage"):
            return
        if isinstance(message.id, str):
            self._streamed.add(message.id)
        for block in message.content_blocks:
            kind = "reasoning" if block.get("type") == "reasoning" else "text"
            if block.get("type") in ("reasoning", "text") and block.get(kind):
                yield str(block[kind]), kind
        counted = calls.counts((message.response_metadata or {}).get("model_name"), message.usage_metadata, _USAGE)
        self._usage += [counted] if counted else []

    def _update(self, data: Any) -> Iterator[Any]:
        """Yield the complete calls and results that a node of the graph has added."""
        for node, update in data.items() if isinstance(data, Mapping) else ():
            if node == "__interrupt__":
                self._stopped = True
            for message in _messages(update):
                yield from self._message(message)
        yield from self._end_subagents(())

    def _message(self, message: Any) -> Iterator[Any]:
        if message.type == "ai":
            if message.id not in self._streamed:  # of a node that does not stream, such as one without a model
                for delta, kind in self._deltas(message):
                    yield delta if kind == "text" else calls.thinking(delta)
            for call in message.tool_calls:
                self._open[call["id"]] = call["name"], call["args"]
                yield from calls.whole(call["id"], call["name"], call["args"])
        elif message.type == "tool":
            self._open.pop(message.tool_call_id, None)
            yield calls.result(message.tool_call_id, message.text, failed=message.status == "error")

    def _subagent(self, namespace: tuple[str, ...], mode: str, data: Any) -> Iterator[Chunk]:
        """Yield the output of a subgraph, attributed to it. Its namespace is `node:id` for each level."""
        run_id = "|".join(namespace)
        if namespace not in self._subagents:
            self._subagents[namespace] = None
            begun: Chunk = {
                "type": "SUBAGENT_STARTED",
                "subagentRunId": run_id,
                "name": namespace[-1].partition(":")[0],
            }
            yield begun | ({"parentSubagentRunId": "|".join(namespace[:-1])} if namespace[:-1] else {})
        if mode == "messages":
            message_id = str(data[0].id or run_id)
            pieces = [
                calls.text(delta, message_id) if kind == "text" else calls.thinking(delta) | {"messageId": message_id}
                for delta, kind in self._deltas(data[0])
            ]
            yield from calls.of_subagent(pieces, run_id)
        elif mode == "updates":
            asked, self._open = self._open, {}
            made = [
                chunk for update in data.values() for message in _messages(update) for chunk in self._message(message)
            ]
            self._open = asked
            yield from calls.of_subagent([chunk for chunk in made if isinstance(chunk, dict)], run_id)

    def _end_subagents(self, above: tuple[str, ...]) -> Iterator[Chunk]:
        """End the subgraphs below a namespace, innermost first, because a node of the graph above has finished."""
        for namespace in reversed(list(self._subagents)):
            if namespace[: len(above)] == above:
                del self._subagents[namespace]
                yield {"type": "SUBAGENT_FINISHED", "subagentRunId": "|".join(namespace)}


def _messages(update: Any) -> list[Any]:
    """Return the messages in the update of a node: under `messages`, a list or one."""
    found = update.get("messages") if isinstance(update, Mapping) else None
    listed = found if isinstance(found, list | tuple) else [found]
    return [message for message in listed if hasattr(message, "type")]
