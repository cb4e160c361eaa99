"""
The size of a context in tokens: as the provider counted it, otherwise an estimate.

The estimate needs no tokenizer. Compared with the tokenizers of OpenAI (o200k) and Anthropic (the published one), it is
10 to 35 % too high for English, German, Russian, Chinese and code, exact within 5 % for JSON, and at most 20 % too low
(Hindi, at Anthropic).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from durable_chat.models.dialogues import parts_of
from durable_chat.transcripts.attachments import MEDIA_KINDS
from durable_chat.transcripts.chunks import encode_json
from durable_chat.transcripts.context_summaries import Counted

TEXT_BYTES_PER_TOKEN = 3.0
"""UTF-8 bytes of text in a token. Tokenizers reach 3.8 to 4.4 for English and code; the rest is the margin."""

DATA_BYTES_PER_TOKEN = 2.3
"""The same for the arguments and results of tools, which are usually JSON."""

MESSAGE_TOKENS = 8
"""What a message takes besides its parts: its role and separators, in every provider's format."""

FILE_TOKENS = {"image": 1_600, "document": 8_000, "audio": 1_000, "video": 50}
"""
What a file takes. An image is scaled down to at most this size by the providers; a document is assumed to have five
pages; a video is described in a sentence.
"""

COUNTED_SHARE_MIN = 0.4
"""
A count far below the estimate is not a count of the context: some models report only what is new, or what is not
cached. It is ignored.
"""

COUNTED_SHARE_MAX = 2.5
COUNTED_MORE_MAX = 20_000
"""
A count far above the estimate is not one either: frameworks report the sum of several calls. System prompts and tools,
which the estimate does not see, may take COUNTED_MORE_MAX tokens.
"""

Message = Mapping[str, Any]


def text_tokens(text: str) -> int:
    return _tokens(_size(text), TEXT_BYTES_PER_TOKEN)


def message_tokens(message: Message) -> int:
    """Estimate a message. What no provider is given, such as system messages of clients, takes nothing."""
    if message.get("role") not in ("user", "assistant"):
        return 0
    parts = parts_of(message)
    answered = answered_in(parts)
    return MESSAGE_TOKENS + sum(part_tokens(part, answered) for part in parts)


def answered_in(parts: Iterable[Message]) -> set[Any]:
    """Return the calls with a result among the parts. Their output counts only once."""
    return {part.get("toolCallId") for part in parts if part.get("type") == "tool-result"}


def tokens_of(messages: Iterable[Message]) -> int:
    return sum(map(message_tokens, messages))


def part_tokens(part: Message, answered: Container[Any] = ()) -> int:
    kind = part.get("type")
    if kind in MEDIA_KINDS:
        return FILE_TOKENS.get(str(kind), 0)
    if kind == "tool-call":
        arguments = part.get("arguments") or part.get("input") or ""
        told = part.get("output") is not None and part.get("id") not in answered
        output = _value_tokens(part.get("output")) if told else 0
        return MESSAGE_TOKENS + text_tokens(str(part.get("name"))) + _value_tokens(arguments) + output
    if kind == "tool-result":
        return MESSAGE_TOKENS + _value_tokens(part.get("content"))
    if kind == "thinking" and not part.get("signature"):
        return 0
    texts = (part.get(key) for key in ("content", "raw", "signature"))
    return sum(text_tokens(text) for text in texts if isinstance(text, str))


def _value_tokens(value: Any) -> int:
    if isinstance(value, str):
        return _tokens(_size(value), DATA_BYTES_PER_TOKEN)
    if isinstance(value, list) and value and all(isinstance(part, Mapping) and "type" in part for part in value):
        return sum(map(part_tokens, value))
    return _tokens(len(encode_json(value)), DATA_BYTES_PER_TOKEN)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def _tokens(size: int, bytes_per_token: float) -> int:
    return -int(-size // bytes_per_token)


@dataclass(frozen=True, slots=True)
class Scale:
    """
    How the provider's count of a context relates to the estimate: a `factor` where it counts less, and the tokens
    `beside` the messages (a system prompt, tools) where it counts more.
    """

    factor: float = 1.0
    beside: int = 0

    @classmethod
    def of(cls, counted: int, estimate: int, limit: int) -> Scale:
        """At most half of the limit counts as taken by other things, so that a wrong count cannot end a chat."""
        if counted <= estimate:
            return cls(counted / estimate if estimate else 1.0)
        return cls(1.0, min(counted - estimate, limit // 2))

    def apply(self, estimate: int) -> int:
        return round(estimate * self.factor) + self.beside

    def room(self, tokens: int) -> int:
        """Return the largest estimate of messages that fit into this many tokens."""
        return int((tokens - self.beside) / self.factor)


def known_count(counted: Counted | None, messages: Sequence[Message], sizes: Sequence[int], fixed: int) -> int | None:
    """
    Return the tokens of the context by the provider's last count: what it counted, and an estimate of the messages
    since. `sizes` are the estimates of the messages, `fixed` that of the summary before them. Return None if there is
    no count of these messages, or it cannot be one of the whole context.
    """
    if counted is None:
        return None
    at = next((at for at, message in enumerate(messages) if message.get("id") == counted.up_to), None)
    if at is None:
        return None
    estimate = fixed + sum(sizes[: at + 1])
    if not estimate * COUNTED_SHARE_MIN <= counted.tokens <= estimate * COUNTED_SHARE_MAX + COUNTED_MORE_MAX:
        return None
    return counted.tokens + sum(sizes[at + 1 :])
