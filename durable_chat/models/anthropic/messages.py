"""
A session's messages as Anthropic takes them: roles alternate, every tool call has a result, nothing is empty.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from durable_chat.models.anthropic.files import IMAGE_TYPES
from durable_chat.models.dialogues import FAILED, Answered, Call, dialogue
from durable_chat.transcripts.chunks import encode_json

Block = dict[str, Any]

REDACTED = "redacted:"
"""Before a signature that stands for thinking the provider has hidden."""

# Anthropic wants a user's message first, and last for models that do not go on with their own words.
OPENING = "(The conversation begins with your words.)"
CONTINUE = "Please go on."

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_CHARS_MAX = 64


def to_anthropic(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    UIMessages as a valid list for the Messages API; empty when there is nothing to say. System and developer roles
    are a client's word and are left out, as is thinking without a signature.
    """
    conversation = _Conversation()
    for entry in dialogue(messages):
        if isinstance(entry, Answered):
            conversation.answer(entry)
        else:
            conversation.say("user", [block for part in entry.parts for block in user_blocks(part)])
    return conversation.whole()


def tools_named_in(conversation: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bare definitions of the tools the conversation mentions: Anthropic refuses calls to tools it is not told of."""
    uses = (block for turn in conversation for block in turn["content"] if block["type"] == "tool_use")
    names = dict.fromkeys(block["name"] for block in uses)
    return [{"name": name, "input_schema": {"type": "object"}} for name in names]


def takes_thinking(conversation: Sequence[Mapping[str, Any]]) -> bool:
    """
    Whether thinking may be asked for: not in the middle of a tool loop that began without any, as one does whose
    thinking was cut before it was signed.
    """
    answers = [turn for turn in conversation if turn["role"] == "assistant"]
    if not answers or not any(block["type"] == "tool_result" for block in conversation[-1]["content"]):
        return True
    return answers[-1]["content"][0]["type"] in ("thinking", "redacted_thinking")


class _Conversation:
    """The list being made. State: turns, and the ids given to calls, which Anthropic wants unique and of few characters."""

    def __init__(self) -> None:
        self.turns: list[dict[str, Any]] = []
        self.used: set[str] = set()

    def say(self, role: str, blocks: list[Block]) -> None:
        """Blocks of a role; they go on with the turn before when it is of the same role."""
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": blocks})

    def answer(self, answered: Answered) -> None:
        blocks: list[Block] = []
        results: list[Block] = []
        for part in answered.parts:
            if not isinstance(part, Call):
                blocks += answer_blocks(part)
            elif (use := self._use(part)) is not None:
                blocks.append(use)
                results.append(_result_block(use["id"], part))
        if all(block["type"] in ("thinking", "redacted_thinking") for block in blocks):
            return  # thinking that led to nothing
        self.say("assistant", blocks)
        self.say("user", results)

    def whole(self) -> list[dict[str, Any]]:
        if not self.turns:
            return []
        if self.turns[0]["role"] == "assistant":
            self.turns.insert(0, {"role": "user", "content": [{"type": "text", "text": OPENING}]})
        if self.turns[-1]["role"] == "assistant":
            self.turns.append({"role": "user", "content": [{"type": "text", "text": CONTINUE}]})
        return self.turns

    def _use(self, call: Call) -> Block | None:
        use, name = _NOT_IN_NAME.sub("_", call.id), _NOT_IN_NAME.sub("_", call.name)[:_NAME_CHARS_MAX]
        if use in self.used:
            return None
        self.used.add(use)
        return {"type": "tool_use", "id": use, "name": name, "input": dict(call.input)}


def _result_block(use: str, call: Call) -> Block:
    content = _result_content(call.output)
    said = {"content": _error_text(content), "is_error": True} if call.failed else {"content": content}
    return {"type": "tool_result", "tool_use_id": use, **said}


def _error_text(content: str | list[Block]) -> str:
    """Of an error Anthropic takes nothing but text, and some of it."""
    if not isinstance(content, str):
        content = "\n".join(block["text"] for block in content if block["type"] == "text")
    return content if content.strip() else FAILED


def user_blocks(part: Mapping[str, Any]) -> list[Block]:
    """A part of a user's message: text, image or document; of anything else, that it was there."""
    kind = part.get("type")
    if kind == "text":
        return text_blocks(part.get("content"))
    if kind not in ("image", "document", "audio", "video"):
        return []
    source = part.get("source")
    block = _source_block(str(kind), source) if isinstance(source, Mapping) else None
    return [block or {"type": "text", "text": f"(There was a file here of type {kind}, which you cannot read.)"}]


def answer_blocks(part: Mapping[str, Any]) -> list[Block]:
    """A part of an answer that is neither a tool call nor a result."""
    kind, content = part.get("type"), part.get("content")
    if kind == "text":
        return text_blocks(content)
    if kind == "structured-output":
        return text_blocks(part.get("raw"))
    signature = part.get("signature")
    if kind != "thinking" or not isinstance(signature, str) or not signature:
        return []
    if signature.startswith(REDACTED):
        return [{"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)}]
    return [{"type": "thinking", "thinking": content if isinstance(content, str) else "", "signature": signature}]


def text_blocks(text: Any) -> list[Block]:
    return [{"type": "text", "text": text}] if isinstance(text, str) and text.strip() else []


def _source_block(kind: str, source: Mapping[str, Any]) -> Block | None:
    """An image or document by its address or its bytes, where Anthropic can read it."""
    value, media_type = source.get("value"), source.get("mimeType")
    if kind not in ("image", "document") or not isinstance(value, str):
        return None
    if source.get("type") == "url":
        return {"type": kind, "source": {"type": "url", "url": value}} if value.startswith("https://") else None
    if (kind == "image" and media_type in IMAGE_TYPES) or (kind == "document" and media_type == "application/pdf"):
        source = {"type": "base64", "media_type": media_type, "data": value}
        return {"type": kind, "source": source} if _is_base64(value) else None
    if isinstance(media_type, str) and media_type.startswith("text/"):
        text = _decoded(value)
        return text and {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}
    return None


def _is_base64(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", value) is not None


def _decoded(value: str) -> Any:
    """The text in base64, None when there is none."""
    try:
        return base64.b64decode(value, validate=True).decode() or None
    except (binascii.Error, ValueError):
        return None


def _result_content(content: Any) -> str | list[Block]:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, Mapping) and "type" in part for part in content):
        blocks = [block for part in content for block in user_blocks(part)]
        if blocks:
            return blocks
    return encode_json(content).decode()
