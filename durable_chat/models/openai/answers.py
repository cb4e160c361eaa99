"""
An answer of OpenAI as chunks: what Chat Completions and the Responses API have in common.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from durable_chat.models.base import Turn
from durable_chat.transcripts import chunks, javascript
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.usage import SO_FAR

PROVIDER = "openai"


class Answer:
    """
    The chunks of one answer. State: its message, and whether it has started; the blanks that precede its next text; the
    open block of thinking; the text of open structured output (None: there is none); why the answer ended; whether the
    model has refused; usage.
    """

    def __init__(self, turn: Turn, model: str, *, structured: bool = False) -> None:
        self.turn = turn
        self.model = model
        self.message_id = f"msg-{turn.run_id}"
        self.reason: str | None = None
        self.refused = False
        self.counts: dict[str, int] = {}
        self._structured = structured
        self._started = False
        self._blank: str | None = ""
        self._thinking = ""
        self._raw: str | None = None

    def start(self, message_id: str | None, model: str | None) -> list[Chunk]:
        """Start the message of the answer, once."""
        if self._started:
            return []
        self._started = True
        self.message_id = message_id or self.message_id
        self.model = model or self.model
        start = chunks.text_start(self.message_id, timestamp=now_ms())
        start["metadata"]["tanstack"]["model"] = self.model
        return [start]

    def text(self, delta: str) -> list[Chunk]:
        """
        Add text. White space is held until other text follows, as it is before it is written to the log.
        """
        if not delta:
            return []
        if self._blank is not None:
            delta, self._blank = self._blank + delta, None
            if javascript.is_blank(delta):
                self._blank = delta
                return []
        made = self.end_thought()
        if self._structured and self._raw is None and not self.refused:
            made.append(self._custom("structured-output.start", {"messageId": self.message_id}))
            self._raw = ""
        if self._raw is not None:
            self._raw += delta
        return [*made, chunks.text_content(self.message_id, delta, timestamp=now_ms())]

    def refuse(self, delta: str) -> list[Chunk]:
        """Add the words in which the model refuses to answer."""
        self.refused = self.refused or bool(delta)
        return self.text(delta)

    def end_text(self) -> list[Chunk]:
        """End a text. The next one may begin with white space, too."""
        self._blank = ""
        raw, self._raw = self._raw, None
        if raw is None:
            return []
        try:
            value = chunks.decode_json(raw)
        except chunks.InvalidChunk:  # it was cut off, or refused in words
            return []
        complete = {"object": value, "raw": raw, "messageId": self.message_id}
        return [self._custom("structured-output.complete", complete)]

    def thought(self, delta: str, name: str) -> list[Chunk]:
        """Add thinking to the block `name`, and start the block if it is another one."""
        if not delta:
            return []
        made = [] if self._thinking == name else self.end_thought()
        if self._thinking != name:
            self._thinking = name
            made += [
                self.chunk("REASONING_START", messageId=name),
                self.chunk("REASONING_MESSAGE_START", messageId=name, role="reasoning"),
                self.chunk("STEP_STARTED", stepName=name),
            ]
        return [*made, self.chunk("REASONING_MESSAGE_CONTENT", messageId=name, delta=delta)]

    def end_thought(self) -> list[Chunk]:
        name, self._thinking = self._thinking, ""
        ends = ("REASONING_MESSAGE_END", "REASONING_END") if name else ()
        return [self.chunk(kind, messageId=name) for kind in ends]

    def call_start(self, call_id: str, name: str) -> list[Chunk]:
        start = {"toolCallId": call_id, "toolCallName": name, "parentMessageId": self.message_id}
        return [*self.end_thought(), *self.end_text(), self.chunk("TOOL_CALL_START", **start)]

    def call_args(self, call_id: str, delta: str) -> list[Chunk]:
        return [self.chunk("TOOL_CALL_ARGS", toolCallId=call_id, delta=delta)] if delta else []

    def call_end(self, call_id: str) -> list[Chunk]:
        return [self.chunk("TOOL_CALL_END", toolCallId=call_id)]

    def finished(self) -> Chunk:
        reason = "content_filter" if self.refused else self.reason or "stop"
        return {
            "type": "RUN_FINISHED",
            "threadId": self.turn.session_id,
            "runId": self.turn.run_id,
            "timestamp": now_ms(),
            "usage": self._used(),
            "metadata": {"tanstack": {"finishReason": reason, "model": self.model}},
        }

    def so_far(self) -> Chunk:
        """Return the usage so far, in case the answer is cut off: no end of the answer reports it then."""
        return {"type": SO_FAR, "usage": self._used()}

    def count(self, usage: Any, read: str, said: str) -> None:
        """
        Record the usage that the provider reports. `read` and `said` are its names for what the model has read and
        written, and the names of their details end in `_details`.
        """
        cached = getattr(getattr(usage, f"{read}_details", None), "cached_tokens", None)
        reasoned = getattr(getattr(usage, f"{said}_details", None), "reasoning_tokens", None)
        counts = {
            "inputTokens": getattr(usage, read, None),
            "outputTokens": getattr(usage, said, None),
            "totalTokens": getattr(usage, "total_tokens", None),
            "reasoningTokens": reasoned or None,
            "cachedInputTokens": cached or None,
        }
        self.counts = {name: count for name, count in counts.items() if isinstance(count, int)}

    def chunk(self, kind: str, **fields: Any) -> Chunk:
        return {"type": kind, **fields, "timestamp": now_ms()}

    def _custom(self, name: str, value: Mapping[str, Any]) -> Chunk:
        return self.chunk("CUSTOM", name=name, value=dict(value))

    def _used(self) -> list[dict[str, Any]]:
        return [{"provider": PROVIDER, "model": self.model, **self.counts}] if self.counts else []


def now_ms() -> int:
    return time.time_ns() // 1_000_000
