"""
A run that has begun in the log and has no end there, on a log without records: another process writes it, or has died.

Its chunks are held back, so that the transcript and its position are those just before the run, as they are while this
process writes one: a tab that begins there sees the run whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from durable_chat.protocol.events import is_offset_like
from durable_chat.protocol.sub_offsets import past, split_inside
from durable_chat.transcripts.chunks import OURS, Chunk

ENDS = frozenset({"RUN_FINISHED", "RUN_ERROR"})


class Held:
    """
    Sorts what is read of a log. Mutable state: the run that is open, with the `offset` it begins at and its chunks; the
    run that is `sought`, which was open when the log was read last: what comes before it has been folded.
    """

    def __init__(self, sought: str | None) -> None:
        self.run_id: str | None = None
        self.offset = ""
        self.sought = sought
        self._chunks: list[Chunk] = []

    def release(self, chunks: Iterable[Chunk | None], offset: str) -> list[Chunk]:
        """The chunks to be folded now, of a batch that begins at an offset; None stands for what is no chunk."""
        released: list[Chunk] = []
        for at, chunk in enumerate(chunks):
            if chunk is None:
                continue
            kind, run_id = chunk["type"], chunk.get("runId")
            starts = kind == "RUN_STARTED" and isinstance(run_id, str)
            if self.sought is not None and not (starts and run_id == self.sought):
                continue
            self.sought = None
            if starts:  # a run that is followed by another one is over, whatever it lacks
                released += self._let_go()
                self.run_id, self.offset = run_id, _start_of(chunk, past(offset, at))
            if self.run_id is None:
                released.append(chunk)
                continue
            self._chunks.append(chunk)
            if kind in ENDS and run_id in (None, self.run_id):
                released += self._let_go()
        return released

    def _let_go(self) -> list[Chunk]:
        chunks, self._chunks = self._chunks, []
        self.run_id = None
        return chunks


def _start_of(chunk: Chunk, inside: str) -> str:
    """Where a run begins: as its writer says, who knows the offset, else so many messages past one that is known."""
    metadata = chunk.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, Mapping) else None
    told = ours.get("offset") if isinstance(ours, Mapping) else None
    if isinstance(told, str) and is_offset_like((split_inside(told) or (told, 0))[0]):
        return told
    return inside
