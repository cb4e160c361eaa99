"""
Runs that were answered anew after a crash, for clients that cannot take back what they have shown: what was dropped then
is left out from the beginning. No I/O.
"""

from __future__ import annotations

from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.runs.ends import ENDS
from durable_chat.transcripts.runs.marks import run_resumed

TIMES_MAX = 1_000_000
"""More often than any run is taken up. For a run that has ended, it stands for all times."""


class Retries:
    """
    The chunks of a run without those that were dropped in its first `times` resumptions. They are held back until the
    last of these. Mutable state: `_left`, the number of resumptions to come; `_said`, the run's chunks until then.
    """

    __slots__ = ("_left", "_said")

    def __init__(self, times: int) -> None:
        self._left = times
        self._said: list[Chunk] = []

    def take(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks to render at the next chunk of the run."""
        kind = chunk["type"]
        if not self._left or kind == "RUN_STARTED":
            return [chunk]
        if kind in ENDS:
            return [*self._release(), chunk]
        resumed = run_resumed(chunk) if kind == "CUSTOM" else None
        if resumed is not None:
            kept = resumed[2]
            if kept is not None:
                del self._said[kept:]
            self._left -= 1
            return [] if self._left else self._release()
        if kind != "MESSAGES_SNAPSHOT":  # `kept` does not count it
            self._said.append(chunk)
        return []

    def _release(self) -> list[Chunk]:
        said, self._said, self._left = self._said, [], 0
        return said
