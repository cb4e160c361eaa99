"""Runs every load against every server in turns, so that what the machine does meanwhile meets them all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kinds import Cell, Kind
from benchmarks.measures import LoadError, Measure
from benchmarks.servers import Contender, running


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


class Fillings:
    """The filled folders of a plan, each made when it is first asked for. Mutable: those made, until `close`."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._made: dict[tuple[str, int], Path] = {}
        self._stack = ExitStack()

    async def get(self, kind: Kind, size: int) -> Path | None:
        """What the servers of this load begin with. Raises LoadError."""
        if kind.prepare is None:
            return None
        key = (kind.filling, size)
        if key not in self._made:
            folder = Path(tempfile.mkdtemp(prefix=f"filled-{kind.filling}-", dir=self._parent))
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            await kind.prepare(folder, size)
            self._made[key] = folder
        return self._made[key]

    def close(self) -> None:
        self._stack.close()


async def carry_out(plan: Plan, report: Callable[[Cell, int, Outcome], None]) -> Results:
    """All runs; `report` is told of each as it ends. Every other round goes through the servers backwards."""
    results: Results = {}
    fillings = Fillings(plan.folder)
    try:
        for turn in range(plan.runs):
            for kind in plan.kinds:
                for size in kind.sizes:
                    cells = [(cell, contender) for cell, contender in kind.cells() if cell.size == size]
                    for cell, contender in cells if turn % 2 == 0 else cells[::-1]:
                        outcome = await _run(plan, kind, size, contender, fillings)
                        results.setdefault(cell, []).append(outcome)
                        report(cell, turn, outcome)
    finally:
        fillings.close()
    return results


async def _run(plan: Plan, kind: Kind, size: int, contender: Contender, fillings: Fillings) -> Outcome:
    """One load on a server of its own."""
    try:
        async with running(contender, plan.folder, await fillings.get(kind, size)) as target:
            return await kind.run(target, size, plan.warm_s, plan.seconds)
    except LoadError as error:
        return error


def measures(outcomes: Sequence[Outcome]) -> list[Measure]:
    return [outcome for outcome in outcomes if isinstance(outcome, Measure)]


def failures(outcomes: Sequence[Outcome]) -> list[LoadError]:
    return [outcome for outcome in outcomes if isinstance(outcome, LoadError)]
