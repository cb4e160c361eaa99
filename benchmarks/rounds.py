"""Runs every load against every server in turns, so that what the machine does meanwhile meets them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import appends, catchup, chat, fanout
from benchmarks.measures import LoadError, Measure, Target
from benchmarks.servers import CHAT, STREAMS, Contender, running


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A load in several sizes. `run` takes the target, the size, and for how many seconds to warm up and to measure.

    `baseline` is the server whose rate the others' are compared with, where rates tell. `sizes_max` names servers that
    are spared the larger sizes.
    """

    name: str
    title: str
    size_title: str
    unit: str
    timed: str
    sizes: tuple[int, ...]
    run: Callable[[Target, int, float, float], Awaitable[Measure]]
    contenders: tuple[Contender, ...] = STREAMS
    baseline: str | None = "reference"
    sizes_max: Mapping[str, int] = field(default_factory=dict)

    def cells(self) -> Iterator[tuple[Cell, Contender]]:
        """What is to be run, size by size."""
        for size in self.sizes:
            for contender in self.contenders:
                if size <= self.sizes_max.get(contender.name, size):
                    yield Cell(self.name, size, contender.name), contender


@dataclass(frozen=True, slots=True)
class Cell:
    kind: str
    size: int
    contender: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="append",
            title=f"Appends, each durable when acknowledged ({appends.STREAM_COUNT} streams, "
            f"{appends.MESSAGE_BYTES} bytes of JSON)",
            size_title="connections",
            unit="appends/s",
            timed="from sending to the acknowledgement",
            sizes=(1, 32, 256),
            run=appends.run,
        ),
        Kind(
            name="sse",
            title="SSE fan-out of one stream (one writer, as fast as acknowledged)",
            size_title="subscribers",
            unit="deliveries/s",
            timed="from just before the POST to the reader",
            sizes=(1, 100, 1000),
            run=fanout.run,
        ),
        Kind(
            name="catchup",
            title="Catch-up of one stream by one reader (raw, warm)",
            size_title="messages",
            unit="MB/s",
            timed="for the whole stream",
            sizes=(100_000,),
            run=catchup.run,
        ),
        Kind(
            name="chat",
            title=f"Chat: sessions answered at once, {chat.PER_S} chunks/s each, {chat.READERS} SSE readers each",
            size_title="sessions",
            unit="deliveries/s",
            timed="from a chunk's leaving the model to a reader's socket",
            sizes=(1, 50, 250),
            run=chat.run,
            contenders=CHAT,
            # Both give what the models give, until they do not.
            baseline=None,
            # It ends by itself at 200.
            sizes_max={"upstream": 50},
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Plan:
    kinds: tuple[Kind, ...]
    runs: int
    seconds: float
    warm_s: float
    folder: Path

    @property
    def contenders(self) -> Sequence[Contender]:
        """One for each name."""
        return list({contender.name: contender for kind in self.kinds for contender in kind.contenders}.values())


# What came of one run: figures, or why there are none.
Outcome = Measure | LoadError
Results = dict[Cell, list[Outcome]]


async def carry_out(plan: Plan, report: Callable[[Cell, int, Outcome], None]) -> Results:
    """All runs; `report` is told of each as it ends. Every other round goes through the servers backwards."""
    results: Results = {}
    for turn in range(plan.runs):
        for kind in plan.kinds:
            for size in kind.sizes:
                cells = [(cell, contender) for cell, contender in kind.cells() if cell.size == size]
                for cell, contender in cells if turn % 2 == 0 else cells[::-1]:
                    outcome = await _run(plan, kind, size, contender)
                    results.setdefault(cell, []).append(outcome)
                    report(cell, turn, outcome)
    return results


async def _run(plan: Plan, kind: Kind, size: int, contender: Contender) -> Outcome:
    """One load on a server of its own, with an empty store."""
    try:
        async with running(contender, plan.folder) as target:
            return await kind.run(target, size, plan.warm_s, plan.seconds)
    except LoadError as error:
        return error


def measures(outcomes: Sequence[Outcome]) -> list[Measure]:
    return [outcome for outcome in outcomes if isinstance(outcome, Measure)]


def failures(outcomes: Sequence[Outcome]) -> list[LoadError]:
    return [outcome for outcome in outcomes if isinstance(outcome, LoadError)]
