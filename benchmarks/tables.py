"""Results as text: medians of the runs with their spread, and ratios to the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.bars import grown, ratio
from benchmarks.counters import EVENTS
from benchmarks.kinds import Cell, Kind
from benchmarks.measures import Measure
from benchmarks.rounds import Results, failures, measures

# More than this of a CPU taken by others makes a run worth little.
OTHERS_CPUS_MAX = 0.2

PER_OPERATION = {f"{event}/op": event for event in EVENTS}
"""Columns of what the machine has counted of the server, for each unit of the load, and the event of each."""
RATIO, GROWN = "x {baseline}", "p50 x smallest"


def figure(value: float) -> str:
    """Three significant digits, and all of those before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(kind: Kind, results: Results) -> str:
    """One load: a row for each size and server, in Markdown."""
    cells = [cell for cell, _ in kind.cells()]
    columns = [*_columns(kind), *_counted(results, cells)]
    head = [name.format(baseline=kind.baseline) for name in columns]
    rows = [[kind.size_title, "server", kind.unit, *head]]
    rows += [[f"{cell.size:,}", cell.contender, *_row(columns, results, cell)] for cell in cells]
    notes = [line for cell in cells for line in _notes(results, cell)]
    timed = [f"p50 and p99: {kind.timed}.", ""] if kind.timed else []
    return "\n".join([f"### {kind.title}", "", *_aligned(rows), "", *timed, *notes]).rstrip("\n")


def _columns(kind: Kind) -> list[str]:
    """Behind the size, the server and the rate."""
    timed = ["p50 ms", "p99 ms"] if kind.timed else []
    against = [] if kind.baseline is None else [RATIO]
    grows = [GROWN] if kind.grows else []
    return ["lowest to highest", *against, *timed, *grows, *kind.more, "server CPU", "generator CPU"]


def _counted(results: Results, cells: Sequence[Cell]) -> list[str]:
    """The columns of what was counted; none where the machine counts nothing."""
    found = {event for cell in cells for measure in measures(results.get(cell, [])) for event in measure.counts}
    return [column for column, event in PER_OPERATION.items() if event in found]


def _row(columns: Sequence[str], results: Results, cell: Cell) -> list[str]:
    done = measures(results.get(cell, []))
    if not done:
        return ["failed", *([""] * len(columns))]
    rates = [measure.rate for measure in done]
    return [figure(median(rates)), *(_entry(column, results, cell, done) for column in columns)]


def _entry(column: str, results: Results, cell: Cell, done: Sequence[Measure]) -> str:
    if column == "lowest to highest":
        rates = [measure.rate for measure in done]
        return f"{figure(min(rates))} to {figure(max(rates))}"
    if column in (RATIO, GROWN):
        against = ratio(results, cell) if column == RATIO else grown(results, cell)
        return "" if against is None else f"{against:.2f}"
    if column.endswith(" CPU"):
        spent = [measure.server_cpu_s if column == "server CPU" else measure.generator_cpu_s for measure in done]
        return f"{median(used / measure.seconds for used, measure in zip(spent, done, strict=True)):.0%}"
    if column in ("p50 ms", "p99 ms"):
        return figure(median(measure.p50_ms if column == "p50 ms" else measure.p99_ms for measure in done))
    if column in PER_OPERATION:
        event = PER_OPERATION[column]
        counted = [
            measure.counts[event] / measure.count for measure in done if event in measure.counts and measure.count
        ]
        return figure(median(counted)) if counted else ""
    values = [measure.more[column] for measure in done if column in measure.more]
    return figure(median(values)) if values else ""


def _notes(results: Results, cell: Cell) -> Iterator[str]:
    """What a reader of the figures must know: runs that failed, loads not met, promises broken."""
    outcomes = results.get(cell, [])
    where = f"- {cell.contender}, {cell.size:,}:"
    for failure in failures(outcomes):
        yield f"{where} a run FAILED: {failure}"
    for measure in measures(outcomes):
        yield from (f"{where} WRONG: {fault}" for fault in measure.faults)
    busy = [measure.others_cpu_s / measure.seconds for measure in measures(outcomes)]
    if disturbed := [cpus for cpus in busy if cpus > OTHERS_CPUS_MAX]:
        yield f"{where} CAUTION: in {len(disturbed)} of {len(busy)} runs others kept up to {max(busy):.1f} CPUs busy"
    texts = ["; ".join(measure.notes) for measure in measures(outcomes) if measure.notes]
    if texts:
        yield f"{where} {' | '.join(dict.fromkeys(texts))}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]]
