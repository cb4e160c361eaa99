"""
Convert a turn's messages for other libraries: OpenAI's two APIs, LangChain, pydantic-ai and the Claude Agent SDK. Each
library is imported when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from durable_chat.models.attached import UNREADABLE, File, ReadFile, Said, read_asked, sentence
from durable_chat.models.dialogues import Answered, Call, dialogue, text_in
from durable_chat.transcripts.attachments import encode_base64
from durable_chat.transcripts.chunks import encode_json

AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
"""The audio types that Chat Completions accepts."""

Messages = Iterable[Mapping[str, Any]]


def library(module: str, package: str, method: str) -> Any:
    """Import a module. Raises ImportError, which names the package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"turn.{method}() needs the package {package}: pip install {package}") from error


# OpenAI's Chat Completions.


async def to_openai(messages: Messages, read: ReadFile) -> list[dict[str, Any]]:
    """Return messages for `chat.completions.create(messages=…)`, which has no place for thinking."""
    entries = dialogue(messages)
    asked = await read_asked(entries, read)
    made: list[dict[str, Any]] = []
    for at, entry in enumerate(entries):
        if not isinstance(entry, Answered):
            made.append({"role": "user", "content": _joined([*map(_openai_part, asked[at])])})
            continue
        answer: dict[str, Any] = {"role": "assistant", "content": entry.text or None}
        if entry.calls:
            answer["tool_calls"] = [_openai_call(call) for call in entry.calls]
        made.append(answer)
        made += [{"role": "tool", "tool_call_id": call.id, "content": call.output_text} for call in entry.calls]
    return made


def _openai_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _openai_part(said: Said) -> dict[str, Any]:
    if isinstance(said, str):
        return _text(said)
    if said.kind == "image":
        return {"type": "image_url", "image_url": {"url": said.url or _data_url(said)}}
    if said.data is not None and said.media_type in AUDIO_FORMATS:
        sound = {"data": encode_base64(said.data), "format": AUDIO_FORMATS[said.media_type]}
        return {"type": "input_audio", "input_audio": sound}
    if said.data is not None and said.media_type == "application/pdf":
        return {"type": "file", "file": {"file_data": _data_url(said), "filename": "document.pdf"}}
    return _text(_in_words(said))


def _in_words(file: File) -> str:
    """Return the content of a text file, or a sentence about a file that cannot be included."""
    if file.data is not None and file.media_type.startswith("text/"):
        try:
            return file.data.decode()
        except UnicodeDecodeError:
            pass
    return sentence(file.kind, file.media_type, f"at {file.url}" if file.url else UNREADABLE)


# OpenAI's Responses, and the OpenAI Agents SDK.


async def to_openai_responses(messages: Messages, read: ReadFile) -> list[dict[str, Any]]:
    """
    Return items for `responses.create(input=…)`. Thinking is left out, because it belongs to a response of OpenAI.
    """
    entries = dialogue(messages)
    asked = await read_asked(entries, read)
    made: list[dict[str, Any]] = []
    for at, entry in enumerate(entries):
        if not isinstance(entry, Answered):
            made.append({"role": "user", "content": [*map(_responses_part, asked[at])]})
            continue
        made += [{"role": "assistant", "content": entry.text}] if entry.text else []
        for call in entry.calls:
            made.append({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments})
        made += [
            {"type": "function_call_output", "call_id": call.id, "output": call.output_text} for call in entry.calls
        ]
    return made


def _responses_part(said: Said) -> dict[str, Any]:
    if isinstance(said, str):
        return {"type": "input_text", "text": said}
    if said.kind == "image":
        return {"type": "input_image", "image_url": said.url or _data_url(said), "detail": "auto"}
    if said.data is not None and said.media_type == "application/pdf":
        return {"type": "input_file", "filename": "document.pdf", "file_data": _data_url(said)}
    return {"type": "input_text", "text": _in_words(said)}


# The Claude Agent SDK.

EARLIER = "This is the conversation so far. Answer the message after it."


async def to_claude_agent(messages: Messages, read: ReadFile) -> dict[str, Any]:
    """
    Return one user message for `query(prompt=…)`: the newest one, after the earlier conversation in words. The SDK has
    no other way to receive a conversation that it has not kept itself.
    """
    entries = dialogue(messages)
    asked = await read_asked(entries, read)
    newest = max(asked, default=-1)
    told = [line for at, entry in enumerate(entries) if at != newest for line in _lines(entry, asked.get(at, []))]
    earlier = "\n".join(
        [EARLIER, "<conversation>", *(line.replace("<", "\\u003c") for line in told), "</conversation>"]
    )
    content = [*([_text(earlier)] if told else []), *map(_claude_part, asked.get(newest, []))]
    message = {"role": "user", "content": content or [_text("Go on.")]}
    return {"type": "user", "message": message, "parent_tool_use_id": None, "session_id": ""}


def _lines(entry: Any, asked: list[Said]) -> list[str]:
    """Return an entry of the dialogue in words, as JSON, so that no content can look like another line."""
    if not isinstance(entry, Answered):
        return [f"user: {encode_json(said if isinstance(said, str) else _in_words(said)).decode()}" for said in asked]
    said = [f"assistant: {encode_json(entry.text).decode()}"] if entry.text else []
    called = [f"tool {call.name} {call.arguments}: {encode_json(call.output_text).decode()}" for call in entry.calls]
    return said + called


