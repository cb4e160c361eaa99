"""
Claude over Anthropic's streaming Messages API. The package `anthropic` is imported when it is first used.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from durable_chat.errors import Unauthorized
from durable_chat.models.anthropic.files import with_files, without_files
from durable_chat.models.anthropic.messages import REDACTED, takes_thinking, to_anthropic, tools_named_in
from durable_chat.models.base import ProviderError, ToolSpec, Turn
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

RETRIES_MAX = 2
"""
Default retries of a request that failed before its answer started. An answer that has started is never requested again.
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

# The error to show for a failure, by HTTP status and by Anthropic's error type. The provider's text is never shown.
_INVALID_KEY = ("The AI provider rejected the API key.", "invalid_api_key")
_RATE_LIMITED = ("The AI provider's rate limit is reached. Try again in a minute.", "rate_limited")
_OVERLOADED = ("The AI provider is overloaded. Try again in a minute.", "overloaded")
_TIMEOUT = ("The AI provider did not answer in time.", "provider_timeout")
_UNKNOWN_MODEL = ("The AI provider does not know this model.", "model_not_found")
_TOO_LARGE = ("The conversation is too large for the AI provider.", "request_too_large")
_REFUSED = ("The AI provider refused the request.", "provider_refused_request")
_FAILED = ("The AI provider failed to answer.", "provider_error")
_DISCONNECTED = ("The connection to the AI provider was lost in the middle of the answer.", "provider_disconnected")
_UNREACHABLE = ("The AI provider cannot be reached.", "provider_unreachable")

_BY_STATUS = {
    400: _REFUSED,
    401: _INVALID_KEY,
    402: ("The account with the AI provider has no credit.", "billing"),
    403: ("The API key does not have permission for this request at the AI provider.", "permission_denied"),
    404: _UNKNOWN_MODEL,
    408: _TIMEOUT,
    413: _TOO_LARGE,
    422: _REFUSED,
    429: _RATE_LIMITED,
    504: _TIMEOUT,
    529: _OVERLOADED,
}
_REFUSED_CODES = frozenset({_REFUSED[1], _TOO_LARGE[1]})
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
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

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
        key = api_key or self._key
        if not key:
            message = f"This model needs an API key. Set {KEY_VARIABLE}, or send a key in the x-api-key header."
            raise Unauthorized(message, code="missing_api_key")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise Unauthorized("The API key contains invalid characters, such as spaces.", code="invalid_api_key")

    async def __call__(self, turn: Turn, /) -> AsyncGenerator[Chunk, None]:
        messages = await with_files(turn)
        begun = False
        try:
            async with aclosing(self._answer(turn, messages)) as answer:
                async for chunk in answer:
                    begun = True
                    yield chunk
            return
        except ProviderError as error:
            told = without_files(messages)
            if begun or error.code not in _REFUSED_CODES or told == messages:
                raise
        # One file that the provider cannot read or fetch must not make all later turns fail.
        async with aclosing(self._answer(turn, told)) as answer:
            async for chunk in answer:
                yield chunk

    async def _answer(self, turn: Turn, messages: Iterable[Mapping[str, Any]]) -> AsyncGenerator[Chunk, None]:
        conversation = to_anthropic(messages)
        if not conversation:
            raise ProviderError("There is no message to answer.", "no_message")
        client = await self._client(turn)
        async with aclosing(_events(client, self._request(conversation, turn.tools))) as events:
            answer = _Answer(turn, self.name)
            async for event in events:
                for chunk in answer.take(event):
                    yield chunk
        if not answer.stopped:  # the stream ended cleanly, but the answer is incomplete
            raise ProviderError(*_DISCONNECTED)
        yield answer.finished()

    async def aclose(self) -> None:
        """Close the connections of the current event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()

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
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            pool = await asyncio.to_thread(_new_pool)
            self._pools.setdefault(loop, pool)
        from anthropic import AsyncAnthropic

        key = turn.api_key or self._key
        return AsyncAnthropic(api_key=key, max_retries=self._max_retries, http_client=self._pools[loop])


def _definition(spec: ToolSpec) -> dict[str, Any]:
    described = {"description": spec.description} if spec.description else {}
    return {"name": spec.name, **described, "input_schema": {"type": "object", **spec.parameters}}


def _new_pool() -> Any:
    """
    Create the package's HTTP client. Importing the package takes a second, and reading the certificates takes time too.
    """
    from anthropic import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient()


async def _events(client: AsyncAnthropic, request: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """
    Yield the events of an answer. The stream closes at once when its reader stops. Errors are translated to messages
    that are safe to show.
    """
    import anthropic

    begun = False
    try:
        stream = await client.messages.create(**request, stream=True)
        begun = True
        async with stream:
            async for event in stream:
                yield event
    except anthropic.APIStatusError as error:
        raise _shown(error.status_code, error.type) from None
    except anthropic.APITimeoutError:
        raise ProviderError(*_TIMEOUT) from None
    except anthropic.APIConnectionError:
        raise ProviderError(*(_DISCONNECTED if begun else _UNREACHABLE)) from None
    except anthropic.AnthropicError:
        raise ProviderError(*_FAILED) from None
    except Exception:
        # In the middle of an answer, the package passes on exceptions of its HTTP client and its JSON parser.
        if begun:
            raise ProviderError(*_DISCONNECTED) from None
        raise


def _shown(status: int, kind: str | None) -> ProviderError:
    """Return the error to show. An error in the middle of an answer has a success status, so its type is used."""
    if status < 400:
        status = _BY_TYPE.get(kind or "", 500)
    return ProviderError(*_BY_STATUS.get(status, _FAILED))


class _Answer:
    """
    Anthropic's events converted to chunks. State: the message's id; the current block (its kind, its id, whether it had
    input, its signature); the stop reason; usage.
    """

    def __init__(self, turn: Turn, model: str) -> None:
        self.turn = turn
        self.model = model
        self.message_id = f"msg-{turn.run_id}"
        self.stopped = False
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
        elif event.type == "message_stop":
            self.stopped = True
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
