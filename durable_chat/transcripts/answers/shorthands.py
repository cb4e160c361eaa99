"""
Expand AG-UI's short forms (`TEXT_MESSAGE_CHUNK`, `TOOL_CALL_CHUNK`, `REASONING_MESSAGE_CHUNK`) to START, CONTENT and
END, by the rules of @ag-ui/client. Rename the THINKING events of AG-UI's first versions to their current names.
"""

from __future__ import annotations

from dataclasses import dataclass

from durable_chat.transcripts.answers.subagents import is_apart
from durable_chat.transcripts.chunks import Chunk, InvalidChunk


@dataclass(frozen=True, slots=True)
class _Form:
    """
    The expansion of a short form: three types, the field that identifies the open item, and the other fields of its
    start.
    """

    start: str
    content: str
    end: str
    key: str
    fields: tuple[str, ...] = ()


_FORMS = {
    "TEXT_MESSAGE_CHUNK": _Form(
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "messageId", ("role", "name")
    ),
    "TOOL_CALL_CHUNK": _Form(
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "toolCallId", ("toolCallName", "parentMessageId")
    ),
    "REASONING_MESSAGE_CHUNK": _Form(
        "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END", "messageId"
    ),
}
# Chunks that may come between two chunks of one message without ending it.
_BESIDE = frozenset({"RAW", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "REASONING_ENCRYPTED_VALUE", "SUBAGENT_STARTED"})
_FORMER = {
    "THINKING_START": "REASONING_START",
    "THINKING_END": "REASONING_END",
    "THINKING_TEXT_MESSAGE_START": "REASONING_MESSAGE_START",
    "THINKING_TEXT_MESSAGE_CONTENT": "REASONING_MESSAGE_CONTENT",
    "THINKING_TEXT_MESSAGE_END": "REASONING_MESSAGE_END",
}


class Shorthands:
    """
    The short forms of one run. Mutable state: `_end`, the chunk that ends the item that a short form opened; the tool
    calls that such a chunk has ended.
    """

    def __init__(self) -> None:
        self._end: Chunk | None = None
        self._ended: set[str] = set()

    def expand(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunk or its expansion, preceded by the end of the item that it closes. Raises InvalidChunk."""
        kind = chunk["type"]
        form = _FORMS.get(kind)
        if form is not None:
            return self._written_out(chunk, form)
        if kind in _FORMER:
            chunk = chunk | {"type": _FORMER[kind]}
        return [chunk] if self._end is None or kind in _BESIDE or is_apart(chunk) else [*self.rest(), chunk]

    def rest(self) -> list[Chunk]:
        """Return the end of the open item, if there is one."""
        end, self._end = self._end, None
        return [] if end is None else [end]

    def _written_out(self, chunk: Chunk, form: _Form) -> list[Chunk]:
        name = chunk.get(form.key)
        end = self._end
        made: list[Chunk] = []
        if end is None or end["type"] != form.end or name not in (None, end.get(form.key)):
            start = self._start(chunk, form)
            made = [*self.rest(), *start]
            end = self._end = {"type": form.end} | ({} if name is None else {form.key: name})
            if form.key == "toolCallId":
                self._ended.add(str(name))
        if chunk.get("delta"):
            content = {key: value for key, value in chunk.items() if key not in form.fields and key != form.key}
            named = {form.key: end[form.key]} if form.key in end else {}
            made.append(content | {"type": form.content} | named)
        return made

    def _start(self, chunk: Chunk, form: _Form) -> list[Chunk]:
        """Return the start of an item. Text and reasoning without an id continue the current message and need none."""
        name = chunk.get(form.key)
        if form.key == "toolCallId":
            if not isinstance(name, str) or not isinstance(chunk.get("toolCallName"), str):
                raise InvalidChunk("The first TOOL_CALL_CHUNK of a call must have a toolCallId and a toolCallName.")
            if name in self._ended:
                raise InvalidChunk("A TOOL_CALL_CHUNK continues a call that another chunk already ended.")
        if name is None:
            return []
        kept = ("timestamp", "metadata", form.key, *form.fields)
        return [{"type": form.start} | {key: chunk[key] for key in kept if chunk.get(key) is not None}]