def _claude_part(said: Said) -> dict[str, Any]:
    if isinstance(said, str):
        return _text(said)
    kind = {"image": "image", "document": "document"}.get(said.kind)
    if kind == "image" or (kind and said.media_type == "application/pdf"):
        source = {"type": "url", "url": said.url} if said.data is None else _claude_data(said)
        return {"type": kind, "source": source}
    return _text(_in_words(said))


def _claude_data(said: File) -> dict[str, Any]:
    assert said.data is not None
    return {"type": "base64", "media_type": said.media_type, "data": encode_base64(said.data)}


# LangChain.


async def to_langchain(messages: Messages, read: ReadFile) -> list[Any]:
    """Return langchain-core's HumanMessage, AIMessage and ToolMessage with its standard content blocks."""
    lc = library("langchain_core.messages", "langchain-core", "langchain_messages")
    entries = dialogue(messages)
    asked = await read_asked(entries, read)
    made: list[Any] = []
    for at, entry in enumerate(entries):
        if not isinstance(entry, Answered):
            made.append(lc.HumanMessage(content=_joined([*map(_langchain_part, asked[at])])))
            continue
        blocks = [block for part in entry.parts if not isinstance(part, Call) for block in _langchain_blocks(part)]
        calls = [{"name": call.name, "args": dict(call.input), "id": call.id} for call in entry.calls]
        made.append(lc.AIMessage(content=_joined(blocks) if blocks else "", tool_calls=calls))
        made += [_langchain_result(lc, call) for call in entry.calls]
    return made


def _langchain_result(lc: Any, call: Call) -> Any:
    status = "error" if call.failed else "success"
    return lc.ToolMessage(content=call.output_text, tool_call_id=call.id, name=call.name, status=status)


def _langchain_blocks(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the blocks of a part. Thinking is included only if a provider has signed it."""
    if part.get("type") != "thinking":
        return [_text(text_in(part))]
    if not _is_signed(part):
        return []
    content = part.get("content")
    block = {"type": "reasoning", "reasoning": content if isinstance(content, str) else ""}
    return [block | {"extras": {"signature": part["signature"]}}]


def _langchain_part(said: Said) -> dict[str, Any]:
    if isinstance(said, str):
        return _text(said)
    kind = "file" if said.kind == "document" else said.kind
    where = {"url": said.url} if said.data is None else {"base64": encode_base64(said.data)}
    return {"type": kind, **where, "mime_type": said.media_type}


# pydantic-ai.


async def to_pydantic_ai(messages: Messages, read: ReadFile) -> list[Any]:
    """Return pydantic-ai's ModelRequest and ModelResponse, for `agent.run(message_history=…)` without a prompt."""
    ai = library("pydantic_ai.messages", "pydantic-ai-slim", "pydantic_ai_messages")
    entries = dialogue(messages)
    asked = await read_asked(entries, read)
    made: list[Any] = []
    for at, entry in enumerate(entries):
        if not isinstance(entry, Answered):
            said = [_pydantic_content(ai, each) for each in asked[at]]
            content = said[0] if len(said) == 1 and isinstance(said[0], str) else said
            made.append(ai.ModelRequest(parts=[ai.UserPromptPart(content=content)]))
            continue
        made.append(ai.ModelResponse(parts=[_pydantic_part(ai, part) for part in entry.parts]))
        if entry.calls:
            made.append(ai.ModelRequest(parts=[_pydantic_result(ai, call) for call in entry.calls]))
    return made


def _pydantic_part(ai: Any, part: Mapping[str, Any] | Call) -> Any:
    if isinstance(part, Call):
        return ai.ToolCallPart(tool_name=part.name, args=dict(part.input), tool_call_id=part.id)
    if part.get("type") != "thinking":
        return ai.TextPart(content=text_in(part))
    content = part.get("content")
    signature = part["signature"] if _is_signed(part) else None
    return ai.ThinkingPart(content=content if isinstance(content, str) else "", signature=signature)


def _pydantic_result(ai: Any, call: Call) -> Any:
    outcome = "failed" if call.failed else "success"
    content = call.output_text if call.failed else call.output
    return ai.ToolReturnPart(tool_name=call.name, content=content, tool_call_id=call.id, outcome=outcome)


def _pydantic_content(ai: Any, said: Said) -> Any:
    if isinstance(said, str):
        return said
    if said.data is not None:
        return ai.BinaryContent(data=said.data, media_type=said.media_type)
    kinds = {"image": ai.ImageUrl, "audio": ai.AudioUrl, "video": ai.VideoUrl}
    return kinds.get(said.kind, ai.DocumentUrl)(url=said.url)


# Shared functions.


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _joined(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return text-only content as a string, which every provider accepts, and other content as parts."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _data_url(file: File) -> str:
    assert file.data is not None
    return f"data:{file.media_type};base64,{encode_base64(file.data)}"


def _is_signed(part: Mapping[str, Any]) -> bool:
    signature = part.get("signature")
    return isinstance(signature, str) and bool(signature) and not signature.startswith("redacted:")
