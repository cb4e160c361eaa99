"""
What the model is given instead of a session's earlier messages: a summary in the log, and the provider's last count.

The transcript keeps all messages. The summary is the value of a CUSTOM chunk, which clients ignore when they fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.parts import Message
from durable_chat.transcripts.usage import SUMMARIZING, usage_of

CONTEXT_SUMMARY = "durable-chat.context-summary"
"""The name of the CUSTOM chunk. Its value is a ContextSummary."""


class ContextSummary(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """
    A summary that replaces the messages up to the one with the id `up_to`.

    `tokens_before` and `tokens_after` are the sizes of the model's context without and with it. If no summary could be
    written, `failure` says why: the messages after `summarized_to` are then left out, and `text` is the summary before
    them, which may be empty.
    """

    up_to: str
    text: str
    tokens_before: int
    tokens_after: int
    model: str
    failure: str | None = None
    summarized_to: str | None = None

    def chunk(self) -> Chunk:
        return {"type": "CUSTOM", "name": CONTEXT_SUMMARY, "value": msgspec.to_builtins(self)}


class Counted(msgspec.Struct, frozen=True):
    """A provider's count: the tokens of the context and the answer, up to and including the message `up_to`."""

    up_to: str
    tokens: int


class Context(msgspec.Struct, frozen=True):
    """What is known about the model's context: the summary in force, and the provider's last count with it."""

    summary: ContextSummary | None = None
    counted: Counted | None = None


def summary_in(chunk: Mapping[str, Any]) -> ContextSummary | None:
    """Return the summary in a chunk of the log, or None for another chunk and for an invalid one."""
    if chunk.get("name") != CONTEXT_SUMMARY:
        return None
    try:
        return msgspec.convert(chunk.get("value"), ContextSummary)
    except msgspec.ValidationError:  # anybody who may append to the stream can write anything
        return None


def context_after(context: Context, said: Iterable[Mapping[str, Any]]) -> Context:
    """Return the context after the chunks of a run that has not ended."""
    for chunk in said:
        if chunk.get("type") == "CUSTOM" and (summary := summary_in(chunk)) is not None:
            context = Context(summary)
    return context


def count_in(usage: Any, message_id: str | None) -> Counted | None:
    """Return the count in the usage of a run that ended with this message: that of the run's last model call."""
    calls = [counts for counts in usage_of(usage) if counts.get("purpose") != SUMMARIZING]
    if not calls or message_id is None:
        return None
    tokens = [calls[-1].get(name) for name in ("inputTokens", "outputTokens")]
    known = [count for count in tokens if isinstance(count, int) and count > 0]
    return Counted(message_id, sum(known)) if len(known) == len(tokens) else None


def after_snapshot(context: Context, before: Iterable[Message], after: Iterable[Message]) -> Context:
    """
    Return the context after a MESSAGES_SNAPSHOT. The summary stays in force only if the messages that it replaces are
    unchanged: after an edit, or a late answer to a tool call, it would tell the model something else than the
    transcript. Takes time proportional to those messages.
    """
    summary = context.summary
    if summary is None or _same_up_to(summary.up_to, before, after):
        return context
    return Context()


def _same_up_to(message_id: str, before: Iterable[Message], after: Iterable[Message]) -> bool:
    for old, new in zip(before, after, strict=False):
        if old.id != new.id or old.fields.get("role") != new.fields.get("role"):
            return False
        if old.show()["parts"] != new.show()["parts"]:
            return False
        if old.id == message_id:
            return True
    return False
