"""
Cut what a model repeats where it goes on with an answer: asked to continue a text, it often begins with the last words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from durable_chat.models.base import Model, Turn
from durable_chat.models.outputs import close_output, open_output
from durable_chat.transcripts.answers.items import WORKING, as_chunk
from durable_chat.transcripts.answers.shorthands import Shorthands
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.usage import SO_FAR

OVERLAP_MIN_CHARS = 8
"""The shortest repetition that is cut. Fewer equal characters are often a coincidence, such as a word said twice."""

OVERLAP_MAX_CHARS = 200
"""
The longest repetition that is cut: about two sentences. It also limits how much text is held back until it is known
whether it is a repetition.
"""

_NOT_STORED = frozenset({WORKING, SO_FAR})
_BEFORE_TEXT = ("TEXT_MESSAGE_START", "REASONING_", "STEP_", "RAW")
"""How the types of chunks begin that may come before the text of an answer."""


class Overlap:
    """
    Cuts the longest suffix of a text that is a prefix of what comes next. Mutable state: `_held`, the text so far, as
    long as it may be the beginning of a longer overlap; `open`, until that is decided.
    """

    def __init__(self, said: str) -> None:
        self._said = said[-OVERLAP_MAX_CHARS:]
        self._held = ""
        self.open = len(self._said) >= OVERLAP_MIN_CHARS

    @property
    def held(self) -> str:
        return self._held

    def take(self, delta: str) -> str:
        """Return the text to write now."""
        if not self.open:
            return delta
        self._held = _joined(self._held, delta)
        return "" if self._may_grow() else self.rest()

    def rest(self) -> str:
        """Return what is held, without the overlap. What comes after it is not changed."""
        held, self._held, self.open = self._held, "", False
        sizes = range(min(len(held), len(self._said)), OVERLAP_MIN_CHARS - 1, -1)
        return held[next((size for size in sizes if held.startswith(self._said[-size:])), 0) :]

    def settles(self) -> bool:
        """Whether nothing is held any more, after cutting it if all of it is a repetition."""
        if len(self._held) >= OVERLAP_MIN_CHARS and self._said.endswith(self._held):
            self.rest()
        return not self._held

    def _may_grow(self) -> bool:
        """Whether a longer suffix begins with what is held."""
        held = self._held[:-1] if _is_half(self._held) else self._held
        end = len(self._said) - max(1, OVERLAP_MIN_CHARS - len(held))
        return self._said.find(held, 0, end) >= 0


def _joined(held: str, delta: str) -> str:
    """Join two texts. A model that counts like JavaScript may split a character between them."""
    if not _is_half(held):
        return held + delta
    return (held + delta).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _is_half(text: str) -> bool:
    return "\ud800" <= text[-1:] <= "\udbff"


class Continuing:
    """A model that goes on with an answer. It leaves out what it repeats of the text in the log."""

    def __init__(self, model: Model, said: Sequence[Chunk]) -> None:
        self._model = model
        self._said = last_text(said)

    async def __call__(self, turn: Turn, /) -> AsyncGenerator[Any, None]:
        cut = _Cut(Overlap(self._said))

        async def heard() -> Turn | None:
            if not cut.overlap.settles():  # what is held could not be written any more once another run goes on
                return None
            now = await turn.heard()
            if now is not None:
                cut.overlap.rest()
            return now

        source = await open_output(self._model, replace(turn, heard=heard))
        shorthands = Shorthands()
        try:
            async for item in source:
                said = as_chunk(item)
                for chunk in () if said is None else shorthands.expand(said):
                    for made in cut.take(chunk):
                        yield made
            for chunk in (*shorthands.rest(), *cut.rest()):
                yield chunk
        finally:
            await close_output(source)


class _Cut:
    """The overlap of the first text of an answer. Mutable state: `overlap`, and `_text`, the last chunk of that text."""

    def __init__(self, overlap: Overlap) -> None:
        self.overlap = overlap
        self._text: Chunk | None = None

    def take(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks to write after this chunk."""
        kind = chunk["type"]
        if not self.overlap.open or kind in _NOT_STORED:
            return [chunk]
        if kind == "TEXT_MESSAGE_CONTENT" and isinstance(chunk.get("delta"), str):
            if self._text is None or self._text.get("messageId") == chunk.get("messageId"):
                self._text = chunk
                delta = self.overlap.take(chunk["delta"])
                return [chunk | {"delta": delta}] if delta else []
        elif self._text is None and kind.startswith(_BEFORE_TEXT):
            return [chunk]
        return [*self.rest(), chunk]

    def rest(self) -> list[Chunk]:
        """Return what is held back."""
        delta = self.overlap.rest()
        return [self._text | {"delta": delta}] if self._text is not None and delta else []


def last_text(said: Sequence[Chunk]) -> str:
    """Return the end of the text with which these chunks end. Empty if something else came last."""
    pieces: list[str] = []
    size, message_id = 0, None
    for chunk in reversed(said):
        kind = chunk["type"]
        if kind == "TEXT_MESSAGE_CONTENT" and message_id in (None, chunk.get("messageId")):
            pieces.append(str(chunk.get("delta") or ""))
            size, message_id = size + len(pieces[-1]), chunk.get("messageId")
        elif kind not in ("TEXT_MESSAGE_START", "TEXT_MESSAGE_END"):
            break
        if size >= OVERLAP_MAX_CHARS:
            break
    return "".join(reversed(pieces))[-OVERLAP_MAX_CHARS:]
