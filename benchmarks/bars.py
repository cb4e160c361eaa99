"""What this server is to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks import fanout, growth
from benchmarks.kinds import KINDS, SERIES, Cell
from benchmarks.measures import Measure
from benchmarks.rounds import Outcome, Results, measures

OURS = "ours"
UPSTREAM = "upstream"

RATE, RATIO, P50, P99, GROWN = "rate", "x the baseline", "p50 ms", "p99 ms", "p50 x the smallest"
AT_LEAST = {RATE, RATIO}
"""Of these more is better; of all others less."""

# Milliseconds from the model to the reader that as many sessions as can be are held to.
CHAT_P99_MAX_MS = 25.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What the median of a figure is to reach, and where there is more to hope for, the `aim`."""

    kind: str
    size: int
    figure: str
    least: float
    aim: float | None = None

    def reached(self, value: float, bound: float) -> bool:
        return value >= bound if self.figure in AT_LEAST else value <= bound

    def verdict(self, value: float) -> str:
        word = "reached" if self.reached(value, self.least) else "MISSED"
        sign = "at least" if self.figure in AT_LEAST else "at most"
        if self.aim is not None and word == "reached":
            met = "reached" if self.reached(value, self.aim) else "not reached"
            word = f"reached; the aim of {self.aim:g}: {met}"
        return f"{self.kind} at {self.size:,}: {self.figure} {value:.3g}, {sign} {self.least:g}: {word}"


BARS = (
    Bar("append", 1, RATIO, 2.5),
    Bar("append", 32, RATIO, 6.0, 8.0),
    Bar("append", 32, P99, 12.0),
    Bar("append", 256, RATIO, 6.5, 9.0),
    Bar("append-wrk", 32, RATIO, 4.0, 6.0),
    Bar("sse", 100, P99, 8.0),
    Bar("sse", 1000, P99, 60.0, 35.0),
    Bar("sse", 1000, RATIO, 40.0),
    Bar("sse-flood", 1000, RATIO, 40.0),
    Bar("sse-crowd", 3000, fanout.CUT_OFF, 0.0),
    Bar("catchup", 100_000, RATIO, 5.0),
    Bar("catchup", 100_000, RATE, 150.0),
    Bar("chat", 1, P50, 3.0),
    Bar("chat", 250, P99, CHAT_P99_MAX_MS),
    Bar("streams", 100_000, RATE, 5000.0),
    Bar("idle", 1000, "KiB/reader", 12.0),
    Bar("idle-chat", 1000, "KiB/reader", 12.0),
    Bar("hydrate", 100_000, P99, 5.0),
    Bar("open", 1000, GROWN, 1.3),
    *(Bar(name, 1_000_000, GROWN, 1.3) for name in SERIES["growth"]),
    *(Bar(name, 1_000_000, growth.READY, 2.0) for name in SERIES["growth"]),
)


def median_rate(results: Results, cell: Cell) -> float | None:
    """The median over the runs that came to their end; None when there is none."""
    return median_of(results, cell, RATE)


def median_of(results: Results, cell: Cell, figure: str) -> float | None:
    values = [_value(measure, figure) for measure in measures(results.get(cell, []))]
    found = [value for value in values if value is not None]
    return median(found) if found else None


def _value(measure: Measure, figure: str) -> float | None:
    plain = {RATE: measure.rate, "KiB/reader": measure.rate, P50: measure.p50_ms, P99: measure.p99_ms}
    return plain.get(figure, measure.more.get(figure))


def ratio(results: Results, cell: Cell) -> float | None:
    """To the rate of the kind's baseline, where it has one."""
    baseline = KINDS[cell.kind].baseline
    own = median_rate(results, cell)
    other = None if baseline is None else median_rate(results, replace(cell, contender=baseline))
    return own / other if own is not None and other else None


def grown(results: Results, cell: Cell) -> float | None:
    """The median of p50, to that of the smallest size that was run."""
    sizes = [one.size for one in results if (one.kind, one.contender) == (cell.kind, cell.contender)]
    own = median_of(results, cell, P50)
    other = median_of(results, replace(cell, size=min(sizes)), P50) if sizes else None
    return own / other if own is not None and other else None


def verdicts(results: Results) -> list[str]:
    """Each bar that was measured: reached or missed."""
    lines = []
    for bar in BARS:
        value = _measured(results, bar)
        if value is not None:
            lines.append(bar.verdict(value))
    return [*lines, *_chat_verdicts(results)]


def _measured(results: Results, bar: Bar) -> float | None:
    cell = Cell(bar.kind, bar.size, OURS)
    if bar.figure == fanout.CUT_OFF:  # not one in any run
        return max((measure.more[bar.figure] for measure in measures(results.get(cell, []))), default=None)
    if bar.figure == RATIO:
        return ratio(results, cell)
    return grown(results, cell) if bar.figure == GROWN else median_of(results, cell, bar.figure)


def _chat_verdicts(results: Results) -> Iterator[str]:
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
