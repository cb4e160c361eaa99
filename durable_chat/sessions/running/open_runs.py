"""
Runs that have begun in the log and have no end there, on a log without records. Another process writes such a run, or
has died.

The chunks of such a run are held back. The transcript and its position stay just before the run, as while this process
writes one, so a tab that begins there sees the whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from durable_chat.protocol.events import is_offset_like
from durable_chat.protocol.sub_offsets import past, split_inside
from durable_chat.transcripts.chunks import OURS, Chunk
from durable_chat.transcripts.runs.ends import ENDS


class Held:
    """
    Sorts the chunks that are read from a log. Mutable state: `run_id`, the open run, the `offset` where it begins, and
    its chunks; `sought`, the run that was open at the last read: what comes before it is already folded.
    """

    def __init__(self, sought: str | None) -> None:
        self.run_id: str | None = None
        self.offset = ""
        self.sought = sought
        self._chunks: list[Chunk] = []

    def release(self, chunks: Iterable[Chunk | None], offset: str) -> list[Chunk]:
        """
        Return the chunks to fold now, of a batch that begins at `offset`. None in `chunks` stands for an invalid chunk.
        """
        released: list[Chunk] = []
        for at, chunk in enumerate(chunks):
            if chunk is None:
                continue
            kind, run_id = chunk["type"], chunk.get("runId")
            starts = kind == "RUN_STARTED" and isinstance(run_id, str)
            if self.sought is not None and not (starts and run_id == self.sought):
                continue
            self.sought = None
            if starts:  # another run's start ends an open run
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
    """
    Return where a run begins: the offset that its writer recorded, otherwise a number of messages after a known offset.
    """
    metadata = chunk.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, Mapping) else None
    told = ours.get("offset") if isinstance(ours, Mapping) else None
    if isinstance(told, str) and is_offset_like((split_inside(told) or (told, 0))[0]):
        return told
    return inside
