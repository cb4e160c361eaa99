"""
The interface of models: a function from a turn to a stream of chunks, and the errors that may be shown.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_chat.errors import InvalidRequest, NotFound
from durable_chat.transcripts.attachments import artifact_in, data_source, decode_base64
from durable_chat.transcripts.chunks import GENERIC_ERROR, Chunk, InvalidChunk
from durable_chat.transcripts.context_summaries import Context


def _no_arguments() -> Mapping[str, Any]:
    return {"type": "object", "properties": {}}


async def _nothing_to_save() -> None:
    """Outside a run nothing is written."""


async def _cannot_keep(_data: bytes, _media_type: str) -> str:
    raise RuntimeError("A turn outside a run has no session to keep a file in.")


async def _nothing_heard() -> Turn | None:
    """Outside a run nobody sends messages."""
    return None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """The description of a tool for a model. `parameters` is a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=_no_arguments)


@dataclass(frozen=True, slots=True)
class Turn:
    """
    The input of a model: the session's messages in the log, with the new user message last.

    Each of `messages` is a UIMessage: `id`, `role` (user or assistant), `metadata`, and `parts`. Parts are dicts:
    `{type: "text", content}`, `{type: "thinking", content, signature?}`, `{type: "tool-call", id, name, arguments,
    state, output?}` (arguments are JSON in a string), `{type: "tool-result", toolCallId, content, state}`, `{type:
    "structured-output", raw, data}`, and `{type: "image" | "audio" | "video" | "document", source: {type: "data" |
    "url", value, mimeType?}}`. `text` and the methods with the names of libraries convert them.

    `data` is what the client sent with its messages. `api_key` is the user's own key, for this turn only; it appears in
    no log, record or repr. `tools` are the tools that the model may call. `approved` are the tool calls that a person
    has just approved and that must now be executed. With `waits`, the model writes nothing more in this turn: another
    call next to these still waits, or the person has written another message since, which is already answered.
    `artifact` uses `load` to return the bytes of a file. `context` is what `ContextLimit` knows about earlier messages.

    `await saved()` returns when every chunk that was yielded is durable. A model calls it before it does what must not
    be done twice, for example before it executes a tool or orders a video: after a crash the log then shows that it was
    about to.

    `await heard()` returns the turn to go on with if a message arrived that steers this answer, otherwise None. Its
    messages are those of the session with everything that was yielded, and the new message last. What the model yields
    after that answers the new message. A model calls it where it can take a message, for example before it asks a
    provider for the next step; every tool call then has its result. If it never does, messages wait for its end.

    A generation is a turn without messages: `activity` says what to generate (image, speech, transcription, summary or
    video), and `input` is what the client sent for it. A file in the input is the text `artifact:ID;MEDIA-TYPE`; `load`
    returns the bytes of ID. `await keep(data, media_type)` makes a file of the session durable and returns its artifact
    id.
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
    saved: Callable[[], Awaitable[None]] = field(default=_nothing_to_save, repr=False, compare=False)
    heard: Callable[[], Awaitable[Turn | None]] = field(default=_nothing_heard, repr=False, compare=False)
    activity: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    keep: Callable[[bytes, str], Awaitable[str]] = field(default=_cannot_keep, repr=False, compare=False)
    context: Context = field(default=Context(), repr=False, compare=False)

    @property
    def text(self) -> str:
        """The text of the newest user message; empty if there is none."""
        return last_user_text(self)

    async def openai_messages(self) -> list[dict[str, Any]]:
        """
        Return the messages for OpenAI's Chat Completions and compatible APIs. Every tool call has a result. Images,
        PDF, WAV and MP3 files are content parts; other files are described in words, and thinking is left out.
        """
        from durable_chat.models.libraries import to_openai

        return await to_openai(self.messages, self.artifact)

    async def openai_responses_messages(self) -> list[dict[str, Any]]:
        """
        Return the messages as input items of OpenAI's Responses API, for `Runner.run_streamed` of the OpenAI Agents SDK
        too. Every tool call has a result. Images and PDF files are content parts; other files are described in words,
        and thinking is left out.
        """
        from durable_chat.models.libraries import to_openai_responses

        return await to_openai_responses(self.messages, self.artifact)

    async def claude_agent_prompt(self) -> AsyncIterator[dict[str, Any]]:
        """
        Yield the prompt for `query(prompt=turn.claude_agent_prompt())` of the Claude Agent SDK: the newest message,
        with images and PDF files, after the earlier conversation in words.
        """
        from durable_chat.models.libraries import to_claude_agent

        yield await to_claude_agent(self.messages, self.artifact)

    async def langchain_messages(self) -> list[Any]:
        """
        Return messages of langchain-core, for a chat model or a LangGraph agent. Thinking is included if a provider has
        signed it. Raises ImportError if the package is missing.
        """
        from durable_chat.models.libraries import to_langchain

        return await to_langchain(self.messages, self.artifact)

    async def pydantic_ai_messages(self) -> list[Any]:
        """
        Return messages of pydantic-ai. Use `agent.run(message_history=await turn.pydantic_ai_messages())` without a
        prompt, because the prompt is the last message. Raises ImportError if the package is missing.
        """
        from durable_chat.models.libraries import to_pydantic_ai

        return await to_pydantic_ai(self.messages, self.artifact)

    async def artifact(self, part: Mapping[str, Any]) -> bytes | None:
        """
        Return the bytes of an image, audio, video or document part. Return None if the part names an external URL,
        which is never fetched, or if the file belongs to another session or no longer exists.
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
        """Refuse pickling, because a turn may contain a key and must not be stored."""
        raise TypeError("A turn cannot be pickled, because it may contain a key.")


