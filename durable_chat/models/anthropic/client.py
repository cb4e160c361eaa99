"""
Claude over Anthropic's streaming Messages API. The package `anthropic` is imported when it is first used.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from durable_chat.models.anthropic.files import with_files
from durable_chat.models.anthropic.messages import REDACTED, takes_thinking, to_anthropic, tools_named_in
from durable_chat.models.base import ProviderError, ToolSpec, Turn
from durable_chat.models.providers import failures, translation
from durable_chat.models.providers.connections import Pools, check_provider_key
from durable_chat.models.providers.files import answer_without_refused_files
from durable_chat.models.providers.retries import RETRIES_MAX, STILL_WORKING, retried
from durable_chat.transcripts import chunks
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.usage import SO_FAR

if TYPE_CHECKING:  # the package takes a second to import
    from anthropic import AsyncAnthropic

PROVIDER = "anthropic"
MODEL_DEFAULT = "claude-sonnet-4-6"
KEY_VARIABLE = "ANTHROPIC_API_KEY"

OUTPUT_TOKENS_MAX = 32_000
"""
Default limit of an answer's length, which is already a small book. The model's own limit is higher, but a runaway
answer costs money.
"""

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

# The fields of a request that the counting of tokens accepts.
_COUNTED = ("model", "messages", "system", "thinking", "tools", "tool_choice")

# The HTTP status of each of Anthropic's error types.
_BY_TYPE = {
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}


class AnthropicModel:
    """
    A Claude model. `options` are added to each request unchanged (`system`, `thinking`, `temperature`, …). State: one
    connection pool for each event loop, shared by all keys.
    """

    provider = PROVIDER

    def __init__(
        self,
        name: str = MODEL_DEFAULT,
        *,
        key: str | None = None,
        max_tokens: int = OUTPUT_TOKENS_MAX,
        max_retries: int = RETRIES_MAX,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Create a model. `key` is used for turns without their own key; it defaults to the environment's."""
        self.name = name
        self._key = key or os.environ.get(KEY_VARIABLE, "").strip() or None
        self._max_tokens = max_tokens
        self._max_retries = max_retries
        self._options = dict(options or {})
        self._pools = Pools(_new_pool)

    def __repr__(self) -> str:
        return f"AnthropicModel({self.name!r})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The model's own key, which must never be shown."""
        return (self._key,) if self._key else ()

    def check(self, api_key: str | None) -> None:
        """
        Check the key of the turn or the environment. Raises Unauthorized when there is none, or it contains invalid
        characters.
        """
        check_provider_key(api_key or self._key, KEY_VARIABLE)

    async def __call__(self, turn: Turn, /) -> AsyncGenerator[Chunk, None]:
        messages = await with_files(turn)
        async with aclosing(answer_without_refused_files(partial(self._answer, turn), messages)) as answer:
            async for chunk in answer:
                yield chunk

    async def _answer(self, turn: Turn, messages: Iterable[Mapping[str, Any]]) -> AsyncGenerator[Chunk, None]:
        conversation = to_anthropic(messages)
        if not conversation:
            raise ProviderError(*failures.NO_MESSAGE)
        client = await self._client(turn)
        ask = partial(_events, client, self._request(conversation, turn.tools))
        answer = _Answer(turn, self.name)
        async with aclosing(retried(ask, _is_token, self._max_retries)) as events:
            async for event in events:
                for chunk in [STILL_WORKING] if event is None else answer.take(event):
                    yield chunk
        yield answer.finished()

    async def count_tokens(self, turn: Turn) -> int | None:
        """
        Return the tokens of a request for this turn, as Anthropic counts them. It costs nothing. Return None if there
        is nothing to answer. Raises what the package raises.
        """
        conversation = to_anthropic(await with_files(turn))
        if not conversation:
            return None
        client = await self._client(turn)
        request = self._request(conversation, turn.tools)
        counted = {name: request[name] for name in _COUNTED if name in request}
        return (await client.messages.count_tokens(**counted)).input_tokens

    async def aclose(self) -> None:
        """Close the connections of the current event loop."""
        await self._pools.aclose()

    def _request(self, conversation: list[dict[str, Any]], tools: Sequence[ToolSpec]) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self._max_tokens,
            "messages": conversation,
            **self._options,
        }
        if not takes_thinking(conversation):
            request.pop("thinking", None)
        if "tools" in request:
            return request
        told = {spec.name: _definition(spec) for spec in tools}
        named = [tool for tool in tools_named_in(conversation) if tool["name"] not in told]
        if told or named:
            request["tools"] = [*told.values(), *named]
        if named and not told:
            request["tool_choice"] = {"type": "none"}
        return request

    async def _client(self, turn: Turn) -> AsyncAnthropic:
        """
        Return a client with the turn's key on the shared connections. The first call is slow, because it imports the
        package.
        """
        self.check(turn.api_key)
        pool = await self._pools.get()
        from anthropic import AsyncAnthropic

        return AsyncAnthropic(api_key=turn.api_key or self._key, max_retries=0, http_client=pool)


