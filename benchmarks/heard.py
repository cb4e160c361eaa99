"""What a reader's socket got, taken apart after the load: which delta of the answer came when, and whether it is all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import httptools
import msgspec

from benchmarks.stamped import DELTA, DELTA_CHARS

ENDS = frozenset({"RUN_FINISHED", "RUN_ERROR"})


class Chunk(msgspec.Struct):
    """The part of a chunk that the load looks at."""

    type: str
    messageId: str = ""
    delta: str = ""


class Delivery(msgspec.Struct, frozen=True):
    """One delta at one reader: which, when it left the model, when it came. Monotonic clock."""

    number: int
    left_ns: int
    came_ns: int


@dataclass(frozen=True, slots=True)
class Heard:
    """
    One answer as a reader got it: its deltas, its chunks of text, whether the run's end came, and how many characters
    of text were no whole delta.
    """

    deliveries: tuple[Delivery, ...]
    chunks: int
    ended: bool
    foreign_chars: int = 0

    def is_whole(self, count: int) -> bool:
        """Whether it is the answer of `count` deltas: each of them once, in order, and nothing else."""
        return self.foreign_chars == 0 and [one.number for one in self.deliveries] == list(range(count))


_CHUNKS = msgspec.json.Decoder(list[Chunk])
_CHUNK = msgspec.json.Decoder(Chunk)


class _Body:
    """The pieces of an answer's body as they are parsed. Mutable: `pieces`."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def parse(self, data: bytes) -> bytes:
        self.pieces.clear()
        self.parser.feed_data(data)
        return b"".join(self.pieces)


def heard(reads: Iterable[tuple[int, bytes]], asked_id: str) -> Heard:
    """
    What the reads of one SSE connection say, each with the time it came. `asked_id` is the id of the user's message,
    which is text, too.
    """
    deliveries: list[Delivery] = []
    texts = foreign = 0
    ended = False
    for came_ns, chunk in _timed_chunks(reads):
        ended = ended or chunk.type in ENDS
        if chunk.type == "TEXT_MESSAGE_CONTENT" and chunk.messageId != asked_id:
            found = _deliveries(chunk.delta, came_ns)
            deliveries += found
            texts += 1
            foreign += len(chunk.delta) - DELTA_CHARS * len(found)
    return Heard(tuple(deliveries), texts, ended, foreign)


def _deliveries(text: str, came_ns: int) -> list[Delivery]:
    """The deltas in a chunk's text: more than one where a server has joined them."""
    return [Delivery(int(number), int(left, 16), came_ns) for number, left in DELTA.findall(text)]


def _timed_chunks(reads: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Chunk]]:
    """
    The chunks of all `data` events, which hold a list, and of all events without a name, which hold one; each came when its
    event was complete.
    """
    body, rest, kind = _Body(), b"", b""
    data: list[bytes] = []
    for came_ns, read in reads:
        lines = (rest + body.parse(read)).split(b"\n")
        rest = lines.pop()
        for line in lines:
            if not line:
                if kind == b"data":
                    yield from ((came_ns, chunk) for chunk in _CHUNKS.decode(b"\n".join(data)))
                elif data and not kind:
                    yield came_ns, _CHUNK.decode(b"\n".join(data))
                kind, data = b"", []
            elif line.startswith(b"event:"):
                kind = line[6:].strip()
            elif line.startswith(b"data:"):
                data.append(line[5:])


def text_chunks(pages: Iterable[bytes], asked_id: str) -> int:
    """The chunks of the answer's text in a log that was read back."""
    chunks = (chunk for page in pages for chunk in _CHUNKS.decode(page))
    return sum(chunk.type == "TEXT_MESSAGE_CONTENT" and chunk.messageId != asked_id for chunk in chunks)


def lateness_ns(deliveries: Sequence[Delivery], per_s: int) -> Iterator[tuple[Delivery, int]]:
    """
    Each delivery with the time from when its delta was due, by the one that left with the least delay: what somebody
    feels whose model is heard too late, because the server is busy.
    """
    begun_ns = min((one.left_ns - _after_ns(one, per_s) for one in deliveries), default=0)
    for one in deliveries:
        yield one, one.came_ns - begun_ns - _after_ns(one, per_s)


def _after_ns(one: Delivery, per_s: int) -> int:
    return one.number * 1_000_000_000 // per_s


def clocks_agree(deliveries: Sequence[Delivery]) -> bool:
    """Whether each delta came after it had left, and left after the one before: one clock for model and reader."""
    return all(one.came_ns >= one.left_ns for one in deliveries) and all(
        one.left_ns <= other.left_ns for one, other in pairwise(deliveries)
    )
