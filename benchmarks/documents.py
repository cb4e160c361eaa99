"""docs/explanation/benchmarks.md: a section for each series of loads, of which a run rewrites its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.machines import ROOT
from benchmarks.plots import appends_plot
from benchmarks.reports import Report, heading
from benchmarks.rounds import Results

DOCUMENT = ROOT / "docs" / "explanation" / "benchmarks.md"
PLOT = ROOT / "docs" / "explanation" / "benchmarks.svg"

_INTRODUCTION = """# Benchmarks

Written by `scripts/bench --write`, which measures this server beside others on one machine, in turns: npm's reference
server (`@durable-streams/server`, which keeps its streams in files) and a chat app on npm's
`@durable-streams/tanstack-ai-transport` in front of it. Each section is one run of the script and says what it ran on.
The load generator shares the machine with the server, so that ratios tell more than rates. All goes over loopback, by
HTTP/1.1 on connections that are kept, without TLS and without a proxy between.

A rate is the median of the runs, with the lowest and the highest beside it; a ratio is that of two medians; p50, p99 and
CPU are medians of what each run had. What a server promises when it acknowledges is said beside its name: these promises
are not all alike. Below the tables of a section stands each target that this server has there, `reached` or `MISSED`, and
where there is more to hope for, the aim.

What is checked in each run: every acknowledged append is read back, in order and once; every delivery is counted at the
reader's socket; a chat's deltas are stamped when they leave the model, each reader has all of them in order, and the log
holds at least 90 % as many chunks as the model gave, else the row says so. `scripts/bench --strace` counts the fdatasync
calls of a short load beside the server's flushes.

Appends are measured twice: by the generator of this project, which checks every message and shares its Python with nobody,
and by `wrk`, which is written in C and leaves the server more of the machine. This server answers both at the same rate: 13,807 and
14,004 appends a second at 32 connections. The reference gains from the free processor time (1,205 and 1,379), so the ratio is 11.5 by our
generator and 10.2 by `wrk` (`scripts/bench --quick --only append,append-wrk --runs 3 --seconds 2`). Where the machine lets `perf stat`
count them, the tables hold the instructions and the cycles that the server took for each unit of a load: these hardly change from run to
run when rates do."""

_PICTURE = """![Appends: the 99th percentile against the rate, at 1 to 256 connections](benchmarks.svg)

Each point is a number of connections, from 1 to 256; further right is faster, further down is sooner."""

_SECTIONS = {
    "ordinary": ("Appends, fan-out, catch-up and chat", "scripts/bench --write"),
    "more": ("Many streams, idle readers, opening sessions", "scripts/bench --more --write"),
    "growth": ("Growth", "scripts/bench --growth --write"),
    "peers": ("Other servers of the protocol", "scripts/bench --peers --write"),
}


def _begin(series: str) -> str:
    return f"<!-- begin {series} -->"


def _end(series: str) -> str:
    return f"<!-- end {series} -->"


def section(report: Report, text: str) -> str:
    """A run, without the lines it stands between."""
    facts = [f"- {line}" for line in heading(report).splitlines()]
    return "\n".join([f"`{_SECTIONS[report.series][1]}`, {report.started}:", "", *facts, "", text])


def sections(text: str) -> dict[str, str]:
    """What a document has under each series; nothing for those it has not."""
    found = {}
    for series in _SECTIONS:
        _, begun, rest = text.partition(_begin(series))
        inside, ended, _ = rest.partition(_end(series))
        if begun and ended:
            found[series] = inside.strip("\n")
    return found


def document(parts: Mapping[str, str]) -> str:
    lines = [_INTRODUCTION, _PICTURE] if parts.get("ordinary") else [_INTRODUCTION]
    for series, (title, command) in _SECTIONS.items():
        part = parts.get(series)
        lines += [
            f"## {title}",
            f"{_begin(series)}\n{part}\n{_end(series)}" if part else f"Not measured yet: `{command}`.",
        ]
    return "\n\n".join(lines) + "\n"


def write(report: Report, text: str, results: Results, path: Path = DOCUMENT, plot: Path = PLOT) -> None:
    """Put a run into the document, in the place of the one before; the plot is of the ordinary run."""
    parts = sections(path.read_text()) if path.exists() else {}
    path.write_text(document({**parts, report.series: section(report, text)}))
    if report.series == "ordinary":
        plot.write_text(appends_plot(results))
