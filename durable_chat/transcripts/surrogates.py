"""
Characters that a model cuts in two: a model that counts as JavaScript does may end a delta with the first half of a
surrogate pair and begin the next one with the second. UTF-8 can hold neither alone.
"""

from __future__ import annotations

from durable_chat.transcripts.chunks import Chunk

_IDS = ("type", "messageId", "toolCallId")


class Halves:
    """
    What a model says, with no character in two chunks. Mutable state: `_held`, a delta that is only the first half of
    a character. It goes with the next delta of the same kind and ids; before any other chunk it goes alone, and is
    written as U+FFFD.
    """

    def __init__(self) -> None:
        self._held: Chunk | None = None

    def take(self, chunk: Chunk) -> list[Chunk]:
        """What can be written, now that the model said this."""
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
        """Whether a delta is whole by itself, and nothing waits for it."""
        return self._held is None and not _is_cut(delta)

    def rest(self) -> list[Chunk]:
        """What is held when the model has no more to say."""
        held, self._held = self._held, None
        return [] if held is None else [held]


def _is_cut(delta: object) -> bool:
    return isinstance(delta, str) and delta != "" and "\ud800" <= delta[-1] <= "\udbff"
