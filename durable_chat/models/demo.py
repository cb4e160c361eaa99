"""
The demo model, which needs no key and no network. It answers about the user's message and reacts to a few words in it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from durable_chat.models.base import GO_ON, ProviderError, ToolSpec, Turn, last_user_text, text_of
from durable_chat.transcripts import chunks
from durable_chat.transcripts.attachments import MEDIA_KINDS
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.usage import SUMMARIZING

NAME = "demo"
NOTE = "save_note"
DELAY_MS_DEFAULT = 30
# `long` writes for about a minute, whatever the delay between deltas is.
LONG_MS = 60_000
# Maximum length of a quote, so that the answer to a long message stays readable.
QUOTE_CHARS_MAX = 160
# Maximum length of the text that is searched for words. Searching megabytes would block other requests.
READ_CHARS_MAX = 50_000

# What a summary of the demo keeps of a message: its topic.
EXTRACT_CHARS = 80

_HELP = """\
I am the demo model: I need no key and no network, and everything you see here is written to a durable stream before \
it is shown. Reload the page in the middle of an answer, or open it in a second tab, and nothing is lost.

These words in a message make me do something:

- `think`: I reason first
- `tool`: I call a tool on the server
- `approve`: I ask before I call one
- `fail`: I fail halfway
- `long`: I write for a minute
"""

_CODE = """
Here is how a client follows this session, from any place:

