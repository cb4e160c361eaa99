"""Results as text: medians of the runs with their spread, and each server's ratio to the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measures import Measure
from benchmarks.rounds import Cell, Kind, Results, failures, measures

REFERENCE = "reference"
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio to the reference that this server is to reach."""

    kind: str
    size: int
    ratio: float


BARS = (Bar("append", 32, 5.0), Bar("sse", 100, 10.0))

HEAD = ("lowest to highest", "x reference", "p50 ms", "p99 ms", "server CPU", "generator CPU")


def figure(value: float) -> str:
    """Three significant digits, and all of those before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median_rate(results: Results, cell: Cell) -> float | None:
    """The median over the runs that came to their end; None when there is none."""
    rates = [measure.rate for measure in measures(results.get(cell, []))]
    return median(rates) if rates else None


def ratio(results: Results, cell: Cell) -> float | None:
    own = median_rate(results, cell)
    reference = median_rate(results, Cell(cell.kind, cell.size, REFERENCE))
    return own / reference if own is not None and reference else None


def table(kind: Kind, contenders: Sequence[str], results: Results) -> str:
    """One load: a row for each size and server, in Markdown."""
    rows = [[kind.size_title, "server", kind.unit, *HEAD]]
    for size in kind.sizes:
        rows += [[f"{size:,}", name, *_row(results, Cell(kind.name, size, name))] for name in contenders]
    notes = [
        line for size in kind.sizes for name in contenders for line in _notes(results, Cell(kind.name, size, name))
    ]
    return "\n".join([f"### {kind.title}", "", *_aligned(rows), "", f"p50 and p99: {kind.timed}.", *notes])


def _row(results: Results, cell: Cell) -> tuple[str, ...]:
    done = measures(results.get(cell, []))
    if not done:
        return ("failed", *([""] * len(HEAD)))
    rates = [measure.rate for measure in done]
    against = ratio(results, cell)
    return (
        figure(median(rates)),
        f"{figure(min(rates))} to {figure(max(rates))}",
        "" if against is None else f"{against:.2f}",
        figure(median(measure.p50_ms for measure in done)),
        figure(median(measure.p99_ms for measure in done)),
        _busy([measure.server_cpu_s / measure.seconds for measure in done]),
        _busy([measure.generator_cpu_s / measure.seconds for measure in done]),
    )


def _busy(shares: Sequence[float]) -> str:
    return f"{median(shares):.0%}"


def _notes(results: Results, cell: Cell) -> Iterator[str]:
    """What a reader of the figures must know: runs that failed, loads not met, promises broken."""
    outcomes = results.get(cell, [])
    where = f"- {cell.contender}, {cell.size:,}:"
    for failure in failures(outcomes):
        yield f"{where} a run FAILED: {failure}"
    for measure in measures(outcomes):
        yield from (f"{where} WRONG: {fault}" for fault in measure.faults)
    texts = ["; ".join(measure.notes) for measure in measures(outcomes) if measure.notes]
    if texts:
        yield f"{where} {' | '.join(dict.fromkeys(texts))}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]]


def verdicts(results: Results) -> list[str]:
    """Each bar that was measured: reached or missed."""
    lines = []
    for bar in BARS:
        reached = ratio(results, Cell(bar.kind, bar.size, OURS))
        if reached is not None:
            word = "reached" if reached >= bar.ratio else "MISSED"
            lines.append(f"{bar.kind} at {bar.size}: {reached:.1f} x reference, the bar is {bar.ratio:g} x: {word}")
    return lines


def broken(results: Results) -> list[Measure]:
    """Runs in which a server broke a promise."""
    return [measure for outcomes in results.values() for measure in measures(outcomes) if measure.faults]
