"""Repeat a request without the files of the conversation when a provider has refused it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from durable_chat.models.attached import told
from durable_chat.models.base import ProviderError
from durable_chat.models.providers.failures import REFUSED_CODES
from durable_chat.transcripts.answers.items import WORKING
from durable_chat.transcripts.attachments import MEDIA_KINDS
from durable_chat.transcripts.chunks import Chunk

Messages = tuple[Mapping[str, Any], ...]
Answering = Callable[[Messages], AsyncGenerator[Chunk, None]]

_REFUSED = "which could not be read"


async def answer_without_refused_files(answer: Answering, messages: Messages) -> AsyncGenerator[Chunk, None]:
    """
    Yield the answer to the messages. If the provider refuses them, ask again with a sentence in place of each file: one
    file that the provider cannot read or fetch must not make all later turns fail.
    """
    begun = False
    try:
        async with aclosing(answer(messages)) as chunks:
            async for chunk in chunks:
                begun = begun or chunk["type"] != WORKING
                yield chunk
        return
    except ProviderError as error:
        rest = without_files(messages)
        if begun or error.code not in REFUSED_CODES or rest == messages:
            raise
    async with aclosing(answer(rest)) as chunks:
        async for chunk in chunks:
            yield chunk


def without_files(messages: Messages) -> Messages:
    """Return the messages with a sentence in place of each file."""
    made = []
    for message in messages:
        parts = user_parts(message)
        if parts is not None and any(map(is_file, parts)):
            told_parts = [
                {"type": "text", "content": told(part, _REFUSED)} if is_file(part) else part for part in parts
            ]
            message = {**message, "parts": told_parts}
        made.append(message)
    return tuple(made)


def user_parts(message: Mapping[str, Any]) -> list[Any] | tuple[Any, ...] | None:
    parts = message.get("parts")
    return parts if message.get("role") == "user" and isinstance(parts, list | tuple) else None


def is_file(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in MEDIA_KINDS
