"""
Decide what of a conversation the model is given: a summary of the earlier turns, and the newest turns.

A cut is always before a user's message, so that a tool call and its result stay together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.models.base import ProviderError
from durable_chat.models.context.measuring import (
    Scale,
    answered_in,
    message_tokens,
    part_tokens,
    text_tokens,
    tokens_of,
)
from durable_chat.transcripts.chunks import encode_json
from durable_chat.transcripts.context_summaries import ContextSummary

TAIL_SHARE = 0.5
"""
The share of the limit that the newest turns may fill after a summary. The rest is room for the next turns, so that not
every turn pays for a summary.
"""

RESULT_CHARS_KEPT = (600, 100)
"""
The characters that remain of a tool result that is shortened: as many of its beginning as of its end. If that is not
enough in a long loop, the second number applies.
"""

NOTE_CHARS = 60
"""At least as many characters as the note in a shortened text, so that no text becomes longer."""

TOO_LARGE = "context_too_large"
"""The code of the error for a message or a tool loop that does not fit."""

_ASKED = "(The earlier part of this conversation is not shown. Summarize it before we go on.)"
_NOTHING = "I no longer have the earlier part of this conversation."
_GAP = "I no longer have the messages between these and the next one."

Message = Mapping[str, Any]
Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Past:
    """
    The position in a conversation: the first message that the summary does not replace, the newest user message, and
    the summary in force, if there is one.
    """

    start: int
    newest: int
    summary: ContextSummary | None

    @classmethod
    def of(cls, messages: Sequence[Message], summary: ContextSummary | None) -> Past | None:
        """Return None if there is no user message. A summary of the newest user message is not used."""
        users = [at for at, message in enumerate(messages) if message.get("role") == "user"]
        if not users:
            return None
        newest = users[-1]
        if summary is None:
            return cls(0, newest, None)
        ids = (at for at, message in enumerate(messages[:newest]) if message.get("id") == summary.up_to)
        replaced = next(ids, -1) + 1
        start = max((at for at in users if at <= replaced), default=0)
        return cls(start, newest, summary) if start else cls(0, newest, None)


def cut(messages: Sequence[Message], past: Past, room: int) -> int:
    """
    Return where the tail begins: at the oldest turn from which on everything fits into `room` tokens, at the latest at
    the newest user message.
    """
    at = past.newest
    left = room - tokens_of(messages[past.newest :])
    for earlier in range(past.newest - 1, past.start - 1, -1):
        left -= message_tokens(messages[earlier])
        if left < 0:
            break
        if messages[earlier].get("role") == "user":
            at = earlier
    return at


def spoken(summary: ContextSummary | None, tokens_max: int | None = None) -> Messages:
    """
    Return a summary as a question and its answer, so that roles alternate. The text is cut to `tokens_max`; if there is
    no room for anything, nothing is returned.
    """
    if summary is None:
        return ()
    text = summary.text
    if summary.failure is not None:
        text = f"{text}\n\n{_GAP}" if text else _NOTHING
    made = _pair(summary.up_to, text)
    if tokens_max is None or tokens_of(made) <= tokens_max:
        return made
    room = tokens_max - tokens_of(_pair(summary.up_to, ""))
    return _pair(summary.up_to, cut_text(text, room)) if room > 0 else ()


def _pair(up_to: str, text: str) -> Messages:
    ids = (f"context-summary-{up_to}-asked", f"context-summary-{up_to}")
    told = zip(ids, ("user", "assistant"), (_ASKED, text), strict=True)
    return tuple(
        {"id": name, "role": role, "metadata": {}, "parts": [{"type": "text", "content": content}]}
        for name, role, content in told
    )


def cut_text(text: str, tokens_max: int) -> str:
    """Return the longest beginning of the text that is estimated to have at most this many tokens."""
    if text_tokens(text) <= tokens_max:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_tokens(text[:middle]) <= tokens_max else (low, middle - 1)
    return text[:low].rstrip()


def fit(messages: Messages, past: Past, scale: Scale, limit: int) -> Messages:
    """
    Return what the model is given: the summary, and the messages after what it replaces. If that is over the limit, the
    summary is cut, and the results of the tools in the newest turn are shortened, the oldest first. Raises
    ProviderError if the rest does not fit either.
    """
    tail = messages[past.start :]
    left = scale.room(limit) - tokens_of(tail)
    if left < 0:
        tail, left = _shortened(tail, past.newest - past.start, left)
    if left < 0:
        _refuse(messages[past.newest], scale, limit)
    return (*spoken(past.summary, left), *tail)


def _refuse(message: Message, scale: Scale, limit: int) -> None:
    tokens = scale.apply(message_tokens(message))
    if tokens > limit:
        raise ProviderError(
            f"The message has about {tokens:,} tokens, and this chat's limit is {limit:,}. Send a shorter message.",
            TOO_LARGE,
        )
    raise ProviderError(
        f"The answer's tool calls exceed this chat's limit of {limit:,} tokens. Ask for less at once.", TOO_LARGE
    )


def _shortened(tail: Messages, newest: int, left: int) -> tuple[Messages, int]:
    """Shorten tool results after the newest user message until `left` is not negative. Return the rest as well."""
    made = list(tail)
    for chars in RESULT_CHARS_KEPT:
        for at in range(newest + 1, len(made)):
            if left >= 0:
                return tuple(made), left
            before = message_tokens(made[at])
            made[at] = _with_short_results(made[at], chars, -left)
            left += before - message_tokens(made[at])
    return tuple(made), left


def _with_short_results(message: Message, chars: int, tokens: int) -> Message:
    """Return the message with its results shortened, the first ones first, until it is smaller by `tokens`."""
    parts = list(message.get("parts") or ())
    answered = answered_in(parts)
    for at, part in enumerate(parts):
        if tokens <= 0:
            break
        if part.get("type") in ("tool-call", "tool-result"):
            parts[at] = _short(part, chars)
            tokens -= part_tokens(part, answered) - part_tokens(parts[at], answered)
    return {**message, "parts": parts}


def _short(part: Message, chars: int) -> Message:
    key = "output" if part["type"] == "tool-call" else "content"
    value = part.get(key)
    if value is None:
        return part
    text = value if isinstance(value, str) else encode_json(value).decode()
    return {**part, key: shorten(text, chars)}


def shorten(text: str, chars_max: int) -> str:
    """Return the beginning and the end of a longer text, and between them how much is left out."""
    if len(text) <= chars_max + NOTE_CHARS:
        return text
    half = chars_max // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters are left out here]\n{text[-half:]}"
