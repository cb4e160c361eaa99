"""
Convert a session's messages for Anthropic: roles alternate, every tool call has a result, and nothing is empty.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from durable_chat.models.anthropic.files import IMAGE_TYPES
from durable_chat.models.attached import UNREADABLE, told
from durable_chat.models.dialogues import FAILED, Answered, Call, dialogue
from durable_chat.transcripts.chunks import encode_json

Block = dict[str, Any]

REDACTED = "redacted:"
"""The prefix of a signature that represents thinking hidden by the provider."""

# Anthropic requires a user message first. Models that cannot continue their own words also require one last.
OPENING = "(The conversation begins with your words.)"
CONTINUE = "Please go on."

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_CHARS_MAX = 64


def to_anthropic(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return UIMessages as a valid list for the Messages API; empty if there is no content. System and developer messages
    come from clients and are left out, as is thinking without a signature.
    """
    conversation = _Conversation()
    for entry in dialogue(messages):
        if isinstance(entry, Answered):
            conversation.answer(entry)
        else:
            conversation.say("user", [block for part in entry.parts for block in user_blocks(part)])
    return conversation.whole()


def tools_named_in(conversation: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return minimal definitions of the tools in the conversation. Anthropic rejects calls to undefined tools."""
    uses = (block for turn in conversation for block in turn["content"] if block["type"] == "tool_use")
    names = dict.fromkeys(block["name"] for block in uses)
    return [{"name": name, "input_schema": {"type": "object"}} for name in names]


def takes_thinking(conversation: Sequence[Mapping[str, Any]]) -> bool:
    """
    Whether thinking may be requested. It may not in the middle of a tool loop that started without thinking, for
    example because the thinking was cut off before it was signed.
    """
    answers = [turn for turn in conversation if turn["role"] == "assistant"]
    if not answers or not any(block["type"] == "tool_result" for block in conversation[-1]["content"]):
        return True
    return answers[-1]["content"][0]["type"] in ("thinking", "redacted_thinking")


class _Conversation:
    """
    The list being built. State: turns, and the ids of calls, which must be unique and contain only a few characters.
    """

    def __init__(self) -> None:
        self.turns: list[dict[str, Any]] = []
        self.used: set[str] = set()

    def say(self, role: str, blocks: list[Block]) -> None:
        """Add blocks of a role. They extend the last turn if it has the same role."""
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
    """Return the text of an error. Anthropic accepts only text there, and it must not be empty."""
    if not isinstance(content, str):
        content = "\n".join(block["text"] for block in content if block["type"] == "text")
    return content if content.strip() else FAILED


def user_blocks(part: Mapping[str, Any]) -> list[Block]:
    """Return the blocks of a user's part: text, image or document. Other files become a sentence."""
    kind = part.get("type")
    if kind == "text":
        return text_blocks(part.get("content"))
    if kind not in ("image", "document", "audio", "video"):
        return []
    source = part.get("source")
    block = _source_block(str(kind), source) if isinstance(source, Mapping) else None
    return [block or {"type": "text", "text": told(part, UNREADABLE)}]


def answer_blocks(part: Mapping[str, Any]) -> list[Block]:
    """Return the blocks of an answer's part that is neither a tool call nor a result."""
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
    """Return an image or document block with its URL or bytes, or None if Anthropic cannot read it."""
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
    """Return the text in base64 data, or None if there is none."""
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
