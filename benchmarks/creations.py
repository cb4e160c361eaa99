"""Many streams: each is created and given one message, over HTTP, by a few connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from benchmarks.appends import message
from benchmarks.calls import Call, carry
from benchmarks.measures import Measure, Stopwatch, Target, now_s, undisturbed
from benchmarks.wire import STREAMS, json_request, request

CONNECTIONS = 32
# A server that is slower than 100,000 streams in this time is measured by those it has made.
SECONDS_MAX = 60.0
BEFORE, AFTER, PEAK = "MB before", "MB after", "MB at most"
CREATING, APPENDING = 0, 1
STEPS = ("creations", "appends")


async def run(target: Target, streams: int, _warm_s: float, _seconds: float) -> Measure:
    """
    Streams per second, each a PUT and then a POST of one message; the times are those of the PUT. Every one is read back.
    """
    before = target.memory()
    with undisturbed():
        watch = Stopwatch(target)
        calls = await carry(target.port, _creations(streams), CONNECTIONS)
        made = sorted(calls.whole)
        measure = watch.measure(calls.last_s, len(made), calls.latencies_s.get(CREATING, []))
    after = target.memory()
    more = {
        BEFORE: before.now_bytes / 1e6,
        AFTER: after.now_bytes / 1e6,
        PEAK: after.peak_bytes / 1e6,
    }
    reads = ([Call(index, 0, request("GET", f"{_path(index)}?offset=-1"), kept=True)] for index in made)
    read = await carry(target.port, iter(reads), CONNECTIONS)
    lost = sum(read.bodies.get(index) != b"[%b]" % message(0, index) for index in made)
    return replace(measure, notes=_notes(len(made), streams, calls.refused), faults=_faults(lost), more=more)


def _path(index: int) -> str:
    return f"{STREAMS}many-{index}"


def _creations(streams: int) -> Iterator[list[Call]]:
    until_s = now_s() + SECONDS_MAX
    for index in count():
        if index == streams or now_s() > until_s:
            return
        path = _path(index)
        yield [
            Call(index, CREATING, json_request("PUT", path)),
            Call(index, APPENDING, json_request("POST", path, message(0, index))),
        ]


def _notes(made: int, streams: int, refused: list[tuple[int, int]]) -> tuple[str, ...]:
    counted = sorted(Counter(refused).items())
    notes = [f"{number} {STEPS[step]} answered {status}" for (step, status), number in counted]
    if made + len(refused) < streams:
        notes.append(f"stopped after {SECONDS_MAX:g} s with {made:,} streams")
    return tuple(notes)


def _faults(lost: int) -> tuple[str, ...]:
    return (f"{lost} streams do not hold the message that was acknowledged",) if lost else ()
