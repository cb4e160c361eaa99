"""Results as text: medians of the runs with their spread, ratios to the reference, and which bars were reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.measures import Measure
from benchmarks.rounds import KINDS, Cell, Kind, Outcome, Results, failures, measures

OURS = "ours"
UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio to the reference that this server is to reach."""

    kind: str
    size: int
    ratio: float


BARS = (Bar("append", 32, 5.0), Bar("sse", 100, 10.0))

# Milliseconds from the model to the reader: the median of one session, and what as many sessions as can be are held to.
CHAT_P50_MAX_MS = 3.0
CHAT_P99_MAX_MS = 25.0

# More than this of a CPU taken by others makes a run worth little.
OTHERS_CPUS_MAX = 0.2

HEAD = ("lowest to highest", "x {baseline}", "p50 ms", "p99 ms", "server CPU", "generator CPU")


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
    """To the rate of the kind's baseline, where it has one."""
    baseline = KINDS[cell.kind].baseline
    own = median_rate(results, cell)
    other = None if baseline is None else median_rate(results, replace(cell, contender=baseline))
    return own / other if own is not None and other else None


def table(kind: Kind, results: Results) -> str:
    """One load: a row for each size and server, in Markdown."""
    cells = [cell for cell, _ in kind.cells()]
    head = [name.format(baseline=kind.baseline) for name in HEAD]
    rows = [[kind.size_title, "server", kind.unit, *head]]
    rows += [[f"{cell.size:,}", cell.contender, *_row(results, cell)] for cell in cells]
    if kind.baseline is None:
        rows = [[*row[:4], *row[5:]] for row in rows]
    notes = [line for cell in cells for line in _notes(results, cell)]
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


def verdicts(results: Results) -> list[str]:
    """Each bar that was measured: reached or missed."""
    lines = []
    for bar in BARS:
        reached = ratio(results, Cell(bar.kind, bar.size, OURS))
        if reached is not None:
            word = "reached" if reached >= bar.ratio else "MISSED"
            lines.append(f"{bar.kind} at {bar.size}: {reached:.1f} x reference, the bar is {bar.ratio:g} x: {word}")
    return [*lines, *_chat_verdicts(results)]


def _chat_verdicts(results: Results) -> Iterator[str]:
    if done := measures(results.get(Cell("chat", 1, OURS), [])):
        p50_ms = median(measure.p50_ms for measure in done)
        word = "reached" if p50_ms < CHAT_P50_MAX_MS else "MISSED"
        yield f"chat at 1: p50 {p50_ms:.2f} ms, the bar is {CHAT_P50_MAX_MS:g} ms: {word}"
    for name in (OURS, UPSTREAM):
        if any(cell.kind == "chat" and cell.contender == name for cell in results):
            yield f"chat, {name}: {held(results, name)} sessions are the most measured with p99 < {CHAT_P99_MAX_MS:g} ms"


def held(results: Results, contender: str) -> int:
    """The most sessions of all sizes run that a server held: each run came to its end as promised, p99 in time."""
    sizes = [
        cell.size
        for cell, outcomes in results.items()
        if (cell.kind, cell.contender) == ("chat", contender) and _is_held(outcomes)
    ]
    return max(sizes, default=0)


def _is_held(outcomes: Sequence[Outcome]) -> bool:
    done = measures(outcomes)
    whole = len(done) == len(outcomes) and not any(measure.faults for measure in done)
    return whole and median(measure.p99_ms for measure in done) < CHAT_P99_MAX_MS


def broken(results: Results) -> list[Measure]:
    """Runs in which a server broke a promise."""
    return [measure for outcomes in results.values() for measure in measures(outcomes) if measure.faults]