Output = AsyncIterable[Any] | Iterable[Any]
"""
The items of an answer: a str (a piece of text), a chunk (a dict) or an ag_ui event. None is ignored. A str is one item.
"""


class Model(Protocol):
    """
    A model: an async generator, an async function, or a plain generator or function, which runs in a thread. An invalid
    item or an exception ends the run with RUN_ERROR. Of exceptions, only a ProviderError's message is shown. Closing an
    async iterator ends its work at once; a plain function is not interrupted.
    """

    def __call__(self, turn: Turn, /) -> Output | Awaitable[Output]: ...


class ProviderError(Exception):
    """A model's failure, with a message that is safe to show and a stable code for programs."""

    def __init__(self, message: str, code: str = "provider_error") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class CannotResume(ProviderError):
    """
    Raised by what `Resumable.resume` returned, before it yields anything: the answer cannot be continued after all. It
    goes on as DURABLE_CHAT_AFTER_CRASH says; with `end`, it ends with this error.
    """


def shown_error(error: BaseException) -> ProviderError:
    """Return the error to show for any failure of a model. The text of a foreign exception is never shown."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, InvalidChunk):
        return ProviderError(str(error), "invalid_chunk")
    return ProviderError(GENERIC_ERROR, "provider_error")


def last_user_text(turn: Turn) -> str:
    """Return the text of the newest user message; empty if there is none."""
    for message in reversed(turn.messages):
        if message.get("role") == "user":
            return text_of(message)
    return ""


GO_ON = "go-on-"
"""How the id of the message begins that asks a model to go on with an answer that a crash cut off."""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a UIMessage: its text parts, joined."""
    parts = message.get("parts")
    if not isinstance(parts, list | tuple):
        content = message.get("content")
        return content if isinstance(content, str) else ""
    texts = (part.get("content") for part in parts if isinstance(part, Mapping) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


class Resumable(Model, Protocol):
    """A model that can go on with an answer after its process died."""

    def resume(self, turn: Turn, said: Sequence[Chunk], /) -> Output | None:
        """
        Go on with the run whose chunks in the log are `said`, in their order and without RUN_STARTED. Yield only what
        is missing. Return None if this answer cannot be continued; it then ends or is answered anew, as
        DURABLE_CHAT_AFTER_CRASH says.
        """
        ...
