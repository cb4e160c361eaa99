"""A plot of latency against load, as SVG: two lines on logarithmic axes, readable on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from benchmarks.bars import P99, RATE, median_of
from benchmarks.kinds import KINDS, Cell
from benchmarks.rounds import Results

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 45, 30, 60

# The page's own colour for what is neutral, where a viewer gives one; colours that keep their contrast on either ground.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #6e7781 }
  .grid { stroke: #8b949e; stroke-opacity: .35 }
  .line { fill: none; stroke-width: 2.5 }
  .a { stroke: #2f81f7 } .a-dot { fill: #2f81f7 }
  .b { stroke: #d29922; stroke-dasharray: 7 4 } .b-dot { fill: #d29922 }
  @media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One load: the number of connections, appends per second, and the 99th percentile in milliseconds."""

    connections: int
    rate: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis over whole decades, from one coordinate to another."""

    low: int
    high: int
    begin: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], begin: float, end: float) -> Axis:
        low = floor(log10(min(values)))
        return cls(low, max(low + 1, ceil(log10(max(values)))), begin, end)

    def at(self, value: float) -> float:
        return self.begin + (self.end - self.begin) * (log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each decade."""
        ticks = [step * 10.0**decade for decade in range(self.low, self.high) for step in (1, 2, 5)]
        return [*ticks, 10.0**self.high]


def appends_plot(results: Results) -> str:
    """Of the appends of this server and of the reference."""
    lines = {name: points(results, name) for name in ("ours", "reference")}
    return plot({"this server": lines["ours"], "npm's reference server": lines["reference"]})


def points(results: Results, contender: str) -> list[Point]:
    found = []
    for size in KINDS["append"].sizes:
        cell = Cell("append", size, contender)
        rate, p99_ms = median_of(results, cell, RATE), median_of(results, cell, P99)
        if rate and p99_ms:
            found.append(Point(size, rate, p99_ms))
    return found


def plot(lines: dict[str, list[Point]]) -> str:
    """At most two lines; one without points is left out."""
    drawn = {name: line for name, line in lines.items() if line}
    every = [point for line in drawn.values() for point in line] or [Point(1, 1.0, 1.0)]
    across = Axis.over([point.rate for point in every], LEFT, WIDTH - RIGHT)
    up = Axis.over([point.p99_ms for point in every], HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up), *_titles()]
    for index, (name, line) in enumerate(drawn.items()):
        parts += _line("ab"[index], name, line, across, up)
        parts += _legend("ab"[index], name, index)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    title = "<title>Appends: the 99th percentile of the latency against the rate</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _grid(across: Axis, up: Axis) -> Iterator[str]:
    for tick in across.ticks():
        x = across.at(tick)
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:,g}</text>'
    for tick in up.ticks():
        y = up.at(tick)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>'


def _titles() -> Iterator[str]:
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 14}" text-anchor="end">durable appends per second</text>'
    yield f'<text x="{LEFT - 62}" y="{TOP - 12}">p99, ms</text>'


def _line(kind: str, name: str, line: Sequence[Point], across: Axis, up: Axis) -> Iterator[str]:
    places = [(across.at(point.rate), up.at(point.p99_ms), point) for point in line]
    yield f'<path class="line {kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)}"/>'
    for x, y, point in places:
        said = f"{name}, {point.connections} connections: {point.rate:,.0f}/s, p99 {point.p99_ms:.1f} ms"
        yield f'<circle class="{kind}-dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(said)}</title></circle>'
        yield f'<text x="{x + 7:.1f}" y="{y - 7:.1f}">{point.connections}</text>'


def _legend(kind: str, name: str, index: int) -> Iterator[str]:
    x, y = LEFT + 10 + index * 190, HEIGHT - 18
    yield f'<path class="line {kind}" d="M{x} {y}h28"/>'
    yield f'<text x="{x + 36}" y="{y + 4}">{escape(name)}</text>'
