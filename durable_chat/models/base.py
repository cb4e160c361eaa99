"""
What a model is: a function from a turn to a stream of chunks, and the errors it may show.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_chat.errors import InvalidRequest, NotFound
from durable_chat.transcripts.attachments import artifact_in, data_source, decode_base64
from durable_chat.transcripts.chunks import GENERIC_ERROR, InvalidChunk


def _no_arguments() -> Mapping[str, Any]:
    return {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told of a tool. `parameters` is a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=_no_arguments)


@dataclass(frozen=True, slots=True)
class Turn:
    """
    What a model is asked: the session's messages as the log has them, the new user message last.

    Each of `messages` is a UIMessage: `id`, `role` (user or assistant), `metadata`, and `parts`, which are dicts:
    `{type: "text", content}`, `{type: "thinking", content, signature?}`, `{type: "tool-call", id, name, arguments, state,
    output?}` (arguments are JSON in a string), `{type: "tool-result", toolCallId, content, state}`,
    `{type: "structured-output", raw, data}`, and `{type: "image" | "audio" | "video" | "document", source: {type: "data" |
    "url", value, mimeType?}}`. `text`, `openai_messages`, `langchain_messages` and `pydantic_ai_messages` give them as
    other libraries take them.

    `data` is what the client sent beside its messages. `api_key` is the user's own, for this call only; it is in no log,
    record or repr. `tools` may be called. `approved` are the tool calls that a person has just approved, to be carried out
    now; with `waits` there is nothing to say beside that: a call next to them is not answered yet, or the person has
    written on since and has been answered. `load` is behind `artifact`, which gives the bytes of a file.
    """

    messages: tuple[Mapping[str, Any], ...]
    session_id: str
    run_id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    tools: tuple[ToolSpec, ...] = ()
    approved: tuple[str, ...] = ()
    waits: bool = False
    load: Callable[[str], Awaitable[bytes]] | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The text of the newest user message; empty where there is none."""
        return last_user_text(self)

    async def openai_messages(self) -> list[dict[str, Any]]:
        """
        The messages for OpenAI's Chat Completions and what speaks its language. Every tool call has a result; images,
        PDF, WAV and MP3 are parts of the content, other files are told of in words, and thinking is left out.
        """
        from durable_chat.models.libraries import to_openai

        return await to_openai(self.messages, self.artifact)

    async def langchain_messages(self) -> list[Any]:
        """
        The messages of langchain-core, for a chat model or a LangGraph agent. Thinking is given back where a provider has
        signed it. Raises ImportError where the package is missing.
        """
        from durable_chat.models.libraries import to_langchain

        return await to_langchain(self.messages, self.artifact)

    async def pydantic_ai_messages(self) -> list[Any]:
        """
        The messages of pydantic-ai: `agent.run(message_history=await turn.pydantic_ai_messages())`, without a prompt,
        which is the last of them. Raises ImportError where the package is missing.
        """
        from durable_chat.models.libraries import to_pydantic_ai

        return await to_pydantic_ai(self.messages, self.artifact)

    async def artifact(self, part: Mapping[str, Any]) -> bytes | None:
        """
        The bytes of an image, audio, video or document part. None where the part names an address outside, which
        nobody here fetches, and where the file is not this session's or not there any more.
        """
        try:
            source = data_source(part)
            if source is not None:
                return decode_base64(source["value"])
            session_id, artifact_id = artifact_in(part.get("source")) or (None, "")
            return await self.load(artifact_id) if self.load is not None and session_id == self.session_id else None
        except (InvalidRequest, NotFound):
            return None

    def __reduce__(self) -> str | tuple[Any, ...]:
        """A turn may hold a key, so it is never written anywhere."""
        raise TypeError("A turn is not pickled: it may hold a key.")


Output = AsyncIterable[Any] | Iterable[Any]
"""The items of an answer: a str (a piece of text), a chunk (a dict) or an ag_ui event; None says nothing. A str is one item."""


class Model(Protocol):
    """
    A model: an async generator, an async function, or a plain generator or function, which runs in a thread. An item
    that is not understood, and what the model raises, ends the run with RUN_ERROR; of other exceptions only a
    ProviderError's message is shown. Closing an async iterator ends its work at once; a plain function is not
    interrupted.
    """

    def __call__(self, turn: Turn, /) -> Output | Awaitable[Output]: ...


class ProviderError(Exception):
    """A model's failure in words that are safe to show, with a stable name for programs."""

    def __init__(self, message: str, code: str = "provider_error") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def shown_error(error: BaseException) -> ProviderError:
    """What may be shown of any failure of a model. The text of a foreign exception is never shown."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, InvalidChunk):
        return ProviderError(str(error), "invalid_chunk")
    return ProviderError(GENERIC_ERROR, "provider_error")


def last_user_text(turn: Turn) -> str:
    """The text of the newest user message, empty when there is none."""
    for message in reversed(turn.messages):
        if message.get("role") == "user":
            return text_of(message)
    return ""


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a UIMessage: that of its text parts, joined."""
    parts = message.get("parts")
    if not isinstance(parts, list | tuple):
        content = message.get("content")
        return content if isinstance(content, str) else ""
    texts = (part.get("content") for part in parts if isinstance(part, Mapping) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))