def _definition(spec: ToolSpec) -> dict[str, Any]:
    described = {"description": spec.description} if spec.description else {}
    return {"name": spec.name, **described, "input_schema": {"type": "object", **spec.parameters}}


def _new_pool() -> Any:
    """
    Create the package's HTTP client. Importing the package takes a second, and reading the certificates takes time too.
    """
    from anthropic import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient()


def _events(client: AsyncAnthropic, request: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """Yield the events of an answer, see `translation.translated`."""
    import anthropic

    package = translation.Package(anthropic, anthropic.AnthropicError, _shown)
    return translation.translated(package, partial(client.messages.create, **request, stream=True), _is_last)


def _is_last(event: Any) -> bool:
    return bool(event.type == "message_stop")


def _is_token(event: Any) -> bool:
    """Whether the answer has begun."""
    return event.type not in ("message_start", "content_block_start", "ping")


def _shown(error: Any) -> ProviderError:
    """Return the error to show. An error in the middle of an answer has a success status, so its type is used."""
    status = getattr(error, "status_code", None)
    if status is None:
        return ProviderError(*failures.FAILED)
    status = _BY_TYPE.get(error.type or "", 500) if status < 400 else status
    return failures.failure_of(status, error.response.headers.get("retry-after"))


class _Answer:
    """
    Anthropic's events converted to chunks. State: the message's id; the current block (its kind, its id, whether it had
    input, its signature); the stop reason; usage.
    """

    def __init__(self, turn: Turn, model: str) -> None:
        self.turn = turn
        self.model = model
        self.message_id = f"msg-{turn.run_id}"
        self.reason: str | None = None
        self.usage: dict[str, int] = {}
        self.block = ""
        self.block_id = ""
        self.has_input = False
        self.signature = ""

    def take(self, event: Any) -> list[Chunk]:
        if event.type == "message_start":
            self._count(event.message.usage)
            self.message_id = event.message.id or self.message_id
            start = chunks.text_start(self.message_id, timestamp=_now_ms())
            start["metadata"]["tanstack"]["model"] = event.message.model or self.model
            return [start, self._so_far()]
        if event.type == "content_block_start":
            return self._start(event.content_block, event.index)
        if event.type == "content_block_delta":
            return self._delta(event.delta)
        if event.type == "content_block_stop":
            return self._stop()
        if event.type == "message_delta":
            self.reason = event.delta.stop_reason or self.reason
            self._count(event.usage)
            return [self._so_far()]
        return []

    def finished(self) -> Chunk:
        reason = _FINISH_REASONS.get(self.reason or "end_turn", "stop")
        return {
            "type": "RUN_FINISHED",
            "threadId": self.turn.session_id,
            "runId": self.turn.run_id,
            "timestamp": _now_ms(),
            "usage": self._used(),
            "metadata": {"tanstack": {"finishReason": reason, "model": self.model}},
        }

    def _so_far(self) -> Chunk:
        """Return the usage so far, in case the answer is cut off: no end of the answer reports it then."""
        return {"type": SO_FAR, "usage": self._used()}

    def _used(self) -> list[dict[str, Any]]:
        return [{"provider": PROVIDER, "model": self.model, **self._counts()}]

    def _start(self, block: Any, index: int) -> list[Chunk]:
        self.block, self.has_input, self.signature = block.type, False, ""
        if block.type == "text":
            return [self._text(block.text)] if block.text else []
        if block.type == "tool_use":
            self.block_id = block.id
            return [
                self._chunk("TOOL_CALL_START", **self._call(), toolCallName=block.name, parentMessageId=self.message_id)
            ]
        self.block_id = f"{self.message_id}-thinking-{index}"
        if block.type == "redacted_thinking":
            self.signature = REDACTED + block.data
        if block.type not in ("thinking", "redacted_thinking"):
            return []
        made = [
            self._chunk("REASONING_START", messageId=self.block_id),
            self._chunk("REASONING_MESSAGE_START", messageId=self.block_id, role="reasoning"),
            self._chunk("STEP_STARTED", stepName=self.block_id),
        ]
        thought = getattr(block, "thinking", "")
        return [*made, self._thought(thought)] if thought else made

    def _delta(self, delta: Any) -> list[Chunk]:
        if delta.type == "text_delta":
            return [self._text(delta.text)] if delta.text else []
        if delta.type == "thinking_delta":
            return [self._thought(delta.thinking)] if delta.thinking else []
        if delta.type == "signature_delta":
            self.signature += delta.signature
        if delta.type == "input_json_delta" and delta.partial_json and self.block == "tool_use":
            self.has_input = True
            return [self._chunk("TOOL_CALL_ARGS", **self._call(), delta=delta.partial_json)]
        return []

    def _stop(self) -> list[Chunk]:
        block, self.block = self.block, ""
        if block == "tool_use":
            none = [] if self.has_input else [self._chunk("TOOL_CALL_ARGS", **self._call(), delta="{}")]
            return [*none, self._chunk("TOOL_CALL_END", **self._call())]
        if block not in ("thinking", "redacted_thinking"):
            return []
        signed = []
        if self.signature:
            value = {"subtype": "message", "entityId": self.block_id, "encryptedValue": self.signature}
            tanstack = {"stepId": self.block_id, "signature": self.signature}
            signed = [
                self._chunk("STEP_FINISHED", stepName=self.block_id, metadata={"tanstack": tanstack}),
                self._chunk("REASONING_ENCRYPTED_VALUE", **value),
            ]
        ends = [self._chunk(kind, messageId=self.block_id) for kind in ("REASONING_MESSAGE_END", "REASONING_END")]
        return signed + ends

    def _text(self, delta: str) -> Chunk:
        return chunks.text_content(self.message_id, delta, timestamp=_now_ms())

    def _thought(self, delta: str) -> Chunk:
        return self._chunk("REASONING_MESSAGE_CONTENT", messageId=self.block_id, delta=delta)

    def _call(self) -> dict[str, str]:
        return {"toolCallId": self.block_id}

    def _chunk(self, kind: str, **fields: Any) -> Chunk:
        return {"type": kind, **fields, "timestamp": _now_ms()}

    def _count(self, usage: Any) -> None:
        """Record counts, which grow during an answer. The last count of each kind is valid."""
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        counts = {name: getattr(usage, name, None) for name in names}
        self.usage |= {name: count for name, count in counts.items() if isinstance(count, int)}

    def _counts(self) -> dict[str, int]:
        cached, written = (self.usage.get(f"cache_{kind}_input_tokens", 0) for kind in ("read", "creation"))
        read, said = self.usage.get("input_tokens", 0) + cached + written, self.usage.get("output_tokens", 0)
        counts = {"inputTokens": read, "outputTokens": said, "totalTokens": read + said}
        return counts | ({"cachedInputTokens": cached} if cached else {})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
