"""Runs every load against every server in turns, so that what the machine does meanwhile meets them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import appends, catchup, fanout
from benchmarks.measures import LoadError, Measure, Target
from benchmarks.servers import Contender, running


@dataclass(frozen=True, slots=True)
class Kind:
    """A load in several sizes. `run` takes the target, the size, and for how many seconds to warm up and to measure."""

    name: str
    title: str
    size_title: str
    unit: str
    timed: str
    sizes: tuple[int, ...]
    run: Callable[[Target, int, float, float], Awaitable[Measure]]


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
    )
}


@dataclass(frozen=True, slots=True)
class Cell:
    kind: str
    size: int
    contender: str


@dataclass(frozen=True, slots=True)
class Plan:
    kinds: tuple[Kind, ...]
    contenders: tuple[Contender, ...]
    runs: int
    seconds: float
    warm_s: float
    folder: Path


# What came of one run: figures, or why there are none.
Outcome = Measure | LoadError
Results = dict[Cell, list[Outcome]]


async def carry_out(plan: Plan, report: Callable[[Cell, int, Outcome], None]) -> Results:
    """All runs; `report` is told of each as it ends. Every other round goes through the servers backwards."""
    results: Results = {}
    for turn in range(plan.runs):
        order = plan.contenders if turn % 2 == 0 else plan.contenders[::-1]
        for kind in plan.kinds:
            for size in kind.sizes:
                for contender in order:
                    cell = Cell(kind.name, size, contender.name)
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