```python
import httpx

url = "http://127.0.0.1:4437/api/chat-stream?id=demo"
with httpx.stream("GET", url + "&offset=-1&live=sse") as answer:
    for text in answer.iter_text():
        print(text, end="")
```
"""

_STORY = (
    "A stream is a log that only grows. ",
    "Every word of an answer is appended to it, and every reader follows it from its own offset. ",
    "A reader that goes away misses nothing: it comes back with the offset it had and reads on. ",
    "A second reader sees the same words in the same order, because there is only one log. ",
    "When the server stops, the log stays; when it starts again, the story goes on from there.\n\n",
)

_CODE_WORDS = frozenset({"api", "code", "function", "javascript", "program", "python", "script"})


@dataclass(frozen=True, slots=True)
class DemoModel:
    """
    The demo model. `deltas` is the exact number of text deltas of each answer (None: one for each word), and `delay_ms`
    the time between them. Both are for demos, tests and load tests.
    """

    deltas: int | None = None
    delay_ms: int = DELAY_MS_DEFAULT

    def __call__(self, turn: Turn, /) -> AsyncIterator[Chunk]:
        if turn.data.get("purpose") == SUMMARIZING:
            return extracted(turn)
        goes_on = bool(turn.messages) and str(turn.messages[-1].get("id")).startswith(GO_ON)
        return _rest(self, turn) if goes_on else _Answer(self, turn).chunks()


async def _rest(model: DemoModel, turn: Turn) -> AsyncIterator[Chunk]:
    """Go on with an answer that a crash cut off: leave out as much text as it has already."""
    asked = max(at for at, message in enumerate(turn.messages[:-1]) if message.get("role") == "user")
    left = sum(len(text_of(message)) for message in turn.messages[asked + 1 : -1])
    async for chunk in _Answer(model, replace(turn, messages=turn.messages[: asked + 1])).chunks():
        if chunk["type"] == "TEXT_MESSAGE_CONTENT":
            skipped = min(left, len(chunk["delta"]))
            left -= skipped
            if skipped < len(chunk["delta"]):
                yield chunk | {"delta": chunk["delta"][skipped:]}
        elif not left:
            yield chunk


def save_note(note: str) -> dict[str, Any]:
    """Save a note. This is only a demo: the note exists only in this conversation."""
    return {"saved": True, "characters": len(note)}


class _Answer:
    """One answer. State: the number of the message being written, and the number of text deltas sent."""

    def __init__(self, model: DemoModel, turn: Turn) -> None:
        self.model = model
        self.turn = turn
        text = last_user_text(turn)
        self.text = text[:READ_CHARS_MAX]
        self.counted = f"{'over ' if text != self.text else ''}{_counted(self.text)}"
        self.words = frozenset(re.findall(r"\w+", self.text.lower()))
        self.message: int | str = 1
        self.sent = 0
        self.results = results_since_user(turn)
        self.files: list[str] = []

    async def chunks(self) -> AsyncIterator[Chunk]:
        if self.results:
            async for chunk in self._after_tools():
                yield chunk
            return
        self.files = await _described(self.turn)
        yield self._start()
        if "think" in self.words:
            async for chunk in self._paced(self._thinking()):
                yield chunk
        if "tool" in self.words:
            async for chunk in self._paced(self._tool()):
                yield chunk
            self.message = 2
            yield self._start()
        deltas = self._deltas()
        if "fail" in self.words:
            deltas = deltas[: len(deltas) // 2]
        async for chunk in self._paced(map(self._content, deltas)):
            self.sent += 1
            yield chunk
            if "\n\n" in str(chunk["delta"]) and (heard := await self.turn.heard()) is not None:
                async for said in _Answer(self.model, heard).chunks():
                    yield said
                return
        if "fail" in self.words:
            raise ProviderError("The demo model failed halfway, because the message said so.", "demo_failure")
        yield self._chunk("TEXT_MESSAGE_END", messageId=self._message_id())
        calls = [*self._calls()]
        for call, name, arguments in calls:
            for chunk in self._call(call, name, arguments):
                yield chunk
        yield self._finished("tool_calls" if calls else "stop")

    async def _after_tools(self) -> AsyncIterator[Chunk]:
        """Describe the results of the calls, or that they were not approved."""
        self.message = "after"
        yield self._start()
        deltas = _cut(_pieces("\n\n".join(map(_told, self.results))), self.model.deltas)
        async for chunk in self._paced(map(self._content, deltas)):
            self.sent += 1
            yield chunk
        yield self._chunk("TEXT_MESSAGE_END", messageId=self._message_id())
        yield self._finished("stop")

    async def _paced(self, made: Iterator[Chunk]) -> AsyncIterator[Chunk]:
        """Yield each chunk after the delay. It is created when it is sent, so that its timestamp is correct."""
        while True:
            await asyncio.sleep(self.model.delay_ms / 1000)
            chunk = next(made, None)
            if chunk is None:
                return
            yield chunk

    def _deltas(self) -> list[str]:
        """Return the answer's text in pieces: one for each word, or as many as configured."""
        pieces = _pieces("".join(self._paragraphs()))
        count = self.model.deltas
        if count is None:
            long = LONG_MS // max(self.model.delay_ms, DELAY_MS_DEFAULT) if "long" in self.words else 0
            return _lengthened(pieces, long)
        return _cut(pieces, count)

    def _paragraphs(self) -> Iterator[str]:
        quote = " ".join(self.text.split())
        if len(quote) > QUOTE_CHARS_MAX:
            quote = quote[:QUOTE_CHARS_MAX].rstrip() + "…"
        if self.files:
            yield "You attached " + ", ".join(self.files) + ".\n\n"
        if not quote:
            yield "Your message has no text, so there is nothing to say about it.\n\n"
        else:
            yield f"You wrote **{self.counted}**:\n\n> {quote}\n\n"
        if "approve" in self.words:
            yield "I would like to save this as a note. May I?"
            return
        if "tool" in self.words:
            yield "The tool above counted your words and characters on the server.\n\n"
        yield _HELP
        if self.words & _CODE_WORDS:
            yield _CODE

    def _thinking(self) -> Iterator[Chunk]:
        step = f"{self._message_id()}-thinking"
        yield self._chunk("REASONING_START", messageId=step)
        yield self._chunk("REASONING_MESSAGE_START", messageId=step, role="reasoning")
        yield self._chunk("STEP_STARTED", stepName=step)
        thought = f"The message has {self.counted}. I should say so, quote it, and explain what I can show."
        for piece in _pieces(thought):
            yield self._chunk("REASONING_MESSAGE_CONTENT", messageId=step, delta=piece)
        yield self._chunk("STEP_FINISHED", stepName=step)
        yield self._chunk("REASONING_MESSAGE_END", messageId=step)
        yield self._chunk("REASONING_END", messageId=step)

    def _tool(self) -> Iterator[Chunk]:
        call = f"call-{self.turn.run_id}-count"
        yield from self._call(call, "count_words", {"text": self.text[:QUOTE_CHARS_MAX]})
        result = json.dumps({"words": len(self.text.split()), "characters": len(self.text)})
        yield self._chunk("TOOL_CALL_RESULT", messageId=f"result-{call}", toolCallId=call, content=result, role="tool")

    def _calls(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield the tools that the caller must execute: the id, name and arguments of each call."""
        if "approve" in self.words:
            yield f"call-{self.turn.run_id}-note", NOTE, {"note": self.text[:QUOTE_CHARS_MAX]}
        for spec in self.turn.tools:
            if re.search(rf"(?<![\w-]){re.escape(spec.name)}(?![\w-])", self.text):
                yield f"call-{self.turn.run_id}-{spec.name}", spec.name, _arguments(self.text, spec)

    def _call(self, call: str, name: str, arguments: dict[str, Any]) -> Iterator[Chunk]:
        parent = self._message_id()
        yield self._chunk("TOOL_CALL_START", toolCallId=call, toolCallName=name, parentMessageId=parent)
        for piece in _pieces(json.dumps(arguments, ensure_ascii=False)):
            yield self._chunk("TOOL_CALL_ARGS", toolCallId=call, delta=piece)
        yield self._chunk("TOOL_CALL_END", toolCallId=call)

    def _finished(self, reason: str) -> Chunk:
        read = len(self.text.split())  # counting all messages would cost more in longer sessions
        counts = {"inputTokens": read, "outputTokens": self.sent, "totalTokens": read + self.sent}
        return self._chunk(
            "RUN_FINISHED",
            threadId=self.turn.session_id,
            runId=self.turn.run_id,
            usage=[{"provider": NAME, "model": NAME, **counts}],
            metadata={"tanstack": {"finishReason": reason, "model": NAME}},
        )

    def _start(self) -> Chunk:
        return chunks.text_start(self._message_id(), timestamp=_now_ms())

    def _content(self, delta: str) -> Chunk:
        return chunks.text_content(self._message_id(), delta, timestamp=_now_ms())

    def _chunk(self, kind: str, **fields: Any) -> Chunk:
        return {"type": kind, **fields, "timestamp": _now_ms()}

    def _message_id(self) -> str:
        return f"msg-{self.turn.run_id}-{self.message}"


async def extracted(turn: Turn) -> AsyncIterator[Chunk]:
    """Yield a summary for the model's context: the beginning of each message. The demo cannot write a better one."""
    before, _, said = turn.text.partition("<conversation>\n")
    earlier = before.partition("<summary-so-far>\n")[2].partition("\n</summary-so-far>")[0]
    lines = said.partition("\n</conversation>")[0].splitlines()
    told = [line for line in lines if line.startswith(("User: ", "Assistant: "))]
    short = (line if len(line) <= EXTRACT_CHARS else f"{line[:EXTRACT_CHARS].rstrip()}…" for line in told)
    text = "\n".join(filter(None, [earlier, *short]))
    message_id = f"msg-{turn.run_id}-summary"
    yield chunks.text_content(message_id, text, timestamp=_now_ms())
    usage = {"inputTokens": len(turn.text.split()), "outputTokens": len(text.split())}
    yield {"type": "RUN_FINISHED", "usage": [{"provider": NAME, "model": NAME, **usage}], "timestamp": _now_ms()}


def _pieces(text: str) -> list[str]:
    """Split the text into words. Joined, the pieces are the text."""
    return re.findall(r"\s*\S+(?:\s+$)?", text) or ([text] if text else [])


def _lengthened(pieces: list[str], count: int) -> list[str]:
    """Return the pieces, extended with parts of a story to `count` pieces."""
    story = [*_pieces("\n\n" + "".join(_STORY))]
    more = [story[at % len(story)] for at in range(count - len(pieces))]
    return pieces + more


def _cut(pieces: list[str], count: int | None) -> list[str]:
    """Return the pieces, divided into exactly `count` pieces unless it is None."""
    if count is None:
        return pieces
    pieces = _lengthened(pieces, count)
    size = len(pieces)
    return ["".join(pieces[size * at // count : size * (at + 1) // count]) for at in range(count)]


def _arguments(text: str, spec: ToolSpec) -> dict[str, Any]:
    """Return the first JSON object in the text. Without one, use the text for every required string parameter."""
    start = text.find("{")
    if start >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
    properties, required = spec.parameters.get("properties"), spec.parameters.get("required")
    typed = properties if isinstance(properties, Mapping) else {}
    named = [name for name in (required if isinstance(required, list) else []) if typed.get(name) == {"type": "string"}]
    return dict.fromkeys(named, text[:QUOTE_CHARS_MAX])


def _told(result: Mapping[str, Any]) -> str:
    """Return a sentence about the result of a tool."""
    name, approval, output = result["name"], result.get("approval"), result.get("output")
    if isinstance(approval, Mapping) and approval.get("approved") is not True:
        return f"You did not approve `{name}`, so I left it."
    if result.get("state") == "error":
        return f"`{name}` failed: {json.dumps(output, ensure_ascii=False)}"
    if name == NOTE:
        return "The note is saved."
    return f"`{name}` gave {json.dumps(output, ensure_ascii=False)}."


def results_since_user(turn: Turn) -> list[Mapping[str, Any]]:
    """Return the tool calls with a result after the newest user message that no later text has covered."""
    found: list[Mapping[str, Any]] = []
    messages = turn.messages
    users = (at for at in range(len(messages) - 1, -1, -1) if messages[at].get("role") == "user")
    for message in messages[next(users, -1) + 1 :]:
        parts = message.get("parts")
        for part in parts if isinstance(parts, list | tuple) else ():
            if not isinstance(part, Mapping):
                continue
            if part.get("type") == "tool-call" and part.get("state") in ("complete", "error"):
                found.append(part)
            elif part.get("type") == "text" and found:
                found = []
    return found


async def _described(turn: Turn) -> list[str]:
    """Describe the files of the newest user message: kind, type and size."""
    asked: Mapping[str, Any] = next(
        (message for message in reversed(turn.messages) if message.get("role") == "user"), {}
    )
    parts = asked.get("parts")
    found = []
    for part in parts if isinstance(parts, list | tuple) else ():
        if isinstance(part, Mapping) and part.get("type") in MEDIA_KINDS:
            data = await turn.artifact(part)
            source = part.get("source")
            media_type = source.get("mimeType") if isinstance(source, Mapping) else None
            size = "at another address" if data is None else f"{len(data):,} bytes"
            found.append(f"**{part['type']}** ({media_type or 'of no type'}, {size})")
    return found


def _counted(text: str) -> str:
    words = len(text.split())
    return f"{words} word" if words == 1 else f"{words} words"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
