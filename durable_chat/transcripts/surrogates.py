"""
Rejoin characters that a model splits. Models that count like JavaScript may end a delta with the first half of a
surrogate pair and start the next one with the second half. UTF-8 cannot encode either half alone.
"""

from __future__ import annotations

from durable_chat.transcripts.chunks import Chunk

_IDS = ("type", "messageId", "toolCallId")


class Halves:
    """
    Output of a model in which no character spans two chunks. Mutable state: `_held`, a delta that is only the first
    half of a character. It is joined with the next delta of the same type and ids. Before any other chunk it is written
    alone, as U+FFFD.
    """

    def __init__(self) -> None:
        self._held: Chunk | None = None

    def take(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks to write after this chunk."""
        delta = chunk.get("delta")
        if self.passes(delta):
            return [chunk]
        before, self._held = self._held, None
        made: list[Chunk] = []
        if before is not None:
            if isinstance(delta, str) and all(chunk.get(key) == before.get(key) for key in _IDS):
                chunk = chunk | {"delta": before["delta"] + delta}
            else:
                made.append(before)
        delta = chunk.get("delta")
        if not isinstance(delta, str) or not _is_cut(delta):
            return [*made, chunk]
        self._held = chunk | {"delta": delta[-1]}
        return [*made, chunk | {"delta": delta[:-1]}] if len(delta) > 1 else made

    def passes(self, delta: object) -> bool:
        """Whether a delta is complete and no half is held."""
        return self._held is None and not _is_cut(delta)

    def rest(self) -> list[Chunk]:
        """Return the held delta at the end of the model's output."""
        held, self._held = self._held, None
        return [] if held is None else [held]


def _is_cut(delta: object) -> bool:
    return isinstance(delta, str) and delta != "" and "\ud800" <= delta[-1] <= "\udbff"
