"""
The Claude Agent SDK as a model: the messages of `query` as chunks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

from durable_chat.models.base import ProviderError
from durable_chat.models.frameworks import calls
from durable_chat.models.outputs import close_output
from durable_chat.transcripts.answers.items import WORKING
from durable_chat.transcripts.chunks import Chunk

_USAGE = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cachedInputTokens": "cache_read_input_tokens",
}
_FAILURES = {
    "authentication_failed": "The agent's key was not accepted.",
    "billing_error": "The agent's account cannot be charged.",
    "rate_limit": "The agent's provider is busy. Try again in a moment.",
    "error_max_turns": "The agent needed more turns than it may take.",
    "error_max_budget_usd": "The agent reached its limit of cost.",
}
"""What is shown of a failure, by the SDK's name for it. Its text may hold anything and is never shown."""


_WORKING: Chunk = {"type": WORKING}
"""Yielded after each message of the SDK, so that a run whose tools report progress does not count as stalled."""


async def from_claude_agent(messages: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """
    Yield the run of the Claude Agent SDK as chunks: `messages` is `query(prompt=turn.claude_agent_prompt(),
    options=ClaudeAgentOptions(include_partial_messages=True, …))`. Return this from the function of `@chat.model`.

    Text, thinking, tool calls with their results and usage are included, and subagents apart. Without
    `include_partial_messages` the text arrives in whole messages. Closing the generator ends the agent's process.
    """
    run = _Run()
    try:
        async for message in messages:
            for chunk in run.read(message):
                yield chunk
            yield _WORKING
        for chunk in run.rest():
            yield chunk
    except Exception as error:  # the SDK raises after the messages that name the failure
        if run.failure is None:
            raise
        raise run.failure from error
    finally:
        await close_output(messages)


class _Run:
    """
    Mutable state: `_streamed`, the ids of messages that arrived in pieces; `_blocks`, the open call of each agent's
    block; `_subagents`, the running subagents and whether each runs in the background; `_names`, the names of the
    subagents that calls request; `_usage`; `_failure`, the SDK's name of the last failure.
    """

    def __init__(self) -> None:
        self._streamed: set[str] = set()
        self._blocks: dict[tuple[str | None, int], str] = {}
        self._subagents: dict[str, bool] = {}
        self._names: dict[str, str] = {}
        self._usage: list[dict[str, Any]] = []
        self._model: str | None = None
        self._failure: str | None = None

    def read(self, message: Any) -> Iterator[Any]:
        """Yield the chunks of one message of the SDK, by the name of its class."""
        kind = type(message).__name__
        parent = getattr(message, "parent_tool_use_id", None)
        if kind == "StreamEvent":
            yield from self._said(self._event(message.event, parent), parent, f"{parent}-text")
        elif kind == "AssistantMessage":
            yield from self._said(self._assistant(message), parent, message.message_id or f"{parent}-text")
        elif kind == "UserMessage" and isinstance(message.content, list):
            yield from self._said(self._results(message.content), parent, f"{parent}-text")
        elif kind == "TaskStartedMessage" and message.tool_use_id:
            yield from self._begin(message.tool_use_id, message.data, background=True)
        elif kind == "TaskNotificationMessage" and message.tool_use_id in self._subagents:
            yield self._end(message.tool_use_id, message.status)
        elif kind == "ResultMessage":
            self._result(message)

    def rest(self) -> Iterator[Chunk]:
        for run_id in list(self._subagents):
            yield self._end(run_id, "completed")
        if self.failure is not None:
            raise self.failure
        yield calls.finished(self._usage)

    @property
    def failure(self) -> ProviderError | None:
        """Return the message of the failure, safe to show to anyone."""
        name = self._failure
        return None if name is None else ProviderError(_FAILURES.get(name, "The agent failed."), name)

    def _said(self, chunks: Iterator[Any], parent: str | None, message_id: str) -> Iterator[Any]:
        """
        Yield an agent's chunks: as they are, or attributed to the subagent that the call `parent` started, as one of
        its messages.
        """
        if parent is None:
            yield from chunks
            return
        yield from self._begin(parent, {}, background=False)
        made = [calls.text(chunk, message_id) if isinstance(chunk, str) else chunk for chunk in chunks]
        named = [{"messageId": f"{message_id}-reasoning", **chunk} if _is_thought(chunk) else chunk for chunk in made]
        yield from calls.of_subagent(named, parent)

    def _event(self, event: Mapping[str, Any], parent: str | None) -> Iterator[Any]:
        """Yield the chunks of an event of the Messages API."""
        kind, at = event.get("type"), (parent, int(event.get("index") or 0))
        if kind == "message_start":
            self._streamed.add(event["message"]["id"])
        elif kind == "content_block_start" and event["content_block"]["type"] in ("tool_use", "server_tool_use"):
            block = event["content_block"]
            self._blocks[at] = block["id"]
            yield calls.start(block["id"], block["name"])
        elif kind == "content_block_delta":
            yield from self._delta(event["delta"], self._blocks.get(at))
        elif kind == "content_block_stop" and at in self._blocks:
            yield calls.end(self._blocks.pop(at))

    def _delta(self, delta: Mapping[str, Any], call_id: str | None) -> Iterator[Any]:
        kind = delta.get("type")
        if kind == "text_delta":
            yield delta["text"]
        elif kind == "thinking_delta":
            yield calls.thinking(delta["thinking"])
        elif kind == "signature_delta":
            yield {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "encryptedValue": delta["signature"]}
        elif kind == "input_json_delta" and call_id is not None:
            yield calls.arguments(call_id, delta["partial_json"])

    def _assistant(self, message: Any) -> Iterator[Any]:
        """Yield a complete message, unless it arrived in pieces before."""
        if message.error is not None:
            self._failure = str(message.error)
            return
        self._model = message.model
        for block in message.content:
            kind = type(block).__name__
            if kind == "ToolUseBlock" and isinstance(block.input.get("subagent_type"), str):
                self._names[block.id] = block.input["subagent_type"]
            if message.message_id in self._streamed:
                continue
            if kind == "TextBlock":
                yield block.text
            elif kind == "ThinkingBlock":
                yield calls.thinking(block.thinking)
            elif kind in ("ToolUseBlock", "ServerToolUseBlock"):
                yield from calls.whole(block.id, block.name, block.input)

    def _results(self, blocks: list[Any]) -> Iterator[Chunk]:
        for block in blocks:
            if type(block).__name__ not in ("ToolResultBlock", "ServerToolResultBlock"):
                continue
            failed = bool(getattr(block, "is_error", None))
            yield calls.result(block.tool_use_id, _content(block.content), failed=failed)
            if self._subagents.get(block.tool_use_id) is False:
                yield self._end(block.tool_use_id, "failed" if failed else "completed")

    def _begin(self, run_id: str, task: Mapping[str, Any], *, background: bool) -> Iterator[Chunk]:
        """Yield the start of a subagent. Its id is that of the call that started it."""
        if run_id in self._subagents:
            return
        self._subagents[run_id] = background
        name = task.get("subagent_type") or self._names.get(run_id) or "subagent"
        described = {"description": task["description"]} if isinstance(task.get("description"), str) else {}
        yield {
            "type": "SUBAGENT_STARTED",
            "subagentRunId": run_id,
            "name": name,
            "parentToolCallId": run_id,
            **described,
        }

    def _end(self, run_id: str, status: str) -> Chunk:
        self._subagents.pop(run_id, None)
        if status == "completed":
            return {"type": "SUBAGENT_FINISHED", "subagentRunId": run_id}
        return {"type": "SUBAGENT_ERROR", "subagentRunId": run_id, "message": "The subagent failed.", "code": status}

    def _result(self, message: Any) -> None:
        """Record the end of a query. There are several if subagents in the background lead to more."""
        counted = calls.counts(self._model, message.usage, _USAGE)
        self._usage += [counted] if counted else []
        failed = message.is_error or message.subtype.startswith("error")
        self._failure = (self._failure or message.subtype) if failed else None


def _is_thought(chunk: Chunk) -> bool:
    return bool(chunk["type"] == "REASONING_MESSAGE_CONTENT")


def _content(content: Any) -> Any:
    """Return a tool's result: text, the text of its blocks, or anything else as it is."""
    if not isinstance(content, list):
        return "" if content is None else content
    texts = [block.get("text") for block in content if isinstance(block, Mapping)]
    return "\n".join(text for text in texts if text) if all(isinstance(text, str) for text in texts) else content
